"""What a fleet costs when it follows the traffic hour by hour, or stands still, bought as is cheapest.

What this is: sizing once for each height of the curve, and `decide/purchase.py` for what that takes; pure. Who calls
it: `levers.py`. What it must never do: suppose that capacity appears at once: each hour has what the next one needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mainspring.decide import purchase
from mainspring.decide.purchase import Prices, SpotRules
from mainspring.sizing.needs import SLACK, replicas_for, shares_after
from mainspring.sizing.question import AvailabilityOf, Capacity, Mode, Question, Site, Way
from mainspring.sizing.rank import Refused, size, with_demand

LOTS = 256
"""Machines that are bought one by one at most; more in equal lots, so that an hour has up to one lot too many."""

Hours = list[dict[str, int]]
"""Replicas by region, for each hour of the curve."""


@dataclass(frozen=True, slots=True)
class Bought:
    """A month of it; devices, not replicas."""

    dollars: float
    hourly: tuple[int, ...]  # replicas of each hour, all regions together
    reserved: float
    spot: float  # mean over the hours
    on_demand: float  # mean over the hours


def hours(
    question: Question, way: Way, capacity: Capacity, availability_of: AvailabilityOf | None = None
) -> Hours | Refused:
    """Size every hour of the demand's curve; within an hour the traffic peaks by what the peak is over the curve's top.

    Without a curve the fleet stands still at the peak.
    """
    demand = question.demand
    curve = demand.curve or (demand.peak,)
    within = max(1.0, demand.peak / max(curve))
    shares = question.shares()
    worst = shares_after(shares, question.survive.regions)
    parts = (1.0, *shares.values(), *worst.values())
    if capacity.rate <= 0:
        return Refused(way, capacity.reason, capacity)

    def needed(factor: float) -> tuple[int, ...]:
        """All that a size depends on: replicas for the whole, for each region's share, after the worst loss."""
        return tuple(replicas_for(demand.rate * factor * within * part, capacity.rate) for part in parts)

    sized: dict[tuple[int, ...], dict[str, int]] = {}
    each = []
    for factor in curve:
        key = needed(factor)
        if key not in sized:
            found = size(with_demand(question, peak=factor * within), way, capacity, availability_of)
            if isinstance(found, Refused):
                return found
            sized[key] = {site.region: site.replicas for site in found.sites}
        each.append(sized[key])
    return [
        {region: max(count, after[region]) for region, count in now.items()}
        for now, after in zip(each, each[1:] + each[:1], strict=True)
    ]


def standing(sites: Sequence[Site]) -> Hours:
    """One hour that stands for all."""
    return [{site.region: site.replicas for site in sites}]


def buy(question: Question, way: Way, needed: Hours, modes: frozenset[Mode], spot: float = 1.0) -> Bought | None:
    """Buy it in these modes; None where a region has no price on demand, which all the others fall back on.

    At most a share `spot` of each hour's replicas is on spot, and counts for no more than is live with the promised
    availability; the rest of what they have to carry is bought on demand.
    """
    pool = question.pool(way.pool)
    rules = SpotRules()
    if question.promise.availability is not None:
        rules = replace(rules, wanted=question.promise.availability)
    dollars = reserved = live = on_demand = 0.0
    for region in needed[0]:
        counts = [hour[region] for hour in needed]
        tariff = pool.tariffs.get(region)
        if not any(counts):
            continue
        if tariff is None or tariff.on_demand is None:
            return None
        kept = tariff.reserved * way.billed if tariff.reserved is not None and "reserved" in modes else None
        loose = tariff.spot * way.billed if tariff.spot is not None and "spot" in modes else None
        prices = Prices(tariff.on_demand * way.billed, kept, loose)
        lot = -(-max(counts) // LOTS)
        counts = [-(-count // lot) for count in counts]
        may = [int(count * spot + SLACK) if loose is not None else 0 for count in counts]
        firm = [count - part for count, part in zip(counts, may, strict=True)]
        for mix in (purchase.mix(firm, replace(prices, spot=None)), purchase.mix(may, prices, rules)):
            dollars += mix.dollars * lot
            reserved += mix.reserved * way.billed * lot
            live += mix.spot * way.billed * lot
            on_demand += mix.on_demand * way.billed * lot
    totals = tuple(sum(hour.values()) for hour in needed)
    return Bought(dollars, totals, reserved, live, on_demand)
