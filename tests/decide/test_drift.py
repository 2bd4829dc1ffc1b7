"""Drift: the distance, its calibrated bound (by simulation), and the verdict of a watch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import drift, reference
from mainspring.loop.readings import Drift, FeatureDrift
from mainspring.stack.monitoring import DriftSpec
from mainspring.stack.units import Rate, rate

WEEK, DAY = 7 * 86400.0, 86400.0
YEARLY = rate("1 per year")


def test_psi_by_hand() -> None:
    """Two bins of a half each that become a quarter and three quarters; an empty bin counts as 0.0001."""
    assert drift.psi((0.5, 0.5), (25, 75)) == pytest.approx(0.25 * math.log(2) + 0.25 * math.log(1.5))
    assert drift.psi((0.5, 0.5), (0, 10)) == pytest.approx(0.4999 * math.log(5000) + 0.5 * math.log(2))
    assert drift.psi((0.5, 0.5), (0, 0)) == 0.0


bins = st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(lambda counts: sum(counts) > 0)


@given(bins, st.randoms(use_true_random=False))
def test_psi_is_a_finite_distance(counts: list[int], rnd) -> None:
    """Never negative, finite, nothing against itself, and the order of the bins does not matter."""
    other = list(counts)
    rnd.shuffle(other)
    shares = [c / sum(counts) for c in counts]
    assert drift.psi(shares, counts) == pytest.approx(0.0, abs=1e-9)
    assert 0.0 <= drift.psi(shares, other) < 20.0
    order = list(range(len(counts)))
    rnd.shuffle(order)
    mixed = drift.psi([shares[i] for i in order], [other[i] for i in order])
    assert mixed == pytest.approx(drift.psi(shares, other))


@pytest.mark.parametrize(
    ("freedom", "chance", "t"),
    [(1, 0.05, 12.7062), (2, 0.05, 4.30265), (7, 0.05, 2.36462), (8, 0.01, 3.35539), (30, 0.001, 3.64596)],
)
def test_student_table(freedom: int, chance: float, t: float) -> None:
    """The quantiles of the printed tables."""
    assert drift.student_two_sided(chance, freedom) == pytest.approx(t, abs=2e-5)


def test_rate_is_shared_among_looks_and_features() -> None:
    """Once a year at a look a week is 1.92 % a look; three features have a third of it each, nearly."""
    assert drift.per_look(YEARLY, WEEK, 1) == pytest.approx(WEEK / 31556952.0)
    assert 1 - (1 - drift.per_look(YEARLY, WEEK, 3)) ** 3 == pytest.approx(WEEK / 31556952.0)


def test_windows_side_by_side() -> None:
    """53 overlapping weeks in 59 days hold 8 whole weeks; days do not overlap."""
    assert drift.independent_windows(53, WEEK) == 8
    assert drift.independent_windows(53, DAY) == 53
    assert drift.independent_windows(53, 3600.0) == 53


shares_of = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=20).map(lambda xs: (*(x / sum(xs) for x in xs), 0.0))


@given(st.lists(st.floats(0.0, 9.0), min_size=20, max_size=60), shares_of)
def test_bound_is_above_all_that_was_seen(inside: list[float], shares: tuple[float, ...]) -> None:
    """Never under the largest inside window nor the floor, finite, and rarer alarms never lower it."""
    seldom = drift.threshold(inside, shares, Rate(1, 10 * 31556952.0), WEEK, 3)
    often = drift.threshold(inside, shares, YEARLY, WEEK, 1)
    assert seldom is not None
    assert often is not None
    assert max(*inside, drift.FLOOR) <= often <= seldom < math.inf


def weather(rng: np.random.Generator, days: int, phi: float, hourly: float = 1.0) -> np.ndarray:
    """100 rows a day around a daily mean that follows an AR(1): standard deviation 1 of the means."""
    means = np.zeros(days + 100)
    noise = rng.normal(size=days + 100) * math.sqrt(1 - phi * phi)
    for i in range(1, len(means)):
        means[i] = phi * means[i - 1] + noise[i]
    return means[100:, None] + hourly * rng.normal(size=(days, 100))


def simulate(phi: float, features: int, worlds: int = 60, looks: int = 15) -> tuple[float, float, float]:
    """Share of looks that fire without change, with every row moved by 3 sd, and by the rule PSI > 0.25."""
    rng = np.random.default_rng(7)
    false = true = naive = 0
    for _ in range(worlds):
        values = weather(rng, 59 + 7 * looks, phi)
        times = np.repeat(np.arange(59) * DAY, 100)
        known = reference.feature_reference("x", "number", values[:59].ravel(), times, window=WEEK, statistic=drift.psi)
        bound = drift.threshold(known.inside, known.shares, YEARLY, WEEK, features)
        assert bound is not None
        for look in range(looks):
            week = values[59 + 7 * look : 66 + 7 * look].ravel()
            value = drift.psi(known.shares, known.bin_counts(week).tolist())
            moved = drift.psi(known.shares, known.bin_counts(week + 3 * math.sqrt(2)).tolist())
            false, true, naive = false + (value > bound), true + (moved > bound), naive + (value > 0.25)
    total = worlds * looks
    return false / total, true / total, naive / total


@pytest.mark.parametrize(("phi", "features"), [(0.0, 1), (0.5, 1), (0.7, 1), (0.7, 3)])
def test_false_alarms_are_near_the_asked_rate(phi: float, features: int) -> None:
    """Without change: at most twice as often as asked; PSI > 0.25 far more often; a shift is seen."""
    false, true, naive = simulate(phi, features)
    asked = drift.per_look(YEARLY, WEEK, features)
    print(
        f"phi {phi}, {features} features: asked {asked:.4f}, fired {false:.4f}, detects {true:.2f}, naive {naive:.2f}"
    )
    assert false <= 2 * asked
    assert true > 0.75
    assert naive > 5 * asked


def feature(counts: tuple[int, ...], inside: tuple[float, ...] = (0.01,) * 53, name: str = "temp") -> FeatureDrift:
    """A feature with two bins of a half each, and one for missing."""
    return FeatureDrift(name, (0.5, 0.5, 0.0), counts, inside)


def test_verdict_of_a_watch() -> None:
    """A feature over its bound fires the watch, and the message names it first."""
    watch = DriftSpec(features=("dewp", "temp"), prediction=True)
    seen = Drift(1000, (feature((990, 10, 0)), feature((500, 500, 0), name="dewp"), feature((1, 1, 998), name="")))
    verdict = drift.judge(watch, seen, WEEK)
    assert verdict.fired
    assert [(f.feature, f.fired) for f in verdict.features] == [("dewp", False), ("temp", True), ("", True)]
    assert verdict.message.startswith("temp PSI 2.")


def test_unknown_never_fires() -> None:
    """Too few rows, a reference too short, and a feature that it lacks are unknown, with the reason."""
    watch = DriftSpec(features=("temp",))
    few = drift.judge(watch, Drift(199, (feature((199, 0, 0)),)), WEEK)
    short = drift.judge(watch, Drift(900, (feature((900, 0, 0), (0.1,) * 8),)), WEEK)
    lacking = drift.judge(watch, Drift(900, ()), WEEK)
    assert [v.fired for v in (few, short, lacking)] == [False] * 3
    assert few.features[0].value is None
    assert (short.features[0].threshold, "too short" in short.message) == (None, True)
    assert "not in the reference" in lacking.message
    assert "199 rows" in few.message


def test_sensor_that_broke() -> None:
    """A feature that is suddenly missing fires, even one that had a single value in the reference."""
    watch = DriftSpec(features=("temp",))
    constant = FeatureDrift("temp", (1.0, 0.0, 0.0), (0, 0, 500), (0.0,) * 53)
    assert drift.judge(watch, Drift(500, (constant,)), WEEK).fired


def test_inside_windows_as_far_apart_as_can_be() -> None:
    """When the reference's own windows differ wholly (a counter, a date), no window can say more, and none fires."""
    watch = DriftSpec(features=("temp",))
    top = drift.psi((0.5, 0.5, 0.0), (500, 0, 0))
    assert not drift.judge(watch, Drift(500, (feature((500, 0, 0), (top,) * 53),)), WEEK).fired
