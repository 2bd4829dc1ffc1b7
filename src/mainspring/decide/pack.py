"""The search behind `place`: which unit goes to which GPU, so that the least waits and then the least is paid.

What this is: greedy dives, then a beam, then branch and bound; pure, and limited by points looked into, not by time, so
that it is the same on every machine. Who calls it: `decide/place.py`. What it must never do: say `exact` of what isn't.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mainspring.decide.bound import Bound, Stock
from mainspring.decide.points import At, Move, Pool, Step, Unit
from mainspring.decide.ways import Ways

EPS = 1e-9


@dataclass(frozen=True, slots=True)
class Packing:
    """The best found: a move for each unit (None: it waits), dollars an hour, and how good that is."""

    moves: tuple[Move | None, ...]
    waits: tuple[int, int]
    dollars: float
    bound: float
    exact: bool
    looked: int  # points that were looked into


class Search:
    """One search; `run` does it."""

    def __init__(self, pools: Sequence[Pool], units: Sequence[Unit], budget: int) -> None:
        self.pools, self.budget = pools, budget
        self.bound = Bound([Stock(one.shelf, one.price, one.gpus) for one in pools], [unit.ask for unit in units])
        self.units = sorted(units, key=self._order)
        units = self.units
        self._worths = [self._finite(unit) for unit in units]
        self._rest = [0.0] * (len(units) + 1)
        for at in range(len(units) - 1, -1, -1):
            self._rest[at] = self._rest[at + 1] + self._worths[at]
        self._ways = Ways(pools, units, self.bound)
        prices = [one.price * (one.per_node if one.by_node else 1) for one in pools]
        self._grain = math.gcd(*(round(price * 1e6) for price in prices)) / 1e6 if _exact(prices) else 0.0
        self._best: tuple[int, int, float] = (len(units) + 1, 0, math.inf)
        self._path: Step | None = None
        self._seen: dict[object, float] = {}
        self._spent = 0

    def _finite(self, unit: Unit) -> float:
        worth = self.bound.worth(unit.ask)
        return worth if math.isfinite(worth) else 0.0  # nothing takes it

    def _order(self, unit: Unit) -> tuple[object, ...]:
        """What asks about boxes first, what serves before jobs, what weighs more before what weighs less."""
        late = unit.gang > 0 and unit.across
        return (
            not unit.placed_by_box,
            unit.job,
            late,
            unit.gang == 0,
            -self._finite(unit),
            repr(unit.needs),
            unit.item,
        )

    def run(self) -> Packing:
        """Greedy dives first, for something to beat; then branch and bound until the budget is spent."""
        for allowed, jobs in self._dives():
            self._dive(allowed, jobs=jobs)
        finished = self._proven() or self._beam() or self._proven() or self._branch()
        serve, work, dollars = self._best
        moves: list[Move | None] = []
        path = self._path
        while path is not None:
            moves.append(path.move)
            path = path.before
        bound = dollars if finished else min(dollars, self._least(serve + work))
        return Packing(tuple(reversed(moves)), (serve, work), round(dollars, 9), round(bound, 9), finished, self._spent)

    def _least(self, waiting: int) -> float:
        """No placement in which `waiting` units wait costs less."""
        kept = sorted(self._worths)[: len(self._worths) - waiting]
        return self._round(max(0.0, sum(kept) - self.bound.offset))

    def _dives(self) -> list[tuple[tuple[int, ...], bool]]:
        """Sets of pools that a greedy dive may use for small models, and whether it takes jobs."""
        count = len(self.pools)
        sets = [tuple(range(count))]
        if 1 < count <= 4:
            sets += [tuple(at for at in range(count) if bits >> at & 1) for bits in range(1, 2**count - 1)]
        elif count > 4:
            sets += [(at,) for at in range(count)]
        mixed = any(unit.job for unit in self.units) and any(not unit.job for unit in self.units)
        return [(one, jobs) for jobs in ((True, False) if mixed else (True,)) for one in sets]

    def _lower(self, at: At) -> float:
        return self._round(at.dollars + max(0.0, self._rest[at.depth] - at.credit - self.bound.offset))

    def _round(self, dollars: float) -> float:
        """Up to the next sum that prices can make, as far as their common divisor says."""
        return math.ceil(dollars / self._grain - 1e-6) * self._grain if self._grain else dollars

    def _key(self, at: At) -> tuple[object, ...]:
        """What two points must share for the cheaper to be at least as good."""
        return (at.depth, at.flat or (at.boxes, at.left), at.waits)

    def _worse(self, at: At) -> bool:
        return (*at.waits, self._lower(at) + EPS) >= self._best

    def _settle(self, at: At) -> None:
        found = (*at.waits, at.dollars)
        if (*at.waits, at.dollars + EPS) < self._best:
            self._best, self._path = found, at.path

    def _dive(self, allowed: tuple[int, ...], *, jobs: bool) -> None:
        at = self._ways.start()
        while at.depth < len(self.units):
            unit = self.units[at.depth]
            ways = [] if unit.job and not jobs else self._next(at)
            chosen = [way for way in ways if unit.gang or _pool(way) in allowed] or ways
            at = self._ways.flatten(chosen[0] if chosen else self._ways.wait(at))
        self._settle(at)

    def _proven(self) -> bool:
        """Whether the best found is as cheap as anything can be."""
        return self._best[:2] == (0, 0) and self._best[2] <= self._lower(self._ways.start()) + EPS

    def _beam(self) -> bool:
        """Level by level, the most promising points of each; True when none had to be left out.

        It looks at the whole width of the tree where `_branch` looks at one end, so it finds what that would not reach.
        """
        share = max(1, self.budget // 2 // max(1, len(self.units)))
        level, complete = [self._ways.start()], True
        for _ in self.units:
            found: dict[object, At] = {}
            limit = self._spent + share
            for at in level:
                if self._spent >= limit:
                    complete = False
                    break
                for way in (*self._next(at), self._ways.wait(at)):
                    flat = self._ways.flatten(way)
                    key = self._key(flat)
                    if not self._worse(flat) and (key not in found or found[key].dollars > flat.dollars + EPS):
                        found[key] = flat
            level = sorted(found.values(), key=lambda at: (at.waits, round(self._lower(at), 9), -round(at.credit, 9)))
        for at in level:
            self._settle(at)
        return complete

    def _branch(self) -> bool:
        """Depth first; True when nothing better can be left."""
        stack: list[Iterator[At]] = [iter((self._ways.start(),))]
        while stack:
            at = next(stack[-1], None)
            if at is None:
                stack.pop()
                continue
            if self._worse(at):
                continue
            if at.depth == len(self.units):
                self._settle(at)
                continue
            key = self._key(at)
            if self._seen.get(key, math.inf) <= at.dollars + EPS:
                continue
            if self._spent >= self.budget:
                return False
            self._seen[key] = at.dollars
            stack.append(iter([self._ways.flatten(way) for way in (*self._next(at), self._ways.wait(at))]))
        return True

    def _next(self, at: At) -> list[At]:
        """Where the next unit can go, the most promising first."""
        found = self._ways.ways(at)
        self._spent += 1 + len(found)
        return [way for _, _, way in sorted(found, key=lambda one: (round(self._lower(one[2]), 9), one[0], one[1]))]


def _exact(prices: Sequence[float]) -> bool:
    """Whether prices are whole millionths of a dollar, so that their common divisor means something."""
    return bool(prices) and all(abs(price * 1e6 - round(price * 1e6)) < 1e-3 for price in prices)


def _pool(way: At) -> int:
    return way.path.move.pool if way.path is not None and way.path.move is not None else -1
