"""The fleets of all ways, cheapest first, and why each of the others lost.

What this is: the search run over ways; pure. Who calls it: `answer.py`, `sensitivity.py`, `levers.py`. What it must
never do: forecast: what a replica carries is asked of the function that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mainspring.decide.availability import within
from mainspring.facts.shapes import BYTES
from mainspring.forecast.promise import Promise
from mainspring.sizing import words
from mainspring.sizing.needs import MOST, SLACK, Needs, Option, needs
from mainspring.sizing.question import (
    AvailabilityOf,
    Capacity,
    CapacityOf,
    CeilingOf,
    Demand,
    Question,
    Site,
    Way,
    is_market,
)
from mainspring.sizing.search import Found, Unmet, cheapest


@dataclass(frozen=True, slots=True)
class Fleet:
    """The cheapest fleet of one way that meets every need."""

    way: Way
    capacity: Capacity  # of one replica
    sites: tuple[Site, ...]
    total: int  # replicas that carry the peak
    dollars: float  # a month, devices only
    devices: float  # billed
    availability: float | None  # share of the time in which the peak is carried; None: not asked
    proven: bool  # that no other number of replicas is cheaper
    bound: float  # dollars a month that none goes below

    @property
    def replicas(self) -> int:
        """All of them."""
        return sum(site.replicas for site in self.sites)

    @property
    def nodes(self) -> int:
        """Nodes that have a replica of it."""
        return sum(site.nodes for site in self.sites)

    @property
    def whole(self) -> float:
        """Whole devices that are paid for when nothing shares them; slices that keep apart take one each."""
        if self.way.slots == 1:
            return self.devices
        apart = self.availability is not None or any(site.left < site.replicas for site in self.sites)
        least = [math.ceil(site.replicas * self.way.billed - SLACK) for site in self.sites]
        spread = [site.nodes if apart else 0 for site in self.sites]
        return max(self.devices, float(sum(map(max, least, spread))))


@dataclass(frozen=True, slots=True)
class Refused:
    """A way that meets the needs with no number of replicas."""

    way: Way
    why: str
    capacity: Capacity
    unmet: Unmet | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """All ways, judged."""

    fleets: tuple[Fleet, ...]  # cheapest first
    refused: tuple[Refused, ...]
    skipped: tuple[Way, ...] = ()  # no cheaper, whatever they carry, than two others of the same pool and precision

    @property
    def best(self) -> Fleet | None:
        """The cheapest; None when nothing meets the needs."""
        return self.fleets[0] if self.fleets else None

    def joined(self, other: Ranking) -> Ranking:
        """Both, in one order."""
        fleets = sorted(self.fleets + other.fleets, key=order)
        return Ranking(tuple(fleets), self.refused + other.refused, self.skipped + other.skipped)

    def next_best(self, most: int = 4) -> tuple[Fleet, ...]:
        """The next ones, of other devices or precision first; of the same in another size only to fill up."""

        def kind(fleet: Fleet) -> tuple[str, str]:
            return fleet.way.pool, fleet.way.precision

        def look(fleet: Fleet) -> tuple[object, ...]:
            return *kind(fleet), fleet.way.gpus, fleet.way.slice

        firsts = {look(fleet): fleet for fleet in reversed(self.fleets)}
        kinds = {kind(fleet): fleet for fleet in reversed(self.fleets)}
        new = [fleet for fleet in self.fleets[1:] if kinds[kind(fleet)] is fleet]
        same = [fleet for fleet in self.fleets[1:] if firsts[look(fleet)] is fleet and kinds[kind(fleet)] is not fleet]
        return tuple(sorted((new + same)[:most], key=order))


class Known:
    """Capacities that were asked for once: they don't depend on how a way is bought."""

    def __init__(self, capacity_of: CapacityOf) -> None:
        self._ask = capacity_of
        self._known: dict[tuple[object, ...], Capacity] = {}

    def __call__(self, way: Way, demand: Demand, promise: Promise) -> Capacity:
        """The capacity, from memory when it is there; shares and curve don't change it, nor the traffic's amount where
        arrivals are Poisson's (others get the smoother, the more replicas share them).
        """
        peak = demand.at_peak if demand.variability != 1.0 else None
        asked = (demand.endpoint, demand.lengths, demand.variability, peak, demand.rows, demand.batch)
        held = (way.engine_key, *asked, *promise.timed.items())
        if held not in self._known:
            self._known[held] = self._ask(way, demand, promise)
        return self._known[held]


KEPT = 2
"""Fleets of each pool and precision that are wanted, when others may be skipped."""

EXACT = 8
"""Fleets of the ranking's top whose cost is proven to be the least of their way."""


def hopeless(availability_of: AvailabilityOf, target: float, regions: int) -> int:
    """Regions that any fleet must be able to lose to reach the target at all, by how often so many are down at once.

    An availability may tell `region`, the share of the time that a region is up.
    """
    down = 1.0 - float(getattr(availability_of, "region", 1.0))
    return sum(not within(down**lost, 1.0 - target) for lost in range(1, regions)) if down > 0 else 0


def size(
    question: Question, way: Way, capacity: Capacity, availability_of: AvailabilityOf | None, *, exact: bool = True
) -> Fleet | Refused:
    """The cheapest fleet of one way whose replicas carry so much; without `exact` one near it, with its bound."""
    if capacity.rate <= 0:
        return Refused(way, capacity.reason or "it can't keep the promise at any rate", capacity)
    wanted = needs(question, way, capacity.rate)
    if max(wanted.total, *(place.after for place in wanted.places)) > MOST:
        many = Unmet("many", "", max(wanted.total, *(place.after for place in wanted.places)), MOST)
        return Refused(way, in_words(question, way, many, capacity), capacity, many)
    target = question.promise.availability
    alone = tuple(place.alone for place in wanted.places)

    def available(chosen: tuple[Option, ...]) -> float:
        assert availability_of is not None
        return availability_of(way, wanted.sites(chosen), wanted.total, alone)

    if availability_of is None or target is None:
        found = cheapest(wanted)
    else:
        wanted = replace(wanted, hopeless=hopeless(availability_of, target, len(wanted.places)))
        found = cheapest(wanted, available, target, exact=exact)
    if isinstance(found, Unmet):
        return Refused(way, in_words(question, way, found, capacity), capacity, found)
    return _fleet(way, capacity, wanted, found, available(found.chosen) if availability_of else None)


def _fleet(way: Way, capacity: Capacity, wanted: Needs, found: Found, availability: float | None) -> Fleet:
    return Fleet(
        way=way,
        capacity=capacity,
        sites=wanted.sites(found.chosen),
        total=wanted.total,
        dollars=sum(option.millis for option in found.chosen) / 1000,
        devices=sum(option.thousandths for option in found.chosen) / 1000,
        availability=availability,
        proven=found.proven,
        bound=found.bound // 10**9 / 1000,
    )


def in_words(question: Question, way: Way, unmet: Unmet, capacity: Capacity) -> str:
    """Why no number of replicas will do, with the numbers."""
    pool = question.pool(way.pool)
    each = f"at {words.rate(capacity.rate)} a replica"
    if unmet.what == "many":
        return f"it needs {words.amount(unmet.needed)} replicas {each}: {words.amount(unmet.has)} are sized at most"
    if unmet.what == "regions":
        gone = words.count(unmet.needed - 1, "region")
        return f"to survive the loss of {gone} takes {unmet.needed:.0f} of them: there are {unmet.has:.0f}"
    if unmet.what == "availability":
        return f"its availability is {words.share(unmet.has)} at the most, and {words.share(unmet.needed)} is promised"
    if unmet.what == "loss":
        left = words.count(unmet.needed, "replica")
        return f"{each} {left} must be left after a loss of regions: at most {unmet.has:.0f} are"
    known = pool.nodes.get(unmet.region, 0)
    wanted = f"{words.count(unmet.needed, 'replica')} needed in {unmet.region} {each}"
    if pool.price(unmet.region, way.mix) is None or known == 0:
        return f"pool {words.pool(pool.name)} has none in {unmet.region}, bought {way.mix.name}"
    if not way.per_node(pool.per_node):
        return f"{words.count(way.gpus, way.unit)} a replica, and a node of {words.pool(pool.name)} has {pool.per_node}"
    lost = question.survive.nodes_per_region
    after = f" after the loss of {words.count(lost, 'node')}" if lost else ""
    most = question.limits.most
    if most is not None and (known is None or known * way.per_node(pool.per_node) >= most):
        return f"{wanted}{after}: the file allows {most}"
    return f"{wanted}{after}: {words.count(known or 0, 'node')} of {pool.per_node} leave {unmet.has:.0f}"


def order(fleet: Fleet) -> tuple[object, ...]:
    """Cheapest first, then by devices, the higher precision, the name."""
    way = fleet.way
    elsewhere = is_market(way.pool)  # of two that cost the same, the one that is there
    return (
        round(fleet.dollars * 1000),
        elsewhere,
        fleet.devices,
        -BYTES[way.precision],
        str(way),
        way.pool,
        way.mix.name,
    )


def worth(
    question: Question,
    ways: Sequence[Way],
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None,
    ceiling_of: CeilingOf,
) -> tuple[list[Way], list[Way]]:
    """Ways that are worth a forecast, and those that are not: two of their pool and precision cost no more than these
    would if a replica carried the most that it could without any promise.
    """
    groups: dict[tuple[str, str, str], list[tuple[float, Way]]] = {}
    for way in ways:
        rate = ceiling_of(way, question.demand)
        most = size(question, way, Capacity(rate), availability_of, exact=False) if rate > 0 else None
        least = most.bound if isinstance(most, Fleet) else 0.0
        groups.setdefault((way.pool, way.precision, way.kv), []).append((least, way))
    taken, left = [], []
    for group in groups.values():
        costs: list[float] = []
        for least, way in sorted(group, key=lambda pair: pair[0]):
            if len(costs) >= KEPT and least >= sorted(costs)[KEPT - 1]:
                left.append(way)
                continue
            taken.append(way)
            capacity = capacity_of(way, question.demand, question.promise)
            sized = size(question, way, capacity, availability_of, exact=False)
            costs += [sized.dollars] if isinstance(sized, Fleet) else []
    return taken, left


def rank(
    question: Question,
    ways: Sequence[Way],
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None = None,
    ceiling_of: CeilingOf | None = None,
    *,
    exact: int = EXACT,
) -> Ranking:
    """Size every way, in this `order`; with `ceiling_of` only those `worth` it.

    The first `exact` fleets are proven to be the cheapest of their way.
    """
    fleets: list[Fleet] = []
    refused: list[Refused] = []
    skipped: list[Way] = []
    if ceiling_of is not None:
        ways, skipped = worth(question, ways, capacity_of, availability_of, ceiling_of)
    for way in ways:
        capacity = capacity_of(way, question.demand, question.promise)
        sized = size(question, way, capacity, availability_of, exact=False)
        (fleets if isinstance(sized, Fleet) else refused).append(sized)  # type: ignore[arg-type]
    last = sorted(fleet.dollars for fleet in fleets)[:exact][-1:]
    for index, fleet in enumerate(fleets):
        if not fleet.proven and fleet.bound <= last[0]:
            again = size(question, fleet.way, fleet.capacity, availability_of)
            fleets[index] = again if isinstance(again, Fleet) else fleet
    fleets.sort(key=order)
    return Ranking(tuple(fleets), tuple(refused), tuple(skipped))


def why_lost(fleet: Fleet, best: Fleet) -> str:
    """Why a fleet that meets the needs isn't the one to take."""
    more = fleet.dollars - best.dollars
    if fleet == best:
        return "the cheapest"
    if more <= -0.005:
        asks = f", and asks you to accept {' and '.join(fleet.way.accept)}" if fleet.way.accept else ""
        return f"{words.dollars(-more)} a month cheaper{asks}"
    if more < 0.005:
        if fleet.devices > best.devices:
            return f"costs the same, with {_devices(fleet)} to {_devices(best)}"
        return f"costs the same: {words.count(fleet.replicas, 'replica')} of {fleet.way}"
    counts = f"{words.count(fleet.replicas, 'replica')} ({_devices(fleet)})"
    each = f"a replica carries {words.rate(fleet.capacity.rate)}"
    binds = f", held by {fleet.capacity.binds}" if fleet.capacity.binds else ""
    return f"{words.dollars(more)} a month dearer: {counts}, as {each}{binds}"


def _devices(fleet: Fleet) -> str:
    return words.count(fleet.devices, fleet.way.unit)


def with_demand(question: Question, **changes: object) -> Question:
    """The same question with something about its demand changed."""
    return replace(question, demand=replace(question.demand, **changes))  # type: ignore[arg-type]
