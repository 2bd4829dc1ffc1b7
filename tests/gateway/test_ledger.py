"""The ledger by examples: each kind of limit, clocks, several workers in one file."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainspring.decide.limits import AT_ONCE_WAIT, Limit, window_of
from mainspring.gateway import ledger_file
from mainspring.gateway.ledger import Lease, Ledger, LedgerError
from mainspring.gateway.ledger_records import STALE_DAYS

MINUTE = Limit("tokens", 600, "min")
DAY = Limit("tokens", 1000, "day")
ROOM = Limit("at_once", 3)
TODAY = 20_800
ACME = "chat/acme"


class Clocks:
    """A monotonic and a wall clock that stand still, and the boot."""

    def __init__(self) -> None:
        self.mono, self.wall, self.boot = 100.0, TODAY * 86_400.0, "boot-1"


Maker = Callable[..., Ledger]


@pytest.fixture
def clocks() -> Clocks:
    """Clocks that the test moves."""
    return Clocks()


@pytest.fixture
def worker(tmp_path: Path, clocks: Clocks) -> Iterator[Maker]:
    """Makes workers of one ledger."""
    made: list[Ledger] = []

    def make(**more: int) -> Ledger:
        path = tmp_path / "meter" / "ledger"
        made.append(
            Ledger(path, mono=lambda: clocks.mono, wall=lambda: clocks.wall, boot=clocks.boot, **more)  # type: ignore[arg-type]
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_bucket(worker: Maker, clocks: Clocks) -> None:
    """A new bucket is full; two workers empty it together; it fills by the monotonic clock."""
    one, two = worker(), worker()
    assert one.lease(ACME, MINUTE, 1, 400) == Lease(400, 200, 0, 0.0)
    assert two.lease(ACME, MINUTE, 1, 400) == Lease(200, 0, 0, 0.0)
    assert one.lease(ACME, MINUTE, 1, 400) == Lease(0, 0, 0, 0.1)
    clocks.mono += 2.05
    clocks.wall += 7200
    assert two.lease(ACME, MINUTE, 20, 30) == Lease(20, 0, 0, 0.0)
    assert two.lease(ACME, MINUTE, 1, 30).wait == pytest.approx(0.05)
    assert two.used(ACME, MINUTE) == (600, 600)


def test_give_back_to_a_bucket(worker: Maker) -> None:
    """What comes back is there for others, up to the amount; what was used beyond a lease is a debt, of one amount."""
    one, two = worker(), worker()
    assert one.lease(ACME, MINUTE, 600, 600).granted == 600
    one.give_back(ACME, MINUTE, 100)
    assert two.lease(ACME, MINUTE, 1, 1000).granted == 100
    two.give_back(ACME, MINUTE, 5000)
    assert two.used(ACME, MINUTE) == (0, 600)
    two.give_back(ACME, MINUTE, -5000)
    assert two.used(ACME, MINUTE) == (1200, 600)
    assert one.lease(ACME, MINUTE, 1, 1) == Lease(0, -600, 0, 60.1)


def test_more_than_the_amount_never_comes(worker: Maker) -> None:
    """A request larger than the limit hears that waiting is of no use, whatever the limit."""
    one = worker()
    assert one.lease(ACME, MINUTE, 601, 700) == Lease(0, 600, 0, math.inf)
    assert one.lease(ACME, DAY, 1001, 1001) == Lease(0, 1000, TODAY, math.inf)
    assert one.lease(ACME, ROOM, 4, 4) == Lease(0, 3, 0, math.inf)


def test_a_lease_of_nothing_tells(worker: Maker) -> None:
    """Nothing wanted, nothing taken: what is left is told, and there is no wait."""
    one = worker()
    assert one.lease(ACME, MINUTE, 0, 0) == Lease(0, 600, 0, 0.0)
    assert one.lease(ACME, DAY, 0, 0) == Lease(0, 1000, TODAY, 0.0)
    assert one.lease(ACME, ROOM, 0, 0) == Lease(0, 3, 0, 0.0)
    for bad in ((-1, 5), (5, 4)):
        with pytest.raises(ValueError, match="at least"):
            one.lease(ACME, MINUTE, *bad)


def test_another_boot_fills_nothing(worker: Maker, clocks: Clocks) -> None:
    """After a reboot the monotonic clock begins anew: a bucket goes on where it was, and fills from then on."""
    assert worker().lease(ACME, MINUTE, 600, 600).granted == 600
    clocks.mono, clocks.boot = 5000.0, "boot-2"
    later = worker()
    assert later.lease(ACME, MINUTE, 1, 600).granted == 0
    clocks.mono += 1
    assert later.lease(ACME, MINUTE, 1, 600).granted == 10
    clocks.mono, clocks.boot = 1.0, "boot-3"
    last = worker()
    assert last.lease(ACME, MINUTE, 1, 600).granted == 0
    clocks.mono += 1
    assert last.lease(ACME, MINUTE, 1, 600).granted == 10


def test_an_amount_that_changes(worker: Maker, clocks: Clocks) -> None:
    """A lower amount cuts the level at once; a higher one raises nothing, it fills up to it."""
    one = worker()
    assert one.lease(ACME, MINUTE, 0, 0).left == 600
    assert one.lease(ACME, Limit("tokens", 60, "min"), 0, 0).left == 60
    assert one.lease(ACME, MINUTE, 0, 0).left == 60
    clocks.mono += 1
    assert one.lease(ACME, MINUTE, 0, 0).left == 70
    assert one.lease(ACME, DAY, 500, 500).left == 500
    smaller = Limit("tokens", 100, "day")
    assert one.lease(ACME, smaller, 1, 1) == Lease(0, -400, TODAY, 86_400.0)
    assert one.used(ACME, smaller) == (500, 100)


def test_quota(worker: Maker, clocks: Clocks) -> None:
    """A day's quota is shared until the day ends in UTC; what comes back later is of no use to the next day."""
    one, two = worker(), worker()
    clocks.wall += 80_000
    assert one.lease(ACME, DAY, 1, 900) == Lease(900, 100, TODAY, 0.0)
    assert two.lease(ACME, DAY, 1, 900) == Lease(100, 0, TODAY, 0.0)
    assert two.lease(ACME, DAY, 1, 900) == Lease(0, 0, TODAY, 6400.0)
    one.give_back(ACME, DAY, 50, TODAY)
    one.give_back(ACME, DAY, 50)  # of no window: of one that is over
    assert two.used(ACME, DAY) == (950, 1000)
    clocks.wall += 6400
    assert two.used(ACME, DAY) == (0, 1000)
    one.give_back(ACME, DAY, 40, TODAY)
    assert two.lease(ACME, DAY, 1, 900) == Lease(900, 100, TODAY + 1, 0.0)
    one.give_back(ACME, DAY, 500, TODAY)
    one.give_back(ACME, DAY, -500, TODAY)
    assert two.used(ACME, DAY) == (900, 1000)
    one.give_back(ACME, DAY, -500, TODAY + 1)
    assert two.used(ACME, DAY) == (1400, 1000)
    two.give_back(ACME, DAY, 10**9, TODAY + 1)
    assert two.used(ACME, DAY) == (0, 1000)


def test_dollars_of_a_month(worker: Maker, clocks: Clocks) -> None:
    """Billionths of dollars are whole numbers far beyond any budget; months are the calendar's."""
    one = worker()
    budget = Limit("dollars", 300 * 10**9, "month")
    month = window_of("month", clocks.wall)
    assert one.lease(ACME, budget, 1, 299 * 10**9) == Lease(299 * 10**9, 10**9, month, 0.0)
    clocks.wall += 31 * 86_400
    assert one.lease(ACME, budget, 1, 1) == Lease(1, 300 * 10**9 - 1, month + 1, 0.0)
    endless = Limit("dollars", 10**40, "month")
    assert one.lease("chat/other", endless, 1, 2**70) == Lease(2**62, 0, month + 1, 0.0)
    one.give_back("chat/other", endless, -(2**70), month + 1)
    assert one.lease("chat/other", endless, 1, 1).granted == 0


def test_clocks_that_jump(worker: Maker, clocks: Clocks) -> None:
    """A clock put back opens nothing again; one put forward opens the next day once."""
    one = worker()
    assert one.lease(ACME, DAY, 1, 1000).granted == 1000
    clocks.wall -= 5 * 86_400
    assert one.lease(ACME, DAY, 1, 1) == Lease(0, 0, TODAY, 6 * 86_400.0)
    clocks.wall += 6 * 86_400
    assert one.lease(ACME, DAY, 1, 1000) == Lease(1000, 0, TODAY + 1, 0.0)
    for jump in (-86_400, 86_400, -40 * 86_400, 40 * 86_400):
        clocks.wall += jump
        assert one.lease(ACME, DAY, 1, 1).granted == 0
    clocks.wall += 86_400
    assert one.lease(ACME, DAY, 1, 1).window == TODAY + 2


def test_at_once(worker: Maker) -> None:
    """What workers hold counts together; what a dead one held is free again; nobody gives back another's."""
    one, two = worker(), worker()
    assert one.lease(ACME, ROOM, 1, 2) == Lease(2, 1, 0, 0.0)
    assert two.lease(ACME, ROOM, 1, 2) == Lease(1, 0, 0, 0.0)
    assert two.lease(ACME, ROOM, 1, 1) == Lease(0, 0, 0, AT_ONCE_WAIT)
    two.give_back(ACME, ROOM, 3)
    assert two.used(ACME, ROOM) == (2, 3)
    one.close()  # its locks go as they do with a killed process
    assert two.used(ACME, ROOM) == (0, 3)
    assert two.lease(ACME, ROOM, 3, 3).granted == 3
    two.give_back(ACME, ROOM, -1)
    assert two.lease(ACME, ROOM, 0, 0).left == -1


def test_a_column_taken_over_holds_nothing(worker: Maker) -> None:
    """A new worker in a dead one's column does not inherit what that one held, nor give it back."""
    one, two = worker(), worker()
    assert one.lease(ACME, ROOM, 2, 2).granted == 2
    one.close()
    three = worker()
    assert three.column == 0
    assert three.used(ACME, ROOM) == (0, 3)
    three.give_back(ACME, ROOM, 1)
    assert two.lease(ACME, ROOM, 1, 3).granted == 3


def test_accounts_count_apart(worker: Maker) -> None:
    """Each account, measure and period is a record of its own; many of them, seen by all workers."""
    one, two = worker(), worker()
    names = [f"chat/{n}" for n in range(700)] + ["", "é\ud800", "a\0b", "x" * 10_000]
    for number, name in enumerate(names):
        assert one.lease(name, MINUTE, 0, number % 600).granted == number % 600
        assert two.lease(name, Limit("requests", 600, "min"), 1, 1).granted == 1
        assert one.lease(name, Limit("at_once", 5), 1, 1).granted == 1
    late = worker()
    for number, name in enumerate(names):
        assert late.used(name, MINUTE)[0] == two.used(name, MINUTE)[0] == number % 600
        assert late.used(name, Limit("requests", 600, "h")) == (0, 600)
        assert late.used(name, Limit("at_once", 5)) == (1, 5)


def test_columns(worker: Maker) -> None:
    """Up to 64 workers; the 65th hears why not; a column that is free is taken again."""
    all_ = [worker() for _ in range(64)]
    assert [one.column for one in all_] == list(range(64))
    with pytest.raises(LedgerError, match="all 64 columns"):
        worker()
    all_[17].close()
    late = worker()
    assert late.column == 17
    assert late.workers == 64
    with pytest.raises(LedgerError, match="closed"):
        all_[17].lease(ACME, MINUTE, 1, 1)
    assert all_[63].lease(ACME, Limit("at_once", 64), 1, 1).granted == 1
    assert late.lease(ACME, Limit("at_once", 64), 1, 64).granted == 63


def test_workers_are_seen(worker: Maker, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker learns how many others there are, so that its blocks get smaller."""
    one = worker()
    assert one.workers == 1
    for _ in range(4):
        worker()
    passed = time.monotonic() + 2
    monkeypatch.setattr(ledger_file.time, "monotonic", lambda: passed)
    one.lease(ACME, MINUTE, 0, 0)
    assert one.workers == 5


def test_records_are_reused(worker: Maker, clocks: Clocks, tmp_path: Path) -> None:
    """A file of its full size takes the places of what nobody has used for 62 days, and of nothing else."""
    one, two = worker(reuse_bytes=64 * 1024), worker(reuse_bytes=64 * 1024)
    for number in range(440):
        one.lease(f"old-{number}", DAY, 1, 7)
    assert one.lease("held", ROOM, 1, 1).granted == 1
    assert one.lease("free", ROOM, 1, 1).granted == 1
    one.give_back("free", ROOM, 1)
    size = (tmp_path / "meter" / "ledger").stat().st_size
    clocks.wall += (STALE_DAYS + 1) * 86_400
    assert two.lease("old-3", DAY, 1, 5).granted == 5
    for number in range(380):
        assert two.lease(f"new-{number}", DAY, 1, 3).granted == 3
        if number % 50 == 0:
            assert one.used(f"new-{number}", DAY) == (3, 1000)
    assert two.lease("wide", ROOM, 1, 2).granted == 2
    assert (tmp_path / "meter" / "ledger").stat().st_size == size
    late = worker(reuse_bytes=64 * 1024)
    for ledger in (one, two, late):
        assert all(ledger.used(f"new-{number}", DAY) == (3, 1000) for number in range(380))
        assert ledger.used("old-3", DAY) == (5, 1000)
        assert ledger.used("old-0", DAY) == (0, 1000)
        assert ledger.used("held", ROOM) == (1, 3)
        assert ledger.used("wide", ROOM) == (2, 3)
    for number in range(380, 900):  # none is stale any more: it grows
        assert late.lease(f"new-{number}", DAY, 1, 3).granted == 3
    assert (tmp_path / "meter" / "ledger").stat().st_size > size
    assert all(one.used(f"new-{number}", DAY) == (3, 1000) for number in range(900))


def test_seed(worker: Maker, clocks: Clocks) -> None:
    """What metering knows raises what is counted, never lowers it; a window that is over is left alone."""
    one = worker()
    assert one.began
    assert not worker().began
    one.seed(ACME, DAY, 300, TODAY)
    assert one.used(ACME, DAY) == (300, 1000)
    one.lease(ACME, DAY, 1, 100)
    one.seed(ACME, DAY, 300, TODAY)
    one.seed(ACME, DAY, 900, TODAY - 1)
    one.seed(ACME, MINUTE, 100, 0)
    assert one.used(ACME, DAY) == (400, 1000)
    assert one.used(ACME, MINUTE) == (0, 600)
    one.seed(ACME, DAY, 10, TODAY + 1)
    clocks.wall += 86_400
    assert one.used(ACME, DAY) == (10, 1000)


def test_a_worker_that_stopped_with_the_lock(worker: Maker, tmp_path: Path) -> None:
    """The lock is waited for a quarter of a second once, then not; all is well when it is free again."""
    one = worker()
    one.lease(ACME, MINUTE, 1, 1)
    fd = os.open(tmp_path / "meter" / "ledger", os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        begin = time.monotonic()
        with pytest.raises(LedgerError, match="locked"):
            one.lease(ACME, MINUTE, 1, 1)
        first = time.monotonic() - begin
        with pytest.raises(LedgerError, match="locked"):
            worker()
        begin = time.monotonic()
        for _ in range(20):
            with pytest.raises(LedgerError, match="locked"):
                one.give_back(ACME, MINUTE, 1)
        assert (time.monotonic() - begin) / 20 < first / 3
    finally:
        os.close(fd)
    assert one.lease(ACME, MINUTE, 1, 1).left == 598


def test_sync_and_close(worker: Maker) -> None:
    """What was changed can be brought to the disk, also twice, and after the end."""
    one = worker()
    one.lease(ACME, MINUTE, 1, 1)
    one.sync()
    one.sync()
    one.close()
    one.close()
    one.sync()
    assert one.column == -1
