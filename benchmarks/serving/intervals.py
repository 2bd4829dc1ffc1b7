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
    """The ratio first : second of pairs, and its bootstrap interval over pairs.

    The ratio is the Hodges-Lehmann estimate (1963) of the log ratios: the median of the means of any two of them. It is
    nearly as sharp as their mean where nothing disturbs, and what disturbs a quarter of the pairs does not move it far.
    The interval is the percentile bootstrap (Efron 1979): pairs are drawn anew with repetition, so that what hits
    both halves of a pair alike does not widen it. The draws have a seed.
    """
    logs = np.log([first / second for first, second in pairs])
    left, right = np.triu_indices(len(logs))
    drawn = np.random.default_rng(0).choice(logs, (DRAWS, len(logs)))
    middles = np.median((drawn[:, left] + drawn[:, right]) / 2, axis=1)
    low, high = np.quantile(middles, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(np.exp(np.median((logs[left] + logs[right]) / 2))), float(np.exp(low)), float(np.exp(high))
