"""The ledger beside a model that counts exactly: whatever workers do, and whatever clocks and kills do to them."""

from __future__ import annotations

import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mainspring.decide.limits import Limit, block, window_of
from mainspring.gateway.ledger import Ledger

DAY = 86_400.0
SECONDS = {"s": 1, "min": 60, "h": 3600}
ACCOUNTS = st.sampled_from(["chat/acme", "key/k3"])
PERIODS = st.sampled_from(["s", "min", "h"])
SIZES = st.integers(0, 50)


class Exact:
    """A bucket as it is defined, without rounding, and how much a rounding ledger may have lost by now."""

    def __init__(self, amount: int, per: str) -> None:
        self.per, self.at, self.boot = per, Fraction(0), -1
        self.level, self.lost = Fraction(amount), Fraction(0)

    def pass_to(self, now: Fraction, boot: int, amount: int) -> None:
        """Fill until `now`; the first look after a reboot fills nothing."""
        if boot != self.boot:
            self.at, self.boot = now, boot
        self.level = max(min(self.level, Fraction(amount)), Fraction(-amount))
        self.level = min(self.level + (now - self.at) * amount / SECONDS[self.per], Fraction(amount))
        self.at = now
        self.lost += Fraction(2 * amount, SECONDS[self.per] * 10**9)  # a nanosecond, and one by the float of the clock


class Counting(RuleBasedStateMachine):
    """Some workers, one file; the model is told what was granted, and says whether it could be."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.workers: list[Ledger] = []
        self.mono, self.wall, self.boots = 1000.0, 20_800 * DAY + 5.0, 0
        self.buckets: dict[tuple[str, str], Exact] = {}
        self.amounts = {"s": 40, "min": 100, "h": 90}
        self.quotas: dict[tuple[str, str], list[int]] = {}  # window, used
        self.held: dict[str, dict[int, int]] = {}  # account: what the worker with this id() holds
        self.room = 6

    def teardown(self) -> None:
        """Close all."""
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.folder)

    @initialize()
    def first(self) -> None:
        """There is one to begin with."""
        self.open()

    @rule()
    @precondition(lambda self: len(self.workers) < 6)
    def start(self) -> None:
        """Another worker."""
        self.open()

    def open(self) -> None:
        """Add a worker, in a column that no other has."""
        made = Ledger(self.folder / "ledger", mono=lambda: self.mono, wall=lambda: self.wall, boot=f"boot-{self.boots}")
        assert made.column not in {worker.column for worker in self.workers}
        self.workers.append(made)

    @rule(which=st.integers(0, 5))
    @precondition(lambda self: len(self.workers) > 1)
    def kill(self, which: int) -> None:
        """One ends without a word: nothing is given back."""
        dead = self.workers.pop(which % len(self.workers))
        dead.close()
        for holders in self.held.values():
            holders.pop(id(dead), None)

    @rule(gone=st.floats(0, 1e5))
    def reboot(self, gone: float) -> None:
        """The machine ends and starts again: all workers die, the monotonic clock begins anew."""
        for worker in self.workers:
            worker.close()
        self.workers.clear()
        self.held.clear()
        self.mono, self.wall, self.boots = 3.0, self.wall + gone, self.boots + 1
        self.open()

    @rule(seconds=st.one_of(st.floats(0, 2), st.floats(0, 5000)))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.mono += seconds
        self.wall += seconds

    @rule(days=st.floats(-40, 40))
    def jump(self, days: float) -> None:
        """Somebody sets the clock."""
        self.wall = max(self.wall + days * DAY, 0.0)

    @rule(per=PERIODS, amount=st.integers(1, 120))
    def change(self, per: str, amount: int) -> None:
        """The limit is another in the file."""
        self.amounts[per] = amount
        for (account, its), bucket in self.buckets.items():
            if its == per:  # all workers hear of it within a blink; each looks once
                self.look(account, per, bucket)

    @property
    def now(self) -> Fraction:
        """The monotonic time as the ledger reads it: whole nanoseconds."""
        return Fraction(int(self.mono * 10**9), 10**9)

    def look(self, account: str, per: str, bucket: Exact) -> None:
        """Let both come to now, with the amount of now."""
        bucket.pass_to(self.now, self.boots, self.amounts[per])
        limit = Limit("tokens", self.amounts[per], per)  # type: ignore[arg-type]
        self.alike(bucket, self.workers[0].lease(account, limit, 0, 0).left)

    def alike(self, bucket: Exact, left: int) -> None:
        """The ledger never has more than the exact bucket, and less only by what rounding may lose."""
        assert left <= bucket.level
        assert left >= bucket.level - 1 - bucket.lost

    @rule(which=st.integers(0, 5), account=ACCOUNTS, per=PERIODS, least=SIZES, more=SIZES, back=st.integers(-20, 50))
    def bucket(self, which: int, account: str, per: str, least: int, more: int, back: int) -> None:
        """Lease from a bucket, and give some of it back, or use more than was leased."""
        limit = Limit("tokens", self.amounts[per], per)  # type: ignore[arg-type]
        exact = self.buckets.setdefault((account, per), Exact(limit.amount, per))
        exact.pass_to(self.now, self.boots, limit.amount)
        worker = self.workers[which % len(self.workers)]
        got = worker.lease(account, limit, least, least + more)
        assert got.granted == 0 or least <= got.granted <= least + more
        assert got.granted <= exact.level or got.granted == 0
        exact.level -= got.granted
        self.alike(exact, got.left)
        if not got.granted:
            assert got.left < least or least + more == 0 or got.left <= 0
            wait = (least - exact.level) * SECONDS[per] / limit.amount
            assert got.wait == float("inf") if least > limit.amount else abs(got.wait - max(wait, 0)) < 1 + SECONDS[per]
        back = min(back, got.granted)
        worker.give_back(account, limit, back)
        exact.level = max(min(exact.level + back, Fraction(limit.amount)), Fraction(-limit.amount))
        self.alike(exact, worker.lease(account, limit, 0, 0).left)

    @rule(
        which=st.integers(0, 5),
        account=ACCOUNTS,
        per=st.sampled_from(["day", "month"]),
        least=SIZES,
        more=SIZES,
        back=st.integers(-20, 50),
        late=st.integers(-1, 1),
    )
    def quota(self, which: int, account: str, per: str, least: int, more: int, back: int, late: int) -> None:
        """Lease from a quota, and settle it; perhaps for another window."""
        limit = Limit("dollars", 200, per)  # type: ignore[arg-type]
        current = window_of(per, self.wall)  # type: ignore[arg-type]
        exact = self.quotas.setdefault((account, per), [current, 0])
        if current > exact[0]:
            exact[:] = [current, 0]
        worker = self.workers[which % len(self.workers)]
        got = worker.lease(account, limit, least, least + more)
        free = 200 - exact[1]
        assert got.granted == (min(free, least + more) if free > 0 and free >= least else 0)
        exact[1] += got.granted
        assert (got.left, got.window) == (200 - exact[1], exact[0])
        assert exact[1] <= 200 or not got.granted, "never over"
        worker.give_back(account, limit, back, got.window + late)
        if not late:
            exact[1] = max(exact[1] - back, 0)
        assert worker.used(account, limit) == (exact[1] if window_of(per, self.wall) <= exact[0] else 0, 200)  # type: ignore[arg-type]

    @rule(which=st.integers(0, 5), account=ACCOUNTS, want=st.integers(0, 7), change=st.integers(-2, 7))
    def at_once(self, which: int, account: str, want: int, change: int) -> None:
        """Hold something, and give back some or all of it."""
        limit = Limit("at_once", self.room)
        worker = self.workers[which % len(self.workers)]
        held = self.held.setdefault(account, {})
        free = self.room - sum(held.values())
        got = worker.lease(account, limit, want, want)
        assert got.granted == (want if want <= free else 0)
        mine = held.get(id(worker), 0) + got.granted
        worker.give_back(account, limit, change)
        held[id(worker)] = max(mine - change, 0)

    @invariant()
    def all_see_the_same(self) -> None:
        """Each worker tells the same of what is held."""
        for account, held in self.held.items():
            told = {worker.used(account, Limit("at_once", self.room))[0] for worker in self.workers}
            assert told == {sum(held.values())} or not self.workers


TestCounting = Counting.TestCase
TestCounting.__doc__ = "Never over, and never under by more than rounding, in any order of what can happen."
TestCounting.settings = settings(max_examples=60, stateful_step_count=30)


def test_blocks_keep_back_no_more_than_promised(tmp_path: Path) -> None:
    """Workers that lease blocks and never give back: all but their blocks is used, and never more than the limit."""
    limit = Limit("tokens", 10_000, "day")
    workers = [Ledger(tmp_path / "ledger", wall=lambda: 20_800 * DAY) for _ in range(8)]
    each = block(limit.amount, len(workers))
    used, kept = 0, [0] * len(workers)
    turn = 0
    while True:
        turn += 1
        which = turn * 5 % len(workers)
        if not kept[which]:
            kept[which] = workers[which].lease("a", limit, 1, max(1, each)).granted
            if not kept[which]:
                break
        kept[which] -= 1
        used += 1
    for worker in workers:
        worker.close()
    assert limit.amount - len(workers) * each <= used <= limit.amount
    assert used + sum(kept) == limit.amount
