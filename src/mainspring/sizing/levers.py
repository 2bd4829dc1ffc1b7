"""What each lever saves on a bill of several endpoints: by itself, and on top of those before it.

What this is: the search with some of its freedoms switched off; pure. Who calls it: `answer.py`, for a file with
several endpoints. What it must never do: count one saving under two levers.

The levers, in this order. Each sets one thing free that otherwise stays as the file has it:

    right-size         other devices, other parallelism, no more replicas than are needed
    slices             MIG slices of the file's GPUs in place of whole ones
    precision          the precisions that the user would accept
    spot               spot devices, for as many as are live with the promised availability, the rest as before
    reserved           devices that are used enough are reserved
    follow             replicas follow the hourly curve instead of standing at the peak

While "right-size" is off, what is bought over what is needed stays in proportion: a model at half the size on the same
GPUs needs fewer replicas, and the file's reserve shrinks with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mainspring.facts.gpus import Gpu
from mainspring.sizing import words
from mainspring.sizing.bill import bill
from mainspring.sizing.follow import Bought, Hours, buy, hours, standing
from mainspring.sizing.judge import judge
from mainspring.sizing.question import (
    MODES,
    ON_DEMAND,
    AvailabilityOf,
    Capacity,
    CapacityOf,
    Mix,
    Mode,
    Pool,
    Question,
    Way,
)
from mainspring.sizing.rank import Fleet, Refused, size
from mainspring.sizing.ways import Allowed, ways

Lever = Literal["right-size", "slices", "precision", "spot", "reserved", "follow"]
LEVERS: tuple[Lever, ...] = ("right-size", "slices", "precision", "spot", "reserved", "follow")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one endpoint costs under some levers."""

    endpoint: str
    dollars: float  # a month
    fleet: Fleet | None  # None: as written
    scale: float = 1.0  # of the fleet's devices that are bought, while the file's reserve is kept
    bought: Bought | None = None  # None: in the file's own mix, standing still
    own: Mix = ON_DEMAND  # how the file buys it
    meets: bool = True  # whether every need is met

    @property
    def devices(self) -> dict[str, float]:
        """Devices by how they are bought, the mean over the hours; empty for a fleet as written."""
        if self.fleet is None:
            return {}
        if self.bought is None:
            found = {mode: self.fleet.devices * self.fleet.way.mix.share(mode) for mode in MODES}
        else:
            held = self.bought
            found = {"reserved": held.reserved, "on_demand": held.on_demand, "spot": held.spot}
        return {mode: count * self.scale for mode, count in found.items() if count > 0}

    @property
    def how(self) -> str:
        """How it is bought, in words: `69 % reserved + 31 % spot`."""
        total = sum(self.devices.values())
        if self.bought is None or not total:
            return self.own.name
        parts = [f"{words.share(count / total)} {mode.replace('_', ' ')}" for mode, count in self.devices.items()]
        return " + ".join(parts) if len(parts) > 1 else parts[0].split(" % ", 1)[-1]


@dataclass(frozen=True, slots=True)
class Saved:
    """One lever."""

    lever: Lever
    alone: float  # dollars a month that it saves by itself
    on_top: float  # that it saves on top of those before it
    total: float  # dollars a month with it and those before it
    meets: bool = True  # whether all endpoints meet their needs then


@dataclass(frozen=True, slots=True)
class Levers:
    """All of them."""

    base: float  # dollars a month, as written
    rows: tuple[Saved, ...]
    final: tuple[Chosen, ...]  # each endpoint with all levers

    @property
    def saved(self) -> float:
        """By all together."""
        return self.base - (self.rows[-1].total if self.rows else self.base)


Packer = Callable[[Sequence[tuple[Question, Chosen]]], float]
"""Dollars a month of what several endpoints chose, packed on shared devices."""


def added(chosen: Sequence[tuple[Question, Chosen]]) -> float:
    """Each endpoint pays for its own part of a device."""
    return sum(each.dollars for _, each in chosen)


def levers(
    questions: Sequence[Question],
    capacity_of: CapacityOf,
    available: Mapping[str, AvailabilityOf] | None = None,
    *,
    spot: float = 0.0,
    packed: Packer = added,
) -> Levers:
    """Pull each lever by itself, and one after another; `spot` is the share of a fleet that may be on spot.

    `available` has the availability of each endpoint's fleets, by its name; without it none is asked for.
    """
    by_name = available or {}
    endpoints = [_Endpoint(each, capacity_of, by_name.get(each.demand.endpoint), spot) for each in questions]

    def pulled(on: frozenset[Lever], so_far: _State) -> _State:
        # Slices of many kinds of GPU leave many GPUs half empty: they are taken from one pool, the best, or from none.
        tried: list[str | None] = [None, "", *_cut(questions)] if "slices" in on else [""]
        # What each endpoint finds cheapest need not be so when packed: what was chosen before stays in the running.
        found = [so_far]
        for sliced in tried:
            chosen = tuple((each.question, each.choose(on, sliced)) for each in endpoints)
            found.append(_State(packed(chosen), chosen))
        return min(found, key=lambda state: (state.short, state.total))

    start = tuple((each.question, each.base) for each in endpoints)
    base = _State(added(start), start)
    rows: list[Saved] = []
    state, on = base, frozenset[Lever]()
    for lever in LEVERS:
        alone = base.total - pulled(frozenset({lever}), base).total
        on |= {lever}
        before, state = state, pulled(on, state)
        rows.append(Saved(lever, alone, before.total - state.total, state.total, not state.short))
    return Levers(base.total, tuple(rows), tuple(each for _, each in state.chosen))


@dataclass(frozen=True, slots=True)
class _State:
    """What all endpoints have under some levers."""

    total: float  # dollars a month
    chosen: tuple[tuple[Question, Chosen], ...]

    @property
    def short(self) -> int:
        """Endpoints that don't meet their needs."""
        return sum(not each.meets for _, each in self.chosen)


def _cut(questions: Sequence[Question]) -> tuple[str, ...]:
    """The pools whose GPUs can be split, of all questions, each once."""
    pools = [pool for question in questions for pool in question.pools]
    return tuple(dict.fromkeys(pool.name for pool in pools if isinstance(pool.device, Gpu) and pool.device.mig))


def written(question: Question) -> Chosen:
    """What the file's own fleet costs."""
    assert question.written is not None
    return Chosen(question.demand.endpoint, _written_dollars(question), None, own=question.written.way.mix)


def _written_devices(question: Question) -> dict[str, float]:
    """Devices paid for by region: the nodes that are bought, else those that replicas hold."""
    there = question.written
    assert there is not None
    pool = question.pool(there.way.pool)
    if there.nodes:
        return {region: float(count * pool.per_node) for region, count in there.nodes.items()}
    return {region: most * there.way.billed for region, (_, most) in there.replicas.items()}


def _written_dollars(question: Question) -> float:
    assert question.written is not None
    way = question.written.way
    return bill(question.pool(way.pool), _written_devices(question), way.mix).devices


def modes(base: Mix, on: frozenset[Lever]) -> frozenset[Mode]:
    """How devices may be bought: as the file does, and as the levers allow."""
    found: set[Mode] = {mode for mode, part in base.parts if part > 0} | {"on_demand"}
    if "reserved" in on:
        found.add("reserved")
    if "spot" in on:
        found.add("spot")
    return frozenset(found)


def choose(
    question: Question,
    on: frozenset[Lever],
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None = None,
    spot: float = 0.0,
) -> Chosen:
    """The cheapest that the levers allow for one endpoint; as written when nothing is cheaper and that will do."""
    return _Endpoint(question, capacity_of, availability_of, spot).choose(on)


class _Endpoint:
    """One endpoint under any levers. What a way needs doesn't depend on them: it is worked out once."""

    def __init__(
        self, question: Question, capacity_of: CapacityOf, availability_of: AvailabilityOf | None, spot: float
    ) -> None:
        assert question.written is not None
        self.question = replace(question, shared=True)
        self.there = question.written
        self.capacity_of = capacity_of
        self.availability_of = availability_of
        self.spot = spot
        self.meets = judge(self.question, self.capacity(self.there.way), availability_of).meets
        self.base = replace(written(question), meets=self.meets)
        self.reserve = self._reserve()
        self._sized: dict[Way, Fleet | Refused] = {}
        self._hours: dict[Way, Hours | Refused] = {}
        self._costs: dict[tuple[Way, frozenset[Lever]], Chosen | None] = {}

    def capacity(self, way: Way) -> Capacity:
        return self.capacity_of(way, self.question.demand, self.question.promise)

    def choose(self, on: frozenset[Lever], sliced: str | None = None) -> Chosen:
        """The cheapest that the levers allow, with slices on the pool `sliced` only; None: on any."""
        allowed = Allowed("right-size" in on, "slices" in on, "precision" in on, (self.there.way.mix,))
        scale = 1.0 if "right-size" in on else self.reserve
        if scale is None:
            return self.base
        best = self.base if self.meets or "right-size" not in on else None
        for way in ways(self.question, allowed):
            if way.slice and way != self.there.way and sliced is not None and way.pool != sliced:
                continue
            found = self._one(way, on, scale)
            if found is not None and (best is None or found.dollars < best.dollars - 1e-6):
                best = found
        if best is None or "right-size" in on:
            return best or self.base
        return replace(best, meets=self.meets)  # what the file has too little of is so in proportion

    def _reserve(self) -> float | None:
        """What the file buys over what its own way needs; None when its own way can't keep the promise."""
        way = self.there.way
        free = replace(self.question, pools=tuple(_boundless(pool) for pool in self.question.pools))
        needed = size(free, way, self.capacity(way), self.availability_of)
        if not isinstance(needed, Fleet) or not needed.devices:
            return None
        return sum(_written_devices(self.question).values()) / needed.devices

    def _size(self, way: Way) -> Fleet | Refused:
        if way not in self._sized:
            self._sized[way] = size(self.question, way, self.capacity(way), self.availability_of)
        return self._sized[way]

    def _needed(self, way: Way, fleet: Fleet, on: frozenset[Lever]) -> Hours | Refused:
        if "follow" not in on:
            return standing(fleet.sites)
        if way not in self._hours:
            self._hours[way] = hours(self.question, way, self.capacity(way), self.availability_of)
        return self._hours[way]

    def _one(self, way: Way, on: frozenset[Lever], scale: float) -> Chosen | None:
        """One way's cost, from memory where it was asked for; the levers say what the scale is."""
        if (way, on) not in self._costs:
            self._costs[way, on] = self._cost(way, on, scale)
        return self._costs[way, on]

    def _cost(self, way: Way, on: frozenset[Lever], scale: float) -> Chosen | None:
        """In the file's own mix, or bought as the levers allow when that is cheaper."""
        fleet = self._size(way)
        if not isinstance(fleet, Fleet):
            return None
        best = Chosen(self.question.demand.endpoint, fleet.dollars * scale, fleet, scale, own=way.mix)
        if not {"follow", "spot", "reserved"} & on:
            return best
        needed = self._needed(way, fleet, on)
        if isinstance(needed, Refused):
            return best
        share = self.spot if "spot" in on else way.mix.share("spot")
        bought = buy(self.question, way, needed, modes(way.mix, on), share)
        if bought is not None and bought.dollars < fleet.dollars:
            return Chosen(self.question.demand.endpoint, bought.dollars * scale, fleet, scale, bought, way.mix)
        return best


def _boundless(pool: Pool) -> Pool:
    return replace(pool, nodes=dict.fromkeys(pool.nodes, None))
