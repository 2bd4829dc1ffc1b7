"""How good the live answers were: AUC, Brier score, and skill against the window's own base rate.

What this is: pure arithmetic on the counts and sums of a `Quality` reading, and the verdict of a quality watch.
Who calls it: `loop/decide.py` at each look; reports. What it must never do: compare a window with an old number
of another window (months differ in difficulty), or turn "not known" into a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mainspring.stack.monitoring import QualitySpec


class QualityLike(Protocol):
    """What is read of `loop.readings.Quality` (the layer above; a reading is taken by its shape)."""

    @property
    def rows(self) -> int: ...
    @property
    def positives(self) -> int: ...
    @property
    def loss(self) -> float: ...


@dataclass(frozen=True, slots=True)
class QualityVerdict:
    """What a quality watch says about a window."""

    fired: bool
    value: float | None  # Brier skill, 1 is perfect, 0 is no better than the base rate; None: unknown
    message: str


def auc(histogram_positive: Sequence[int], histogram_negative: Sequence[int]) -> float | None:
    """Area under the ROC curve from counts of scores by bin, lowest first; a tie within a bin counts half.

    None when one class has no rows. With 1,000 bins it differs from the exact value by the ties alone (< 0.001).
    """
    positive = np.asarray(histogram_positive, dtype=np.int64)
    negative = np.asarray(histogram_negative, dtype=np.int64)
    pairs = int(positive.sum()) * int(negative.sum())
    if pairs == 0:
        return None
    below = np.cumsum(negative) - negative
    twice = int(np.sum(positive * (2 * below + negative)))
    return twice / (2 * pairs)


def brier(quality: QualityLike) -> float | None:
    """Mean squared error of the probability; lower is better; None without rows."""
    return quality.loss / quality.rows if quality.rows else None


def brier_skill(quality: QualityLike) -> float | None:
    """1 - Brier / Brier of always saying the window's own base rate.

    None without rows, or when all outcomes are alike: the base rate is then perfect, and skill has no meaning.
    """
    if not quality.rows:
        return None
    rate = quality.positives / quality.rows
    base = rate * (1.0 - rate)
    return None if base == 0.0 else 1.0 - (quality.loss / quality.rows) / base


def judge(spec: QualitySpec, quality: QualityLike) -> QualityVerdict:
    """Fire when the skill is under the bound; too few known outcomes are unknown and never fire."""
    if quality.rows < spec.min_rows:
        return QualityVerdict(False, None, f"unknown: {quality.rows} known outcomes, {spec.min_rows} are needed")
    skill = brier_skill(quality)
    if skill is None:
        return QualityVerdict(False, None, f"unknown: all {quality.rows} outcomes are alike")
    fired = skill < spec.below
    relation = "under" if fired else "at or above"
    message = f"Brier skill {skill:.1%} on {quality.rows} rows is {relation} {spec.below:.1%}"
    return QualityVerdict(fired, skill, message)
