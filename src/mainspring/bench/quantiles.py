"""Percentiles and how sure they are, from order statistics: no law is assumed.

What this is: arithmetic, pure. Who calls it: `summary.py`. What it must never do: give a percentile that the number of
samples can't carry.

The sample of rank k is below the p-quantile with the probability that a binomial of (n, p) is at least k (David and
Nagaraja, "Order Statistics", 3rd ed., section 7.1). So two ranks bound the quantile with 95 % where both exist: from
6 samples on for p50, 72 for p95, 368 for p99. With fewer there is no such percentile here. The samples count as
independent; in a queue they are not quite, and the interval is then somewhat too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SURE = 0.95
SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Point:
    """One percentile in seconds and its 95 % interval."""

    value: float | None = None  # None: too few samples, or beyond the timeout
    low: float | None = None
    high: float | None = None  # None with a value: the interval reaches beyond the timeout
    beyond: float | None = None  # it lies beyond this timeout, nobody knows how far


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A measured time: percentiles, mean and largest in seconds."""

    samples: int
    timed_out: int  # of the samples: those that count as longer than any
    mean: float | None  # of those that ended
    largest: float | None  # of those that ended
    p50: Point
    p95: Point
    p99: Point


@lru_cache(maxsize=256)
def ranks(count: int, share: float) -> tuple[int, int] | None:
    """The ranks (from 1) of the samples that bound the quantile with 95 %; None where there are too few."""
    if count < 1:
        return None
    spread = 12.0 * math.sqrt(count * share * (1 - share)) + 40.0
    low, high = max(0, int(count * share - spread)), min(count, int(count * share + spread))
    k = np.arange(low + 1, high + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log((count - k + 1) / k * (share / (1 - share))))])
    weights = np.exp(logs - logs.max())
    below = np.cumsum(weights) / weights.sum()  # P(binomial <= low + i)
    half = (1 - SURE) / 2
    first = int(np.searchsorted(below, half, side="right"))  # P(B <= first - 1) <= half
    last = int(np.searchsorted(below, 1 - half, side="left")) + 1  # P(B >= last) <= half
    lower, upper = low + first, low + last
    return (lower, upper) if lower >= 1 and upper <= count else None


def needed(share: float) -> int:
    """The fewest samples that give a quantile."""
    return next(n for n in range(1, 1_000_000) if ranks(n, share) is not None)


def point(ordered: Floats, share: float, timeout: float) -> Point:
    """The percentile of samples in ascending order; those that timed out are infinite and come last."""
    count = len(ordered)
    found = ranks(count, share)
    if found is None:
        return Point()
    value, low, high = (
        float(ordered[rank - 1]) for rank in (max(1, math.ceil(count * share - 1e-9)), found[0], found[1])
    )
    if math.isinf(value):
        return Point(beyond=timeout)
    return Point(value, low, None if math.isinf(high) else high)


def quantiles(samples: Floats, timed_out: int = 0, timeout: float = 0.0) -> Quantiles:
    """Of samples in any order, and so many more that ended at the timeout (seconds)."""
    ordered = np.sort(samples)
    mean, largest = (float(ordered.mean()), float(ordered[-1])) if len(ordered) else (None, None)
    if timed_out:
        ordered = np.concatenate([ordered, np.full(timed_out, np.inf)])
    p50, p95, p99 = (point(ordered, share, timeout) for share in SHARES)
    return Quantiles(len(ordered), timed_out, mean, largest, p50, p95, p99)
