"""Queues are bounded, turns are by the shares, and who is sent away hears when to come back."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.admit import admit, displaced, retry_after, turn


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(-1, 50))
def test_never_more_than_the_queue(inside: int, queue: int, free: int) -> None:
    """A request is let in exactly while there is room; what is sent away is told whose turn it is to act."""
    answer = admit(inside, queue, free)
    assert (answer == 0) == (inside < queue)
    if answer:
        assert answer == (503 if free < 0 else 429)


def test_examples() -> None:
    """Held while a replica is being started; 429 when all are busy; 503 when there are none."""
    assert admit(0, 512, -1) == 0
    assert admit(512, 512, 0) == 429
    assert admit(512, 512, 3) == 429
    assert admit(512, 512, -1) == 503


def test_retry_after_examples() -> None:
    """The time that those who wait take, in whole seconds, at least one and at most a minute."""
    assert retry_after(10, 4.0) == 3
    assert retry_after(0, 4.0) == 1
    assert retry_after(10, 0.0) == 1
    assert retry_after(10_000, 1.0) == 60
    assert retry_after(1, 1e-300) == 60


@given(st.integers(-5, 10**6), st.floats())
def test_retry_after_is_a_sane_header(waiting: int, rate: float) -> None:
    """Whatever the rate looks like, the answer is a whole number of seconds from 1 to 60."""
    seconds = retry_after(waiting, rate)
    assert isinstance(seconds, int)
    assert 1 <= seconds <= 60


# --- whose turn it is

CREDIT = 1.0
"""The gateway's credit of a round for a share of 1, in tokens."""


class Queues:
    """Tenants with requests of random lengths, whose turns are taken one after the other."""

    def __init__(self, chance: random.Random, shares: Sequence[float], priority: Sequence[int], longest: float) -> None:
        self.chance, self.longest = chance, longest
        self.shares, self.priority = shares, priority
        self.quantum = [share * CREDIT for share in shares]
        n = len(shares)
        self.waiting, self.head, self.deficit = [0] * n, [0.0] * n, [0.0] * n
        self.served, self.largest, self.at = [0.0] * n, [0.0] * n, -1

    def come(self, i: int, count: int) -> None:
        """So many more of a tenant."""
        if not self.waiting[i]:
            self._next(i)
        self.waiting[i] += count

    def _next(self, i: int) -> None:
        self.head[i] = self.chance.uniform(1.0, self.longest if i % 2 else self.longest / 50)
        self.largest[i] = max(self.largest[i], self.head[i])

    def take(self) -> int:
        """Whose turn it is; it is served."""
        i = turn(self.waiting, self.head, self.quantum, self.priority, self.deficit, self.at)
        self.at = i
        if i >= 0:
            self.served[i] += self.head[i]
            self.waiting[i] -= 1
            self._next(i)
        return i


SHARES = st.lists(st.sampled_from([0.01, 0.5, 1.0, 1.0, 2.0, 4.0, 50.0]), min_size=2, max_size=6)


@given(SHARES, st.integers(0, 2**32), st.sampled_from([4.0, 300.0, 20_000.0]))
def test_work_is_divided_by_the_shares(shares: list[float], seed: int, longest: float) -> None:
    """While all wait, what each has had for its share differs by a round and one largest request, however long it
    goes on and whatever the lengths: those with many short requests win nothing over those with few long ones.
    """
    queues = Queues(random.Random(seed), shares, [1] * len(shares), longest)
    for i in range(len(shares)):
        queues.come(i, 10**6)
    for _ in range(400):
        queues.take()
        had = [served / quantum for served, quantum in zip(queues.served, queues.quantum, strict=True)]
        largest = [most / quantum for most, quantum in zip(queues.largest, queues.quantum, strict=True)]
        for i in range(len(shares)):
            for j in range(i):
                assert abs(had[i] - had[j]) <= 1 + max(largest[i], largest[j]) + 1e-6


@given(SHARES, st.integers(0, 2**32))
def test_a_higher_priority_goes_first(shares: list[float], seed: int) -> None:
    """Nobody has a turn while somebody of a higher priority waits; and somebody has one while anybody waits."""
    chance = random.Random(seed)
    priority = [chance.randint(0, 2) for _ in shares]
    queues = Queues(chance, shares, priority, 3000.0)
    for _ in range(300):
        if chance.random() < 0.6:
            queues.come(chance.randrange(len(shares)), chance.randint(1, 3))
        wait = [priority[i] for i, count in enumerate(queues.waiting) if count]
        i = queues.take()
        assert (i < 0) == (not wait)
        assert i < 0 or priority[i] == min(wait)


@given(SHARES, st.integers(0, 2**32))
def test_nobody_starves(shares: list[float], seed: int) -> None:
    """However short the others' requests and however many, a tenant of the same priority has its turn: before the
    others have had more than its head is worth of rounds.
    """
    chance = random.Random(seed)
    queues = Queues(chance, shares, [1] * len(shares), 2000.0)
    for i in range(1, len(shares)):
        queues.come(i, 10**9)
    for _ in range(chance.randint(0, 50)):
        queues.take()
    queues.come(0, 1)
    rounds, before = queues.head[0] / queues.quantum[0], list(queues.served)
    while queues.take() != 0:
        for i in range(1, len(shares)):
            had = (queues.served[i] - before[i]) / queues.quantum[i]
            assert had <= rounds + 2 + 2 * queues.largest[i] / queues.quantum[i]


@pytest.mark.parametrize("saved", [0.0, 50.0])
def test_credit_is_saved_up_to_a_bound(saved: float) -> None:
    """A tenant that was away for long has `saved` rounds coming and no more, however much it had; then it is as all."""
    waiting, head, quantum, deficit = [1000, 0], [10.0, 10.0], [1.0, 1.0], [0.0, 1e9]
    for _ in range(100):
        assert turn(waiting, head, quantum, [1, 1], deficit, 0, saved) == 0
    assert deficit[1] == saved
    waiting[1] = 1000
    at, found = 0, []
    for _ in range(200):
        at = turn(waiting, head, quantum, [1, 1], deficit, at, saved)
        found.append(at)
    assert abs(found.count(1) - found.count(0) - saved / 10) <= 2


def test_who_wants_nothing_saves() -> None:
    """While others are served, a tenant that wants nothing gains as they do, until it has `saved` rounds; a debt is
    paid off by that, and a tenant of another priority gains nothing.
    """
    waiting, head, quantum, priority = [1000, 0, 0, 0], [10.0] * 4, [1.0, 1.0, 4.0, 1.0], [1, 1, 1, 2]
    deficit = [0.0, -500.0, 0.0, 0.0]
    for _ in range(20):
        turn(waiting, head, quantum, priority, deficit, 0, 30.0)
    assert deficit[1:] == [-300.0, 120.0, 0.0]
    for _ in range(100):
        turn(waiting, head, quantum, priority, deficit, 0, 30.0)
    assert deficit[1:] == [30.0, 120.0, 0.0]


def test_turns_change_with_each_request() -> None:
    """Who has saved up much does not spend it at one go while another can pay too."""
    waiting, deficit = [100, 100, 100], [500.0, 500.0, 0.0]
    found, at = [], 0
    for _ in range(60):
        at = turn(waiting, [10.0] * 3, [1.0] * 3, [1] * 3, deficit, at, 50.0)
        found.append(at)
    assert found == [1, 0] * 30


def test_a_debt_is_kept() -> None:
    """Who used more than was reckoned waits that much longer, also when it has been away."""
    waiting, head, quantum, deficit = [100, 0], [256.0, 256.0], [1.0, 1.0], [0.0, -2560.0]
    at = turn(waiting, head, quantum, [1, 1], deficit, 0)
    waiting[1] = 100
    found = []
    for _ in range(30):
        at = turn(waiting, head, quantum, [1, 1], deficit, at)
        found.append(at)
    assert found.index(1) == 9, "one part of ten was paid off while it wanted nothing"
    assert found[9:].count(1) == pytest.approx(10, abs=1)


class Counted(list[float]):
    """Counts how often it is read."""

    reads = 0

    def __getitem__(self, key: object) -> float:  # type: ignore[override]
        type(self).reads += 1
        return super().__getitem__(key)  # type: ignore[index]


@pytest.mark.parametrize("head", [1.0, 1e6, 1e9])
@pytest.mark.parametrize("share", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("debt", [0.0, -64.0, -1e6])
def test_a_turn_is_found_quickly(head: float, share: float, debt: float) -> None:
    """Rounds in which nobody could pay are not gone through one by one."""
    n = 50
    deficit = Counted([debt * CREDIT * share] * n)
    Counted.reads = 0
    found = turn([3] * n, [head] * n, [share * CREDIT] * n, [1] * n, deficit, 7)
    assert 0 <= found < n
    assert Counted.reads < 8 * n


def test_a_turn_that_comes_to_nothing() -> None:
    """Whoever was taken and had to be put back, for there was no room, costs nobody anything: no rounds go by."""
    chance = random.Random(5)
    queues = Queues(chance, [1.0, 2.0, 0.5], [1, 1, 1], 700.0)
    for i in range(3):
        queues.come(i, 100)
    for _ in range(60):
        at = turn(queues.waiting, queues.head, queues.quantum, queues.priority, queues.deficit, queues.at)
        queues.deficit[at] += queues.head[at]
        before = list(queues.deficit)
        for _ in range(5):
            at = turn(queues.waiting, queues.head, queues.quantum, queues.priority, queues.deficit, at)
            queues.deficit[at] += queues.head[at]
        assert queues.deficit == pytest.approx(before)
        queues.take()


# --- who gives way

TENANTS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([0.01, 1.0, 2.0, 7.0]), st.integers(0, 2)), min_size=1, max_size=8
)


@given(TENANTS, st.data())
def test_who_gives_way(tenants: list[tuple[int, float, int]], data: st.DataObject) -> None:
    """Never one of a higher priority; of the same, only one that has more waiting for its share than the new one's
    tenant would then have; and among those who may, nobody else has a better claim to go.
    """
    waiting, share, priority = ([one[k] for one in tenants] for k in range(3))
    mine = data.draw(st.integers(0, len(tenants) - 1))
    found = displaced(waiting, share, priority, mine)
    mine_then = (waiting[mine] + 1) / share[mine]
    if found != mine:
        assert waiting[found] > 0
        assert priority[found] >= priority[mine]
        if priority[found] == priority[mine]:
            assert waiting[found] / share[found] > mine_then
    for i, (count, part, rank) in enumerate(tenants):
        if i == mine or not count:
            continue
        assert rank <= max(priority[found], priority[mine])
        if found == mine:
            assert rank < priority[mine] or (rank == priority[mine] and count / part <= mine_then)
        elif rank == priority[found]:
            assert count / part <= waiting[found] / share[found]


def test_who_gives_way_examples() -> None:
    """The noisy one, not the small one; a lower priority before all; alone, the new one is refused."""
    assert displaced([9, 1, 0], [1.0, 1.0, 1.0], [1, 1, 1], 2) == 0
    assert displaced([9, 1, 0], [1.0, 1.0, 1.0], [1, 1, 1], 0) == 0
    assert displaced([9, 1, 0], [1.0, 1.0, 1.0], [1, 2, 1], 2) == 1
    assert displaced([9, 9, 0], [4.0, 1.0, 1.0], [1, 1, 1], 2) == 1
    assert displaced([9, 0], [1.0, 1.0], [0, 1], 1) == 1
    assert displaced([5], [1.0], [1], 0) == 0
