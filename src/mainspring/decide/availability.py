"""How much of the time a fleet has the capacity that is needed, and what it survives.

What this is: k-of-n over nodes within a region and over regions, exact; pure. Who calls it: `sizing/`, the plan. What
it must never do: hide an assumption (`ASSUMED` says where each comes from), or count what routing and software break.

A node is up or down by itself, with all its replicas; a region is up or down by itself, with all its nodes. Capacity is
the number of live replicas: the traffic of those that are gone goes to the others, in whatever region they are. The
probability is over time, so 99.9 % is 43.8 minutes of a month of 730 hours in which less than `need` is there.
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


def available(replicas: Sequence[int], nodes: Sequence[int], need: int, node: float, region: float = 1.0) -> float:
    """The share of time in which at least `need` replicas are live, all regions together.

    `replicas[i]` of region i are spread evenly over `nodes[i]` nodes; `node` and `region` are the shares of time that
    one of them is up. A replica over several nodes (a gang) is one node here, with the availability of them all.
    """
    whole: Floats = np.ones(1)
    for count, on in zip(replicas, nodes, strict=True):
        whole = np.convolve(whole, _region(count, on, node, region))
    return float(min(1.0, math.fsum(whole[max(need, 0) :].tolist())))


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
        if available([count] * regions, [on] * regions, need, node, region) >= wanted:
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


@functools.lru_cache(maxsize=8192)  # a search asks for the same few regions thousands of times
def _region(count: int, nodes: int, node: float, region: float) -> Floats:
    """Distribution of live replicas of one region: 0, 1, ...; not to be written to."""
    live: Floats = np.ones(1)
    for held in _spread(count, nodes):
        if held:
            one = np.zeros(held + 1)
            one[0], one[held] = 1.0 - node, node
            live = np.convolve(live, one)
    live = live * region
    live[0] += 1.0 - region
    live.flags.writeable = False
    return live
