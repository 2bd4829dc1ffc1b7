"""The ledger: what all workers of the gateway together may still take of each limit.

What this is: leases of blocks of a limit, counted in one file that the workers share, right also when any of them is
killed and the controller is dead. Who calls it: the gateway's accounts, once in some dozens of requests. What it must
never do: grant more than a limit allows, wait for long, or take a broken file for "nothing used" in silence.

`docs/limits.md` has the bounds. Not for threads, but for `sync`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from mainspring.decide import limits
from mainspring.decide.limits import Limit
from mainspring.gateway.ledger_file import COLUMNS, LedgerError, LedgerFile
from mainspring.gateway.ledger_records import NARROW, REUSE_BYTES, WIDE, Records

__all__ = ["Lease", "Ledger", "LedgerError"]

_COUNT = 0xFFFF_FFFF
_KNOWN = 65_536  # ids that are not hashed again
_FIRST_COLUMN = 2
_NOBODY = (0,) * COLUMNS
_FARTHEST = 2**63 - 1
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease(NamedTuple):
    """What was granted, and how the limit stands."""

    granted: int  # 0, or `least` to `want`
    left: int  # in the ledger afterwards; below 0: a debt
    window: int  # the number of the day or the month that it is of; 0 for buckets and `at_once`
    wait: float  # seconds until `least` could be had; 0.0 when granted, inf: never


class Ledger:
    """Counts limits in the file `path`, as one of up to 64 workers.

    Every method raises `LedgerError` when the file can't be used now; the next call tries again. If another file had
    to be begun or opened, `epoch` has grown: what was leased before is not of this file, and is better not given back.
    """

    def __init__(
        self,
        path: Path,
        *,
        mono: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: str | None = None,
        reuse_bytes: int = REUSE_BYTES,
    ) -> None:
        """Open or create the file and claim a free column.

        `mono` and `wall` give seconds; `boot` names the kernel's boot that `mono` is of (None: ask the kernel).
        """
        self._mono, self._wall = mono, wall
        name = _boot() if boot is None else boot
        self._boot = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
        self._ids: dict[tuple[str, str, str], bytes] = {}
        self._file = LedgerFile(path)
        self._records = Records(self._file, reuse_bytes)

    @property
    def column(self) -> int:
        """This worker's place in the file, 0 to 63; -1 while no file is open."""
        return self._file.column

    @property
    def workers(self) -> int:
        """How many workers there were at the same time at the most, seen a second ago or later: for `block`."""
        return self._file.workers

    @property
    def epoch(self) -> int:
        """How many files this ledger has opened so far."""
        return self._file.epoch

    @property
    def began(self) -> bool:
        """Whether this ledger made the file that is open: nothing that was used before is counted in it."""
        return self._file.began

    def lease(self, account: str, limit: Limit, least: int, want: int) -> Lease:
        """Take `want` of a limit, or what there is if that is `least` or more, or nothing."""
        if not 0 <= least <= want:
            raise ValueError(f"a lease of at least `{least}` and at most `{want}`")
        with self._file:
            if limits.is_bucket(limit.per):
                return self._of_bucket(account, limit, least, want)
            if limit.per:
                return self._of_quota(account, limit, least, want)
            return self._at_once(account, limit, least, want)

    def give_back(self, account: str, limit: Limit, amount: int, window: int = 0) -> None:
        """Give back what was leased and not used; a negative amount was used beyond what was leased.

        `window` is the lease's: what was of a day or month that is over changes nothing.
        """
        with self._file:
            if limits.is_bucket(limit.per):
                self._level_by(account, limit, amount)
            elif limit.per:
                self._used_by(account, limit, -amount, window)
            else:
                self._hold_by(account, limit, -amount)

    def seed(self, account: str, limit: Limit, used: int, window: int) -> None:
        """Make sure that at least `used` is counted of a quota's window: after another file was begun.

        A window that is over is left alone, and so is any limit that is no quota.
        """
        if not limit.per or limits.is_bucket(limit.per):
            return
        with self._file:
            at, sequence, counted, current = self._quota(account, limit)
            if window > current or (window == current and used > counted):
                self._write(at, sequence, min(max(used, 0), _FARTHEST), window, 0)

    def used(self, account: str, limit: Limit) -> tuple[int, int]:
        """How much is used (of a bucket: missing from it), leased blocks included, and the amount; for people."""
        amount = limits.counted(limit.amount)
        with self._file:
            if self._records.find(self._id(account, limit)) < 0:
                return 0, amount
            if limits.is_bucket(limit.per):
                return amount - self._bucket(account, limit, amount)[2], amount
            if limit.per:
                _, _, used, window = self._quota(account, limit)
                return (used if window >= limits.window_of(limit.per, self._wall()) else 0), amount
            _, found = self._held(account, limit)
            self._file.look()
            counts = self._records.holdings(found[_FIRST_COLUMN:])
            return sum(counts) - sum(counts[column] for column in self._records.dead(counts)), amount

    def sync(self) -> None:
        """Bring what was changed to the disk: once a second, from a thread (it may take long)."""
        self._file.sync()

    def close(self) -> None:
        """Free the column; leased and unspent blocks that were not given back before are lost."""
        self._file.close()

    def _id(self, account: str, limit: Limit) -> bytes:
        name = (account, limit.what, limit.per)
        known = self._ids.get(name)
        if known is None:
            if len(self._ids) >= _KNOWN:
                self._ids.clear()
            text = f"{limit.what}\0{limit.per}\0{account}"
            known = self._ids[name] = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return known

    def _today(self) -> int:
        return limits.window_of("day", self._wall())

    def _write(self, at: int, sequence: int, value: int, mark: int, boot: int) -> None:
        NARROW.write(self._file.map, at, sequence, value, mark, boot, self._today())
        self._file.dirty = True

    # -- buckets: level, moment in nanoseconds of `mono`, boot, day touched

    def _bucket(self, account: str, limit: Limit, amount: int) -> tuple[int, int, int, int, int]:
        """Place, sequence number, level, the moment of it, and now."""
        now = int(self._mono() * limits.NANO)  # under the lock: those of other workers lie before it
        key = self._id(account, limit)
        today = self._today()
        at, (sequence, level, then, boot, _) = self._records.read(key, NARROW, today, amount, now, self._boot, today)
        if boot != self._boot:
            then = now  # how long the machine was off nobody knows here: it fills nothing
        level, then = limits.refilled(level, then, now, amount, limit.per)
        return at, sequence, level, then, now

    def _of_bucket(self, account: str, limit: Limit, least: int, want: int) -> Lease:
        amount = limits.counted(limit.amount)
        at, sequence, level, then, now = self._bucket(account, limit, amount)
        granted = limits.grant(level, least, want)
        self._write(at, sequence, level - granted, then, self._boot)
        wait = 0.0 if granted else limits.wait_for_level(level, then, now, least, amount, limit.per)
        return Lease(granted, level - granted, 0, wait)

    def _level_by(self, account: str, limit: Limit, change: int) -> None:
        amount = limits.counted(limit.amount)
        at, sequence, level, then, _ = self._bucket(account, limit, amount)
        level = max(min(level + change, amount), -amount)
        self._write(at, sequence, level, then, self._boot)

    # -- quotas: used, window, nothing, day touched

    def _quota(self, account: str, limit: Limit) -> tuple[int, int, int, int]:
        """Place, sequence number, used, and the window that it is of: as it stands, whatever the clock says."""
        wall = self._wall()
        today, window = limits.window_of("day", wall), limits.window_of(limit.per, wall)
        key = self._id(account, limit)
        at, (sequence, used, found, _, _) = self._records.read(key, NARROW, today, 0, window, 0, today)
        return at, sequence, used, found

    def _of_quota(self, account: str, limit: Limit, least: int, want: int) -> Lease:
        amount = limits.counted(limit.amount)
        at, sequence, used, window = self._quota(account, limit)
        wall = self._wall()
        current = limits.window_of(limit.per, wall)
        if current > window:  # never back: a clock that was put back finds the later window still open
            used, window = 0, current
        granted = limits.grant(amount - used, least, want)
        self._write(at, sequence, used + granted, window, 0)
        left = amount - used - granted
        if granted or least <= left:
            return Lease(granted, left, window, 0.0)
        return Lease(0, left, window, limits.wait_for_window(limit.per, window, wall, least, amount))

    def _used_by(self, account: str, limit: Limit, change: int, window: int) -> None:
        at, sequence, used, current = self._quota(account, limit)
        if window != current:
            return
        used = min(max(used + change, 0), _FARTHEST)
        self._write(at, sequence, used, window, 0)

    # -- at once: day touched, then what each column holds, with the claim that it is of

    def _held(self, account: str, limit: Limit) -> tuple[int, list[int]]:
        """Place, and the record's numbers: sequence number, day, columns."""
        today = self._today()
        at, found = self._records.read(self._id(account, limit), WIDE, today, today, *_NOBODY)
        return at, [found[0], today, *found[2:]]

    def _hold(self, at: int, found: list[int], count: int) -> None:
        """Write the record, with what this worker holds."""
        file = self._file
        found[_FIRST_COLUMN + file.column] = file.claim << 32 | min(max(count, 0), _COUNT)
        WIDE.write(file.map, at, *found)
        file.dirty = True

    def _at_once(self, account: str, limit: Limit, least: int, want: int) -> Lease:
        amount = limits.counted(limit.amount)
        at, found = self._held(account, limit)
        self._file.look()  # a column that a worker has claimed just now holds nothing, whatever is written there
        counts = self._records.holdings(found[_FIRST_COLUMN:])
        dead = self._records.dead(counts) if sum(counts) + want > amount else []  # only asked when it matters
        for column in dead:
            counts[column] = found[_FIRST_COLUMN + column] = 0
        free = amount - sum(counts)
        granted = limits.grant(free, least, want)
        if granted or dead:
            self._hold(at, found, counts[self._file.column] + granted)
        if granted or least <= free:
            return Lease(granted, free - granted, 0, 0.0)
        return Lease(0, free, 0, math.inf if least > amount else limits.AT_ONCE_WAIT)

    def _hold_by(self, account: str, limit: Limit, change: int) -> None:
        at, found = self._held(account, limit)
        own = found[_FIRST_COLUMN + self._file.column]
        self._hold(at, found, (own & _COUNT if own >> 32 == self._file.claim else 0) + change)


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
