"""The fleets of several endpoints on shared devices: slices packed onto whole GPUs, and whole GPUs paid for.

What this is: `decide/place.py` asked once for each pool and region; pure. Who calls it: `levers.py`, `plan` for a file
with several endpoints. What it must never do: size again: each endpoint keeps the replicas that it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.decide.place import Geometry, Item, Nodes, Placement, place
from mainspring.facts.gpus import Gpu
from mainspring.facts.mig import profile
from mainspring.sizing.levers import Chosen
from mainspring.sizing.needs import SLACK
from mainspring.sizing.question import HOURS, Mix, Pool, Question
from mainspring.sizing.rank import Fleet

PIECES = 1_000
"""Slices that are packed one by one at most; beyond, whole GPUs are counted from their parts, and not called exact."""

BUDGET = 400
"""Points that a packing looks into; beyond, its bound says how far it may be from the best."""


@dataclass(frozen=True, slots=True)
class Shared:
    """One pool in one region."""

    pool: str
    region: str
    mix: str
    endpoints: tuple[str, ...]
    parts: float  # devices, with every slice counted as the part that it is
    alone: int  # whole devices, if each endpoint had its own
    devices: int  # whole devices when packed together
    dollars: float  # a month
    geometries: tuple[Geometry, ...]  # of the GPUs in MIG mode
    exact: bool  # whether no packing takes fewer


@dataclass(frozen=True, slots=True)
class Together:
    """All of them."""

    shared: tuple[Shared, ...]
    dollars: float  # a month, whole devices
    alone: float  # a month, if each endpoint had whole devices of its own

    @property
    def saved(self) -> float:
        """Dollars a month that sharing saves."""
        return self.alone - self.dollars


@dataclass(frozen=True, slots=True)
class _Part:
    question: Question
    fleet: Fleet
    replicas: int


def together(chosen: Sequence[tuple[Question, Fleet]]) -> Together:
    """Pack fleets that use the same pool, region and way of buying."""
    groups: dict[tuple[str, str, str], tuple[Pool, Mix, list[_Part]]] = {}
    for question, fleet in chosen:
        pool = question.pool(fleet.way.pool)
        for site in fleet.sites:
            if site.replicas:
                key = (pool.name, site.region, fleet.way.mix.name)
                groups.setdefault(key, (pool, fleet.way.mix, []))[2].append(_Part(question, fleet, site.replicas))
    shared, alone = [], 0.0
    for (_, region, _), (pool, mix, parts) in sorted(groups.items(), key=lambda pair: pair[0]):
        price = pool.price(region, mix)
        assert price is not None, "a fleet is only ever sized where it is sold"
        one = _share(pool, region, mix, parts, price)
        shared.append(one)
        alone += one.alone * price * HOURS
    return Together(tuple(shared), sum(one.dollars for one in shared), alone)


def _whole(devices: float, pool: Pool) -> int:
    """Devices that are paid for so many."""
    count = int(-(-(devices - SLACK) // 1))
    return -(-count // pool.per_node) * pool.per_node if pool.billed == "node" else count


def _share(pool: Pool, region: str, mix: Mix, parts: list[_Part], price: float) -> Shared:
    gangs = [part for part in parts if not part.fleet.way.slice]
    slices = [part for part in parts if part.fleet.way.slice]
    whole = sum(part.replicas * part.fleet.way.billed for part in gangs)
    many = sum(part.replicas for part in slices) > PIECES
    packed = _packed(pool, parts if pool.billed == "node" else slices, price) if slices and not many else None
    if packed is None:
        apart = [part.replicas for part in parts if part.fleet.way.slots > 1 and _apart(part.question)]
        cut = sum(part.replicas * part.fleet.way.billed for part in slices)
        devices = _whole(max(whole + cut, *apart, 0), pool)
    elif pool.billed == "node":
        devices = _paid(packed, pool)
    else:
        devices = _whole(whole, pool) + _paid(packed, pool)
    own: dict[str, float] = {}
    for part in parts:
        name = part.question.demand.endpoint
        own[name] = own.get(name, 0.0) + part.replicas * part.fleet.way.billed
    return Shared(
        pool=pool.name,
        region=region,
        mix=mix.name,
        endpoints=tuple(own),
        parts=sum(own.values()),
        alone=sum(_whole(count, pool) for count in own.values()),
        devices=devices,
        dollars=devices * price * HOURS,
        geometries=packed.geometries if packed else (),
        exact=not many and (packed is None or packed.exact),
    )


def _packed(pool: Pool, parts: list[_Part], price: float) -> Placement:
    """The packing of slices (and of whole devices, where nodes are billed) on as many nodes as could be needed."""
    assert isinstance(pool.device, Gpu)
    items = [_item(pool.device, part, number) for number, part in enumerate(parts)]
    count = sum(max(1, item.gpus // max(pool.per_node, 1)) * item.replicas for item in items)
    nodes = Nodes(
        pool.name, pool.device, count, price, pool.per_node, billed="node" if pool.billed == "node" else "gpu"
    )
    return place(items, [nodes], budget=BUDGET)


def _item(gpu: Gpu, part: _Part, number: int) -> Item:
    """A replica as `place` takes it: of a slice, the memory and compute that make it that slice and no smaller one."""
    way, name = part.fleet.way, f"{part.question.demand.endpoint}.{number}"
    spread = _apart(part.question)
    if not way.slice:
        return Item(name, 0.0, gpus=way.gpus, replicas=part.replicas, spread=spread)
    held = profile(gpu.mig, way.slice)
    return Item(name, held.memory, held.share, replicas=part.replicas, spread=spread)


def _apart(question: Question) -> bool:
    """Whether replicas are on different nodes: some may go, or the availability was reckoned with as many nodes."""
    return question.survive.nodes_per_region > 0 or question.promise.availability is not None


def _paid(packed: Placement, pool: Pool) -> int:
    if pool.billed != "node":
        return sum(count for _, count in packed.used)
    nodes = {node for one in packed.assignments for node, _ in one.gpus}
    return len(nodes) * pool.per_node


def packed_dollars(chosen: Sequence[tuple[Question, Chosen]]) -> float:
    """The cost of several endpoints under some levers, whole devices paid for (the `Packer` of `levers.py`).

    A fleet that follows its traffic, or keeps the file's reserve, costs its part of its own month at the peak.
    """
    sized = [(question, each) for question, each in chosen if each.fleet is not None]
    total = sum(each.dollars for _, each in chosen if each.fleet is None)
    sliced = [(question, each) for question, each in sized if each.fleet is not None and _in_part(each.fleet)]
    total += sum(each.dollars for _, each in sized if each.fleet is not None and not _in_part(each.fleet))
    if not sliced:
        return total
    held = together([(question, each.fleet) for question, each in sliced if each.fleet is not None])
    parts = sum(each.fleet.dollars for _, each in sliced if each.fleet is not None)
    asked = sum(each.dollars for _, each in sliced)
    return total + (held.dollars * asked / parts if parts else 0.0)


def _in_part(fleet: Fleet) -> bool:
    """Whether a replica has a part of a device only."""
    return bool(fleet.way.slice or fleet.way.cores)
