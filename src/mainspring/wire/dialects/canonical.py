"""Requests and answers in the one form that the gateway logs, mirrors and compares: Open Inference Protocol v2, JSON.

What this is: one named tensor of shape [n] for each field of a request; an answer of one tensor of n numbers. Every
dialect is a translation from this form and back. Pure. Who calls it: the dialects; the gateway's doors.
What it must never do: guess what a value means, or let one through that is not of its field's datatype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

MAX_ID = 256
_FP32 = 3.4028234663852886e38
Name = tuple[str, str]
"""A field of a request: its name and its datatype."""


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a model, as requests and answers name it."""

    endpoint: str
    version: str = ""
    model: str = ""  # what its server calls it
    inputs: tuple[Name, ...] = ()  # the fields of a request, in order; empty: not known
    output: str = ""  # the name of the answer's tensor; "": not known


class NotAsked(Exception):
    """A request that cannot be put as it is; `message` is for the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Garbage(Exception):
    """An answer that makes no sense."""


class Failed(Exception):
    """An answer that says, with status 200, that the request has failed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Column(msgspec.Struct, gc=False):
    """All rows of one field."""

    name: str
    datatype: str
    values: list[Any]
    raw: bytes  # the same as JSON, flat


class Rows(msgspec.Struct, gc=False):
    """A request, checked: n values of each field."""

    id: str
    count: int
    columns: list[Column]

    def joined(self, row: bytes) -> bytes:
        """All rows as a JSON list, each made by putting its values, as JSON, into `row`."""
        return b"[%b]" % b",".join([row % values for values in zip(*map(_words, self.columns), strict=True)])


def _words(column: Column) -> list[bytes]:
    """The values of a column as JSON, one by one; numbers and truth values have no comma inside."""
    if column.datatype == "BYTES":
        return [encode(value) for value in column.values]
    return column.raw[1:-1].split(b",")


class _Tensor(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw


class _Wanted(msgspec.Struct, gc=False):
    name: str


class _Infer(msgspec.Struct, gc=False):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Wanted] | None = None


class _Output(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: tuple[int]
    data: list[float]


class _Answer(msgspec.Struct, gc=False):
    model_name: str
    model_version: str
    id: str
    outputs: tuple[_Output]


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: tuple[int]
    datatype: str
    data: list[Any]


_infer = msgspec.json.Decoder(_Infer).decode
_anything = msgspec.json.Decoder(list[Any]).decode
encode = msgspec.json.Encoder().encode


def _ints(bits: int, *, signed: bool = True) -> Any:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if high >= 2**63:  # more than the decoder can be told
        return Annotated[int, msgspec.Meta(ge=0)]
    return Annotated[int, msgspec.Meta(ge=low, le=high)]


_KINDS: dict[str, Any] = {
    "BOOL": bool, "BYTES": str, "FP64": float, "FP32": Annotated[float, msgspec.Meta(ge=-_FP32, le=_FP32)],
    "FP16": Annotated[float, msgspec.Meta(ge=-65504.0, le=65504.0)],
    **{f"INT{bits}": _ints(bits) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": _ints(bits, signed=False) for bits in (8, 16, 32, 64)},
}  # fmt: skip
_DECODERS: dict[str, Callable[[bytes | msgspec.Raw], list[Any]]] = {
    name: msgspec.json.Decoder(list[kind | None]).decode  # type: ignore[valid-type]  # made at run time
    for name, kind in _KINDS.items()
}
_EXPECTED = (msgspec.MsgspecError, UnicodeError, RecursionError)


def read(served: Served, body: bytes) -> Rows:
    """Read a request in the canonical form (shapes [n] or [n, 1]) and check it; raises `NotAsked`."""
    try:
        asked = _infer(body)
    except _EXPECTED as error:
        raise NotAsked(f"not a request of the Open Inference Protocol: {error}") from None
    known, count = dict(served.inputs), -1
    for wanted in asked.outputs or ():
        if served.output and wanted.name != served.output:
            raise NotAsked(f"there is no output `{wanted.name:.100}`; there is `{served.output}`")
    columns: dict[str, Column] = {}
    for tensor in asked.inputs:
        if known:
            _check_name(tensor, known)
        if tensor.name in columns:
            raise NotAsked(f"the input `{tensor.name:.100}` is given twice")
        column = columns[tensor.name] = _column(tensor)
        if count not in (-1, len(column.values)):
            raise NotAsked(f"the input `{tensor.name:.100}` has {len(column.values)} rows, another has {count}")
        count = len(column.values)
    missing = [name for name in known if name not in columns]
    if missing:
        raise NotAsked(f"these inputs are missing: {', '.join(f'`{name}`' for name in missing)}")
    if count < 1:
        raise NotAsked("there are no rows")
    ordered = [columns[name] for name in known] if known else list(columns.values())
    return Rows(asked.id or "", count, ordered)


def _check_name(tensor: _Tensor, known: dict[str, str]) -> None:
    datatype = known.get(tensor.name)
    if datatype is None:
        there = ", ".join(f"`{name}`" for name in known)
        raise NotAsked(f"there is no input `{tensor.name:.100}`; there are {there}")
    if datatype != tensor.datatype:
        raise NotAsked(f"the input `{tensor.name}` is {datatype}, not `{tensor.datatype:.100}`")


def _column(tensor: _Tensor) -> Column:
    """One tensor's rows, flat and checked."""
    name, shape, raw = tensor.name, tensor.shape, tensor.data
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise NotAsked(f"the input `{name:.100}` has shape {shape}; it is [n] or [n, 1]")
    decode = _DECODERS.get(tensor.datatype)
    if decode is None:
        raise NotAsked(f"the input `{name:.100}` has the datatype `{tensor.datatype:.100}`, which is not known")
    try:
        if len(shape) == 2:
            raw = _flat(raw)
        values = decode(raw)
    except _EXPECTED as error:
        raise NotAsked(f"the input `{name:.100}` has a value that is not {tensor.datatype}: {error}") from None
    if len(values) != shape[0]:
        raise NotAsked(f"the input `{name:.100}` has {len(values)} values, its shape says {shape[0]}")
    return Column(name, tensor.datatype, values, bytes(raw).strip())


def _flat(raw: msgspec.Raw) -> msgspec.Raw:
    """Data of shape [n, 1], which may be nested, as one list."""
    data = _anything(raw)
    if not data or not isinstance(data[0], list):
        return raw
    if not all(isinstance(row, list) and len(row) == 1 for row in data):
        raise NotAsked("nested data of shape [n, 1] have one value in each row")
    return msgspec.Raw(encode([row[0] for row in data]))


def write(served: Served, id: str, scores: Sequence[float]) -> bytes:
    """The body of an answer."""
    output = _Output(served.output or "output", "FP64", (len(scores),), list(scores))
    return encode(_Answer(served.endpoint, served.version, id, (output,)))


def inputs(columns: dict[str, tuple[str, list[Any]]]) -> bytes:
    """The `inputs` of a request as JSON, from datatype and values by name."""
    return encode([_Input(name, (len(values),), datatype, values) for name, (datatype, values) in columns.items()])
