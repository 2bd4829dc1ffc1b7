"""One version gives way to another in whatever room there is: it ends, it fits, and enough of them answer meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.waves import MANY, Counts, Exchange, How, Room, Size, free, lent, step

ONE = Size(cores=1.0)


def slots(count: int) -> Room:
    """Room for so many replicas of one core."""
    return Room(cores=count)


@dataclass
class Replica:
    """One process: it starts, answers, stops, and takes room all the while."""

    is_new: bool
    ready_at: int
    stop_at: int | None = None
    held: bool = False  # it has answered once, and has not died twice since


@dataclass
class Pool:
    """Replicas that come and go as `step` says, with times to start and to stop from a seed."""

    normal: int
    room: Room
    old: Size
    new: Size
    chance: random.Random
    wanted: int = 0
    least: int = 0
    there: list[Replica] = field(default_factory=list)
    at: int = 0
    said: list[Counts] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.there = [Replica(False, 0, held=True) for _ in range(self.normal)]

    def answering(self, *, new: bool | None = None) -> int:
        """Replicas that answer."""
        return sum(r.ready_at <= self.at and r.stop_at is None and new in (None, r.is_new) for r in self.there)

    def used(self) -> Size:
        """What all that are there take."""
        total = Size()
        for replica in self.there:
            total = total.and_(self.new if replica.is_new else self.old)
        return total

    def tick(self, *, crash: bool = False) -> None:
        """Let one unit of time pass, then do what is said: stop what is too much, start what is wanted and has room."""
        self.at += 1
        self.there = [r for r in self.there if r.stop_at is None or r.stop_at > self.at]
        if crash and self.there:
            self.there.remove(self.chance.choice(self.there))
        news = [r for r in self.there if r.is_new and r.stop_at is None]
        held = sum(r.ready_at <= self.at for r in news)
        old, new = self.answering(new=False), self.answering(new=True)
        now = Exchange(self.normal, self.wanted, self.least, 0, old, new, held, len(news))
        said = step(now, self.room, self.old, self.new)
        self.said.append(said)
        for is_new, most in ((False, said.old), (True, said.new)):
            mine = [r for r in self.there if r.is_new == is_new and r.stop_at is None]
            mine.sort(key=lambda r: r.ready_at > self.at)  # those that do not answer go first
            for replica in mine[most:]:
                replica.stop_at = self.at + self.chance.randint(1, 4)
            for _ in range(most - len(mine)):
                each = self.new if is_new else self.old
                if self.room.fits(self.used().and_(each)):
                    self.there.append(Replica(is_new, self.at + self.chance.randint(1, 6)))


@given(
    normal=st.integers(1, 9), spare=st.integers(0, 12), wanted=st.integers(1, 9), seed=st.integers(0, 10_000),
    crashes=st.integers(0, 6),
)  # fmt: skip
def test_it_ends_whatever_the_room(normal: int, spare: int, wanted: int, seed: int, crashes: int) -> None:
    """As many new ones answer as were wanted, in any room that had the old ones, whatever crashed on the way."""
    wanted = min(wanted, normal)
    pool = Pool(normal, slots(normal + spare), ONE, ONE, random.Random(seed), wanted)
    alone = normal == 1 and not spare
    for tick in range(400):
        pool.tick(crash=tick % 7 == 3 and tick // 7 < crashes)
        assert pool.room.fits(pool.used())
        if not crashes:
            assert pool.answering() >= (0 if alone else max(1, normal - 1))
    assert pool.answering(new=True) == wanted
    assert pool.answering(new=False) == min(normal, normal + spare - wanted)
    assert len({(said.old, said.new) for said in pool.said[-50:]}) == 1


@given(
    normal=st.integers(1, 6), cores=st.floats(1, 30), old=st.floats(0.5, 4), new=st.floats(0.5, 4),
    seed=st.integers(0, 10_000), share=st.floats(0.05, 1),
)  # fmt: skip
def test_it_ends_whatever_their_sizes(
    normal: int, cores: float, old: float, new: float, seed: int, share: float
) -> None:
    """New ones that take more or less than the old ones come to as many as fit; nothing is ever over the room."""
    there = Room(cores=max(cores, normal * old), memory=50.0)
    wanted = max(1, round(share * normal))
    pool = Pool(normal, there, Size(old, 1.0), Size(new, 2.0), random.Random(seed), wanted)
    for _ in range(400):
        pool.tick()
        assert pool.room.fits(pool.used())
    assert pool.answering(new=True) == min(wanted, free(there, Size(), Size(new, 2.0)))
    assert len({(said.old, said.new) for said in pool.said[-50:]}) == 1


@given(normal=st.integers(1, 9), spare=st.integers(0, 9), wanted=st.integers(1, 9), least=st.integers(1, 9))
def test_a_canary_keeps_its_control(normal: int, spare: int, wanted: int, least: int) -> None:
    """A stage that needs so many old ones beside it gets no more new ones than that leaves room for."""
    least = min(least, normal)
    pool = Pool(normal, slots(normal + spare), ONE, ONE, random.Random(1), wanted, least)
    for _ in range(200):
        pool.tick()
        assert pool.answering(new=False) >= min(least, normal)
    assert pool.answering(new=True) == min(wanted, normal + spare - least)


@pytest.mark.parametrize(
    ("normal", "spare", "how", "old", "new"),
    [
        (3, 9, "surge", 3, 3),  # all of them side by side
        (3, 1, "surge", 3, 1),  # one more fits: it goes first
        (3, 0, "in place", 2, 1),  # one has to leave first
        (1, 0, "stop first", 0, 1),  # the only one has to
    ],
)
def test_how(normal: int, spare: int, how: How, old: int, new: int) -> None:
    """Side by side, one after the other, in place: by what is really free."""
    now = Exchange(normal, normal, old_answering=normal)
    assert step(now, slots(normal + spare), ONE, ONE) == Counts(old, new, how, normal)


def test_the_only_replica_has_no_canary() -> None:
    """Where it fills the room, a stage that needs a control beside it can't be had, and says so."""
    assert step(Exchange(1, 1, least=1, old_answering=1), slots(1), ONE, ONE) == Counts(1, 0, "no room", 0)


def test_no_limit_is_room_for_all() -> None:
    """Where nobody said what may be used, everything fits."""
    assert free(Room(), Size(cores=1e6), ONE) == MANY
    assert not Room().is_limited
    assert step(Exchange(4, 4), Room(), ONE, ONE) == Counts(4, 4, "surge", 4)


def test_lending() -> None:
    """Idle replicas of others make room; those that do not suffice are left alone."""
    ones = {"a": ONE, "b": ONE}
    assert lent(ONE, ones, {"a": 1, "b": 3}) == {"b": 1}
    assert lent(Size(cores=4), ones, {"a": 1, "b": 3}) == {"b": 3, "a": 1}
    assert lent(Size(cores=5), ones, {"a": 1, "b": 3}) == {}
    assert lent(ONE, ones, {}) == {}
