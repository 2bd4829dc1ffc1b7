"""How many replicas each region needs, and what each number of them costs there.

What this is: the constraints of sizing as integers; pure. Who calls it: `search.py` (to choose), `judge.py` (to judge
the fleet as written by the same rules). What it must never do: choose.

The rules. Each region carries its own share of the peak, before and after the loss of `survive.nodes_per_region` nodes.
After the loss of any `survive.regions` regions the rest carry the whole peak; the traffic of a lost region goes to the
rest by their capacity (as a router that looks at load does) or by their shares (as DNS does), as the demand says.
Replicas are spread evenly over as many nodes as there are when devices are billed one by one; where whole nodes are
billed, over as few as will do, and full.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.sizing.question import HOURS, Question, Site, Way

SLACK = 1e-9
"""A load this much over a whole number of replicas is rounding, not load."""

MOST = 100_000
"""Replicas of one endpoint that are sized at most: beyond, a way is refused with the number that it would take."""


def replicas_for(load: float, rate: float) -> int:
    """The fewest replicas of `rate` requests/s each that carry `load` requests/s."""
    return max(0, math.ceil(load / rate - SLACK))


def left_after(replicas: int, nodes: int, lost: int) -> int:
    """Replicas left when the `lost` fullest of `nodes` nodes go, on which they were spread evenly."""
    if replicas == 0 or lost >= nodes:
        return 0 if lost else replicas
    each, more = divmod(replicas, nodes)
    return replicas - lost * each - min(lost, more)


@dataclass(frozen=True, slots=True)
class Option:
    """So many replicas in a region: what they are and cost."""

    replicas: int
    nodes: int
    left: int  # after the loss of nodes
    millis: int  # thousandths of a dollar a month: integers, so that sums are exact
    thousandths: int  # of a device, billed

    @property
    def key(self) -> int:
        """Cost first, then devices, as one integer to add and compare."""
        return self.millis * 10**9 + self.thousandths


@dataclass(frozen=True, slots=True)
class Ladder:
    """What can be had in one region: step 0 is nothing, each next step is dearer and never holds less.

    A step is what is billed: one more replica, or one more device full of slices, or one more node full of replicas.
    The first two are spread over as many nodes as there are.
    """

    each: int  # replicas of a step
    steps: int  # that there are
    nodes: int  # that there are
    most: int  # replicas that are wanted or allowed at most
    lost: int  # nodes whose loss must be survived
    by_node: bool  # a step is a node
    millis: int  # a step costs, thousandths of a dollar a month
    thousandths: int  # of a device that a step is billed

    def __len__(self) -> int:
        return 1 + min(self.steps, self.most)

    def __getitem__(self, step: int) -> Option:
        replicas, on = min(step * self.each, self.most), min(step, self.nodes)
        if replicas == step * self.each:
            left = self.each * left_after(step, on, self.lost)
        elif self.by_node:
            left = left_after(replicas, on, self.lost)
        else:
            left = max(0, replicas - self.each * (step - left_after(step, on, self.lost)))
        return Option(replicas, on, left, step * self.millis, step * self.thousandths)

    @property
    def top(self) -> Option:
        """The most that can be had."""
        return self[len(self) - 1]

    @property
    def lot(self) -> int:
        """Replicas come in lots of so many: those of a step, where all steps are full."""
        return self.each if self.each and not self.most % self.each else 1

    @property
    def slope(self) -> int:
        """The least that one more lot can cost, in units of `Option.key`."""
        step = self.millis * 10**9 + self.thousandths
        return step if self.lot == self.each else step // (self.each + 1)

    def first(self, enough: Callable[[Option], bool]) -> int | None:
        """The first step that is enough, where all later ones are too; None when none is."""
        if not enough(self.top):
            return None
        return bisect_left(range(len(self)), True, key=lambda step: enough(self[step]))


NOTHING = Ladder(1, 0, 0, 0, 0, False, 0, 0)


@dataclass(frozen=True, slots=True)
class Place:
    """One region of the search: what it needs and what it can have."""

    region: str
    share: float
    alone: int  # replicas needed for its own share of the peak
    after: int  # replicas needed after the worst loss of regions, when spread by shares; else 0
    ladder: Ladder


@dataclass(frozen=True, slots=True)
class Needs:
    """The whole of it, for one way."""

    total: int  # replicas that carry the peak, wherever they are
    lost: int  # regions that may go
    together: bool  # with nodes lost in the others at the same time
    by_capacity: bool
    least: int  # replicas in each region, by the user's limit
    places: tuple[Place, ...]
    hopeless: int = 0  # no fleet that can't lose so many regions reaches the availability: a hint for the bound

    @property
    def lost_in_all(self) -> int:
        """Regions whose loss must leave `total` replicas that count: in the bound."""
        if self.by_capacity:
            return max(self.lost, 0 if self.together else self.hopeless)
        return 0 if self.together else self.hopeless

    def counts(self, option: Option) -> int:
        """Replicas of a region that count when other regions are lost."""
        return option.left if self.together else option.replicas

    def alone_met(self, place: Place, option: Option) -> bool:
        """Whether a region by itself has what it needs."""
        return (
            option.replicas >= max(self.least, place.alone)
            and option.left >= place.alone
            and self.counts(option) >= place.after
        )

    def loss_met(self, chosen: Sequence[Option]) -> bool:
        """Whether any `lost` regions may go and the rest still carry the peak."""
        if not self.lost or not self.by_capacity:
            return True
        return self.kept(chosen) >= self.total

    @property
    def lot(self) -> int:
        """Replicas come in lots of so many, in every region."""
        lots = {place.ladder.lot for place in self.places if len(place.ladder) > 1}
        return lots.pop() if len(lots) == 1 else 1

    def kept(self, chosen: Sequence[Option]) -> int:
        """Replicas left after the worst loss of regions."""
        return sum(sorted(self.counts(option) for option in chosen)[: max(len(chosen) - self.lost, 0)])

    def sites(self, chosen: Sequence[Option]) -> tuple[Site, ...]:
        """The choice in the words of the answer."""
        return tuple(
            Site(place.region, option.replicas, option.nodes, option.left)
            for place, option in zip(self.places, chosen, strict=True)
        )


def shares_after(shares: dict[str, float], lost: int) -> dict[str, float]:
    """The largest part of the traffic that each region meets when any `lost` others are gone, spread by shares."""
    worst = {}
    for region, share in shares.items():
        others = sorted((part for name, part in shares.items() if name != region), reverse=True)
        remain = 1.0 - sum(others[:lost])
        alive = max(len(shares) - lost, 1)
        worst[region] = share / remain if remain > SLACK else 1.0 / alive
    return worst


def held(question: Question, way: Way, replicas: int) -> float:
    """Devices that so many replicas in one region hold: whole ones, unless other endpoints share them."""
    return replicas * way.billed if question.shared else math.ceil(replicas / way.slots - SLACK) * float(way.gpus)


def lot(question: Question, way: Way) -> int:
    """Replicas that are billed together: one, or a device's where its slices are not shared, or a node's."""
    pool = question.pool(way.pool)
    if pool.billed == "node":
        return max(way.per_node(pool.per_node), 1)
    return way.slots if not question.shared else 1


def ladder(question: Question, region: str, way: Way, most: int) -> Ladder:
    """What can be had of one way in one region, up to `most` replicas; nothing where it isn't sold."""
    pool = question.pool(way.pool)
    price, known, hold = pool.price(region, way.mix), pool.nodes.get(region, 0), way.per_node(pool.per_node)
    if price is None or not hold or known == 0:
        return NOTHING
    each, nodes = lot(question, way), most if known is None else known
    whole = pool.billed == "node"
    devices = float(pool.per_node) if whole else way.billed * each
    return Ladder(
        each=each,
        steps=nodes * hold // each,
        nodes=nodes,
        most=most,
        lost=question.survive.nodes_per_region,
        by_node=whole,
        millis=round(price * HOURS * 1000 * devices),
        thousandths=round(1000 * devices),
    )


def needs(question: Question, way: Way, rate: float) -> Needs:
    """What a fleet of replicas that carry `rate` requests/s each has to have, and what can be had."""
    pool, survive, demand = question.pool(way.pool), question.survive, question.demand
    shares = question.shares()
    total = max(1, replicas_for(demand.at_peak, rate))
    by_capacity = demand.spread == "capacity"
    worst = shares_after(shares, survive.regions)
    spare = survive.nodes_per_region * max(way.per_node(pool.per_node), 1) + 8
    places = []
    for region, share in shares.items():
        alone = max(replicas_for(demand.at_peak * share, rate), 1 if share > 0 else 0)
        after = 0 if by_capacity or not survive.regions else replicas_for(demand.at_peak * worst[region], rate)
        most = 2 * max(alone, after, total, question.limits.least) + spare
        most = -(-most // lot(question, way)) * lot(question, way)
        if question.limits.most is not None:
            most = min(most, question.limits.most)
        places.append(Place(region, share, alone, after, ladder(question, region, way, most)))
    return Needs(total, survive.regions, survive.together, by_capacity, question.limits.least, tuple(places))
