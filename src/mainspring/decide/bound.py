"""The least that a set of models can cost: a linear program's dual, of which every feasible point is a proof.

What this is: weights for what models need, such that no GPU holds more than it costs; pure. Who calls it:
`decide/pack.py`, to prune and to state how far from the best its answer can be. What it must never do: be above the
truth: whatever the solver returns is scaled until it is feasible.

The problem that it relaxes: GPUs of pool g, at most `gpus` of it, each filled with one of its legal sets. Weights `W`
are feasible when the set that weighs most weighs at most `price + scarce`; then no placement costs less than
`sum(min over pools of W(need)) - sum(scarce x gpus)`. `scarce` is what one more GPU of a cheap, limited pool is worth.
(Gilmore and Gomory, "A linear programming approach to the cutting-stock problem", 1961.) Legal sets of MIG are all
listed; those of a shared GPU are found one by one, by what the last weights break.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mainspring.decide.heaviest import Choice, Heaviest
from mainspring.decide.shelf import FREE, FULL, MILLION, TOLERANCE, WHOLE, Need, Shelf
from mainspring.decide.simplex import PIVOTS, Array, maximise
from mainspring.facts import mig

ROUNDS = 60
GRIDS = (0, 256, 128, 64, 32, 16, 8)
"""Parts of a shared GPU that needs are rounded down to, for the bound alone, when they are of too many kinds."""

KINDS = 64
"""Kinds that are few enough."""

WORK = 1.5e9
"""Rounds, and table entries touched by all pivots of all rounds, that are spent on a bound: half a second or so."""

_SAFE = 1.0 - 1e-9

Ask = tuple[int, tuple[Need | None, ...]]
"""What a unit asks: GPUs of a gang (0: a small model), and its need in each pool (None: never there)."""

Amounts = dict[Need, int]
"""A set that one GPU holds: how many of each need."""


@dataclass(frozen=True, slots=True)
class Stock:
    """What the bound needs to know of a pool."""

    shelf: Shelf
    price: float  # dollars an hour of one GPU
    gpus: int


@dataclass(frozen=True, slots=True)
class _Weights:
    """Feasible weights: what they prove, what a GPU of each pool is worth beyond its price, and each need's weight."""

    value: float
    scarce: list[float]
    needs: list[dict[Need, float]]


class Bound:
    """Feasible weights for these units in these pools."""

    def __init__(self, stocks: Sequence[Stock], asks: Sequence[Ask]) -> None:
        self._stocks = stocks
        counts = Counter(asks)
        grid = _grid(stocks, list(counts))
        coarse: Counter[Ask] = Counter()
        for ask, count in counts.items():
            coarse[_floor(stocks, ask, grid)] += count
        kinds = sorted(coarse, key=repr)
        best = _best(stocks, kinds, [coarse[kind] for kind in kinds])
        self.scarce = best.scarce
        self._worth = {ask: _least(stocks, best.scarce, best.needs, _floor(stocks, ask, grid)) for ask in counts}
        self._weights: list[dict[Need, float]] = []
        for pool in range(len(stocks)):
            small = [(ask[1][pool], _floor(stocks, ask, grid)[1][pool]) for ask in counts if not ask[0]]
            self._weights.append({need: best.needs[pool][low] for need, low in small if need and low})
        self._most: list[dict[int, float]] = [{} for _ in stocks]
        self._takes: list[dict[int, bool]] = [{} for _ in stocks]
        self.offset = sum(worth * stock.gpus for worth, stock in zip(self.scarce, stocks, strict=True))

    def worth(self, ask: Ask) -> float:
        """The share of the bound that is a unit's; infinite when no pool takes it."""
        return self._worth[ask]

    def most(self, pool: int, state: int) -> float:
        """The most weight that still goes into a GPU of `pool` in `state`."""
        known = self._most[pool]
        if state not in known:
            known[state] = self._fill(pool, state)
        return known[state]

    def takes(self, pool: int, state: int) -> bool:
        """Whether any of the small models still goes into a GPU of `pool` in `state`."""
        known = self._takes[pool]
        if state not in known:
            step = self._stocks[pool].shelf.step
            known[state] = state != FULL and any(step(state, need) >= 0 for need in self._weights[pool])
        return known[state]

    def _fill(self, pool: int, state: int) -> float:
        shelf, weights = self._stocks[pool].shelf, self._weights[pool]
        whole = self._stocks[pool].price + self.scarce[pool]
        if state == FREE:
            return whole
        if state == FULL:
            return 0.0
        steps = [(need, shelf.step(state, need)) for need in weights]
        steps = [(need, after) for need, after in steps if after >= 0]
        # No set weighs more than the whole; and of MIG, what can be put in beside is known exactly.
        rest = max(0.0, whole - sum(weights[need] for need in shelf.contents[state]))
        if shelf.shared:
            return rest if steps else 0.0
        return min(rest, max((weights[need] + self.most(pool, after) for need, after in steps), default=0.0))


def _grid(stocks: Sequence[Stock], asks: Sequence[Ask]) -> int:
    """The finest grid for shared GPUs at which kinds are few enough for the program; 0: none is needed."""
    for grid in GRIDS:
        if len({_floor(stocks, ask, grid) for ask in asks}) <= KINDS:
            return grid
    return GRIDS[-1]


def _floor(stocks: Sequence[Stock], ask: Ask, grid: int) -> Ask:
    """What a unit asks of shared GPUs, rounded down: whatever goes together as it is goes together so."""
    gang, needs = ask
    if gang or not grid:
        return ask
    found: list[Need | None] = []
    for stock, need in zip(stocks, needs, strict=True):
        if need and stock.shelf.shared:
            memory, compute = stock.shelf.room // grid, MILLION // grid
            found.append((need[0] // memory * memory, need[1] // compute * compute))
        else:
            found.append(need)
    return gang, tuple(found)


def _least(stocks: Sequence[Stock], scarce: Sequence[float], weights: Sequence[dict[Need, float]], ask: Ask) -> float:
    """The least that a unit weighs in any pool."""
    gang, needs = ask
    found = math.inf
    for pool, need in enumerate(needs):
        if need is not None:
            whole = stocks[pool].price + scarce[pool]
            found = min(found, (gang or 1) * whole if gang or need == WHOLE else weights[pool][need])
    return found


def _best(stocks: Sequence[Stock], kinds: Sequence[Ask], counts: Sequence[int]) -> _Weights:
    """The weights that prove most, of all rounds: each adds the sets that the last round's weights break."""
    program = _Program(stocks, kinds, counts)
    best = _Weights(-1.0, [0.0] * len(stocks), program.nothing())
    for _ in range(min(ROUNDS, max(1, int(WORK / program.work)))):
        found, broken = program.round()
        if found.value > best.value:
            best = found
        if not broken:
            break
    return best


class _Program:
    """The dual program. Variables: what each kind is worth, each pool's scarcity, each need's weight in each pool."""

    def __init__(self, stocks: Sequence[Stock], kinds: Sequence[Ask], counts: Sequence[int]) -> None:
        self._stocks, self._kinds, self._counts = stocks, kinds, counts
        self._weights: list[dict[Need, int]] = []  # the variable of each need
        self._demand: list[dict[Need, int]] = []
        size = len(kinds) + len(stocks)
        for pool in range(len(stocks)):
            demand: dict[Need, int] = {}
            for (gang, needs), count in zip(kinds, counts, strict=True):
                need = needs[pool]
                if not gang and need:
                    demand[need] = demand.get(need, 0) + count
            self._demand.append(demand)
            self._weights.append({need: size + at for at, need in enumerate(sorted(demand))})
            size += len(demand)
        self._size = size
        self._rows: list[Array] = []
        self._limits: list[float] = []
        self._state_kinds()
        for pool in range(len(stocks)):
            for amounts in self._known(pool):
                self._add(pool, amounts)
        self._goal = np.zeros(size)
        takers = [any(need is not None for need in needs) for _, needs in kinds]
        self._goal[: len(kinds)] = [count if taken else 0 for count, taken in zip(counts, takers, strict=True)]
        self._goal[len(kinds) : len(kinds) + len(stocks)] = [-float(stock.gpus) for stock in stocks]

    @property
    def work(self) -> float:
        """Table entries that the pivots of a round touch at most."""
        return PIVOTS * max(1.0, float(len(self._rows)) * (len(self._rows) + self._size))

    def nothing(self) -> list[dict[Need, float]]:
        """Weights of zero, which prove nothing."""
        return [dict.fromkeys(weights, 0.0) for weights in self._weights]

    def _state_kinds(self) -> None:
        """A kind is worth at most what it weighs in each pool."""
        for at, (gang, needs) in enumerate(self._kinds):
            for pool, need in enumerate(needs):
                if need is None:
                    continue
                row = np.zeros(self._size)
                row[at] = 1.0
                whole = gang or need == WHOLE
                if whole:
                    row[len(self._kinds) + pool] = -(gang or 1.0)
                else:
                    row[self._weights[pool][need]] = -1.0
                self._rows.append(row)
                self._limits.append((gang or 1.0) * self._stocks[pool].price if whole else 0.0)

    def _known(self, pool: int) -> list[Amounts]:
        """The sets to begin with: all that MIG takes; of shared GPUs, as many as go of each need."""
        stock, demand = self._stocks[pool], self._demand[pool]
        if stock.shelf.shared:
            return [self._capped(pool, {need: MILLION}) for need in demand]
        if not stock.shelf.key or not demand:
            return []
        found = []
        for kinds in mig.full(stock.shelf.key):
            amounts: Amounts = {}
            for kind in kinds:
                if (kind,) in demand:
                    amounts[kind,] = min(demand[kind,], amounts.get((kind,), 0) + 1)
            if amounts and amounts not in found:
                found.append(amounts)
        return found

    def _capped(self, pool: int, amounts: Amounts) -> Amounts:
        """No more of one need than goes on a GPU or is asked for."""
        shelf = self._stocks[pool].shelf
        capped = {}
        for need, amount in amounts.items():
            by_memory = shelf.room // need[0] if need[0] else MILLION
            by_compute = (MILLION + TOLERANCE) // need[1] if need[1] else MILLION
            capped[need] = min(amount, by_memory, by_compute, self._demand[pool][need])
        return capped

    def _add(self, pool: int, amounts: Amounts) -> None:
        """A GPU holds `amounts`, so they weigh at most its price and scarcity."""
        row = np.zeros(self._size)
        row[len(self._kinds) + pool] = -1.0
        for need, amount in amounts.items():
            row[self._weights[pool][need]] = amount
        self._rows.append(row)
        self._limits.append(self._stocks[pool].price)

    def round(self) -> tuple[_Weights, bool]:
        """Solve, make the weights feasible, and add the sets that they broke; whether there were any."""
        solution = maximise(np.array(self._rows), np.array(self._limits), self._goal) if self._rows else self._goal
        scarce = [max(0.0, float(solution[len(self._kinds) + pool])) for pool in range(len(self._stocks))]
        needs: list[dict[Need, float]] = []
        broken = False
        for pool, stock in enumerate(self._stocks):
            weights = {need: float(solution[at]) for need, at in self._weights[pool].items()}
            weight, amounts = self._heaviest(pool, weights)
            limit = stock.price + scarce[pool]
            if weight > limit * (1.0 + 1e-7) and amounts:
                self._add(pool, amounts)
                broken = True
            scale = _SAFE * (min(1.0, limit / weight) if weight > 0 else 1.0)
            needs.append({need: one * scale for need, one in weights.items()})
        worths = [_least(self._stocks, scarce, needs, kind) for kind in self._kinds]
        value = sum(worth * count for worth, count in zip(worths, self._counts, strict=True) if math.isfinite(worth))
        value -= sum(one * stock.gpus for one, stock in zip(scarce, self._stocks, strict=True))
        return _Weights(value, scarce, needs), broken

    def _heaviest(self, pool: int, weights: dict[Need, float]) -> tuple[float, Amounts]:
        """The heaviest set that a GPU of a pool holds, or at least a bound on its weight."""
        shelf = self._stocks[pool].shelf
        if not shelf.shared:
            known = self._known(pool)
            return max((sum(weights[n] * k for n, k in one.items()) for one in known), default=0.0), {}
        asked = list(weights)
        choices = [
            Choice(weights[need], need[0] / shelf.room, need[1] / (MILLION + TOLERANCE), self._demand[pool][need])
            for need in asked
        ]
        found = Heaviest(choices)
        return found.weight, {need: amount for need, amount in zip(asked, found.amounts, strict=True) if amount}
