"""Percentiles against sums of binomials in whole numbers, and against NumPy's own."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.bench.quantiles import SHARES, Point, needed, point, quantiles, ranks


@given(st.integers(1, 400), st.sampled_from([(1, 2), (19, 20), (99, 100), (1, 10)]))
def test_the_ranks_are_the_tightest_that_hold(n: int, share: tuple[int, int]) -> None:
    """Each rank leaves at most 2.5 % beyond it, and the next one inwards would leave more: in whole numbers."""
    p, of = share
    below = list(accumulate(math.comb(n, k) * p**k * (of - p) ** (n - k) for k in range(n + 1)))  # of of**n
    half = of**n // 40
    lower = max((k for k in range(1, n + 1) if below[k - 1] <= half), default=0)
    upper = min((k for k in range(1, n + 1) if of**n - below[k - 1] <= half), default=n + 1)
    assert ranks(n, p / of) == ((lower, upper) if lower >= 1 and upper <= n else None)


def test_how_many_samples_a_percentile_takes() -> None:
    """Six for p50, 72 for p95 and 368 for p99; with one fewer there is none."""
    assert [needed(share) for share in SHARES] == [6, 72, 368]
    assert quantiles(np.arange(367.0)).p99 == Point()
    assert quantiles(np.arange(368.0)).p99.value == pytest.approx(364.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=900))
def test_values_are_those_of_the_raw_samples(samples: list[float]) -> None:
    """Where a percentile is given, it is NumPy's inverse of the empirical distribution, within its own interval."""
    told = quantiles(np.array(samples))
    for share, one in zip(SHARES, (told.p50, told.p95, told.p99), strict=True):
        if one.value is not None:
            assert one.value == np.quantile(samples, share, method="inverted_cdf")
            assert one.low <= one.value <= one.high


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Of 2,000 draws of 500 exponential samples, some 95 % of the intervals of p95 hold the true one, and no fewer."""
    draw = np.random.default_rng(7)
    true = -math.log(0.05)
    held = 0
    for _ in range(2000):
        one = point(np.sort(draw.exponential(size=500)), 0.95, 60.0)
        held += one.low <= true <= one.high
    assert 0.94 <= held / 2000 <= 0.98


def test_what_timed_out_is_longer_than_any() -> None:
    """Timed-out requests move percentiles up; one that falls among them is only known to be beyond the timeout."""
    told = quantiles(np.full(940, 0.1), timed_out=60, timeout=5.0)
    assert (told.samples, told.timed_out, told.largest) == (1000, 60, 0.1)
    assert told.p50.value == 0.1
    assert told.p95 == Point(beyond=5.0)
    edge = quantiles(np.full(960, 0.1), timed_out=40, timeout=5.0).p95
    assert (edge.value, edge.high) == (0.1, None)
