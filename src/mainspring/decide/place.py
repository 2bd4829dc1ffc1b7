"""Which model goes to which GPU or slice of one, on which node: the least waits, then the least is paid.

What this is: a pure decision. Who calls it: `sizing/`, `plan`, `advise`. What it must never do: propose slices that the
hardware refuses, cut a gang over a link that it needs, or leave a thing out without saying why.

What counts, in this order: replicas that serve and wait; jobs that wait; dollars an hour of the GPUs (or nodes) used.
`exact` says that nothing better exists; else `bound` is what nothing can be cheaper than, proven by `decide/bound.py`,
and `gap` how far the answer may be from the best. (Where whole nodes are billed the bound still counts their GPUs one
by one, so it is honest but loose until the search ends by itself.)

Rules. A small model gets a slice of a GPU in MIG mode, a whole GPU, or, where `share` allows it and there is no MIG, a
part of a GPU in time, as long as memory and compute of those on it sum to one at most. A gang of `gpus` takes whole,
unsplit GPUs of one node and one NVLink domain; one larger than a node takes whole nodes of one domain; with `across`
any of one kind. A job is training: it may be preempted, and takes what serving leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.decide.pack import Search
from mainspring.decide.placement import Assignment, Geometry, Item, Nodes, Placement, Waiting
from mainspring.decide.points import Pool, Unit
from mainspring.decide.shelf import Need, Shelf
from mainspring.decide.written import Written, order_of
from mainspring.errors import InputError
from mainspring.facts.visible import visible

__all__ = ["BUDGET", "Assignment", "Geometry", "Item", "Nodes", "Placement", "Waiting", "place"]

BUDGET = 60_000
"""Points that the search looks into: about a second for dozens of models."""


def place(items: Sequence[Item], nodes: Sequence[Nodes], *, budget: int = BUDGET) -> Placement:
    """Place items on nodes; `budget` limits the points that the search looks into.

    Raises InputError ("bad-placement") for counts, prices or shares that mean nothing.
    """
    _check(items, nodes)
    pools, owners = _pools(nodes)
    units, replicas = _units(items, pools, owners)
    search = Search(pools, units, budget)
    packing = search.run()
    order = [replicas[unit] for unit in _positions(units, search.units)]
    written = Written(items, pools, owners, search.units, order)
    for at, move in enumerate(packing.moves):
        written.put(at, move)
    assignments = sorted(written.assignments(), key=lambda one: (order_of(items, one.item), one.replica))
    return Placement(
        tuple(assignments),
        tuple(written.geometries()),
        packing.dollars,
        packing.bound,
        packing.exact or (not any(packing.waits) and packing.dollars <= packing.bound + 1e-7),
        tuple(written.waiting()),
        written.used(nodes),
        packing.looked,
    )


def _positions(units: Sequence[Unit], ordered: Sequence[Unit]) -> list[int]:
    """Where each of `ordered` was in `units`: equal units in their order."""
    free: dict[Unit, list[int]] = {}
    for at, unit in enumerate(units):
        free.setdefault(unit, []).append(at)
    return [free[unit].pop(0) for unit in ordered]


def _check(items: Sequence[Item], nodes: Sequence[Nodes]) -> None:
    names = [one.name for one in items]
    groups = [one.name for one in nodes]
    for name in {*(one for one in names if names.count(one) > 1), *(one for one in groups if groups.count(one) > 1)}:
        raise InputError("bad-placement", f"`{name}` is there twice")
    for item in items:
        shares = [item.compute, *(share for _, share in item.shares)]
        if item.memory < 0 or item.gpus < 0 or item.replicas < 0 or any(share < 0 for share in shares):
            raise InputError("bad-placement", f"`{item.name}` has a negative size")
        if item.across and (item.spread or not item.gpus):
            raise InputError("bad-placement", f"`{item.name}`: `across` is for gangs whose replicas needn't spread")
    for one in nodes:
        if one.count < 0 or one.gpus < 1 or one.price < 0 or one.domain < 0:
            raise InputError("bad-placement", f"`{one.name}` has a negative count, size or price")
        small, large = sorted((one.domain or one.gpus, one.gpus))
        if large % small:
            raise InputError("bad-placement", f"`{one.name}`: nodes of {one.gpus} GPUs and domains of {one.domain}")


def _pools(nodes: Sequence[Nodes]) -> tuple[list[Pool], list[tuple[Nodes, int]]]:
    """Pools for the search, and for each its nodes and the number of its first one; racks that aren't full apart."""
    pools: list[Pool] = []
    owners: list[tuple[Nodes, int]] = []
    for one in nodes:
        shelf = Shelf(one.gpu, split=one.split, share=one.share)
        domain = one.domain or one.gpus
        rack = max(1, domain // one.gpus)
        size = min(domain, one.gpus)
        for boxes, each, first in ((one.count // rack, rack, 0), (1, one.count % rack, one.count // rack * rack)):
            if boxes and each:
                by_node = one.billed == "node"
                pools.append(Pool(shelf, one.price, boxes, each, one.gpus // size, size, by_node))
                owners.append((one, first))
    return pools, owners


def _units(
    items: Sequence[Item], pools: Sequence[Pool], owners: Sequence[tuple[Nodes, int]]
) -> tuple[list[Unit], list[tuple[int, int]]]:
    """A unit for each replica, and which replica of which item it is."""
    units: list[Unit] = []
    replicas: list[tuple[int, int]] = []
    for number, item in enumerate(items):
        needs = tuple(_need(item, pool, one) for pool, (one, _) in zip(pools, owners, strict=True))
        # Only items that keep apart are told apart: others with the same needs are the same to the search.
        unit = Unit(number if item.spread else -1, item.gpus, needs, item.spread, item.across, item.job)
        for replica in range(item.replicas):
            units.append(unit)
            replicas.append((number, replica))
    return units, replicas


def _need(item: Item, pool: Pool, one: Nodes) -> Need | None:
    """What a replica asks of a pool; None: it never goes there."""
    if item.only and one.gpu.name not in item.only:
        return None
    if not item.gpus:
        return pool.shelf.need(item.memory, dict(item.shares).get(one.gpu.name, item.compute))
    if item.memory > visible(one.gpu):
        return None
    if item.across:
        return () if item.gpus <= pool.gpus else None
    if item.gpus <= pool.per_node:
        return () if item.gpus <= pool.size else None
    return () if item.gpus <= pool.nodes * pool.per_node and item.gpus % pool.per_node == 0 else None
