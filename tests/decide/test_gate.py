"""The gate: what passes, what is refused, and what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.gate import judge, paired_difference
from mainspring.loop.snapshot import CheckNumbers, DayLoss, GateNumbers
from mainspring.stack.pipelines import Gates


def _gates(**sections: object) -> Gates:
    return Gates.model_validate(sections)


def _numbers(differences: list[float], rows: int = 100, own: float = 16.0) -> GateNumbers:
    days = tuple(DayLoss(day, rows, own + d, own) for day, d in enumerate(differences))
    return GateNumbers(len(days) * rows, days, auc=0.7, champion_auc=0.69, latency_p95=0.002, champion="3")


BRIER = {"brier": {"no_worse_by": 0.005}}


def test_hand_example() -> None:
    """Differences of -1, 0 and 1 a day of 100 rows: mean 0, and the bound at 95 % is a mean of three draws."""
    mean, low, high = paired_difference(_numbers([-1.0, 0.0, 1.0]).days, 0.95, seed=0)
    assert mean == 0
    # Of 27 equally likely draws 4 have a sum of 2 or 3, so the quantile at 95 % is a sum of 2: 2 / 300.
    assert high == pytest.approx(2 / 300)
    assert low == pytest.approx(-2 / 300)


def test_by_single_rows() -> None:
    """By rows the standard error is of the rows' differences; without them days are resampled, and that is said."""
    days = tuple(DayLoss(day, 100, 16.5, 16.0, 4.0) for day in range(4))
    numbers = GateNumbers(400, days, auc=0.7, champion_auc=0.69, latency_p95=0.002, champion="3")
    (item,) = judge(_gates(brier={"no_worse_by": 0.02, "by": "row"}), numbers).items
    # Mean 0.005; of the squares 0.04 a row: a standard deviation of 0.2, so 0.01 of the mean of 400, times 1.649.
    assert item.numbers["high"] == pytest.approx(0.005 + 1.649 * 0.01, abs=1e-4)
    assert not item.passed
    assert judge(_gates(brier={"no_worse_by": 0.022, "by": "row"}), numbers).passed
    assert judge(_gates(brier={"no_worse_by": 0.006}), numbers).passed  # days that are all alike leave no doubt
    unknown = replace(numbers, days=tuple(replace(d, squares=math.nan) for d in days))
    assert "whole days were resampled" in judge(_gates(brier={"no_worse_by": 0.02, "by": "row"}), unknown).message


def test_better_passes_and_worse_is_refused() -> None:
    """A candidate that is better each day passes, one that is worse each day by more than the margin does not."""
    better = judge(_gates(**BRIER), _numbers([-0.5, -0.2, -0.4, -0.3]))
    assert better.passed
    assert better.message == (
        "Brier 0.1565 vs 0.1600 of version 3 on 400 rows of 4 days: difference −0.0035,"
        " 95% sure it is no worse than −0.0025 (allowed +0.0050): passed"
    )
    assert not judge(_gates(**BRIER), _numbers([0.6, 0.7, 0.5, 0.8])).passed


def test_doubt_is_refused() -> None:
    """Without worse evidence, but with days that differ widely, it is not sure enough."""
    assert not judge(_gates(**BRIER), _numbers([-3.0, 3.0, -2.0, 2.0])).passed


@pytest.mark.parametrize("numbers", [_numbers([-1.0, -1.0]), _numbers([-0.1] * 5, rows=10, own=1.0), _numbers([])])
def test_too_few_rows_are_refused(numbers: GateNumbers) -> None:
    """Fewer than 3 days or 100 rows decide nothing, whatever they say."""
    verdict = judge(_gates(**BRIER, auc={"at_least": 0.1}), numbers)
    assert [item.passed for item in verdict.items] == [False, False]
    assert "at least 100 rows of 3 days are needed" in verdict.message


def test_first_version_has_nothing_to_be_worse_than() -> None:
    """Without a champion `no_worse_by` passes and says so; bounds of its own still hold."""
    alone = replace(_numbers([math.nan] * 4), champion="")
    alone = replace(alone, days=tuple(replace(d, candidate=16.0) for d in alone.days))
    assert judge(_gates(**BRIER), alone).passed
    assert not judge(_gates(brier={"no_worse_by": 0.1, "at_most": 0.15}), alone).passed


def test_unknown_is_refused() -> None:
    """An AUC or latency that is not known, a check that was not run, groups too small: all refused."""
    numbers = replace(_numbers([0.0] * 5), auc=math.nan, latency_p95=math.nan)
    gates = _gates(
        auc={"at_least": 0.5},
        latency={"p95": "1s"},
        groups={"sides": {"column": "side", "differ_at_most": 1}},
        checks={"mine": {"run": "m:f"}},
    )
    assert [item.passed for item in judge(gates, numbers).items] == [False] * 4


def test_checks() -> None:
    """The user's check speaks for itself."""
    told = CheckNumbers("mine", True, "fine")
    numbers = replace(_numbers([0.0] * 5), checks=(told,))
    assert judge(_gates(checks={"mine": {"run": "m:f"}}), numbers).message == "Check `mine`: fine: passed"
    failed = replace(numbers, checks=(replace(told, passed=False, message="odd"),))
    assert not judge(_gates(checks={"mine": {"run": "m:f"}}), failed).passed


def test_auc_no_worse_by() -> None:
    """The difference less Student's t times its standard error must be above the margin, by days or by rows."""
    numbers = replace(_numbers([0.0] * 14), auc=0.70, champion_auc=0.71, auc_errors=(0.010, 0.005))
    gates = _gates(auc={"no_worse_by": 0.03})
    (item,) = judge(gates, numbers).items
    assert item.passed
    # t of 13 degrees of freedom at 95 % is 1.771: -0.01 - 0.0177 = -0.0277.
    assert item.numbers["low"] == pytest.approx(-0.01 - 1.771 * 0.010, abs=1e-5)
    assert "difference −0.0100, 95% sure it is no worse than −0.0277 (allowed −0.0300)" in item.message
    assert not judge(_gates(auc={"no_worse_by": 0.02}), numbers).passed
    assert judge(_gates(auc={"no_worse_by": 0.02, "by": "row"}), numbers).passed
    assert judge(gates, replace(numbers, champion="")).passed
    assert not judge(gates, replace(numbers, auc_errors=(math.nan, math.nan))).passed


def test_memory_of_a_replica() -> None:
    """The bytes that a real replica held decide; nobody having looked is refused."""
    gates = _gates(memory={"at_most": "200MB"})
    assert judge(gates, replace(_numbers([0.0] * 5), memory=1.5e8)).passed
    assert not judge(gates, replace(_numbers([0.0] * 5), memory=2.5e8)).passed
    assert not judge(gates, _numbers([0.0] * 5)).passed


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=30), st.floats(0, 0.1), st.integers(0, 5))
def test_monotone_and_repeatable(differences: list[float], margin: float, seed: int) -> None:
    """The same numbers and seed give the same verdict, and a wider margin never refuses what a narrower one passed."""
    numbers = _numbers(differences)
    narrow = judge(_gates(brier={"no_worse_by": margin}), numbers, seed)
    assert narrow == judge(_gates(brier={"no_worse_by": margin}), numbers, seed)
    if narrow.passed:
        assert judge(_gates(brier={"no_worse_by": margin + 0.01}), numbers, seed).passed


def test_false_pass_rate() -> None:
    """A candidate that is truly worse by the margin passes in about 5 of 100 trials of 14 days, and not in 15."""
    random = np.random.default_rng(1)
    gates = _gates(**BRIER)
    passed = sum(judge(gates, _numbers(list(0.5 + random.normal(0, 1, 14)))).passed for _ in range(300))
    assert 3 <= passed <= 40
