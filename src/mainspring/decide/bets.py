"""Means of bounded values, valid at any look: betting e-values and confidence sequences from counts by value.

A fair game: whoever holds that a mean is at most m must let others bet on each value x with a factor
1 + f (x / m - 1), which has an expectation of 1 at most. Wealth after all values is an e-value against what was
held (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86, section 4).
Bets here are constant and mixed over a fixed grid, so that the wealth does not depend on the order of values: counts
by value suffice. Some of the money is kept as cash, so that wealth never falls below `CASH`.

What this is: formulas on `Sample`s. Who calls it: `decide/checks.py`, benchmarks.
What it must never do: round a bucket to the side that suits the claim; callers give the edge that does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.decide.sequential import LARGEST

Floats = NDArray[np.float64]

CASH = 0.1
"""The part of the money that is never bet."""
BETS: Floats = 0.998 * 2.0 ** (-0.5 * np.arange(26, dtype=np.float64))
"""Parts of the rest that are bet on each value: half of all, a third, ... 1 in 6,000; small ones for many values."""
CELLS = 128
"""Steps in which the unknown mean of the control is gone through."""
EXACT = 1e-6
"""To which bounds are found."""
FINE = 64
"""Parts of 0 to 1 onto whose edges values are spread, where there are more values than that."""
NOWHERE = 1e-9
"""A chance that is none: where a mean is less likely than this, wealth is not told in steps."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Values from 0 to 1, and how often each was seen; arrays of one length."""

    values: Floats
    counts: Floats

    @property
    def size(self) -> float:
        """How many values there are."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean; nan without values."""
        return float(self.values @ self.counts) / self.size if self.size else math.nan

    @property
    def mirrored(self) -> Sample:
        """The values 1 - x: what is true of the mean from below becomes true from above."""
        return Sample(1.0 - self.values, self.counts)


def sample(pairs: tuple[tuple[float, int], ...], fine: int = FINE) -> Sample:
    """A sample from (value, count); values outside of 0 to 1 are moved to the nearer end.

    Where there are more than `fine` values, each is spread onto the two edges beside it of so many parts, so that the
    mean stays: the logarithm of wealth is concave in each value, so it only gets less by that.
    """
    values = np.clip(np.array([v for v, _ in pairs], dtype=np.float64), 0.0, 1.0)
    counts = np.array([n for _, n in pairs], dtype=np.float64)
    if len(values) <= fine:
        return Sample(values, counts)
    left = np.minimum((values * fine).astype(np.int64), fine - 1)
    right = values * fine - left  # the part of it that goes to the right edge
    spread = np.bincount(left, counts * (1.0 - right), fine + 1) + np.bincount(left + 1, counts * right, fine + 1)
    return Sample(np.arange(fine + 1) / fine, spread.astype(np.float64))


def wealth(seen: Sample, means: Floats) -> Floats:
    """Logarithm of the e-value against "the mean is at most m", for each m of `means` (more than 0); falls with m.

    Valid for values from 0 up, whether bounded or not.
    """
    if not seen.size:
        return np.zeros_like(means)
    gain = seen.values / np.maximum(means, 1e-12)[:, None] - 1.0
    logs = np.log1p(BETS[:, None, None] * gain) @ seen.counts
    top = np.maximum(logs.max(axis=0), 0.0)
    mixed = (1.0 - CASH) * np.mean(np.exp(logs - top), axis=0) + CASH * np.exp(-top)
    found: Floats = top + np.log(mixed)
    return found


def mean_above(seen: Sample, mean: float) -> float:
    """The e-value against "the mean is at most `mean`"; 1 without values.

    Raises `ValueError` unless 0 < mean.
    """
    if not mean > 0:
        raise ValueError(f"`{mean}` is not a mean to bet against: values are from 0 up")
    return math.exp(min(LARGEST, float(wealth(seen, np.array([mean]))[0])))


def mean_below(seen: Sample, mean: float) -> float:
    """The e-value against "the mean is `mean` or more", for values of 1 at most; 1 without values."""
    return mean_above(seen.mirrored, 1.0 - mean)


def lower(seen: Sample, alpha: float, exact: float = EXACT) -> float:
    """A bound from below on the mean, to `exact`: at no look ever above it, but with probability `alpha` at most."""
    if not seen.size:
        return 0.0
    enough, low, high = -math.log(alpha), 0.0, max(seen.mean, 0.0)
    while high - low > exact:
        middle = (low + high) / 2.0
        low, high = (middle, high) if wealth(seen, np.array([middle]))[0] >= enough else (low, middle)
    return low


def upper(seen: Sample, alpha: float, exact: float = EXACT) -> float:
    """A bound from above on the mean, as `lower`."""
    return 1.0 - lower(seen.mirrored, alpha, exact)


def interval(seen: Sample, alpha: float) -> tuple[float, float]:
    """A confidence sequence of the mean: both ends hold at all looks together with probability 1 - `alpha`."""
    return lower(seen, alpha / 2.0), upper(seen, alpha / 2.0)


class Beside:
    """Two samples side by side, the candidate's and the control's; answers are about the difference of their means.

    Against "the candidate's mean is at most the control's plus d": whatever the control's mean m truly is, the product
    of the candidate's wealth against m + d and of the control's against "m or more" is an e-value, so the least
    of them over all m is one too. It is gone through in cells; in each, the less favourable end of both counts.
    """

    def __init__(self, candidate: Sample, control: Sample) -> None:
        ends = [(lower(one, NOWHERE, 1e-3), upper(one, NOWHERE, 1e-3)) for one in (candidate, control)]
        self.step = max(max(high - low for low, high in ends) / CELLS, 1e-5)
        grids: list[Floats] = [
            low + self.step * np.arange(math.ceil((high - low) / self.step) + 2, dtype=np.float64) for low, high in ends
        ]
        self.own_from, self.own = float(grids[0][0]), wealth(candidate, grids[0])
        self.rest_from, self.rest = float(grids[1][0]), wealth(control.mirrored, 1.0 - grids[1])

    def log(self, difference: float) -> float:
        """Logarithm of the e-value against "the candidate's mean is at most the control's plus `difference`"."""
        floor = math.log(CASH)
        first = min(self.rest_from, self.own_from - difference) - self.step
        last = max(self.rest_from + self.step * len(self.rest), self.own_from - difference + self.step * len(self.own))
        left = first + self.step * np.arange(math.ceil((last - first) / self.step) + 2)
        i = np.ceil((left + self.step + difference - self.own_from) / self.step - 1e-9).astype(int)
        own = np.where(i < len(self.own), self.own[np.clip(i, 0, len(self.own) - 1)], floor)
        j = np.floor((left - self.rest_from) / self.step + 1e-9).astype(int)
        rest = np.where(j >= 0, self.rest[np.clip(j, 0, len(self.rest) - 1)], floor)
        return float((own + rest).min())


def difference(candidate: Sample, control: Sample, alpha: float) -> tuple[float, float]:
    """A confidence sequence of the candidate's mean less the control's: each end is wrong with `alpha` / 2 at most."""
    return between(Beside(candidate, control), Beside(candidate.mirrored, control.mirrored), alpha)


def between(above: Beside, below: Beside, alpha: float) -> tuple[float, float]:
    """The same from two samples side by side, `below` both mirrored."""
    enough = math.log(2.0 / alpha)
    return _furthest(above, enough), -_furthest(below, enough)


def _furthest(arms: Beside, enough: float) -> float:
    """The largest difference that the candidate's mean is surely over; -1 when none is."""
    low, high = -1.0, 1.0
    while high - low > EXACT:
        middle = (low + high) / 2.0
        low, high = (middle, high) if arms.log(middle) >= enough else (low, middle)
    return low
