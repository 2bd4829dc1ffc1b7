"""The ledger's file: one mapped file that all gateway workers of a machine share, with no server between them.

    0       magic, and a cell: units in use, units that there are, how often a record was reused, claims of columns
    512     64 columns, one for each worker: a cell with the number of its claim, and the process
    8192    units of 128 bytes, for records

What this is: opening, locking, columns, growing. Who calls it: the ledger and its records. What it must never do: let
anybody touch the map without the lock, or a page that the file system may not have (a full disk must be an error, not a
signal), or take a damaged file for a new one in silence.

The change lock is `flock`; a column is a byte-range lock of the open file description (both are gone with the process,
also by kill -9). A process that forks without exec hands both on to the child: workers must not.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, NoReturn

from mainspring.gateway.ledger_cell import Cell

log = logging.getLogger(__name__)

COLUMNS: Final = 64
FIRST: Final = 8192
"""Where the units begin."""
UNIT: Final = 128

_MAGIC: Final = b"MSLEDG01"  # another layout takes another file name: two versions would move each other's aside
_HEAD: Final = 64
_COLUMNS_AT: Final = 512
_NUMBERS: Final = Cell("QQQQ")  # of the header; of a column: claim, process, nothing, nothing
_CHUNK: Final = 512  # units that the file grows by at least: 64 KiB
_BYTE: Final = 1 << 40  # where the columns' byte-range locks lie: far behind any byte of the file
_PATIENCE: Final = 0.25  # seconds to wait for the change lock, which others hold for some 20 us
_LOCK: Final = struct.Struct("@hhqqi4x")  # struct flock of 64-bit Linux


class LedgerError(Exception):
    """The ledger can't be used now: its file, the disk, or another worker that stopped while it held the lock."""


class State(NamedTuple):
    """The header's numbers."""

    sequence: int
    used: int  # units that records lie in
    units: int  # units that the file has, on the disk too
    reuses: int  # grows when a record's place is given to another
    claims: int  # grows when a worker claims a column


class LedgerFile:
    """Use as `with file:` around each change. `map` is another one when the file has grown or `epoch` has."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and claim a column; raises `LedgerError`."""
        self.path = path
        self.map: mmap.mmap
        self.column = -1
        self.claim = 0  # whose number is this worker's
        self.claims: list[int] = []  # of each column up to the last that was ever in use; 0: never
        self.workers = 1  # columns that were ever in use at the same time
        self.epoch = 0  # grows each time that another file is opened
        self.began = False  # this opener made the file that is open
        self.dirty = False
        self._fd = -1
        self._closed = False
        self._patience = _PATIENCE
        self._looked = 0.0
        with self:
            pass

    def __enter__(self) -> None:
        """Take the lock and make sure that the map is the whole file of that name."""
        if self._closed:
            raise LedgerError(f"`{self.path}` is closed")
        try:
            self._enter()
        except OSError as error:
            self._unlock()
            raise self._error(error) from error
        except BaseException:
            self._unlock()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give the lock back; an `OSError` becomes a `LedgerError`."""
        self._unlock()
        if isinstance(error, OSError):
            raise self._error(error) from error

    def _error(self, error: OSError) -> LedgerError:
        return LedgerError(f"limits cannot be counted in `{self.path}`: {error.strerror or error}")

    def _enter(self) -> None:
        if self._fd < 0:
            self._open()
            return
        self._take(self._fd)
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._reopen("has gone")
            return
        if (found.st_ino, found.st_dev) != self._identity:
            self._reopen("is another file now")
        elif found.st_size < len(self.map):
            self.spoilt("was cut short")
        elif time.monotonic() - self._looked > 1.0:
            self.look()

    # -- the change lock

    def _take(self, fd: int) -> None:
        """Take the lock; raises `LedgerError` when a worker that was stopped has it."""
        end = 0.0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                now = time.monotonic()
                end = end or now + self._patience
                if now >= end:
                    self._patience = 0.001  # the event loop waits long once, not at each request
                    raise LedgerError(
                        f"limits cannot be counted in `{self.path}`: another process has locked it"
                    ) from None
                time.sleep(0.000_05)
            else:
                self._patience = _PATIENCE
                return

    def _unlock(self) -> None:
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    # -- opening and closing

    def _open(self) -> None:
        """Open, create or replace the file and claim a column; the lock is held then."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(20):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._take(fd)
                good = self._is_named(fd) and self._is_ledger(fd)
                mapped = _map(fd, FIRST) if good else None
            except BaseException:
                os.close(fd)
                raise
            if mapped is not None:
                self._adopt(fd, mapped)
                return
            os.close(fd)  # it was moved aside, by us or by another worker while we waited for the lock
        raise OSError(errno.EAGAIN, "it is replaced again and again")

    def _is_named(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _is_ledger(self, fd: int) -> bool:
        """Whether the file is a ledger, now: an empty one is begun, one of anything else is moved aside."""
        size = os.fstat(fd).st_size
        head = os.pread(fd, FIRST, 0)
        if size <= FIRST + _CHUNK * UNIT and not head.strip(b"\0"):  # new; or its maker was killed or the disk full
            self._begin(fd)
            return True
        if size >= FIRST and head.startswith(_MAGIC):
            with _map(fd, FIRST) as mapped:
                found = _NUMBERS.read(mapped, _HEAD)
            if found is not None and found[1] <= found[2] and size >= FIRST + found[2] * UNIT:
                os.posix_fallocate(fd, 0, FIRST + found[2] * UNIT)  # a copy of a file may have got holes
                self.began = False
                return True
        self._move_aside("is not a ledger, or is damaged")
        return False

    def _begin(self, fd: int) -> None:
        os.posix_fallocate(fd, 0, FIRST + _CHUNK * UNIT)
        first = bytearray(_HEAD + _NUMBERS.size)
        first[: len(_MAGIC)] = _MAGIC
        copy = _NUMBERS.image(1, 0, _CHUNK, 0, 0)
        first[_HEAD + _NUMBERS.step : _HEAD + _NUMBERS.step + len(copy)] = copy
        os.pwrite(fd, first, 0)  # within one page: all of it, or the file is still of zeros
        self.began = True

    def _move_aside(self, why: str) -> None:
        """Rename the file; what is begun in its place knows nothing of what was used."""
        names = (self.path.with_name(f"{self.path.name}.bad-{n}") for n in range(1, 100))
        aside = next((name for name in names if not name.exists()), self.path.with_name(f"{self.path.name}.bad-100"))
        os.rename(self.path, aside)
        log.warning("`%s` %s: it is `%s` now, and limits are counted anew", self.path, why, aside.name)

    def spoilt(self, why: str) -> NoReturn:
        """Move aside the file that is open and locked; the next call opens or begins another."""
        if self._is_named(self._fd):
            self._move_aside(why)
        self._drop()
        raise LedgerError(f"`{self.path}` {why}")

    def _reopen(self, why: str) -> None:
        log.warning("`%s` %s: what was used until now may not be counted any more", self.path, why)
        self._drop()
        self._open()

    def _adopt(self, fd: int, mapped: mmap.mmap) -> None:
        """Take over the file, which is locked, and claim a column in it."""
        self._fd, self.map = fd, mapped
        column = next((c for c in range(COLUMNS) if _lock_column(fd, c)), -1)
        if column < 0:
            self._drop()
            raise LedgerError(f"all {COLUMNS} columns of `{self.path}` are in use by other workers")
        found = os.fstat(fd)
        self._identity, self.column = (found.st_ino, found.st_dev), column
        self.epoch += 1
        state = self.state()
        self.claim = (state.claims + 1) & 0xFFFF_FFFF or 1
        self.put(state._replace(claims=self.claim))
        # From here on whatever an earlier worker had in this column is not counted any more: its claim was another.
        at = _COLUMNS_AT + column * _NUMBERS.size
        before = _NUMBERS.read(self.map, at)
        _NUMBERS.write(self.map, at, before[0] if before else 0, self.claim, os.getpid(), 0, 0)
        self._seen_claims = 0
        self.look()

    def _drop(self) -> None:
        """Close what is open; the kernel gives its locks back."""
        if self._fd < 0:
            return
        fd, self._fd, self.column = self._fd, -1, -1
        self.map.close()  # its own copy of the descriptor holds the locks too
        os.close(fd)

    def close(self) -> None:
        """Give the column back."""
        self._closed = True
        self._drop()

    def sync(self) -> None:
        """Bring what was changed to the disk; may be called in a thread. Raises `LedgerError`."""
        if not self.dirty or self._fd < 0:
            return
        self.dirty = False
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._error(error) from error

    # -- the header, columns

    def state(self) -> State:
        """The header's numbers, as they are now."""
        found = _NUMBERS.read(self.map, _HEAD)
        if found is None:
            self.spoilt("was damaged while in use")
        return State(*found)

    def put(self, state: State) -> State:
        """Put the header's numbers in force; returns them with their new sequence number."""
        _NUMBERS.write(self.map, _HEAD, *state)
        self.dirty = True
        return state._replace(sequence=state.sequence + 1)

    def look(self) -> State:
        """Take over new claims of columns; returns the header's numbers."""
        state = self.state()
        self._looked = time.monotonic()
        if state.claims != self._seen_claims:
            cells = (_NUMBERS.read(self.map, _COLUMNS_AT + c * _NUMBERS.size) for c in range(COLUMNS))
            claims = [cell[1] if cell else 0 for cell in cells]
            self.claims = claims[: max((c + 1 for c, claim in enumerate(claims) if claim), default=0)]
            self._seen_claims = state.claims
            self.workers = max(1, sum(1 for claim in self.claims if claim))
        return state

    def is_dead(self, column: int) -> bool:
        """Whether no process has the column."""
        if column == self.column:
            return False
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _BYTE + column, 1, 0)
        told = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        return bool(_LOCK.unpack(told)[0] == fcntl.F_UNLCK)

    # -- size

    def map_all(self, units: int) -> None:
        """Make the map reach over so many units, which the header says are there."""
        size = FIRST + units * UNIT
        if size == len(self.map):
            return
        if os.fstat(self._fd).st_size < size:
            self.spoilt("was cut short")
        old, self.map = self.map, _map(self._fd, size)
        old.close()

    def grow(self, state: State) -> State:
        """Add pages that the disk really has; raises `OSError` when it is full."""
        units = state.units + max(_CHUNK, state.units // 8 // _CHUNK * _CHUNK)
        os.posix_fallocate(self._fd, FIRST + state.units * UNIT, (units - state.units) * UNIT)
        self.map_all(units)
        return self.put(state._replace(units=units))


def _map(fd: int, size: int) -> mmap.mmap:
    try:
        return mmap.mmap(fd, size)
    except ValueError as error:
        raise OSError(errno.EIO, "the file was cut short just now") from error


def _lock_column(fd: int, column: int) -> bool:
    """Take a column's byte; False when another worker has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _BYTE + column, 1, 0))
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True
