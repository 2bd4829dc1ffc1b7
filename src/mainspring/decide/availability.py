"""How much of the time a fleet has the capacity that is needed, and what it survives.

What this is: k-of-n over nodes within a region and over regions, exact; pure. Who calls it: `sizing/`, the plan. What
it must never do: hide an assumption (`ASSUMED` says where each comes from), or count what routing and software break.

A node is up or down by itself, with all its replicas; a region is up or down by itself, with all its nodes. Capacity is
the number of live replicas: the traffic of those that are gone goes to the others, in whatever region they are. The
probability is over time, so 99.9 % is 43.8 minutes of a month of 730 hours in which less than `need` is there.

How. Nodes of a region hold one of two numbers of replicas, so what is lost with them is the sum of two binomials, in
closed form; regions are added one by one, each up or down. What is less likely than `DROPPED` in all is left out, so
that the time depends on how far losses scatter and not on how many nodes there are. Long sums are convolved by FFT,
with an error of some 1e-15. What is added up is the time that capacity is missing: near the most that regions allow,
where the last bits decide, more nodes then never look worse.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HOURS = 730.0  # of a month: 8,760 / 12

DROPPED = 1e-18
"""A case less likely than this is left out."""

SAME = 1e-9
"""Times that capacity may be missing count as equal when they are this near, as a share."""

BITS = 4e-16
"""An availability near one is no more exact than this."""

SHORT = 512
"""Terms of the shorter of two distributions from which on their sum is worked out by FFT."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """A number that availability rests on, and where it comes from."""

    what: str
    value: float
    unit: str
    basis: Literal["read", "memory", "assumed", "user"]
    source: str


ASSUMED: dict[str, Assumption] = {
    one.what: one
    for one in (
        Assumption(
            "node mtbf",
            5_700.0,
            "h",
            "read",
            "Meta's report on training Llama 3: 466 interruptions, planned or not, in 54 days on 16,384 H100: one in "
            "45,600 GPU-hours, so one in 5,700 hours of a node of eight",
        ),
        Assumption(
            "node mttr", 4.0, "h", "assumed", "to notice, drain, reset or replace; loading weights comes on top"
        ),
        Assumption(
            "region availability",
            0.9999,
            "share",
            "assumed",
            "53 minutes a year in which a whole region answers nobody",
        ),
    )
}
"""What is taken where the file says nothing."""


def up(mtbf: float, mttr: float, cold: float = 0.0) -> float:
    """The share of time that something is up, from mean hours between failures and mean hours to repair.

    `cold` is the cold start in hours: the node, the image and the weights.
    """
    if mtbf <= 0:
        return 0.0
    return mtbf / (mtbf + max(mttr, 0.0) + max(cold, 0.0))


def minutes_a_month(availability: float) -> float:
    """Minutes of a month of 730 hours in which the capacity is not there; 99.9 % is 43.8."""
    return (1.0 - availability) * HOURS * 60.0


def within(missing: float, allowed: float) -> bool:
    """Whether capacity is missing for no larger a share of the time than is allowed, but for rounding."""
    return missing <= allowed * (1.0 + SAME) + BITS


def reached(availability: float, target: float) -> bool:
    """Whether an availability is the promised one or better, but for rounding; by the times that capacity is missing.

    A fleet in one region can come as near as nobody can tell to what the region is up for: it reaches that.
    """
    return within(1.0 - availability, 1.0 - target)


def available(replicas: Sequence[int], nodes: Sequence[int], need: int, node: float, region: float = 1.0) -> float:
    """The share of time in which at least `need` replicas are live, all regions together.

    `replicas[i]` of region i are spread evenly over `nodes[i]` nodes; `node` and `region` are the shares of time that
    one of them is up. A replica over several nodes (a gang) is one node here, with the availability of them all.
    """
    slack = sum(replicas) - max(need, 0)
    if slack < 0:
        return 0.0
    # By replicas that are gone with their whole region: what else is gone with nodes, from `start` on.
    states: dict[int, tuple[int, Floats]] = {0: (0, np.ones(1))}
    for count, on in zip(replicas, nodes, strict=True):
        if count > 0:
            states = _added(states, count if on <= 0 else 0, count, _region(count, on, node), region)
    missing = [odds[max(slack - gone - start + 1, 0) :] for gone, (start, odds) in states.items()]
    return float(min(1.0, max(0.0, 1.0 - math.fsum(each for one in missing for each in one.tolist()))))


def survives(
    replicas: Sequence[int],
    nodes: Sequence[int],
    need: int,
    *,
    regions: int = 1,
    nodes_per_region: int = 0,
    together: bool = True,
) -> bool:
    """Whether `need` replicas are left after any so many regions go, and so many nodes in each of the rest.

    The fullest nodes go. With `together` False the two losses are looked at one by one.
    """
    if not together:
        alone = survives(replicas, nodes, need, regions=regions, nodes_per_region=0)
        return alone and survives(replicas, nodes, need, regions=0, nodes_per_region=nodes_per_region)
    left = [sum(_spread(count, on)[nodes_per_region:]) for count, on in zip(replicas, nodes, strict=True)]
    return sum(sorted(left, reverse=True)[min(regions, len(left)) :]) >= need


def fewest(need: int, regions: int, per_node: int, node: float, region: float, wanted: float, most: int = 512) -> int:
    """The fewest replicas in each of so many equal regions that reach an availability; -1 when `most` don't.

    Each node holds `per_node`, and replicas are spread over as few nodes as that allows.
    """
    for count in range(math.ceil(max(need, 1) / regions), most + 1):
        on = math.ceil(count / per_node)
        if reached(available([count] * regions, [on] * regions, need, node, region), wanted):
            return count
    return -1


def worst_regions(replicas: Sequence[int], need: int) -> tuple[int, ...]:
    """The smallest set of regions whose loss leaves less than `need`; () when no loss does (need 0)."""
    for size in range(1, len(replicas) + 1):
        for lost in combinations(range(len(replicas)), size):
            if sum(count for i, count in enumerate(replicas) if i not in lost) < need:
                return lost
    return ()


def _spread(count: int, nodes: int) -> list[int]:
    """Replicas of each node, the fullest first."""
    if count <= 0 or nodes <= 0:
        return []
    each, more = divmod(count, nodes)
    return [each + 1] * more + [each] * (nodes - more)


States = dict[int, tuple[int, Floats]]


def _added(states: States, never: int, count: int, nodes: tuple[int, Floats], region: float) -> States:
    """One region more: up with what its nodes lose, or down with all that it has; `never` are on no node at all."""
    found: States = {}
    for gone, (start, odds) in states.items():
        up_ = (start + nodes[0], _convolved(odds, nodes[1]) * region)
        for key, state in ((gone + never, up_), (gone + count, (start, odds * (1.0 - region)))):
            if float(state[1].sum()) > DROPPED:
                found[key] = _merged(found[key], state) if key in found else state
    return found


def _merged(one: tuple[int, Floats], other: tuple[int, Floats]) -> tuple[int, Floats]:
    """Two distributions over the same cases, added."""
    start = min(one[0], other[0])
    both: Floats = np.zeros(max(one[0] + len(one[1]), other[0] + len(other[1])) - start)
    for first, odds in (one, other):
        both[first - start : first - start + len(odds)] += odds
    return start, both


def _convolved(one: Floats, other: Floats) -> Floats:
    """The distribution of a sum: term by term while that is quick, else by FFT."""
    if min(len(one), len(other)) < SHORT:
        return np.convolve(one, other)
    size = len(one) + len(other) - 1
    wide = 1 << (size - 1).bit_length()
    found: Floats = np.fft.irfft(np.fft.rfft(one, wide) * np.fft.rfft(other, wide), wide)[:size]
    return np.maximum(found, 0.0)


def _down(count: int, node: float) -> tuple[int, Floats]:
    """How many of so many nodes are down: the first number that is likely enough to count, and odds from there on.

    A binomial by the ratios of its neighbours from the likeliest on, to the ends or to 12 standard deviations and 40.
    """
    gone = 1.0 - node
    if count == 0 or gone <= 0.0:
        return 0, np.ones(1)
    if node <= 0.0:
        return count, np.ones(1)
    top = min(count, int((count + 1) * gone))
    reach = int(12 * math.sqrt(count * gone * node)) + 40
    low, high = max(0, top - reach), min(count, top + reach)
    above = np.arange(top, high)
    below = np.arange(top, low, -1)
    upwards = np.cumprod((count - above) / (above + 1) * (gone / node))
    downwards = np.cumprod(below / (count - below + 1) * (node / gone))
    odds: Floats = np.concatenate((downwards[::-1], np.ones(1), upwards))
    return low, odds / odds.sum()


@functools.lru_cache(maxsize=2048)  # a search asks for the same few regions thousands of times
def _region(count: int, nodes: int, node: float) -> tuple[int, Floats]:
    """Replicas that are gone with nodes of one region: the least that counts, and odds from there on; not to be
    written to.
    """
    if nodes <= 0:
        return 0, np.ones(1)
    each, more = divmod(count, nodes)
    start, found = 0, np.ones(1)
    for held, on in ((each + 1, more), (each, nodes - more)):
        if held and on:
            first, odds = _down(on, node)
            stretched = np.zeros((len(odds) - 1) * held + 1)
            stretched[::held] = odds
            start, found = start + first * held, _convolved(found, stretched)
    found.flags.writeable = False
    return start, found
