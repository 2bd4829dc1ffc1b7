"""Small decisions by example and by property: restart, retrain, sequential tests, paired rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.restart import LONGEST_WAIT, restart
from mainspring.decide.retrain import Situation, retrain
from mainspring.decide.rollout import paired_difference
from mainspring.decide.sequential import evidence_above, share_above, student_quantile
from mainspring.stack.pipelines import Retrain


def test_first_death_is_mended_at_once_and_later_ones_wait_longer() -> None:
    """Backoff grows from nothing to a limit."""
    waits = [restart((100.0,), n, 1000, 600).at - 100.0 for n in range(1, 12)]
    assert waits[:4] == [0.0, 0.5, 1.0, 2.0]
    assert waits[-1] == LONGEST_WAIT


def test_the_limit_of_restarts_waits_for_its_window() -> None:
    """The sixth restart in ten minutes waits until the first start is ten minutes old."""
    when = restart(tuple(float(t) for t in range(6)), 1, 5, 600.0)
    assert when.looping
    assert when.at == 600.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12).map(sorted), st.integers(1, 50), st.integers(0, 8))
def test_restart_never_travels_back(starts: list[float], failures: int, count: int) -> None:
    """A restart is never before the last start."""
    assert restart(starts, failures, count, 600.0).at >= starts[-1]


def test_retraining_is_held_back_for_a_reason() -> None:
    """Each reason to wait is said; without one it starts."""
    spec = Retrain.model_validate({"at_most": "2 per month", "cooldown": "7d"})
    day = 86400.0
    assert retrain(spec, "drift", Situation(100 * day, ())).start
    assert "cooling down" in retrain(spec, "drift", Situation(100 * day, (95 * day,))).why
    assert "already" in retrain(spec, "drift", Situation(100 * day, (80 * day, 90 * day))).why
    assert retrain(spec, "drift", Situation(100 * day, (60 * day, 90 * day))).start
    assert not retrain(spec, "drift", Situation(100 * day, (), busy="run x works")).start
    assert not retrain(spec, "drift", Situation(100 * day, (), over_budget="all is spent")).start


def test_e_process_keeps_its_promise_however_often_one_looks() -> None:
    """At the bound itself, looking after every request, at most 1 % of rollouts are aborted."""
    rng = np.random.default_rng(5)
    looks = np.arange(10, 800, 10)
    bad = np.cumsum(rng.random((1_000, 800)) < 0.05, axis=1)[:, looks - 1]
    alarms = (share_above(bad, looks, 0.05) >= math.log(100)).any(axis=1).sum()
    assert alarms <= 18  # 1 % of 1,000, plus 2.5 standard errors


def test_e_process_finds_what_is_bad() -> None:
    """Four times the bound is found within some hundred requests."""
    assert evidence_above(40, 200, 0.05) > 100
    assert evidence_above(10, 200, 0.05) < 1


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.9))
def test_evidence_grows_with_each_bad_one(bad: int, good: int, bound: float) -> None:
    """One more bad answer never lowers the evidence, one more good one never raises it."""
    here = evidence_above(bad, bad + good, bound)
    assert evidence_above(bad + 1, bad + good + 1, bound) >= here * (1 - 1e-9)
    assert evidence_above(bad, bad + good + 1, bound) <= here * (1 + 1e-9)


@pytest.mark.parametrize(("df", "value"), [(1, 6.3138), (2, 2.9200), (3, 2.3534), (10, 1.8125), (30, 1.6973)])
def test_student_quantiles_are_those_of_the_tables(df: int, value: float) -> None:
    """One-sided 95 % quantiles to four digits."""
    assert student_quantile(0.95, df) == pytest.approx(value, abs=2e-4)


def test_paired_difference_counts_days_not_rows() -> None:
    """More rows in the same days do not make the interval narrower; one day gives none."""
    days = ((100, 1.0), (100, 2.0), (100, 3.0))
    mean, low, high = paired_difference(days, 0.95)
    assert mean == pytest.approx(0.02)
    assert low < mean < high
    tenfold = tuple((n * 10, d * 10) for n, d in days)
    assert paired_difference(tenfold, 0.95) == pytest.approx((mean, low, high))
    assert paired_difference(((100, 5.0),), 0.95)[1:] == (-math.inf, math.inf)
