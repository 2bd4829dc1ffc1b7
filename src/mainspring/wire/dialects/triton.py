"""NVIDIA Triton with Mainspring's own adapter, as a server that is asked.

Its tensors are those of C++: there is no null. A number is sent as FP64, a missing one as the word NaN, which its
parser takes; a missing text as `NO_TEXT`.
"""

from __future__ import annotations

from mainspring.wire.dialects.base import with_nan
from mainspring.wire.dialects.canonical import Column, NotAsked, encode
from mainspring.wire.dialects.oip import Oip

NO_TEXT = "\0"
"""What stands for a missing text."""


class Triton(Oip):
    """The Open Inference Protocol with one datatype for all numbers, and words for what is missing."""

    def data(self, column: Column) -> tuple[str, bytes]:
        """The datatype and the data of one tensor."""
        if column.datatype == "BYTES":
            return "BYTES", _texts(column)
        if column.datatype == "BOOL":
            return "FP64", with_nan(column).replace(b"true", b"1").replace(b"false", b"0")
        return "FP64", with_nan(column)


def _texts(column: Column) -> bytes:
    if NO_TEXT in column.values:
        raise NotAsked(f"the input `{column.name:.100}` has a text of one NUL character, which this server can't take")
    if None not in column.values:
        return column.raw
    return encode([NO_TEXT if value is None else value for value in column.values])
