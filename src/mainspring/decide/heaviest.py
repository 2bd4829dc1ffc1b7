"""The set of needs that weighs most on one shared GPU: a knapsack with memory and compute.

What this is: branch and bound; pure. Who calls it: `decide/bound.py`, to find the limit that its weights break, and to
prove that they break none. What it must never do: return less than the truth: out of steps, it returns an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 4000


@dataclass(frozen=True, slots=True)
class Choice:
    """One kind of need: at most `count` of it."""

    weight: float
    memory: float  # share of the GPU's
    compute: float  # share of the GPU's
    count: int


class Heaviest:
    """One search; `weight` and `amounts` (how many of each choice) are its answer."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._order = sorted(range(len(choices)), key=lambda at: (-_density(choices[at]), at))
        self._choices = [choices[at] for at in self._order]
        self._best = 0.0
        self._taken: list[int] = []
        self._steps = 0
        limits = [self._over(dimension) for dimension in range(3)]
        self._densities: list[tuple[float, ...]] = list(zip(*limits, strict=True))
        self._search(0, 0.0, 1.0, 1.0, ())
        self.weight = self._best if self._steps <= STEPS else self._above(0, 0.0, 1.0, 1.0)
        self.amounts: list[int] = [0] * len(choices)
        for place, taken in zip(self._order, self._taken, strict=False):
            self.amounts[place] = taken

    def _over(self, dimension: int) -> list[float]:
        """The highest weight by memory, by compute, or by both, of each choice and those after it."""
        best, found = 0.0, []
        for one in reversed(self._choices):
            size = (one.memory, one.compute, (one.memory + one.compute) / 2)[dimension]
            best = max(best, one.weight / max(size, 1e-12))
            found.append(best)
        return [*reversed(found), 0.0]

    def _above(self, at: int, weight: float, memory: float, compute: float) -> float:
        by_memory, by_compute, by_both = self._densities[at]
        return weight + min(by_memory * memory, by_compute * compute, by_both * (memory + compute) / 2)

    def _search(self, at: int, weight: float, memory: float, compute: float, taken: tuple[int, ...]) -> None:
        self._steps += 1
        if weight > self._best:
            self._best, self._taken = weight, list(taken)
        if at == len(self._choices) or self._steps > STEPS:
            return
        if self._above(at, weight, memory, compute) <= self._best + 1e-12:
            return
        one = self._choices[at]
        most = one.count
        if one.memory > 0:
            most = min(most, int(memory / one.memory + 1e-9))
        if one.compute > 0:
            most = min(most, int(compute / one.compute + 1e-9))
        for amount in range(most, -1, -1):
            self._search(
                at + 1,
                weight + amount * one.weight,
                memory - amount * one.memory,
                compute - amount * one.compute,
                (*taken, amount),
            )


def _density(one: Choice) -> float:
    return one.weight / max((one.memory + one.compute) / 2, 1e-12)
