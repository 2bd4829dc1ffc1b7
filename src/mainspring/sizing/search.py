"""The search: the replicas of each region that cost least and meet every need, for one way to run them.

What this is: an exact search over integers; pure. Who calls it: `rank.py`, `sensitivity.py`, `follow.py`. What it must
never do: forecast, or know what a model is.

How. Each region has a ladder of options. A lower bound comes from the regions' own needs and the loss of regions alone:
the sum of what remains after the `lost` largest go is at least `total` exactly when, for some whole number t,
`sum(min(n, t)) >= total + lost * t` (t is the size of the smallest region that goes), and for a given t the cheapest
regions are filled first. The bound is convex in t. When its solution also meets everything else it is the answer; else
a depth-first search over regions closes the gap, cut by the bound and by "not even with all there is elsewhere". Costs
are integers, so that ties are ties: the fewer devices win, then the order of the regions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.decide.availability import reached
from mainspring.sizing.needs import Needs, Option, Place

POINTS = 3_000
"""Bounds looked at before the search gives up the proof, and says so: some tenths of a second."""

ASKED = 10
"""What asking for an availability counts, in points."""

NEVER = 10**30
"""Cost of a replica that can't be had: keeps the bound convex where there is no solution."""

AvailableFor = Callable[[tuple[Option, ...]], float]


@dataclass(frozen=True, slots=True)
class Found:
    """The cheapest choice."""

    chosen: tuple[Option, ...]
    bound: int  # nothing costs less than this, `Option.key`
    proven: bool  # that nothing is cheaper

    @property
    def key(self) -> int:
        """Cost and devices, to compare."""
        return sum(option.key for option in self.chosen)


@dataclass(frozen=True, slots=True)
class Unmet:
    """Nothing meets the needs: which of them, and how far the most that can be had goes."""

    what: str  # "regions", "nodes", "loss", "availability", "many"
    region: str
    needed: float
    has: float


@dataclass(slots=True)
class _Range:
    """A region in the bound: replicas that count at the least and at the most, and what one more costs."""

    low: int
    high: int
    cost: int
    slope: int


def _filled(ranges: Sequence[_Range], total: int, lost: int, t: int) -> tuple[int, list[int]]:
    """The cheapest fill at this t: its cost, and what each region gets."""
    missing = total + lost * t - sum(min(part.low, t) for part in ranges)
    cost = sum(part.cost for part in ranges)
    values = [part.low for part in ranges]
    for index in sorted(range(len(ranges)), key=lambda index: (ranges[index].slope, index)):
        part = ranges[index]
        more = max(0, min(missing, min(part.high, t) - part.low))
        missing -= more
        cost += more * part.slope
        values[index] += more
    return cost + NEVER * max(missing, 0), values


def bound(ranges: Sequence[_Range], total: int, lost: int) -> tuple[int, list[int]]:
    """The least that any choice within the ranges costs, by the loss of regions alone, and what would cost that."""
    if not lost:
        return sum(part.cost for part in ranges), [part.low for part in ranges]
    low, high = 0, max(total, *(part.low for part in ranges))
    while low < high:  # the cost is convex in t: flat at its least only
        middle = (low + high) // 2
        if _filled(ranges, total, lost, middle)[0] <= _filled(ranges, total, lost, middle + 1)[0]:
            high = middle
        else:
            low = middle + 1
    return _filled(ranges, total, lost, low)


class _Search:
    """One run of the depth-first search."""

    def __init__(self, needs: Needs, firsts: list[int], available: AvailableFor | None, target: float) -> None:
        self.needs = needs
        self.firsts = firsts
        self.available = available
        self.target = target
        self.lot = needs.lot
        self.total = -(-needs.total // self.lot)
        self.lost = needs.lost_in_all
        self.points = 0
        self.best: tuple[int, tuple[Option, ...]] | None = None
        self.seen: dict[tuple[Option, ...], bool] = {}
        self.tops = tuple(place.ladder.top for place in needs.places)

    def enough(self, chosen: tuple[Option, ...]) -> bool:
        """Whether the availability is reached."""
        if self.available is None:
            return True
        if chosen not in self.seen:
            self.points += ASKED
            self.seen[chosen] = reached(self.available(chosen), self.target)
        return self.seen[chosen]

    def open_range(self, place: Place, first: int) -> _Range:
        ladder = place.ladder
        low = ladder[first]
        return _Range(self.lots(low), self.lots(ladder.top), low.key, ladder.slope)

    def lots(self, option: Option) -> int:
        return self.needs.counts(option) // self.lot

    def fixed(self, option: Option) -> _Range:
        counted = self.lots(option)
        return _Range(counted, counted, option.key, 0)

    def raise_firsts(self) -> None:
        """A region that fails the availability with all there is elsewhere needs more itself."""
        for index, place in enumerate(self.needs.places):
            before, behind = self.tops[:index], self.tops[index + 1 :]
            step = place.ladder.first(lambda option, b=before, a=behind: self.enough((*b, option, *a)))  # type: ignore[misc]
            if step is not None:
                self.firsts[index] = max(self.firsts[index], step)

    def relaxed(self) -> tuple[int, list[int]]:
        """The bound at the root, and the steps nearest to it."""
        places = self.needs.places
        ranges = [self.open_range(place, first) for place, first in zip(places, self.firsts, strict=True)]
        least, values = bound(ranges, self.total, self.lost)
        steps = []
        for place, first, value in zip(places, self.firsts, values, strict=True):
            step = place.ladder.first(lambda option, v=value: self.lots(option) >= v)  # type: ignore[misc]
            steps.append(max(first, step or 0))
        return least, steps

    def chosen(self, steps: list[int]) -> tuple[Option, ...]:
        return tuple(place.ladder[step] for place, step in zip(self.needs.places, steps, strict=True))

    def climb(self, steps: list[int]) -> tuple[Option, ...]:
        """A choice that meets everything, by raising the region that has the least until it does."""
        path = [list(steps)]

        def met(index: int) -> bool:
            while len(path) <= index:
                path.append(self.raised(path[-1]))
            return self.meets(self.chosen(path[index]))

        end = 1
        while not met(end) and path[end] != path[end - 1]:
            end *= 2
        return self.chosen(path[bisect_left(range(end), True, key=met)])

    def raised(self, steps: list[int]) -> list[int]:
        """One step more in the region that has the least; the same where there is no more."""
        here = self.chosen(steps)
        more = [index for index, place in enumerate(self.needs.places) if steps[index] + 1 < len(place.ladder)]
        if not more:
            return steps
        least = min(more, key=lambda index: (here[index].left, here[index].replicas, index))
        return [step + (index == least) for index, step in enumerate(steps)]

    def meets(self, chosen: tuple[Option, ...]) -> bool:
        return self.needs.loss_met(chosen) and self.enough(chosen)

    def explore(self, prefix: tuple[Option, ...]) -> None:
        """All choices that begin so, the most promising first."""
        depth = len(prefix)
        if depth == len(self.needs.places):
            key = sum(option.key for option in prefix)
            if self.meets(prefix) and (self.best is None or key < self.best[0]):
                self.best = (key, prefix)
            return
        for least, step in self.children(prefix):
            if (self.best is not None and least >= self.best[0]) or self.points >= POINTS:
                return
            chosen = (*prefix, self.needs.places[depth].ladder[step])
            if self.enough(chosen + self.tops[depth + 1 :]):
                self.explore(chosen)

    def first_steps(self) -> int:
        """Steps of the first region that can't be ruled out by what they cost alone."""
        assert self.best is not None
        ladder, first = self.needs.places[0].ladder, self.firsts[0]
        others = sum(place.ladder[step].key for place, step in zip(self.needs.places[1:], self.firsts[1:], strict=True))
        room, step = self.best[0] - others, ladder[1].key if len(ladder) > 1 else 0
        most = min(len(ladder), -(-room // step)) if step else len(ladder)
        return max(0, most - first)

    def children(self, prefix: tuple[Option, ...]) -> list[tuple[int, int]]:
        """The steps of the next region with their bounds, lowest first."""
        depth = len(prefix)
        places, firsts = self.needs.places, self.firsts
        behind = [self.open_range(place, first) for place, first in zip(places, firsts, strict=True)][depth + 1 :]
        before = [self.fixed(option) for option in prefix]
        others = sum(part.cost for part in (*before, *behind))
        found = []
        for step in range(firsts[depth], len(places[depth].ladder)):
            option = places[depth].ladder[step]
            self.points += 1
            if (self.best is not None and others + option.key >= self.best[0]) or self.points >= POINTS:
                break
            least, _ = bound([*before, self.fixed(option), *behind], self.total, self.lost)
            if least < NEVER:
                found.append((least, step))
        return sorted(found)


def cheapest(
    needs: Needs, available: AvailableFor | None = None, target: float = 0.0, *, exact: bool = True
) -> Found | Unmet:
    """The cheapest choice that meets all needs, or which need can't be met.

    `available` tells the share of time in which a choice carries the peak, and `target` is how much of it is promised.
    Without `exact` a choice that meets them, with a bound on how much cheaper another could be.
    """
    firsts, refused = _firsts(needs)
    if refused is not None:
        return refused
    run = _Search(needs, firsts, available, target)
    if not run.needs.loss_met(run.tops):
        return Unmet("loss", "", needs.total, needs.kept(run.tops))
    if available is not None and not run.enough(run.tops):
        return Unmet("availability", "", target, available(run.tops))
    least, steps = run.relaxed()
    chosen = run.climb(steps)
    key = sum(option.key for option in chosen)
    if key > least and exact and available is not None:  # what each region needs for it raises the bound
        run.raise_firsts()
        least, steps = run.relaxed()
        other = run.climb(steps)
        key, chosen = min((key, chosen), (sum(option.key for option in other), other), key=lambda pair: pair[0])
    if key <= least or not exact:
        return Found(chosen, min(key, least), proven=key <= least)
    run.best, run.points = (key, chosen), 0
    if run.first_steps() > POINTS:  # the proof would be given up before anything was tried
        return Found(chosen, least, proven=False)
    run.explore(())
    key, chosen = run.best
    proven = run.points < POINTS
    return Found(chosen, key if proven else least, proven=proven)


def _firsts(needs: Needs) -> tuple[list[int], Unmet | None]:
    """The first step of each region that meets what the region itself needs."""
    if needs.lost >= len(needs.places):
        return [], Unmet("regions", "", needs.lost + 1, len(needs.places))
    firsts = []
    for place in needs.places:
        step = place.ladder.first(lambda option, place=place: needs.alone_met(place, option))  # type: ignore[misc]
        if step is None:
            wanted = max(place.alone, place.after, needs.least)
            return [], Unmet("nodes", place.region, wanted, place.ladder.top.left)
        firsts.append(step)
    return firsts, None
