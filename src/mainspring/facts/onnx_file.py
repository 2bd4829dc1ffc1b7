"""An ONNX file as plain values: nodes, weights, inputs.

What this is: a reader of the few protobuf messages that matter (onnx.proto of github.com/onnx/onnx), over untrusted
bytes. The `onnx` package itself is no part of a pure package, and a shape needs little of it. Who calls it:
`facts/onnx_graph.py`. What it must never do: follow a path to external data, recurse without a bound, or copy weights.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from mainspring.errors import InputError

FIELDS = 6_000_000
"""Most protobuf fields that are read one by one of a file; long lists of numbers are read at a stroke."""

NODES = 500_000
RANK, ELEMENTS = 64, 1 << 50

WIDTHS: dict[int, float] = {
    1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 8: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2,
    17: 1, 18: 1, 19: 1, 20: 1, 21: 0.5, 22: 0.5, 23: 0.5, 24: 1, 25: 0.25, 26: 0.25,
}  # fmt: skip
"""Bytes of one element by TensorProto.DataType."""

Number = int | float


@dataclass(frozen=True, slots=True)
class Weight:
    """One stored tensor, without its data unless it is a short one of whole numbers."""

    sizes: tuple[int, ...]
    kind: int  # TensorProto.DataType
    values: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        total = 1
        for size in self.sizes:
            total *= size
        return total

    @property
    def size(self) -> float:
        """Bytes."""
        return self.elements * WIDTHS[self.kind]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, Number | tuple[Number, ...]] = field(default_factory=dict)  # whole and broken, and lists of them
    words: dict[str, str] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)  # lengths of lists of strings
    tensors: dict[str, Weight] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """What is computed."""

    nodes: tuple[Node, ...]
    weights: dict[str, Weight]
    inputs: dict[str, tuple[int | str, ...]]  # sizes, or the names of those that vary ("" without a name)
    known: dict[str, tuple[int | str, ...]]  # of values within the graph, when the file has them
    opset: int


def refuse(message: str) -> NoReturn:
    """Say what is wrong with the file."""
    raise InputError("bad-onnx", message, "mainspring catalog models")


def read_graph(data: bytes | memoryview) -> Graph:
    """The graph of an ONNX file; InputError `bad-onnx` for bytes that are none."""
    wire = _Wire()
    opset, graph = 0, None
    for number, value in wire.fields(memoryview(data), "the model"):
        if number == 7 and isinstance(value, memoryview):
            graph = value
        elif number == 8 and isinstance(value, memoryview):
            parts = dict(wire.fields(value, "an operator set"))
            if not _text(parts.get(1)):
                opset = _whole(parts.get(2))
    if graph is None:
        refuse("the file has no graph: no ONNX model")
    nodes: list[Node] = []
    weights: dict[str, Weight] = {}
    inputs: dict[str, tuple[int | str, ...]] = {}
    known: dict[str, tuple[int | str, ...]] = {}
    for number, value in wire.fields(graph, "the graph"):
        if not isinstance(value, memoryview):
            continue
        if number == 1:
            nodes.append(_node(wire, value))
        elif number == 5:
            name, weight = _weight(wire, value)
            weights[name] = weight
        elif number in (11, 12, 13):
            name, sizes = _described(wire, value)
            (inputs if number == 11 else known)[name] = sizes
        if len(nodes) > NODES:
            refuse(f"the graph has more than {NODES:,} operators")
    if not nodes:
        refuse("the graph has no operators")
    inputs = {name: sizes for name, sizes in inputs.items() if name not in weights}
    return Graph(tuple(nodes), weights, inputs, known, opset)


class _Wire:
    """Protobuf's wire format, with a budget of fields for the whole file."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = FIELDS

    def fields(self, data: memoryview, what: str) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of each field: whole numbers, or bytes (also for fixed 32 and 64 bits)."""
        at, end = 0, len(data)
        while at < end:
            self.left -= 1
            if self.left < 0:
                refuse(f"more than {FIELDS:,} fields: too large a file to be read here")
            tag, at = _varint(data, at, what)
            kind = tag & 7
            if kind == 0:
                value, at = _varint(data, at, what)
                yield tag >> 3, value
                continue
            if kind == 2:
                length, at = _varint(data, at, what)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                refuse(f"{what} has a field of wire type `{kind}`: no ONNX model")
            if at + length > end:
                refuse(f"the file ends before the end of {what} ({at + length - end:,} bytes are missing)")
            yield tag >> 3, data[at : at + length]
            at += length


def _varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    found = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        found |= (byte & 127) << shift
        if byte < 128:
            return found & (1 << 64) - 1, at
        shift += 7
        if shift > 63:
            refuse(f"{what} has a number of more than 64 bits: no ONNX model")
    refuse(f"the file ends in the middle of a number of {what}")


def _whole(value: object) -> int:
    """A signed 64-bit number."""
    found = value if isinstance(value, int) else 0
    return found - (1 << 64) if found >= 1 << 63 else found


def _text(value: object) -> str:
    return bytes(value[:1000]).decode("utf-8", errors="replace") if isinstance(value, memoryview) else ""


def _packed(data: memoryview, what: str) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at, what)
        found.append(_whole(value))
    return found


def _node(wire: _Wire, data: memoryview) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    node = Node("", (), ())
    op = ""
    for number, value in wire.fields(data, "an operator"):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            op = _text(value)
        elif number == 5 and isinstance(value, memoryview):
            _attribute(wire, value, node)
    return Node(op, tuple(inputs), tuple(outputs), node.numbers, node.words, node.lists, node.tensors)


def _attribute(wire: _Wire, data: memoryview, node: Node) -> None:
    """Put one attribute where it belongs."""
    name, several, strings, at = _listed(wire, data)
    single: Number | None = None
    for number, value in wire.fields(data[at:], "an attribute"):
        if number == 1:
            name = _text(value)
        elif number == 2 and isinstance(value, memoryview) and len(value) == 4:
            single = struct.unpack("<f", value)[0]
        elif number == 3:
            single = _whole(value)
        elif number == 4:
            node.words[name] = _text(value)
        elif number == 5 and isinstance(value, memoryview):
            node.tensors[name] = _weight(wire, value)[1]
        elif number in (7, 8):
            several.extend(_few(number, value))
        elif number == 9:
            strings += 1
    if several:
        node.numbers[name] = tuple(several)
    elif single is not None:
        node.numbers[name] = single
    if strings:
        node.lists[name] = strings


def _few(number: int, value: int | memoryview) -> list[Number]:
    """Floats (field 7) or whole numbers (8) of an attribute: one, or several packed."""
    if not isinstance(value, memoryview):
        return [_whole(value)]
    if number == 7:
        return list(struct.unpack(f"<{len(value) // 4}f", value[: len(value) // 4 * 4]))
    return list(_packed(value, "an attribute"))


def _listed(wire: _Wire, data: memoryview) -> tuple[str, list[Number], int, int]:
    """An attribute's name and the long list after it, read at a stroke: numbers, strings counted, where they end."""
    if len(data) < 4 or data[0] != 0x0A or data[1] > 127 or len(data) < 3 + data[1]:
        return "", [], 0, 0
    at = 2 + data[1]
    name = _text(data[2:at])
    wire.left -= 1
    strings, end = 0, at
    while end + 1 < len(data) and data[end] == 0x4A and data[end + 1] < 128:
        end += 2 + data[end + 1]
        strings += 1
    if strings and end <= len(data):
        return name, [], strings, end
    several, end = _run(data, at)
    return name, several, 0, end


def _run(data: memoryview, at: int) -> tuple[list[Number], int]:
    """A list of numbers, each with its own tag, that begins at `at`; and where it ends. Empty when there is none."""
    raw = np.frombuffer(data, dtype=np.uint8)[at:]
    if len(raw) < 2 or raw[0] not in (0x3D, 0x40):
        return [], at
    if raw[0] == 0x3D:  # floats: a tag and four bytes each
        rows = raw[: len(raw) // 5 * 5].reshape(-1, 5)
        other = np.flatnonzero(rows[:, 0] != 0x3D)
        count = int(other[0]) if len(other) else len(rows)
        return np.frombuffer(rows[:count, 1:].tobytes(), dtype="<f4").astype(float).tolist(), at + 5 * count
    ends = np.flatnonzero(raw < 128)  # last bytes of tags and numbers, in turn
    starts = np.concatenate(([0], ends[:-1] + 1))
    tags, numbers = starts[0::2], starts[1::2]
    other = np.flatnonzero((raw[tags] != 0x40) | (ends[0::2] != tags))
    count = min(int(other[0]) if len(other) else len(tags), len(numbers))
    first, length = numbers[:count], ends[1::2][:count] - numbers[:count] + 1
    if not count or length.max() > 10:
        return [], at
    found = np.zeros(count, dtype=np.uint64)
    for byte in range(int(length.max())):
        there = length > byte
        found[there] |= (raw[first[there] + byte].astype(np.uint64) & np.uint64(127)) << np.uint64(7 * byte)
    return list(found.astype(np.int64).tolist()), at + int(ends[2 * count - 1]) + 1


def _weight(wire: _Wire, data: memoryview) -> tuple[str, Weight]:
    """Name and sizes of a stored tensor; the data of short ones of whole numbers."""
    sizes: list[int] = []
    kind, name = 0, ""
    raw: memoryview | None = None
    listed: list[int] = []
    for number, value in wire.fields(data, "a tensor"):
        if number == 1:
            sizes.extend(_packed(value, "a tensor") if isinstance(value, memoryview) else [_whole(value)])
        elif number == 2:
            kind = _whole(value)
        elif number in (5, 7) and len(listed) <= 1024:
            listed.extend(_packed(value[:10_000], "a tensor") if isinstance(value, memoryview) else [_whole(value)])
        elif number == 8:
            name = _text(value)
        elif number == 9 and isinstance(value, memoryview):
            raw = value
    if kind not in WIDTHS:
        refuse(f"the tensor `{name[:100]}` has elements of type `{kind}`, which is not known")
    weight = Weight(_sizes(sizes, name), kind)
    if raw is not None and len(raw) not in (int(weight.size), -int(-weight.size // 1)):
        refuse(f"the tensor `{name[:100]}` has {len(raw):,} bytes where {weight.size:,.0f} are expected")
    return name, _valued(weight, raw, listed)


def _valued(weight: Weight, raw: memoryview | None, listed: list[int]) -> Weight:
    if weight.kind not in (6, 7) or weight.elements > 1024:
        return weight
    if raw is not None:
        listed = list(struct.unpack(f"<{weight.elements}{'i' if weight.kind == 6 else 'q'}", raw))
    return Weight(weight.sizes, weight.kind, tuple(listed)) if len(listed) == weight.elements else weight


def _sizes(sizes: list[int], name: str) -> tuple[int, ...]:
    total = 1
    for size in sizes:
        if size < 0:
            refuse(f"the tensor `{name[:100]}` has a dimension of `{size}`")
        total *= size
    if len(sizes) > RANK or total > ELEMENTS:
        refuse(f"the tensor `{name[:100]}` has {len(sizes)} dimensions and `{total:,}` elements"[:280])
    return tuple(sizes)


def _described(wire: _Wire, data: memoryview) -> tuple[str, tuple[int | str, ...]]:
    """Name and sizes of an input or of a value within the graph; no sizes for what is no tensor."""
    name, sizes = "", []
    for number, value in wire.fields(data, "an input"):
        if number == 1:
            name = _text(value)
        elif number == 2 and isinstance(value, memoryview):
            tensor = dict(wire.fields(value, "a type")).get(1)
            shape = dict(wire.fields(tensor, "a type")).get(2) if isinstance(tensor, memoryview) else None
            for _, one in wire.fields(shape, "a type") if isinstance(shape, memoryview) else ():
                sizes.append(_dimension(wire, one))
    if len(sizes) > RANK:
        refuse(f"`{name[:100]}` has {len(sizes)} dimensions")
    return name, tuple(sizes)


def _dimension(wire: _Wire, data: int | memoryview) -> int | str:
    parts = dict(wire.fields(data, "a dimension")) if isinstance(data, memoryview) else {}
    size = _whole(parts.get(1))
    return size if 0 < size <= ELEMENTS else _text(parts.get(2))
