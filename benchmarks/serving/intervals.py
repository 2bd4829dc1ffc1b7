"""Spread of what was measured in rounds or pairs.

Who calls it: the benchmarks of serving. What it must never do: compare two things that were not measured in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

DRAWS = 10_000


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of what was seen; NaN of nothing."""
    return float(np.quantile(np.asarray(values), share, method="higher")) if len(values) else float("nan")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """`0.12 to 0.19`: the least and the most of the rounds."""
    return f"{min(values):.{digits}g} to {max(values):.{digits}g}"


def median(values: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(values)


def ratio(pairs: Sequence[tuple[float, float]], confidence: float = 0.95) -> tuple[float, float, float]:
    """The ratio first : second of pairs as a geometric mean, and its bootstrap interval over pairs.

    Percentile bootstrap (Efron 1979) of the mean log ratio: pairs are drawn anew with repetition, so that what hits
    both halves of a pair alike (another program on the machine) does not widen the interval. The draws have a seed.
    """
    logs = np.log([first / second for first, second in pairs])
    draws = np.random.default_rng(0).choice(logs, (DRAWS, len(logs))).mean(axis=1)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))
