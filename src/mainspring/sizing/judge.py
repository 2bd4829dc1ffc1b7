"""The fleet as written, judged by the same rules by which the cheapest is chosen.

What this is: needs against what is there, pure. Who calls it: `answer.py`. What it must never do: choose, or forecast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mainspring.decide.availability import reached
from mainspring.sizing import words
from mainspring.sizing.needs import Needs, Option, Place, held, left_after, needs
from mainspring.sizing.question import AvailabilityOf, Capacity, Question, Site, Written

Name = Literal["promise", "nodes", "peak", "region", "node-loss", "region-loss", "availability", "allowed", "pool"]


@dataclass(frozen=True, slots=True)
class Check:
    """One need, and how it is met."""

    name: Name
    needed: float
    has: float
    says: str
    met: bool

    @property
    def used(self) -> float:
        """Share of what is there that is needed; above one when it isn't met."""
        return self.needed / self.has if self.has else float("inf") if self.needed else 0.0


@dataclass(frozen=True, slots=True)
class Judged:
    """What the fleet as written is and does."""

    written: Written
    capacity: Capacity
    sites: tuple[Site, ...]  # with the most replicas that the file allows
    checks: tuple[Check, ...]
    devices: float  # paid for
    in_use: float  # devices that replicas hold, with the most replicas
    availability: float | None

    @property
    def meets(self) -> bool:
        """Whether every need is met."""
        return all(check.met for check in self.checks)

    @property
    def replicas(self) -> int:
        """The most, all regions together."""
        return sum(site.replicas for site in self.sites)

    @property
    def binds(self) -> Check:
        """The need that stops it: the first that isn't met, or the one nearest to it."""
        failed = [check for check in self.checks if not check.met]
        return failed[0] if failed else max(self.checks, key=lambda check: (check.used, check.name))


def _chosen(question: Question, written: Written, wanted: Needs) -> tuple[Option, ...]:
    """The written replicas as options, spread over the nodes that are there."""
    pool = question.pool(written.way.pool)
    hold = max(written.way.per_node(pool.per_node), 1)
    found = []
    for place in wanted.places:
        replicas = written.replicas.get(place.region, (0, 0))[1]
        limit = written.nodes.get(place.region, pool.nodes.get(place.region, 0))
        fewest = -(-replicas // hold)
        # Where nodes aren't counted one endpoint has as many devices as it fills; nodes that are there are all used.
        alone = limit is None and not question.shared
        if limit is None and pool.billed == "node":  # what is paid whole is filled
            limit = fewest
        apart = int(held(question, written.way, replicas)) // written.way.gpus if alone else replicas
        nodes = max(min(apart, apart if limit is None else limit), min(fewest, 1))
        found.append(Option(replicas, nodes, left_after(replicas, nodes, question.survive.nodes_per_region), 0, 0))
    return tuple(found)


def judge(question: Question, capacity: Capacity, availability_of: AvailabilityOf | None = None) -> Judged:
    """Judge the written fleet, whose replicas carry as much as `capacity` says; `question.written` is there."""
    written = question.written
    assert written is not None
    way, pool = written.way, question.pool(written.way.pool)
    rate = capacity.rate
    checks = [*_contradicted(question), Check("promise", 0.0, rate, _promise_says(question, capacity), rate > 0)]
    checks += _held(question, written)
    # Without a rate the other needs can't be told: the promise alone is judged.
    wanted = needs(question, way, rate if rate > 0 else question.demand.at_peak or 1.0)
    chosen = _chosen(question, written, wanted)
    sites = wanted.sites(chosen)
    availability = None
    if rate > 0:
        checks += _carried(question, wanted, chosen, rate)
        if availability_of is not None:
            availability = availability_of(way, sites, wanted.total, tuple(place.alone for place in wanted.places))
        target = question.promise.availability
        if target is not None and availability is not None:
            says = f"the peak is carried {words.share(availability)} of the time; {words.share(target)} is promised"
            # In times that it may be down, so that "used" means something: 99.95 % for 99.9 % uses half of what may be.
            checks.append(Check("availability", 1 - availability, 1 - target, says, reached(availability, target)))
    spread = [float(site.nodes) if way.slots > 1 and not question.shared else 0.0 for site in sites]
    in_use = sum(max(held(question, way, site.replicas), on) for site, on in zip(sites, spread, strict=True))
    if pool.billed == "node":
        in_use = max(in_use, float(sum(site.nodes for site in sites) * pool.per_node))
    bought = float(sum(written.nodes.values()) * pool.per_node) if written.nodes else in_use
    return Judged(written, capacity, sites, tuple(checks), bought, in_use, availability)


def contradiction(question: Question) -> str:
    """Why no fleet can survive what it must in the regions where it may run; "" where one could."""
    there, gone = len(question.regions), question.survive.regions
    if not gone or gone < there:
        return ""
    only = f"it may run in {words.count(there, 'region')} only ({', '.join(question.regions)})"
    lost = words.count(gone, "region")
    return f"{only}, and must survive the loss of {lost}: allow {gone + 1} regions, or survive fewer"


def _contradicted(question: Question) -> list[Check]:
    says = contradiction(question)
    return [Check("region-loss", question.survive.regions + 1, len(question.regions), says, met=False)] if says else []


def _promise_says(question: Question, capacity: Capacity) -> str:
    if capacity.rate <= 0:
        return capacity.reason or "the promise can't be kept at any rate"
    if not question.promise.timed:
        most = f"a replica carries at most {words.rate(capacity.rate)}"
        if question.promise.availability is None:
            return f"nothing is promised: only the traffic is judged; {most}"
        return f"no time is promised: only the traffic and the availability are judged; {most}"
    held = f", held by {capacity.binds}" if capacity.binds else ""
    return f"a replica keeps the promise up to {words.rate(capacity.rate)}{held}"


def _held(question: Question, written: Written) -> list[Check]:
    """Whether the nodes hold the replicas, and whether they are where they may be."""
    pool, way = question.pool(written.way.pool), written.way
    hold = way.per_node(pool.per_node)
    checks = []
    for region, (_, most) in written.replicas.items():
        if region not in question.regions and most:
            says = f"{words.count(most, 'replica')} in {region}, where it may not run"
            checks.append(Check("allowed", most, 0, says, met=False))
            continue
        known = written.nodes.get(region, pool.nodes.get(region, 0))
        if known is not None:
            here = f"{region}: {words.count(known, 'node')} of {pool.per_node}"
            says = f"{here} {words.verb(known, 'hold')} {words.count(known * hold, 'replica')}"
            says += f", {most:,} {words.verb(most, 'are')} written"
            checks.append(Check("nodes", most, known * hold, says, most <= known * hold))
    return checks


def _carried(question: Question, wanted: Needs, chosen: tuple[Option, ...], rate: float) -> list[Check]:
    peak, survive = question.demand.at_peak, question.survive
    replicas = sum(option.replicas for option in chosen)
    carry = words.verb(replicas, "carry")
    says = f"{words.count(replicas, 'replica')} {carry} {words.rate(replicas * rate)}; the peak is {words.rate(peak)}"
    checks = [Check("peak", wanted.total, replicas, says, replicas >= wanted.total)]
    pairs = list(zip(wanted.places, chosen, strict=True))
    place, option = max(pairs, key=lambda pair: _used(pair[0].alone, pair[1].replicas))
    there = words.count(option.replicas, "replica")
    says = f"{place.region}: {there} there, {place.alone:,} needed for its own share of the peak"
    checks.append(Check("region", place.alone, option.replicas, says, option.replicas >= place.alone))
    if survive.nodes_per_region:
        place, option = max(pairs, key=lambda pair: _used(pair[0].alone, pair[1].left))
        lost = words.count(survive.nodes_per_region, "node")
        left = words.count(option.left, "replica")
        says = f"{place.region}: {left} left without {lost}, {place.alone:,} needed for its own share of the peak"
        checks.append(Check("node-loss", place.alone, option.left, says, option.left >= place.alone))
    if 0 < survive.regions < len(chosen):
        checks.append(_region_loss(wanted, pairs, chosen))
    return checks


def _used(needed: float, has: float) -> float:
    return needed / has if has else float("inf") if needed else 0.0


def _region_loss(wanted: Needs, pairs: list[tuple[Place, Option]], chosen: tuple[Option, ...]) -> Check:
    gone = words.count(wanted.lost, "region")
    also = " and the nodes that may go" if wanted.together else ""
    if wanted.by_capacity:
        kept = wanted.kept(chosen)
        largest = "its largest region" if wanted.lost == 1 else f"its {wanted.lost} largest regions"
        left = f"{words.count(kept, 'replica')} {words.verb(kept, 'are')}"
        says = f"without {largest}{also} {left} left; the peak needs {wanted.total:,}"
        return Check("region-loss", wanted.total, kept, says, kept >= wanted.total)
    place, option = max(pairs, key=lambda pair: _used(pair[0].after, wanted.counts(pair[1])))
    has = wanted.counts(option)
    there = words.count(has, "replica")
    says = f"{place.region}: {there} there, {place.after:,} needed with its part of the traffic of {gone} lost"
    return Check("region-loss", place.after, has, says, has >= place.after)
