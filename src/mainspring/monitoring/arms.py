"""What both arms of a rollout did, counted on from the last look: `ArmsQuery` to `Arms`.

What this is: one `_Running` a rollout, which takes in the rows of slices as they become whole; a look costs what came
since the last one. Who calls it: `PredictionStore.samples`. What it must never do: let a slice depend on when it was
looked at. Whatever the order of arrival, counting on gives what counting anew would give.

A request counts once, in the slice in which it first came, for the revision that it fell on then: by what became of it
then. So the shares in a slice are those that the routes drew, whatever took how long or was asked again. A slice by
the time of ends would not do: in the first minute of a canary, all failures that come at once have ended, and few of
the long answers. For the same reason a slice counts only when every request of its time has ended (`arms_rows.ended`).

A try that failed is its revision's error, whoever answered after it: the same revision, by another replica, or another
one, whose answer is then nobody's. A user's next try under the same id changes nothing. Who left before the end is
neither answered nor failed, and is counted apart with the time that they waited: a version that hangs makes all leave.
Rows of before this was kept count by what is known of them.

Copies are counted in slices of their own, beside what the control did with the requests of the same time and region.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mainspring.decide.arms import AMOUNTS, EDGES, STRATA, Arms, Counts, Histogram, Slice, Sums, Units
from mainspring.loop.readings import ArmsQuery, Unknown
from mainspring.monitoring import arms_rows
from mainspring.monitoring.arms_rows import Asked, Told
from mainspring.monitoring.segments import FELL, LIVE, MIRROR, TURNED_DOWN, WENT, Batch

KEPT = 32
"""Queries that are counted on; one that has not been asked for longest is counted anew."""
_NEARLY = 1e-9  # of a slice: what the sum of times is off by


@dataclass(slots=True)
class _Cell:
    """One arm in one slice and stratum, being counted."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    left: int = 0
    times: Counter[int] = field(default_factory=Counter)  # by bucket
    firsts: Counter[int] = field(default_factory=Counter)
    waited: Counter[int] = field(default_factory=Counter)

    def counts(self) -> Counts:
        times, firsts, waited = _sorted(self.times), _sorted(self.firsts), _sorted(self.waited)
        return Counts(self.requests, self.errors, times, firsts, self.refused, self.left, waited)

    def add(self, one: Asked) -> None:
        """Count a request, but for its time."""
        self.requests += 1
        self.errors += one.fate == FELL
        self.refused += one.fate == TURNED_DOWN
        self.left += one.fate == WENT

    def time(self, one: Asked) -> bool:
        """Count the time of a request, if it has one that tells something: nobody was in its way."""
        if one.fate == WENT:
            self.waited[bisect_left(EDGES, one.upstream)] += 1
            return True
        if not one.answered or one.fate == FELL or one.tries != 1:
            return False
        if one.upstream > 0.0:
            self.times[bisect_left(EDGES, one.upstream)] += 1
        if one.first > 0.0:
            self.firsts[bisect_left(EDGES, one.first)] += 1
        return one.upstream > 0.0 or one.first > 0.0


@dataclass(slots=True)
class _Amounts:
    """What is summed up of the answers of one arm in a stage: by bucket, or of each user how many and how much."""

    buckets: Counter[int] = field(default_factory=Counter)
    units: dict[str, list[float]] = field(default_factory=dict)

    def add(self, amount: float, unit: str) -> None:
        if unit:
            of = self.units.setdefault(unit, [0.0, 0.0])
            of[0] += 1.0
            of[1] += amount
        else:
            self.buckets[bisect_left(AMOUNTS, amount)] += 1

    def clear(self) -> None:
        self.buckets.clear()
        self.units.clear()

    def histogram(self) -> Histogram:
        if not self.units:
            return _sorted(self.buckets)
        return _sorted(Counter(bisect_left(AMOUNTS, total / number) for number, total in self.units.values()))


@dataclass(slots=True)
class _Arm:
    """One arm over more than a slice."""

    answers: int = 0  # of the stage
    tokens: _Amounts = field(default_factory=_Amounts)  # of the stage
    compute: _Amounts = field(default_factory=_Amounts)
    seen: set[str] = field(default_factory=set)  # users
    failing: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)

    def begin(self) -> None:
        """A stage begins."""
        self.answers = 0
        self.tokens.clear()
        self.compute.clear()

    def meet(self, one: Asked) -> None:
        """Note whose request it is, and what they met with."""
        self.seen.add(one.unit)
        if one.fate == FELL:
            self.failing.add(one.unit)
        elif one.fate == TURNED_DOWN:
            self.refused.add(one.unit)
        elif one.fate == WENT:
            self.left.add(one.unit)

    def units(self) -> Units:
        return Units(len(self.seen), len(self.failing), len(self.refused), len(self.left))

    def sums(self, scores: Told | None, metric: Told | None, side: int) -> Sums:
        of = [tuple(sorted(given.values[side].items())) if given is not None else () for given in (scores, metric)]
        return Sums(self.tokens.histogram(), self.compute.histogram(), of[0], of[1])


def _sorted(buckets: Counter[int]) -> Histogram:
    return tuple(sorted(buckets.items()))


def _number(came: float, since: float, width: float) -> int:
    """Number the slice of a moment; the edges are those that rows are asked for by."""
    at = math.floor((came - since) / width)
    if came < since + at * width:
        return at - 1
    return at + 1 if came >= since + (at + 1) * width else at


def _is_warm(query: ArmsQuery, came: float) -> bool:
    return not any(begins <= came < ends for begins, ends in query.skip)


class _Copies:
    """The copies of one query that are counted so far, beside the control."""

    def __init__(self, query: ArmsQuery) -> None:
        self.since, self.width = query.mirror_since, query.mirror_width or query.width
        self.whole = 0
        self.total = _Cell()
        self.slices: list[Slice] = []

    @property
    def until(self) -> float:
        """Event time up to which copies are taken in; endlessly early where there are none."""
        return -math.inf if self.since is None else self.since + self.whole * self.width

    def take(self, db: sqlite3.Connection, query: ArmsQuery, until: float) -> bool:
        """Count on, up to a moment; whether there was anything to count."""
        if self.since is None:
            return False
        whole = math.floor((until - self.since) / self.width + _NEARLY)
        if whole <= self.whole:
            return False
        begins, known = self.until, {at: query.copied(at) for at in range(self.whole, whole)}
        known = {at: one for at, one in known.items() if one[0] > 0.0}
        cells = {at: (_Cell(), _Cell()) for at in known}
        self.whole = whole
        for one in arms_rows.copies(db, query, begins, self.until):
            pair = cells.get(_number(one.came, self.since, self.width))
            for cell in (self.total,) if pair is None else (self.total, pair[0]):
                cell.add(one)
                if _is_warm(query, one.came):
                    cell.time(one)
        if known:
            self._beside(db, query, known, cells)
        for at, (mine, theirs) in cells.items():
            if mine.requests or theirs.requests:
                share = known[at][0]
                self.slices.append(Slice(at, 0, mine.counts(), theirs.counts(), share / (1.0 + share)))
        return True

    def _beside(
        self, db: sqlite3.Connection, query: ArmsQuery, known: dict[int, tuple[float, str]],
        cells: dict[int, tuple[_Cell, _Cell]],
    ) -> None:  # fmt: skip
        """Count what the control did with the requests that were copied, and with others of their time and region."""
        since = self.since or 0.0
        begins, ends = since + min(known) * self.width, since + (max(known) + 1) * self.width
        for one in arms_rows.live(db, query, query.control, begins, ends, ""):
            at = _number(one.came, since, self.width)
            if at in known and known[at][1] in ("", one.region):
                cells[at][1].add(one)
                if _is_warm(query, one.came):
                    cells[at][1].time(one)


class _Running:
    """What is counted so far of one query. `whole` slices are taken in."""

    def __init__(self, query: ArmsQuery) -> None:
        self.query = query
        self.whole = 0
        self.slices: list[Slice] = []
        self.arms = (_Arm(), _Arm())  # candidate, control
        self.timed: set[str] = set()  # users whose time has been counted, of the stage
        self.routed: dict[float, list[int]] = {}
        self.copies = _Copies(query)
        self.found: Arms | None = None  # what was answered last; None: something has changed

    @property
    def until(self) -> float:
        """Event time up to which slices are taken in."""
        return self.query.since + self.whole * self.query.width

    def goes_on(self, query: ArmsQuery) -> bool:
        """Whether counting on from here answers `query`: what it says of the time so far is the same."""
        ours, at = self.query, self.until
        latest = max(at, self.copies.until)
        if latest > query.until + query.width * _NEARLY:
            return False
        same = _before(query.shares, at) == _before(ours.shares, at)
        copied = _before(query.mirrors, self.copies.until) == _before(ours.mirrors, self.copies.until)
        warm = _inside(query.skip, latest) == _inside(ours.skip, latest)
        stage = query.stage_since == ours.stage_since or query.stage_since >= at
        return same and copied and warm and stage

    def take(self, db: sqlite3.Connection, query: ArmsQuery, live: float, copied: float) -> None:
        """Count on, up to these moments."""
        if query.stage_since != self.query.stage_since:
            self._begin(query)
        if (query.score, query.metric) != (self.query.score, self.query.metric):
            self.found = None
        self.query = query
        whole = math.floor((live - query.since) / query.width + _NEARLY)
        if whole > self.whole:
            self.found = None
            begins, self.whole = self.until, whole
            names = (query.candidate, *query.control)
            self._count(arms_rows.live(db, query, names, begins, self.until, query.region))
        if self.copies.take(db, query, copied):
            self.found = None

    def _begin(self, query: ArmsQuery) -> None:
        """A stage begins."""
        self.found = None
        for arm in self.arms:
            arm.begin()
        if query.sticky:
            self.timed.clear()
            self.slices = [
                replace(one, candidate=_untimed(one.candidate), control=_untimed(one.control)) for one in self.slices
            ]

    def _count(self, rows: Iterable[Asked]) -> None:
        query = self.query
        if query.sticky:  # whose first answer comes first
            rows = sorted(rows, key=lambda one: (one.came, one))
        cells: dict[tuple[int, int], tuple[_Cell, _Cell]] = {}
        starts = [since for since, _ in query.shares]
        for one in rows:
            side = 0 if one.revision == query.candidate else 1
            where = _number(one.came, query.since, query.width), bisect_left(STRATA, one.asked)
            pair = cells.get(where)
            if pair is None:
                pair = cells[where] = (_Cell(), _Cell())
            pair[side].add(one)
            self._measure(one, pair[side], side)
            place = bisect_right(starts, one.came) - 1
            share = query.shares[place][1] if place >= 0 else 0.0
            if 0.0 < share < 1.0:
                self.routed.setdefault(share, [0, 0])[side] += 1
        for (at, stratum), (mine, theirs) in sorted(cells.items()):
            self.slices.append(Slice(at, stratum, mine.counts(), theirs.counts(), query.weight(at)))

    def _measure(self, one: Asked, cell: _Cell, side: int) -> None:
        query, arm, in_stage = self.query, self.arms[side], one.came >= self.query.stage_since
        if query.sticky:
            arm.meet(one)
        counts = in_stage and one.unit not in self.timed if query.sticky else True
        counts = counts and (side == 0 or query.fresh in ("", one.revision)) and _is_warm(query, one.came)
        if counts and cell.time(one) and query.sticky:
            self.timed.add(one.unit)
        if not in_stage or not one.answered or one.fate in (FELL, WENT):
            return
        arm.answers += 1
        unit = one.unit if query.sticky else ""
        if one.whole and one.output > 0:
            arm.tokens.add(one.output, unit)
        if one.whole and one.compute > 0.0:
            arm.compute.add(one.compute, unit)

    def forget_copies(self) -> None:
        """Count the copies anew at the next look."""
        self.copies, self.found = _Copies(self.query), None

    def answer(self, db: sqlite3.Connection) -> Arms:
        """Put what was counted into the form that it is judged in."""
        if self.found is not None:
            return self.found
        query, (mine, theirs) = self.query, self.arms
        fields = (query.score, query.metric)
        scores, metric = (arms_rows.told(db, query, name, self.until) if name else None for name in fields)
        told = [of.answers for of in (scores, metric) if of is not None]
        self.found = Arms(
            slices=tuple(self.slices),
            candidate=mine.sums(scores, metric, 0),
            control=theirs.sums(scores, metric, 1),
            candidate_units=mine.units() if query.sticky else None,
            control_units=theirs.units() if query.sticky else None,
            routed=tuple((share, *numbers) for share, numbers in sorted(self.routed.items())),  # type: ignore[misc]
            mirrored=self.copies.total.counts(),
            mirrored_slices=tuple(self.copies.slices),
            untold=max(mine.answers - min(told), 0) if told else 0,
            whole=self.whole * query.width,
            mirrored_whole=self.copies.whole * self.copies.width,
        )
        return self.found


def _untimed(counts: Counts) -> Counts:
    return replace(counts, times=(), firsts=(), waited=())


def _before(changes: Iterable[tuple[Any, ...]], at: float) -> list[tuple[Any, ...]]:
    return [one for one in changes if one[0] < at]


def _inside(stretches: tuple[tuple[float, float], ...], at: float) -> list[tuple[float, float]]:
    return sorted((begins, min(ends, at)) for begins, ends in stretches if begins < at)


class Rollouts:
    """The queries that are counted on."""

    def __init__(self) -> None:
        self._running: dict[ArmsQuery, _Running] = {}  # in the order in which they were asked last

    def answer(self, db: sqlite3.Connection, query: ArmsQuery, alive: Collection[str] | None) -> Arms | Unknown:
        """Answer a query; unknown while there is nothing at all."""
        key = replace(query, until=0.0, stage_since=0.0, shares=(), skip=(), score="", metric="", lag=0.0, mirrors=())
        running = self._running.pop(key, None)
        if running is not None and not running.goes_on(query):
            running = None
        if running is None:
            running = _Running(query)
        self._running[key] = running
        while len(self._running) > KEPT:
            del self._running[next(iter(self._running))]
        running.take(db, query, *arms_rows.ended(db, query, alive))
        found = running.answer(db)
        return found if found.slices or found.mirrored.requests else Unknown("no requests yet")

    def taken(self, batch: Batch) -> None:
        """Note what was taken in: what was counted beyond the earliest of it is counted anew.

        Feedback that corrects what was given later shows with the next slice.
        """
        if not self._running:
            return
        came: dict[tuple[str, int], float] = {}
        for endpoint, _, role, _, _, _, at, *_ in batch.rows:
            came[endpoint, role] = min(at, came.get((endpoint, role), math.inf))
        told: dict[str, float] = {}
        for endpoint, _, _, at, _ in batch.feedback:
            told[endpoint] = min(at, told.get(endpoint, math.inf))
        for key, running in list(self._running.items()):
            live, copied = (came.get((key.endpoint, role), math.inf) for role in (LIVE, MIRROR))
            if live < running.until:
                del self._running[key]
                continue
            if min(live, copied) < running.copies.until:
                running.forget_copies()
            if told.get(key.endpoint, math.inf) < running.until:
                running.found = None
