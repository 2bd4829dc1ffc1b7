"""The whole answer for one endpoint: the fleet as written, the cheapest that will do, and what both rest on.

What this is: the parts of sizing put together, pure. Who calls it: `plan` (the table, `-o json` and the report are all
written from the one value). What it must never do: print, or forecast by itself: forecasts come in `Forecasts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mainspring.decide.soak import Soak
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Response, Rests
from mainspring.sizing import words
from mainspring.sizing.audit import Audited, audit, counted
from mainspring.sizing.bill import Bill, Unit, bill, unit
from mainspring.sizing.judge import Judged, judge
from mainspring.sizing.needs import held, lot
from mainspring.sizing.question import AvailabilityOf, CapacityOf, CeilingOf, Demand, NearestOf, Question, Way
from mainspring.sizing.rank import Fleet, Known, Ranking, Refused, rank, size, why_lost
from mainspring.sizing.reasons import Impossible, impossible
from mainspring.sizing.sensitivity import Row, Swing, sensitivity, tornado
from mainspring.sizing.ways import Allowed, ways

ResponseOf = Callable[[Way, Demand, float], Response | None]
"""What users of one replica see at so many requests/s; None where it can't run."""

LongestOf = Callable[[Way, Demand, Promise], dict[int, float]]
"""The longest output, in tokens, that keeps the promise on whole requests, by number in the batch; {} for none."""


NEAR = 1.5
"""Times the cheapest fleet within which a smaller KV cache is looked at."""


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The functions that an answer is made with."""

    capacity: CapacityOf
    response: ResponseOf | None = None
    availability: AvailabilityOf | None = None
    longest: LongestOf | None = None
    nearest: NearestOf | None = None
    ceiling: CeilingOf | None = None


@dataclass(frozen=True, slots=True)
class Paid:
    """A fleet's money."""

    bill: Bill
    unit: Unit  # of all of it, fixed costs included


@dataclass(frozen=True, slots=True)
class Sized:
    """A fleet that meets the needs."""

    fleet: Fleet
    paid: Paid
    why: str  # what binds it, or why it lost
    peak: Response | None  # what users see at the peak, all there


@dataclass(frozen=True, slots=True)
class AsWritten:
    """The fleet of the file."""

    judged: Judged
    paid: Paid
    mean: Response | None  # what users see at the mean rate, with the most replicas
    peak: Response | None
    longest: dict[int, float] = field(default_factory=dict, hash=False)  # output tokens that meet it, by batch


@dataclass(frozen=True, slots=True)
class Answer:
    """All of it."""

    question: Question
    written: AsWritten | None
    best: Sized | None
    next_best: tuple[Sized, ...]
    ranking: Ranking
    impossible: Impossible | None
    rows: tuple[Row, ...]
    swings: tuple[Swing, ...]
    audits: tuple[Audited, ...]
    rests: tuple[Rests, ...]
    assumed: tuple[str, ...]
    soak: Soak | None = None  # when the file has a canary
    options: tuple[Sized, ...] = ()  # the cheapest of each kind: on own pools or not, something to accept or not
    repair: Sized | Refused | None = (
        None  # the file's own way in the number that will do; None: it does, or none is there
    )

    @property
    def met(self) -> bool:
        """Whether the fleet as written meets every need; without one, whether any does."""
        return self.written.judged.meets if self.written else self.best is not None

    @property
    def verdict(self) -> bool | None:
        """Whether it is met; None where nothing is written to judge and something would do."""
        return None if self.written is None and self.best is not None else self.met

    def told(self) -> dict[str, object]:
        """Plain data: what `-o json` prints."""
        from mainspring.sizing.told import told

        return told(self)


def _never(pool: str) -> bool:
    del pool
    return False


@dataclass(frozen=True, slots=True)
class Asks:
    """What of an answer is wanted beside the search itself."""

    fixed: Mapping[str, float] = field(default_factory=dict)  # dollars a month: networking, storage, tooling
    quoted: float | None = None  # dollars a month that someone quoted for the devices
    allowed: Allowed = field(default_factory=Allowed)
    next_best: int = 4
    sensitive: bool = True
    soak: Soak | None = None
    elsewhere: Callable[[str], bool] = _never  # whether a pool is one that the file does not have


def answer(question: Question, forecasts: Forecasts, asks: Asks | None = None) -> Answer:
    """Judge the fleet as written, search for the cheapest, and say what both rest on."""
    asks = asks or Asks()
    capacity_of = Known(forecasts.capacity)
    forecasts = replace(forecasts, capacity=capacity_of)
    ranking = ranked(question, forecasts, asks.allowed, whole=asks.sensitive)
    everything = ranking
    ranking = _as_asked(ranking)
    best = ranking.best
    written = as_written(question, forecasts, asks)
    rows = (
        sensitivity(question, ranking, capacity_of, forecasts.availability, everything=everything)
        if asks.sensitive
        else ()
    )
    return Answer(
        question=question,
        written=written,
        best=_priced(question, best, _binds(best), forecasts, asks) if best else None,
        next_best=tuple(
            _priced(question, each, why_lost(each, best), forecasts, asks)
            for each in ranking.next_best(asks.next_best)
            if best
        ),
        ranking=ranking,
        impossible=impossible(question, _plain(everything), forecasts.nearest),
        rows=rows,
        swings=tornado(rows, best.dollars if best else None),
        audits=_audits(question, written, asks),
        rests=_rests(best, written),
        assumed=assumed(question),
        soak=asks.soak,
        options=tuple(
            _priced(question, each, why_lost(each, best) if best else "", forecasts, asks)
            for each in _options(everything, asks.elsewhere)
        ),
        repair=_repair(question, written, forecasts, asks),
    )


def _repair(question: Question, written: AsWritten | None, forecasts: Forecasts, asks: Asks) -> Sized | Refused | None:
    """The written fleet with as many replicas as are needed, and as many nodes: the least change that will do."""
    if written is None or written.judged.meets:
        return None
    way, judged = written.judged.written.way, written.judged
    found = size(question, way, judged.capacity, forecasts.availability)
    own, why = question.pool(way.pool), ""
    if isinstance(found, Refused) and found.unmet is not None:
        free = replace(own, nodes=dict.fromkeys(own.nodes, None))
        pools = tuple(free if pool.name == own.name else pool for pool in question.pools)
        found = size(replace(question, pools=pools), way, judged.capacity, forecasts.availability)
        why = " and more nodes"
    if isinstance(found, Refused):
        return found
    says = f"{words.count(found.replicas, 'replica')} in place of {judged.replicas:,}{why}"
    return _priced(question, found, says, forecasts, asks)


def _as_asked(ranking: Ranking) -> Ranking:
    """Without the ways that ask the user to accept something; with them when nothing else will do."""
    plain = _plain(ranking)
    return plain if plain.fleets else ranking


def _plain(ranking: Ranking) -> Ranking:
    fleets = tuple(one for one in ranking.fleets if not one.way.accept)
    return Ranking(fleets, tuple(one for one in ranking.refused if not one.way.accept), ranking.skipped)


def _options(ranking: Ranking, elsewhere: Callable[[str], bool]) -> tuple[Fleet, ...]:
    """The cheapest of each kind: on the file's own pools or not, with something to accept or not; cheapest first."""
    kinds: dict[tuple[bool, bool], Fleet] = {}
    for fleet in ranking.fleets:
        kinds.setdefault((elsewhere(fleet.way.pool), bool(fleet.way.accept)), fleet)
    return tuple(kinds.values())


def ranked(question: Question, forecasts: Forecasts, allowed: Allowed, *, whole: bool = True) -> Ranking:
    """All ways, ranked: the `whole` of them, or those that could be among the best of their pool and precision.

    A smaller KV cache is looked at only where the file's own doesn't fit, or memory binds, or the way is among the
    cheaper ones: elsewhere it asks the user to accept something and gives a little bandwidth.
    """
    plain = [way for way in ways(question, allowed) if way.kv == question.kv]
    ceiling = None if whole else forecasts.ceiling
    first = rank(question, plain, forecasts.capacity, forecasts.availability, ceiling)
    dear = NEAR * first.best.dollars if first.best else math.inf
    near = {_but_cache(one.way) for one in first.fleets if one.dollars <= dear or one.capacity.binds == "memory"}
    near |= {_but_cache(each.way) for each in first.refused if each.capacity.binds == "fit" or not first.fleets}
    more = [way for way in ways(question, allowed) if way.kv != question.kv and _but_cache(way) in near]
    if not more:
        return first
    return first.joined(rank(question, more, forecasts.capacity, forecasts.availability, ceiling))


def _but_cache(way: Way) -> tuple[object, ...]:
    return way.pool, way.gpus, way.slice, way.precision, way.mix


def as_written(question: Question, forecasts: Forecasts, asks: Asks) -> AsWritten | None:
    """The fleet of the file, judged and priced; None when the file leaves it to the search."""
    written = question.written
    if written is None:
        return None
    way, demand = written.way, question.demand
    capacity = forecasts.capacity(way, demand, question.promise)
    judged = judge(question, capacity, forecasts.availability)
    pool = question.pool(way.pool)
    if written.nodes:
        devices = {region: float(count * pool.per_node) for region, count in written.nodes.items()}
    else:
        devices = {site.region: held(question, way, site.replicas) for site in judged.sites}
        if pool.billed == "node":
            devices = {site.region: float(site.nodes * pool.per_node) for site in judged.sites}
    paid = bill(pool, devices, way.mix, asks.fixed)
    seen = [
        forecasts.response(way, replace(demand, peak=peak), demand.rate * peak / judged.replicas)
        if forecasts.response and judged.replicas
        else None
        for peak in (1.0, demand.peak)
    ]
    longest = forecasts.longest(way, demand, question.promise) if forecasts.longest else {}
    return AsWritten(judged, Paid(paid, unit(paid.total, demand)), seen[0], seen[1], longest)


def _priced(question: Question, fleet: Fleet, why: str, forecasts: Forecasts, asks: Asks) -> Sized:
    pool, way, demand = question.pool(fleet.way.pool), fleet.way, question.demand
    devices = {site.region: _bought(question, way, site.replicas, site.nodes) for site in fleet.sites}
    paid = bill(pool, devices, way.mix, asks.fixed)
    peak = None
    if forecasts.response and fleet.replicas:
        peak = forecasts.response(way, demand, demand.at_peak / fleet.replicas)
    return Sized(fleet, Paid(paid, unit(paid.total, demand)), why, peak)


def _bought(question: Question, way: Way, replicas: int, nodes: int) -> float:
    """Devices that are billed for so many replicas in one region."""
    pool, each = question.pool(way.pool), lot(question, way)
    return float(nodes * pool.per_node) if pool.billed == "node" else -(-replicas // each) * each * way.billed


def _binds(fleet: Fleet | None) -> str:
    """What holds the cheapest fleet where it is."""
    if fleet is None:
        return ""
    held = {
        "p95": "the 95th percentile of the whole request",
        "p99": "the 99th percentile of the whole request",
        "ttft": "the time to the first token",
        "tpot": "the time per output token",
        "memory": "memory for the KV cache",
        "throughput": "throughput",
    }
    return (
        f"a replica carries {fleet.capacity.rate:.3g}/s, held by {held.get(fleet.capacity.binds, fleet.capacity.binds)}"
    )


def _audits(question: Question, written: AsWritten | None, asks: Asks) -> tuple[Audited, ...]:
    if asks.quoted is None or written is None:
        return ()
    judged, way = written.judged, written.judged.written.way
    pool = question.pool(way.pool)
    least = sum(low for low, _ in judged.written.replicas.values())
    counts = [*counted(judged.replicas, way.gpus, pool.per_node, judged.devices)]
    if least != judged.replicas:
        counts += counted(least, way.gpus, pool.per_node, judged.devices)[1:]
    tariffs = list(pool.tariffs.values())
    region = next((name for name in question.regions if name in pool.tariffs), None)
    if not tariffs or region is None:
        return ()
    actual = written.paid.bill.devices
    return (audit(asks.quoted, pool.tariffs[region], tuple(counts), actual, way.device, pool.per_node),)


def _rests(best: Fleet | None, written: AsWritten | None) -> tuple[Rests, ...]:
    """What the forecasts of the answer rest on, each thing once."""
    responses = [best.capacity.response if best else None, written.judged.capacity.response if written else None]
    responses += [written.peak, written.mean] if written else []
    return tuple(dict.fromkeys(one for response in responses if response for one in response.rests))


def assumed(question: Question) -> tuple[str, ...]:
    """What the answer takes for granted, in sentences."""
    demand, survive = question.demand, question.survive
    found = ["a month is 730 hours", f"the busiest moment is {demand.peak:g} times the mean"]
    if len(question.regions) > 1 and not demand.shares:
        found.append("traffic comes evenly from all regions")
    if survive.regions:
        how = "its capacity" if demand.spread == "capacity" else "its share of the traffic"
        found.append(f"the traffic of a lost region goes to each other one by {how}")
    if survive.regions and survive.nodes_per_region:
        found.append(
            "regions and nodes are lost " + ("at once" if survive.together else "one or the other, not at once")
        )
    if any(pool.billed == "device" for pool in question.pools):
        found.append("devices are billed one by one, and replicas spread over as many nodes as there are")
    return tuple(found)
