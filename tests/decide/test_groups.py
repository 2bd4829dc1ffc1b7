"""Group differences: what is shown to be alike, what differs, and what nobody can tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.groups import judge_groups, student
from mainspring.loop.snapshot import GroupNumbers
from mainspring.stack.pipelines import GroupGate


def _gate(**more: object) -> GroupGate:
    return GroupGate.model_validate({"column": "side", "differ_at_most": 0.2, **more})


def _group(name: str, value: float, error: float = 0.01, rows: int = 300, days: int = 14) -> GroupNumbers:
    return GroupNumbers("sides", name, rows, value, error, days)


def test_students_quantiles() -> None:
    """As the tables have them, down to no degree of freedom; below one half they change their sign."""
    table = {1: 6.314, 2: 2.920, 3: 2.353, 5: 2.015, 10: 1.812, 13: 1.771, 30: 1.697}
    for freedom, quantile in table.items():
        assert student(0.95, freedom) == pytest.approx(quantile, rel=0.001)
    assert student(0.95, 10**9) == pytest.approx(1.6449, abs=1e-4)
    assert student(0.05, 10) == -student(0.95, 10)
    assert student(0.5, 10) == 0.0
    assert student(0.95, 0) == math.inf


def test_the_sentence_has_the_gap_and_the_interval() -> None:
    """Groups with enough rows are compared; the bound holds for the gap and t standard errors more."""
    groups = [_group("a", 0.1), _group("b", 0.25), _group("c", 0.9, rows=10)]
    told = judge_groups("sides", _gate(), groups)
    upper = 0.15 + student(0.95, 13) * math.hypot(0.01, 0.01)
    assert told.passed
    assert told.numbers["high"] == pytest.approx(upper)
    assert told.message == (
        f"Groups of `side`: brier from 0.1000 (`a`) to 0.2500 (`b`), 0.1500 apart; 95% sure that no two are more than"
        f" {upper:.4f} apart (allowed 0.2): passed"
    )
    assert not judge_groups("sides", _gate(differ_at_most=0.16), groups).passed
    assert judge_groups("sides", _gate(differ_at_most=0.16, confidence="50%"), groups).passed


def test_a_small_group_in_doubt_is_refused_and_named() -> None:
    """A gap of nothing between few rows is not known to be small: the pair is named with its rows."""
    told = judge_groups("sides", _gate(), [_group("a", 0.2), _group("b", 0.2, error=0.3, rows=220)])
    assert not told.passed
    assert "(`a` with 300 rows, `b` with 220)" in told.message
    assert not judge_groups("sides", _gate(), [_group("a", 0.2, error=math.nan), _group("b", 0.2)]).passed
    assert "nothing can be compared" in judge_groups("sides", _gate(), [_group("a", 0.2)]).message


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0.0, 0.2))
def test_a_wider_bound_never_refuses_what_a_narrower_passed(values: list[float], error: float) -> None:
    """The verdict is monotone in the bound, and never below the gap that was seen."""
    groups = [_group(str(at), value, error) for at, value in enumerate(values)]
    narrow = judge_groups("sides", _gate(differ_at_most=0.3), groups)
    assert narrow.numbers["high"] >= narrow.numbers["gap"] - 1e-12
    if narrow.passed:
        assert judge_groups("sides", _gate(differ_at_most=0.4), groups).passed


def test_groups_that_differ_by_the_bound_pass_in_about_one_of_twenty() -> None:
    """Two groups that truly differ by the bound pass in about 5 of 100 trials of 14 days."""
    random = np.random.default_rng(5)
    passed = 0
    for _ in range(400):
        means = []
        for centre in (0.0, 0.2):
            days = centre + random.normal(0, 0.05, 14)
            means.append((float(days.mean()), float(days.std(ddof=1) / math.sqrt(14))))
        groups = [_group(name, value, error) for name, (value, error) in zip("ab", means, strict=True)]
        passed += judge_groups("sides", _gate(), groups).passed
    assert 5 <= passed <= 36
