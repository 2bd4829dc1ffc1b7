"""The ledger's records: where in the file the numbers of one limit lie.

What this is: an index from ids to places, kept by each worker for itself: records are appended, so a worker finds what
others have added by looking at what lies behind what it knows. Who calls it: the ledger, with the lock held. What it
must never do: have two records for one id, or give a place to another while its numbers still matter.

A record begins with its id (16 bytes) and its width in units (8 bytes); its cell comes at byte 32.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import Final

from mainspring.gateway.ledger_cell import Cell
from mainspring.gateway.ledger_file import COLUMNS, FIRST, UNIT, LedgerFile, State

log = logging.getLogger(__name__)

NARROW: Final = Cell("qqqQ")
"""A value, its moment or window, the boot that the moment is of, the day it was touched."""
WIDE: Final = Cell(f"Q{COLUMNS}Q")
"""The day it was touched, then `claim << 32 | count` of each column."""
REUSE_BYTES: Final = 64 * 1024 * 1024
"""From this size on, places of records that nobody uses are given to others before the file grows."""
STALE_DAYS: Final = 62
"""Of no use by then: the day and the month are over, buckets are full."""

_ID: Final = 16
_WIDTH: Final = struct.Struct("<Q")
_CELL: Final = 32
_SWEEP: Final = 2048  # records looked at for one to reuse, each time
_COUNT: Final = 0xFFFF_FFFF


class Records:
    """The index of one worker."""

    def __init__(self, file: LedgerFile, reuse_bytes: int = REUSE_BYTES) -> None:
        self._file = file
        self._reuse_units = (reuse_bytes - FIRST) // UNIT
        self._epoch = 0
        self._index: dict[bytes, int] = {}
        self._scanned = 0  # units looked at
        self._reuses = 0
        self._swept = 0

    def find(self, key: bytes) -> int:
        """Where the cell of the record with this id lies in the map; -1 when there is none."""
        if self._epoch != self._file.epoch:
            self._forget(0)
        at = self._index.get(key)
        if at is not None and self._file.map[at - _CELL : at - _CELL + _ID] == key:
            return at
        state = self._file.look()
        if at is not None or state.reuses != self._reuses:
            self._forget(state.reuses)
        self._file.map_all(state.units)
        while self._scanned < state.used:
            start = FIRST + self._scanned * UNIT
            self._index[self._file.map[start : start + _ID]] = start + _CELL
            self._scanned += self._width(start)
        return self._index.get(key, -1)

    def _forget(self, reuses: int) -> None:
        self._index.clear()
        self._scanned, self._reuses, self._epoch = 0, reuses, self._file.epoch

    def _width(self, start: int) -> int:
        width: int = _WIDTH.unpack_from(self._file.map, start + _ID)[0]
        if width not in {_width(NARROW), _width(WIDE)}:
            self._file.spoilt("was damaged while in use")
        return width

    def read(self, key: bytes, cell: Cell, today: int, *fresh: int) -> tuple[int, tuple[int, ...]]:
        """Where a record's cell lies, and its sequence number and numbers; made of `fresh` when there is none.

        Raises `OSError` when the disk is full.
        """
        at = self.find(key)
        if at < 0:
            return self._add(key, cell, today, fresh), (1, *fresh)
        found = cell.read(self._file.map, at)
        if found is None:  # no kill leaves it so: something else wrote here, or pages were lost with the power
            log.warning("a record in `%s` is damaged: what was used of one limit is counted anew", self._file.path)
            self._fill(at - _CELL, cell, fresh)
            return at, (1, *fresh)
        return at, found

    def _add(self, key: bytes, cell: Cell, today: int, fresh: tuple[int, ...]) -> int:
        """Make a record, which `find` did not find just now; returns where its cell lies."""
        file, width = self._file, _width(cell)
        state = file.state()
        full = state.used + width > state.units
        start = self._stale(width, state.used, today) if full and state.units >= self._reuse_units else -1
        if start >= 0:
            self._reuse(start, key, cell, fresh, state)
        else:
            if full:
                state = file.grow(state)
            start = FIRST + state.used * UNIT
            self._fill(start, cell, fresh)
            file.map[start : start + _ID] = key
            file.put(state._replace(used=state.used + width))  # from here on it is there
            self._scanned = state.used + width
        self._index[key] = start + _CELL
        return start + _CELL

    def _fill(self, start: int, cell: Cell, numbers: tuple[int, ...]) -> None:
        """Write a record but its id; what was there before is gone."""
        mapped, at = self._file.map, start + _CELL
        mapped[at : at + cell.size] = bytes(cell.size)
        mapped[start + _ID : start + _ID + _WIDTH.size] = _WIDTH.pack(_width(cell))
        cell.write(mapped, at, 0, *numbers)
        self._file.dirty = True

    def _reuse(self, start: int, key: bytes, cell: Cell, fresh: tuple[int, ...], state: State) -> None:
        self._index.pop(self._file.map[start : start + _ID], None)
        self._file.map[start : start + _ID] = bytes(_ID)
        self._fill(start, cell, fresh)
        # Before the id: who does not know it later must look at all records again, not only at new ones.
        self._file.put(state._replace(reuses=state.reuses + 1))
        self._reuses = state.reuses + 1
        self._file.map[start : start + _ID] = key

    def _stale(self, width: int, used: int, today: int) -> int:
        """Where a record of that width begins that nobody has touched for 62 days; -1: none among the next 2,048."""
        for _ in range(_SWEEP):
            if self._swept >= used:
                self._swept = 0
            start = FIRST + self._swept * UNIT
            found = self._width(start)
            self._swept += found
            if found == width and self._is_stale(start, width, today):
                return start
        return -1

    def _is_stale(self, start: int, width: int, today: int) -> bool:
        mapped = self._file.map
        if mapped[start : start + _ID] == bytes(_ID):
            return True  # whoever was about to reuse it was killed
        if width == _width(NARROW):
            narrow = NARROW.read(mapped, start + _CELL)
            return narrow is None or narrow[4] + STALE_DAYS < today
        wide = WIDE.read(mapped, start + _CELL)
        if wide is None:
            return True
        counts = self.holdings(wide[2:])
        held = sum(counts) - sum(counts[column] for column in self.dead(counts))
        return wide[1] + STALE_DAYS < today and not held  # what is held may be held for months

    def holdings(self, columns: Sequence[int]) -> list[int]:
        """What each column holds that was ever in use; nothing for a worker that had the column before.

        `LedgerFile.look` must have seen the newest claims.
        """
        # Columns behind the last one that was ever claimed hold nothing: `zip` ends before them.
        return [n & _COUNT if n >> 32 == claim else 0 for n, claim in zip(columns, self._file.claims, strict=False)]

    def dead(self, counts: list[int]) -> list[int]:
        """The columns that hold something for a worker that has died."""
        return [column for column, count in enumerate(counts) if count and self._file.is_dead(column)]


def _width(cell: Cell) -> int:
    return -(-(_CELL + cell.size) // UNIT)
