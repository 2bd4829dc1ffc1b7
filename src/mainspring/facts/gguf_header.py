"""The header of a GGUF file: metadata and the list of tensors, read within bounds.

What this is: a reader of an untrusted binary file (versions 2 and 3, little endian; layout as in docs/gguf.md of
github.com/ggml-org/ggml). Who calls it: `facts/gguf.py`. What it must never do: read or map tensor data, store a
tokenizer, or believe a count before the bytes are there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from mainspring.errors import InputError

KEYS, TENSORS, ITEMS = 100_000, 500_000, 4_000_000
"""Most metadata keys, tensors, and items of all arrays together (a vocabulary has some 800,000)."""

STRING, NAME, LIST, KEPT = 1 << 20, 1 << 16, 2_048, 200_000
"""Longest string in bytes, longest name, longest array of numbers that is kept, and most values kept of all arrays."""

WORD = 1_000
"""Characters of a string that are kept: chat templates are longer, and say nothing of a shape."""

HEADER = 256 * 1024 * 1024
"""Bytes of header that are read at most: real ones have some 10 MB."""

CHUNK = 1 << 20

NUMBERS: dict[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""Scalar value types of the format, by struct code."""

TEXT, ARRAY = 8, 9

GGML: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Tensor types: name, elements of a block, bytes of a block (GGML_QUANT_SIZES of the `gguf` package 0.19.0)."""

Value = int | float | bool | str | tuple[int | float | bool, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header lists it."""

    name: str
    elements: int
    kind: str  # "Q4_K"
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Header:
    """All of a header that matters to a shape."""

    version: int
    values: dict[str, Value]  # arrays of strings and long ones are not kept
    lengths: dict[str, int]  # items of every array
    tensors: tuple[Tensor, ...]


def refuse(message: str) -> NoReturn:
    """Say what is wrong with the file."""
    raise InputError("bad-gguf", message, "mainspring catalog models")


def read_header(file: BinaryIO) -> Header:
    """The header of a GGUF file open at its start; InputError `bad-gguf`, which says what is missing, for any other."""
    cursor = _Cursor(file)
    magic = cursor.take(4, "the magic")
    if magic != b"GGUF":
        refuse(f"`{magic!r}` at its start: no GGUF file")
    version = cursor.number("I", "the version")
    if version not in (2, 3):
        swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big")
        known = f"big endian (version {swapped})" if swapped in (2, 3) else f"version `{version}`"
        refuse(f"a GGUF file of {known}; versions 2 and 3, little endian, are read")
    tensors = cursor.count("tensors", TENSORS)
    keys = cursor.count("metadata keys", KEYS)
    values: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for at in range(keys):
        key = cursor.text(f"metadata key {at + 1} of {keys}", NAME)
        _value(cursor, key, values, lengths)
    listed = tuple(_tensor(cursor, f"tensor {at + 1} of {tensors}") for at in range(tensors))
    return Header(int(version), values, lengths, listed)


class _Cursor:
    """Reads on through a file in chunks, and says what it was looking for when there is no more."""

    __slots__ = ("at", "buffer", "file", "items", "kept", "seen")

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.buffer = b""
        self.at = 0
        self.seen = 0
        self.items = 0
        self.kept = 0

    def take(self, count: int, what: str) -> bytes:
        end = self.at + count
        if end > len(self.buffer):
            self._more(end - len(self.buffer), what)
            end = self.at + count
        found = self.buffer[self.at : end]
        self.at = end
        return found

    def _more(self, wanted: int, what: str) -> None:
        """Read at least `wanted` more bytes."""
        rest = self.buffer[self.at :]
        fresh = self.file.read(max(wanted, CHUNK))
        self.seen += len(fresh)
        if self.seen > HEADER:
            refuse(f"the header goes on for more than {HEADER:,} bytes")
        if len(fresh) < wanted:
            refuse(f"the file ends after {self.seen:,} bytes, before the end of {what}")
        self.buffer, self.at = rest + fresh, 0

    def number(self, code: str, what: str) -> int | float | bool:
        size = struct.calcsize(code)
        found: int | float | bool = struct.unpack(f"<{code}", self.take(size, what))[0]
        return found

    def count(self, what: str, most: int) -> int:
        found = int(self.number("Q", f"the number of {what}"))
        if found > most:
            refuse(f"`{found:,}` {what}; at most {most:,} are read")
        return found

    def text(self, what: str, most: int = STRING) -> str:
        length = int(self.number("Q", what))
        if length > most:
            refuse(f"{what} is a string of `{length:,}` bytes; at most {most:,} are read")
        return self.take(length, what).decode("utf-8", errors="replace")

    def skip_texts(self, count: int, what: str) -> None:
        for _ in range(count):
            length = int(self.number("Q", what))
            if length > STRING:
                refuse(f"{what} has a string of `{length:,}` bytes; at most {STRING:,} are read")
            self.take(length, what)


def _value(cursor: _Cursor, key: str, values: dict[str, Value], lengths: dict[str, int]) -> None:
    """Read one value; keep it unless it is a list of strings or a long one."""
    what = f"the value of `{key[:100]}`"
    kind = int(cursor.number("I", what))
    if kind in NUMBERS:
        values[key] = cursor.number(NUMBERS[kind], what)
    elif kind == TEXT:
        values[key] = cursor.text(what)[:WORD]
    elif kind == ARRAY:
        inner = int(cursor.number("I", what))
        count = int(cursor.number("Q", what))
        cursor.items += count
        if cursor.items > ITEMS:
            refuse(f"{what} is an array of `{count:,}`; at most {ITEMS:,} items are read in all")
        lengths[key] = count
        if inner == TEXT:
            cursor.skip_texts(count, what)
        elif inner in NUMBERS:
            code = NUMBERS[inner]
            raw = cursor.take(count * struct.calcsize(code), what)
            if count <= LIST and cursor.kept + count <= KEPT:
                cursor.kept += count
                values[key] = struct.unpack(f"<{count}{code}", raw)
        else:
            refuse(f"{what} is an array of type `{inner}`, which is not known")
    else:
        refuse(f"{what} has type `{kind}`, which is not known")


def _tensor(cursor: _Cursor, what: str) -> Tensor:
    name = cursor.text(f"the name of {what}", NAME)
    what = f"{what} (`{name[:100]}`)"
    axes = int(cursor.number("I", what))
    if axes > 8:
        refuse(f"{what} has `{axes}` dimensions; at most 8 are read")
    sizes = [int(cursor.number("Q", what)) for _ in range(axes)]
    kind = int(cursor.number("I", what))
    cursor.number("Q", what)  # the offset of its data
    if kind not in GGML:
        refuse(f"{what} has type `{kind}`, which is not known")
    label, block, size = GGML[kind]
    elements = 1
    for one in sizes:
        if not 0 < one <= 1 << 40:
            refuse(f"{what} has a dimension of `{one}`")
        elements *= one
    if elements > 1 << 50:
        refuse(f"{what} has `{elements:,}` elements")
    if sizes and sizes[0] % block:
        refuse(f"{what} has rows of `{sizes[0]}` elements, no multiple of the {block} of a block of {label}")
    return Tensor(name, elements, label, elements // block * size)
