"""Where the next unit can go from a point of the search, and what that costs.

What this is: the tree that `decide/pack.py` walks; pure. Who calls it: `decide/pack.py`. What it must never do: forget
a way that could be the only best one: it leaves out those that are equal to another, and no others.

Two phases. While gangs that need a link, or replicas that must keep apart, are left, a point is the boxes (nodes, or
racks of nodes that one NVLink domain joins), each as the states of its GPUs, sorted, so that equal ones are one. Then
only numbers of GPUs matter: a point is, for each pool, the GPUs that still take something, and how many are free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mainspring.decide.bound import Bound
from mainspring.decide.points import At, Box, Domain, Flat, Move, Node, Pool, Step, Unit
from mainspring.decide.shelf import FREE, FULL, Need


class Ways:
    """The ways from any point, for these pools, units in this order, and this bound."""

    def __init__(self, pools: Sequence[Pool], units: Sequence[Unit], bound: Bound) -> None:
        self.pools, self.units, self.bound = pools, units, bound
        self._boxed = next((at for at, unit in enumerate(units) if not unit.placed_by_box), len(units))

    def start(self) -> At:
        """The point at which nothing is placed."""
        left = tuple(pool.boxes for pool in self.pools)
        return self.flatten(At(0, (), left, (), 0.0, 0.0, (0, 0)))

    def wait(self, at: At) -> At:
        """Leave the next unit without a place."""
        job = self.units[at.depth].job
        waits = (at.waits[0] + (not job), at.waits[1] + job)
        return At(at.depth + 1, at.boxes, at.left, at.flat, at.dollars, at.credit, waits, Step(None, at.path))

    def ways(self, at: At) -> list[tuple[int, int, At]]:
        """Where the next unit can go: how loosely it sits there, a number, and the point after; equal ways once."""
        return self._flat_ways(at) if at.flat else self._boxed_ways(at)

    # What a GPU, once paid for, is worth to the bound: see `At.credit`.

    def _opened(self, pool: int, paid: int, fresh: int) -> tuple[float, float]:
        """Dollars, and credit, when `fresh` GPUs of a free node are used and `paid` GPUs begin to be paid for."""
        one = self.pools[pool]
        whole = one.price + self.bound.scarce[pool]
        return paid * one.price, (paid - fresh) * whole - paid * self.bound.scarce[pool]

    def _cost(self, pool: int, before: int, after: int, node_used: bool, count: int = 1) -> tuple[float, float]:
        """Dollars and credit of taking `count` GPUs from state `before` to `after` in a node that is used or not."""
        one = self.pools[pool]
        most = self.bound.most(pool, after) * count
        if before != FREE:
            return 0.0, most - self.bound.most(pool, before)
        if not one.by_node:
            dollars, credit = self._opened(pool, count, count)
        elif node_used:
            dollars, credit = 0.0, -count * (one.price + self.bound.scarce[pool])
        else:
            dollars, credit = self._opened(pool, one.per_node, count)
        return dollars, credit + most

    # Phase one: boxes.

    def _boxed_ways(self, at: At) -> list[tuple[int, int, At]]:
        unit = self.units[at.depth]
        found: dict[object, tuple[int, int, At]] = {}
        for pool, need in enumerate(unit.needs):
            if need is None:
                continue
            boxes = {box: None for number, box in at.boxes if number == pool}
            fresh = [None] if at.left[pool] else []
            for box in (*boxes, *fresh):
                for after, move, dollars, credit, tight in self._in_box(unit, pool, need, box):
                    key = (pool, box, after)
                    if key not in found:
                        way = self._moved(at, pool, box, after, (move, dollars, credit))
                        found[key] = (tight, len(found), way)
        return list(found.values())

    def _moved(self, at: At, pool: int, box: Box | None, after: Box, cost: tuple[Move, float, float]) -> At:
        boxes, left = list(at.boxes), at.left
        if box is None:
            left = (*left[:pool], left[pool] - 1, *left[pool + 1 :])
        else:
            boxes.remove((pool, box))
        move, dollars, credit = cost
        return At(
            at.depth + 1,
            tuple(sorted([*boxes, (pool, after)])),
            left,
            (),
            at.dollars + dollars,
            at.credit + credit,
            at.waits,
            Step(move, at.path),
        )

    def _in_box(
        self, unit: Unit, pool: int, need: Need, was: Box | None
    ) -> Iterator[tuple[Box, Move, float, float, int]]:
        """Each way to put a unit into a box: the box after, the move, dollars, credit, and what is left free."""
        one = self.pools[pool]
        box = was if was is not None else one.empty()
        if unit.gang > one.per_node:
            yield from self._over_nodes(unit, pool, was, box)
            return
        for number, (names, domains) in enumerate(box):
            if (unit.apart and unit.item in names) or box[number] in box[:number]:
                continue
            used = any(any(domain) for domain in domains)
            kept = tuple(sorted({*names, unit.item})) if unit.apart else names
            for place, domain in enumerate(domains):
                if domain in domains[:place]:
                    continue
                for state, after, changed in self._in_domain(unit, pool, need, domain):
                    dollars, credit = self._cost(pool, state, after, used, unit.gang or 1)
                    rest = (*domains[:place], changed, *domains[place + 1 :])
                    node: Node = (kept, tuple(sorted(rest)))
                    move = Move(pool, state, was, number, place)
                    yield (
                        tuple(sorted((*box[:number], node, *box[number + 1 :]))),
                        move,
                        dollars,
                        credit,
                        _loose(node, state),
                    )

    def _in_domain(self, unit: Unit, pool: int, need: Need, domain: Domain) -> Iterator[tuple[int, int, Domain]]:
        """Each way in one domain: the state before, after, and the domain after."""
        if unit.gang:
            if domain.count(FREE) >= unit.gang:
                rest = list(domain)
                for _ in range(unit.gang):
                    rest.remove(FREE)
                yield FREE, FULL, tuple(sorted((*rest, *(FULL,) * unit.gang)))
            return
        for state in sorted(set(domain), reverse=True):
            after = self.pools[pool].shelf.step(state, need)
            if after >= 0:
                at = domain.index(state)
                yield state, after, tuple(sorted((*domain[:at], after, *domain[at + 1 :])))

    def _over_nodes(
        self, unit: Unit, pool: int, was: Box | None, box: Box
    ) -> Iterator[tuple[Box, Move, float, float, int]]:
        """A gang larger than a node: whole free nodes of one domain."""
        one = self.pools[pool]
        empty = one.empty()[0]
        count = unit.gang // one.per_node
        if unit.gang % one.per_node or box.count(empty) < count:
            return
        node: Node = ((unit.item,) if unit.apart else (), ((FULL,) * one.size,) * one.domains)
        after = list(box)
        for _ in range(count):
            after.remove(empty)
        dollars, credit = self._opened(pool, unit.gang, unit.gang)
        yield tuple(sorted((*after, *(node,) * count))), Move(pool, FREE, was), dollars, credit, len(after)

    # Phase two: numbers.

    def flatten(self, at: At) -> At:
        """Enter phase two when no unit that is left asks about boxes."""
        if at.flat or at.depth < self._boxed:
            return at
        flat: list[Flat] = []
        for pool, one in enumerate(self.pools):
            partly: list[int] = []
            paid, nodes = 0, at.left[pool] * one.nodes
            for number, box in at.boxes:
                for _, domains in box if number == pool else ():
                    states = [state for domain in domains for state in domain]
                    partly += [state for state in states if state not in (FREE, FULL)]
                    used = any(states)
                    paid += states.count(FREE) if used else 0
                    nodes += not used
            if not one.by_node:  # then a free GPU costs the same wherever it is
                paid, nodes = paid + nodes * one.per_node, 0
            flat.append((tuple(sorted(state for state in partly if self.bound.takes(pool, state))), paid, nodes))
        return At(at.depth, (), (), tuple(flat), at.dollars, at.credit, at.waits, at.path)

    def _flat_ways(self, at: At) -> list[tuple[int, int, At]]:
        unit = self.units[at.depth]
        found: list[tuple[int, int, At]] = []
        for pool, need in enumerate(unit.needs):
            if need is None:
                continue
            partly, paid, nodes = at.flat[pool]
            if not unit.gang:
                for state in sorted(set(partly), reverse=True):
                    after = self.pools[pool].shelf.step(state, need)
                    if after >= 0:
                        spot = partly.index(state)
                        rest = (*partly[:spot], *partly[spot + 1 :])
                        cost = self._cost(pool, state, after, node_used=True)
                        found.append((0, len(found), self._flat(at, Move(pool, state, flat=True), after, rest, cost)))
            if paid + nodes * self.pools[pool].per_node >= (unit.gang or 1):
                after = FULL if unit.gang else self.pools[pool].shelf.step(FREE, need)
                found.append((1, len(found), self._fresh(at, pool, after, unit.gang or 1)))
        return found

    def _fresh(self, at: At, pool: int, after: int, count: int) -> At:
        """Take free GPUs: those of used nodes first."""
        one = self.pools[pool]
        partly, paid, nodes = at.flat[pool]
        dollars = credit = 0.0
        from_used = min(count, paid)
        opened = math.ceil((count - from_used) / one.per_node)
        if from_used:
            cost = self._cost(pool, FREE, after, node_used=True, count=from_used)
            dollars, credit = dollars + cost[0], credit + cost[1]
        if opened:
            fresh = count - from_used
            more, gain = self._opened(pool, opened * one.per_node if one.by_node else fresh, fresh)
            dollars, credit = dollars + more, credit + gain + fresh * self.bound.most(pool, after)
        paid += opened * one.per_node - count
        state = self._flat(at, Move(pool, flat=True), after, partly, (dollars, credit))
        now = (state.flat[pool][0], paid, nodes - opened)
        state.flat = (*state.flat[:pool], now, *state.flat[pool + 1 :])
        return state

    def _flat(self, at: At, move: Move, after: int, rest: tuple[int, ...], cost: tuple[float, float]) -> At:
        pool = move.pool
        _, paid, nodes = at.flat[pool]
        alive = self.bound.takes(pool, after)
        now: Flat = (tuple(sorted((*rest, after))) if alive else rest, paid, nodes)
        flat = (*at.flat[:pool], now, *at.flat[pool + 1 :])
        return At(at.depth + 1, (), (), flat, at.dollars + cost[0], at.credit + cost[1], at.waits, Step(move, at.path))


def _loose(node: Node, state: int) -> int:
    """How loosely a unit sits: a GPU that was free comes after all that weren't, then what its node has left free."""
    free = sum(domain.count(FREE) for domain in node[1])
    return free + (1 << 20 if state == FREE else 0)
