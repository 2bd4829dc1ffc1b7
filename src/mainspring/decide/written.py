"""The moves of the search, done on real nodes: who sits where, in which slices, and why the others wait.

What this is: the way back from sorted states to nodes with numbers; pure. Who calls it: `decide/place.py`. What it must
never do: change what the search chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mainspring.decide.placement import Assignment, Geometry, Item, Nodes, Waiting
from mainspring.decide.points import Box, Move, Node, Pool, Unit
from mainspring.decide.shelf import FREE, FULL, Need
from mainspring.facts import mig
from mainspring.facts.visible import visible


@dataclass(slots=True)
class _Gpu:
    """One real GPU while the answer is written down."""

    state: int = FREE
    held: list[tuple[int, Need]] = field(default_factory=list)  # unit and need


@dataclass(slots=True)
class _Node:
    """One real node: its domains' GPUs."""

    domains: list[list[_Gpu]]
    apart: set[int] = field(default_factory=set)

    def value(self) -> Node:
        """As the search sees it."""
        states = sorted(tuple(sorted(one.state for one in domain)) for domain in self.domains)
        return (tuple(sorted(self.apart)), tuple(states))

    def gpus(self) -> list[_Gpu]:
        """All of them, in order."""
        return [one for domain in self.domains for one in domain]


def order_of(items: Sequence[Item], name: str) -> int:
    """Where an item is in the list that it came in."""
    return next(at for at, one in enumerate(items) if one.name == name)


class Written:
    """The moves of a search, done on real nodes."""

    def __init__(
        self,
        items: Sequence[Item],
        pools: Sequence[Pool],
        owners: Sequence[tuple[Nodes, int]],
        units: Sequence[Unit],
        replicas: Sequence[tuple[int, int]],
    ) -> None:
        self._items, self._pools, self._owners = items, pools, owners
        self._units, self._replicas = units, replicas
        self._boxes = [
            [[_Node([[_Gpu() for _ in range(one.size)] for _ in range(one.domains)]) for _ in range(one.nodes)]
             for _ in range(one.boxes)]
            for one in pools
        ]  # fmt: skip
        self._unplaced: list[int] = []

    def put(self, at: int, move: Move | None) -> None:
        """Put the unit that the search placed as number `at` where its move says."""
        unit = self._units[at]
        if move is None:
            self._unplaced.append(at)
            return
        shelf = self._pools[move.pool].shelf
        for node, gpu in self._found(unit, move):
            need = unit.needs[move.pool]
            assert need is not None
            gpu.state = FULL if unit.gang else shelf.step(gpu.state, need)
            gpu.held.append((at, need))
            if unit.apart:
                node.apart.add(unit.item)

    def _found(self, unit: Unit, move: Move) -> list[tuple[_Node, _Gpu]]:
        """The real GPUs that a move means."""
        boxes = self._boxes[move.pool]
        if move.flat:
            every = [(node, gpu) for box in boxes for node in box for gpu in node.gpus() if gpu.state == move.state]
            every.sort(key=lambda one: not any(gpu.state for gpu in one[0].gpus()))  # used nodes first; order stays
            return every[: unit.gang or 1]
        wanted = move.box if move.box is not None else self._pools[move.pool].empty()
        box = next(one for one in boxes if _value(one) == wanted)
        if unit.gang > self._pools[move.pool].per_node:
            free = [node for node in box if not any(gpu.state for gpu in node.gpus())]
            nodes = free[: unit.gang // self._pools[move.pool].per_node]
            return [(node, gpu) for node in nodes for gpu in node.gpus()]
        node = next(one for one in box if one.value() == wanted[move.node])
        states = wanted[move.node][1][move.domain]
        domain = next(one for one in node.domains if tuple(sorted(gpu.state for gpu in one)) == states)
        return [(node, gpu) for gpu in domain if gpu.state == move.state][: unit.gang or 1]

    def _each(self) -> list[tuple[int, int, int, _Gpu]]:
        """Every GPU: pool, node, number, itself."""
        return [
            (pool, self._owners[pool][1] + at * self._pools[pool].nodes + below, number, gpu)
            for pool, boxes in enumerate(self._boxes)
            for at, box in enumerate(boxes)
            for below, node in enumerate(box)
            for number, gpu in enumerate(node.gpus())
        ]

    def assignments(self) -> list[Assignment]:
        """Each replica that has a place."""
        where: dict[int, tuple[int, list[tuple[int, int]], str, int]] = {}
        for pool, node, number, gpu in self._each():
            spots = self._slices(pool, gpu)
            for (at, _), (name, start) in zip(gpu.held, spots, strict=True):
                where.setdefault(at, (pool, [], name, start))[1].append((node, number))
        found = []
        for at, (pool, gpus, name, start) in where.items():
            item, replica = self._items[self._replicas[at][0]], self._replicas[at][1]
            shared = self._pools[pool].shelf.shared and not item.gpus
            nodes = self._owners[pool][0].name
            found.append(Assignment(item.name, replica, nodes, tuple(gpus), name, start, shared, item.job))
        return found

    def _slices(self, pool: int, gpu: _Gpu) -> list[tuple[str, int]]:
        """The slice of each thing that a GPU holds, and where it starts."""
        shelf = self._pools[pool].shelf
        if not shelf.key or gpu.state == FULL:
            return [("", -1)] * len(gpu.held)
        names = [mig.profiles(shelf.key)[need[0]].name for _, need in gpu.held]
        placed = mig.legal(shelf.key, names)
        assert placed is not None, names
        return [(one.profile.name, one.start) for one in placed]

    def geometries(self) -> list[Geometry]:
        """The GPUs that are split, slices by where they start."""
        found = []
        for pool, node, number, gpu in self._each():
            if self._pools[pool].shelf.key and gpu.held and gpu.state != FULL:
                spots = sorted(self._slices(pool, gpu), key=lambda one: one[1])
                found.append(Geometry(self._owners[pool][0].name, node, number, tuple(name for name, _ in spots)))
        return found

    def used(self, nodes: Sequence[Nodes]) -> tuple[tuple[str, int], ...]:
        """GPUs in use, by name of the nodes."""
        count = dict.fromkeys((one.name for one in nodes), 0)
        for pool, _, _, gpu in self._each():
            count[self._owners[pool][0].name] += bool(gpu.held)
        return tuple(count.items())

    def waiting(self) -> list[Waiting]:
        """Each replica without a place, and why."""
        found = []
        for at in self._unplaced:
            number, replica = self._replicas[at]
            found.append(Waiting(self._items[number].name, replica, self._why(self._items[number], self._units[at])))
        return sorted(found, key=lambda one: (order_of(self._items, one.item), one.replica))

    def _why(self, item: Item, unit: Unit) -> str:
        takers = [pool for pool, need in enumerate(unit.needs) if need is not None]
        if not takers:
            return self._never(item)
        nodes = [node for pool in takers for box in self._boxes[pool] for node in box]
        free = [sum(gpu.state == FREE for gpu in node.gpus()) for node in nodes]
        if unit.across:
            most = max(
                sum(gpu.state == FREE for box in self._boxes[pool] for node in box for gpu in node.gpus())
                for pool in takers
            )
            return f"{item.gpus} free GPUs of one kind wanted; {most} there"
        if item.spread and all(unit.item in node.apart for node in nodes):
            return f"each of the {len(nodes)} nodes that take it has a replica already"
        apart = " without a replica of it" if item.spread else ""
        if item.gpus:
            open_nodes = [node for node in nodes if unit.item not in node.apart]
            domains = [sum(gpu.state == FREE for gpu in one) for node in open_nodes for one in node.domains]
            large = item.gpus > max(self._pools[pool].per_node for pool in takers)
            most = sum(free) if large else max(domains, default=0)
            where = "whole free nodes of one NVLink domain wanted" if large else "free GPUs in one NVLink domain"
            if large:
                return f"{item.gpus} GPUs in {where}; {most} free GPUs there"
            return f"no node{apart} with {item.gpus} {where}; {most} there"
        return f"no free slice or GPU{apart} with {item.memory / 1e9:.1f} GB; {sum(free)} free GPUs there"

    def _never(self, item: Item) -> str:
        """Why no pool would ever take an item."""
        if not self._pools:
            return "there are no nodes"
        fitting = [one.gpu for one, _ in self._owners if not item.only or one.gpu.name in item.only]
        if not fitting:
            return f"runs on {', '.join(item.only)}; there are none"
        memory = max(visible(gpu) for gpu in fitting)
        if item.memory > memory:
            return f"{item.memory / 1e9:.1f} GB wanted on one GPU; the largest has {memory / 1e9:.1f} GB"
        if not item.gpus:
            return f"{item.compute:.2f} of a GPU's compute wanted; a small model gets one GPU at most"
        most = max(pool.size if pool.nodes == 1 else pool.nodes * pool.per_node for pool in self._pools)
        return f"{item.gpus} GPUs in one NVLink domain wanted; the largest has {most}"


def _value(box: Sequence[_Node]) -> Box:
    return tuple(sorted(node.value() for node in box))
