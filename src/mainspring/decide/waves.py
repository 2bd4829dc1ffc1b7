"""How an old version gives way to a new one where room is limited: which replicas there may be of each, step by step.

What this is: pure functions of counts. They say how many of each there may be now; the same question is asked again
after each change, so nothing is remembered. Who calls it: `loop/place.py`. What it must never do: take away an old
replica before enough others answer, or ask for more than there is room for.

How. While it all fits side by side, the new ones are simply started (`surge`). Where only some more fit, as many old
ones are kept as leave room for one more new one; when that answers, the next old one goes. Where nothing more fits, an
old one goes first (`in place`), so that one fewer answers meanwhile. And where the old one is alone and fills the room,
it stops before the new one starts (`stop first`), and requests wait: there is no other way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

How = Literal["surge", "in place", "stop first", "no room"]
MANY = 1_000_000
"""As many as anybody asks for."""
FRESH_MOST = 1 / 3
"""The largest share of a canary that has a fresh control of as many replicas beside it."""
_CLOSE = 1e-9  # of a core or a byte, for sums of fractions


@dataclass(frozen=True, slots=True)
class Size:
    """What one replica takes, or several together."""

    cores: float = 0.0
    memory: float = 0.0  # bytes

    def times(self, count: int) -> Size:
        """So many of it."""
        return Size(self.cores * count, self.memory * count)

    def and_(self, other: Size) -> Size:
        """Both together."""
        return Size(self.cores + other.cores, self.memory + other.memory)

    def or_(self, other: Size) -> Size:
        """Enough for either."""
        return Size(max(self.cores, other.cores), max(self.memory, other.memory))


@dataclass(frozen=True, slots=True)
class Room:
    """What may be taken; infinite where nobody said."""

    cores: float = math.inf
    memory: float = math.inf  # bytes

    @property
    def is_limited(self) -> bool:
        """Whether anything was said."""
        return math.isfinite(self.cores) or math.isfinite(self.memory)

    def fits(self, size: Size) -> bool:
        """Whether so much has room."""
        return size.cores <= self.cores + _CLOSE and size.memory <= self.memory + _CLOSE

    def less(self, size: Size) -> Room:
        """What is left beside so much; nothing fits where that is negative."""
        return Room(self.cores - size.cores, self.memory - size.memory)

    def more(self, size: Size) -> Room:
        """What there is with so much given back."""
        return Room(self.cores + size.cores, self.memory + size.memory)

    def of(self, size: Size) -> Size:
        """As much of it as there is."""
        return Size(max(0.0, min(self.cores, size.cores)), max(0.0, min(self.memory, size.memory)))


def free(limits: Room, used: Size, one: Size) -> int:
    """How many more replicas of size `one` fit beside what is used; `MANY` where nothing limits them.

    >>> free(Room(cores=4), Size(cores=1), Size(cores=2))
    1
    """
    if not limits.fits(used):
        return 0
    most = float(MANY)
    for left, each in ((limits.cores - used.cores, one.cores), (limits.memory - used.memory, one.memory)):
        if each > 0.0 and math.isfinite(left):
            most = min(most, (left + _CLOSE) // each)
    return max(0, int(most))


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where the change from the old version to the new one stands."""

    normal: int  # replicas of the old version while nothing is rolled out
    wanted: int  # of the new version, in this stage
    least: int = 0  # old ones that this stage needs beside it: a canary has a control; 0: none
    extra: int = 0  # fresh replicas of the old version, as a control
    old_answering: int = 0
    new_answering: int = 0
    new_held: int = 0  # that answer, or are only being started again after one death
    new_there: int = 0  # that take room: those that start, too


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there may be of each now."""

    old: int
    new: int
    how: How
    end: int  # of the new version, when all of this has been done: fewer than wanted where no more fit


def step(now: Exchange, room: Room, old: Size, new: Size) -> Counts:
    """Say how many of each version there may be now, in `room`, where one of each takes `old` and `new`.

    Whatever the numbers: what it says fits, unless what is there already does not; and it takes away no old replica
    while fewer than `max(1, normal - 1)` would answer, unless one new replica needs the room of more than one old one
    (then: as few fewer as can be), or of the only one. Asked again after each change, it comes to `new == wanted` as
    far as that fits beside `least`, with as many old ones beside them as still fit.
    """

    def most_old(news: int) -> int:
        return min(now.normal, free(room, old.times(now.extra).and_(new.times(news)), old))

    def most_new(olds: int) -> int:
        return min(now.wanted, free(room, old.times(olds + now.extra), new))

    if most_new(now.normal) == now.wanted:
        return Counts(now.normal, now.wanted, "surge", now.wanted)
    wanted = most_new(min(now.least, now.normal))
    if not wanted:
        return Counts(now.normal, 0, "no room", 0)
    first = most_old(1)  # old ones beside the first new one
    how: How = "surge" if first == now.normal else "in place" if first else "stop first"
    kept = most_old(min(wanted, now.new_held + 1))
    # Nobody who answers goes while too few would be left, whatever crashed meanwhile.
    fewest = min(max(1, now.normal - 1), *(most_old(news + 1) + news for news in range(wanted)))
    kept = max(kept, min(now.old_answering, fewest - now.new_answering))
    return Counts(kept, max(min(most_new(kept), wanted), min(wanted, now.new_there)), how, wanted)


def lent(short: Size, one: Mapping[str, Size], idle: Mapping[str, int]) -> dict[str, int]:
    """Which replicas of others make room for `short` more; empty when theirs do not suffice.

    `idle`: replicas that each can do without: above its least number and without work. `one`: what one of them takes.
    Whoever has most idle ones and suffices alone gives; where nobody does, they give together.

    >>> lent(Size(cores=2), {"a": Size(cores=1), "b": Size(cores=2)}, {"a": 1, "b": 1})
    {'b': 1}
    """
    names = sorted((name for name in idle if idle[name] > 0), key=lambda each: (-idle[each], each))
    for name in names:
        count = next((n for n in range(1, idle[name] + 1) if _covers(one[name].times(n), short)), 0)
        if count:
            return {name: count}
    found: dict[str, int] = {}
    got = Size()
    for name in (each for each in names for _ in range(idle[each])):
        got = got.and_(one[name])
        found[name] = found.get(name, 0) + 1
        if _covers(got, short):
            return found
    return {}


def _covers(size: Size, short: Size) -> bool:
    return size.cores + _CLOSE >= short.cores and size.memory + _CLOSE >= short.memory
