"""Quality: AUC and Brier from histograms and sums, and the verdict of a watch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import quality
from mainspring.loop.readings import Quality
from mainspring.stack.monitoring import QualitySpec


def read(rows: int, positives: int, loss: float) -> Quality:
    """A reading with these sums."""
    return Quality(rows, positives, loss, 0.0, (), (), 0)


def test_auc_by_hand() -> None:
    """Of four pairs, two are in order, one is a tie, one is not."""
    assert quality.auc([0, 1, 1], [1, 1, 0]) == 3.5 / 4
    assert quality.auc([1, 0], [0, 1]) == 0.0
    assert quality.auc([0, 0], [1, 1]) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    """It equals the count over all pairs, ties as a half."""
    up, down = [s for s, y in rows if y], [s for s, y in rows if not y]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in up for b in down]
    found = quality.auc(np.bincount(up, minlength=10).tolist(), np.bincount(down, minlength=10).tolist())
    assert found == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)


def test_skill_against_the_windows_own_base_rate() -> None:
    """Always saying the base rate has no skill; perfect has all; one class alone is unknown."""
    assert quality.brier_skill(read(100, 20, 16.0)) == pytest.approx(0.0)
    assert quality.brier_skill(read(100, 20, 0.0)) == 1.0
    assert quality.brier_skill(read(100, 0, 1.0)) is None
    assert quality.brier_skill(read(0, 0, 0.0)) is None
    assert quality.brier(read(10, 1, 2.0)) == 0.2


def test_verdicts() -> None:
    """It fires under the bound, not at it; too few outcomes are unknown."""
    spec = QualitySpec(brier_skill="below 10%")
    assert quality.judge(spec, read(1000, 200, 150.0)).fired
    assert not quality.judge(spec, read(1000, 200, 140.0)).fired
    few = quality.judge(spec, read(499, 100, 300.0))
    assert (few.fired, few.value) == (False, None)
    alike = quality.judge(spec, read(1000, 0, 300.0))
    assert (alike.fired, alike.value) == (False, None)
