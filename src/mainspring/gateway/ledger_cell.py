"""A cell: a few numbers in a mapped file that a kill -9 at any instruction leaves whole.

What this is: two copies of the numbers, each with a sequence number and a CRC-32. The next write always goes to the
older copy, so what a killed process left half written fails its CRC, and the reader takes the other. Who calls it:
the ledger's file, which holds a lock around each write. What it must never do: write the copy that is in force.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final
from zlib import crc32

_CRC: Final = struct.Struct("<I")
_SEQUENCE: Final = struct.Struct("<Q")


class Cell:
    """The layout of a cell: a sequence number, then numbers in `struct`'s letters, then the CRC of both; twice."""

    def __init__(self, numbers: str) -> None:
        self._body = struct.Struct(f"<Q{numbers}")
        self._end = self._body.size
        self.step: Final = -(-(self._end + _CRC.size) // 8) * 8  # bytes from one copy to the other
        self.size: Final = 2 * self.step

    def read(self, mapped: mmap.mmap, at: int) -> tuple[int, ...] | None:
        """The sequence number and the numbers of the newest good copy; None when neither is good."""
        older, newer = at, at + self.step
        if _SEQUENCE.unpack_from(mapped, older)[0] > _SEQUENCE.unpack_from(mapped, newer)[0]:
            older, newer = newer, older
        return self._good(mapped, newer) or self._good(mapped, older)

    def _good(self, mapped: mmap.mmap, at: int) -> tuple[int, ...] | None:
        copy = mapped[at : at + self._end + _CRC.size]
        if crc32(copy[:-4]) != _CRC.unpack_from(copy, self._end)[0]:
            return None  # zeros, too, are not good: the CRC of zeros is none
        return self._body.unpack_from(copy)

    def write(self, mapped: mmap.mmap, at: int, sequence: int, *numbers: int) -> None:
        """Put the numbers in force as those after `sequence`, which is what `read` gave (0: the first)."""
        image = self.image(sequence + 1, *numbers)
        place = at + self.step * (sequence + 1 & 1)
        mapped[place : place + len(image)] = image

    def image(self, sequence: int, *numbers: int) -> bytes:
        """One copy as bytes; that with an odd sequence number is the second in a cell."""
        body = self._body.pack(sequence, *numbers)
        return body + _CRC.pack(crc32(body))
