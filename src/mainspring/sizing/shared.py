"""The pools of a stack, with all its endpoints on them as written: whether they hold them, and what they cost.

What this is: devices counted over endpoints, pure. Who calls it: `fleet.py`. What it must never do: judge an endpoint
by itself (that is `judge.py`), or change what is written.

Whole GPUs are counted as such, slices and parts of servers as the parts that they are; where that is few enough, the
pieces are also put on the nodes one by one, for gangs that don't fill a node, and slices that don't fill a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.decide.place import Item, Nodes, place
from mainspring.facts.gpus import Gpu
from mainspring.facts.mig import profile
from mainspring.sizing import words
from mainspring.sizing.bill import Bill, bill
from mainspring.sizing.judge import Check
from mainspring.sizing.needs import SLACK
from mainspring.sizing.question import Pool, Question, Way

PIECES = 256
"""Replicas that are put on nodes one by one at most; beyond, devices are counted only."""
BUDGET = 2_000
"""Points that putting them there looks into."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one endpoint has of a pool in one region."""

    endpoint: str
    way: Way
    replicas: int  # the most that the file allows

    @property
    def devices(self) -> float:
        """Devices that they hold, with slices and parts of servers as parts."""
        return self.replicas * self.way.billed


@dataclass(frozen=True, slots=True)
class Use:
    """One pool in one region, as all endpoints have it together."""

    pool: Pool
    region: str
    held: tuple[Held, ...]

    @property
    def nodes(self) -> int | None:
        """That the file says there are; None: as many as are wanted."""
        return self.pool.nodes.get(self.region, 0)

    @property
    def used(self) -> float:
        """Devices that all hold together, as parts."""
        return sum(one.devices for one in self.held)

    @property
    def paid(self) -> float:
        """Devices that are paid for: those of the nodes where the file counts them, else whole ones that are held."""
        return math.ceil(self.used - SLACK) if self.nodes is None else float(self.nodes * self.pool.per_node)


def uses(questions: Sequence[Question]) -> tuple[Use, ...]:
    """What the fleets as written have of each pool and region; regions with nodes that nobody uses are there too."""
    pools: dict[str, Pool] = {}
    held: dict[str, dict[str, list[Held]]] = {}
    for question in questions:
        if question.written is None:
            continue
        way = question.written.way
        pools[way.pool] = question.pool(way.pool)
        regions = held.setdefault(way.pool, {region: [] for region in pools[way.pool].nodes})
        for region, (_, most) in question.written.replicas.items():
            regions.setdefault(region, []).append(Held(question.demand.endpoint, way, most))
    return tuple(
        Use(pools[name], region, tuple(several))
        for name, regions in held.items()
        for region, several in regions.items()
    )


def checks(questions: Sequence[Question]) -> tuple[Check, ...]:
    """A check of each pool and region that several endpoints share and whose nodes are counted in the file."""
    return tuple(_check(use) for use in uses(questions) if use.nodes is not None and len(use.held) > 1)


def bills(questions: Sequence[Question]) -> tuple[Bill, ...]:
    """The bill of each pool: its nodes whole and once where the file says how many, else what replicas hold."""
    paid: dict[str, tuple[Pool, dict[str, float]]] = {}
    for use in uses(questions):
        paid.setdefault(use.pool.name, (use.pool, {}))[1][use.region] = use.paid
    return tuple(bill(pool, devices) for pool, devices in paid.values())


def _check(use: Use) -> Check:
    pool, known = use.pool, use.nodes or 0
    has, needed = float(known * pool.per_node), use.used
    unit = use.held[0].way.unit
    where = f"pool {pool.name}" + (f" in {use.region}" if len(pool.nodes) > 1 else "")
    each = " and ".join(f"{one.endpoint} {one.devices:.4g}" for one in use.held)
    if len(use.held) > 4:
        each = f"{len(use.held)} endpoints together"
    nodes = f"its {words.count(known, 'node')} of {pool.per_node} {words.verb(known, 'have')}"
    says = f"{where}: {words.count(needed, unit)} held by {each}; {nodes} {has:,.0f}"
    if needed > has + SLACK:
        return Check("pool", needed, has, says, met=False)
    waits = _left_over(use, known)
    if waits:
        return Check("pool", needed, has, f"{says}, and yet {waits} fit on no node beside the others", met=False)
    return Check("pool", needed, has, says, met=True)


def _left_over(use: Use, known: int) -> str:
    """Replicas that find no place though there are devices enough, in words; "" for none."""
    device = use.pool.device
    if sum(one.replicas for one in use.held) > PIECES:
        return ""
    if not isinstance(device, Gpu):
        return _cores_left_over(use, known)
    items = [_item(device, one) for one in use.held]
    placed = place(items, [Nodes(use.pool.name, device, known, 1.0, use.pool.per_node)], budget=BUDGET)
    names = [one.item for one in placed.waiting]
    several = [(name, names.count(name)) for name in dict.fromkeys(names)]
    return " and ".join(f"{words.count(count, 'replica')} of {name}" for name, count in several)


def _item(gpu: Gpu, one: Held) -> Item:
    if not one.way.slice:
        return Item(one.endpoint, 0.0, gpus=one.way.gpus, replicas=one.replicas)
    cut = profile(gpu.mig, one.way.slice)
    return Item(one.endpoint, cut.memory, cut.share, replicas=one.replicas)


def _cores_left_over(use: Use, known: int) -> str:
    """The same for cores of servers: the largest first, each on the first server that has room."""
    free = [1.0] * known
    pieces = [((one.way.cores or math.inf), one.endpoint, number) for one in use.held for number in range(one.replicas)]
    total = float(getattr(use.pool.device, "cores", 1))
    left: list[str] = []
    for cores, name, _ in sorted(pieces, reverse=True):
        part = min(cores / total, 1.0)
        at = next((place for place, room in enumerate(free) if room >= part - SLACK), None)
        if at is None:
            left.append(name)
        else:
            free[at] -= part
    several = [(name, left.count(name)) for name in dict.fromkeys(left)]
    return " and ".join(f"{words.count(count, 'replica')} of {name}" for name, count in several)
