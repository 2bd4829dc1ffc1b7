"""Lengths: what is asked for comes back (mean, median, tail), and contradictions are refused."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.forecast.lengths import SIGMA, around, fixed, lengths, observed, percentile, scaled, through


@given(st.floats(20, 5000), st.floats(1.0, 8.0))
def test_a_lognormal_keeps_its_median_its_tail_and_its_mean(p50, ratio):
    """Cases through p50 and p95 have them to one percent, and the exact mean of the lognormal."""
    known = lengths(fixed(1000), through(p50, p50 * ratio))
    sigma = math.log(ratio) / NormalDist().inv_cdf(0.95)
    assert percentile(known, 0.5) == pytest.approx(max(1, p50), rel=0.005)
    assert percentile(known, 0.95) == pytest.approx(max(1, p50 * ratio), rel=0.01)
    p99 = p50 * math.exp(sigma * NormalDist().inv_cdf(0.99))
    assert percentile(known, 0.99) == pytest.approx(p99, rel=0.03)
    assert known.mean()[1] == pytest.approx(p50 * math.exp(sigma**2 / 2), rel=0.02)  # floor of one token
    assert math.fsum(known.weight) == pytest.approx(1.0)


@given(st.floats(5, 2000), st.floats(1.2, 6.0), st.floats(1.0, 3.0))
def test_a_longest_output_cuts_the_tail_and_the_mean(p50, ratio, over):
    """No case is above `max`, and the mean is that of a lognormal cut off there (against numeric integration)."""
    longest = p50 * ratio * over
    known = lengths(fixed(10), through(p50, p50 * ratio, longest))
    assert max(known.output) <= longest * (1 + 1e-9)
    sigma = math.log(ratio) / NormalDist().inv_cdf(0.95)
    shares = (np.arange(20_000) + 0.5) / 20_000
    draws = np.exp(math.log(p50) + sigma * np.array([NormalDist().inv_cdf(float(u)) for u in shares[::20]]))
    assert known.mean()[1] == pytest.approx(float(np.minimum(draws, longest).mean()), rel=0.01)


def test_a_mean_alone_takes_the_assumed_spread():
    """Only a mean given: the mean is kept, and p95 / p50 is that of the conversation trace."""
    known = lengths(fixed(1000), around(211))
    assert known.mean()[1] == pytest.approx(211)
    ratio = percentile(known, 0.95) / percentile(known, 0.5)
    assert ratio == pytest.approx(math.exp(SIGMA * NormalDist().inv_cdf(0.95)), rel=0.01)


def test_fixed_lengths_are_one_case():
    """A fixed prompt and output are one case of weight one."""
    known = lengths(fixed(1000), fixed(150), cached=0.3)
    assert (known.prompt, known.output, known.cached) == ((1000.0,), (150.0,), 0.3)
    assert known.mean() == (1000.0, 150.0)


def test_prompts_that_vary_are_few_cases_with_the_same_mean():
    """Prompts are merged to six cases of the same mean, whatever the outputs."""
    prompts = through(500, 4000)
    known = lengths(prompts, through(90, 150))
    whole = math.fsum(v * w for v, w in zip(prompts.value, prompts.weight, strict=True))
    assert len(set(known.prompt)) == 6
    assert known.mean()[0] == pytest.approx(whole)


def test_a_trace_is_kept_in_64_cases(seed):
    """A trace of pairs keeps its means, its percentiles and how prompts go with outputs."""
    rng = np.random.default_rng(seed)
    outputs = np.exp(rng.normal(4.9, 0.8, 20_000))
    prompts = 50 + 5 * outputs * np.exp(rng.normal(0, 0.3, 20_000))
    known = observed(prompts, outputs)
    assert len(known.weight) <= 64
    assert known.mean() == pytest.approx((prompts.mean(), outputs.mean()))
    for share in (0.5, 0.95, 0.99):
        assert percentile(known, share) == pytest.approx(np.quantile(outputs, share), rel=0.02)
    apart = np.average((np.array(known.prompt) - known.mean()[0]) * (np.array(known.output) - known.mean()[1]))
    assert apart > 0


def test_few_rows_are_kept_as_they_are():
    """Three rows are three cases."""
    known = observed([10, 20, 30], [1, 2, 3])
    assert sorted(zip(known.prompt, known.output, strict=True)) == [(10, 1), (20, 2), (30, 3)]


def test_twice_the_output_is_twice_every_case():
    """Scaling outputs scales the mean and leaves prompts."""
    known = scaled(lengths(fixed(1000), through(90, 150)), output=2)
    assert known.mean()[1] == pytest.approx(2 * lengths(fixed(1000), through(90, 150)).mean()[1])
    assert set(known.prompt) == {1000.0}


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: through(150, 90), "`90`"),
        (lambda: through(0, 90), "`0`"),
        (lambda: through(-5, 90), "`-5`"),
        (lambda: through(math.nan, 90), "`nan`"),
        (lambda: through(90, math.inf), "`inf`"),
        (lambda: through(90, 150, 100), "`100`"),
        (lambda: around(500, 100), "`100`"),
        (lambda: around(1e12), "`1e+12`"),
        (lambda: fixed(0.5), "`0.5`"),
        (lambda: lengths(fixed(10), fixed(10), cached=1.0), "`1`"),
        (lambda: observed([], []), "`0`"),
        (lambda: observed([1.0, 2.0], [1.0]), "`2`"),
    ],
)
def test_contradictions_are_told_with_the_value(make, value):
    """Lengths that cannot be are refused with the value in backticks and a hint."""
    with pytest.raises(InputError) as caught:
        make()
    assert value in caught.value.message
    assert caught.value.hint
