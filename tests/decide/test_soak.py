"""The soak calculator: the case study's canary, counts that are exact, and tests that keep their level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.rollout import ALPHA
from mainspring.decide.sequential import evidence_above, evidence_below
from mainspring.decide.soak import (
    MANY,
    Canary,
    aborted_from,
    at_least,
    certain_after,
    certified,
    over,
    promoted_up_to,
    seen_from,
    slow_after,
    slowdown_seen,
    soak,
    verdict,
)

CASE = Canary(500_000 / 86_400, 0.05, 7_200, 1 / 3)


def test_the_case_studys_canary():
    """5 % of one region for 2 h is 694 requests: it can't certify 99.9 %, which takes 11 h there, 3.6 h everywhere."""
    found = soak(CASE, 0.001, abort=0.01, p50=1.9, p95=2.9)
    assert (found.requests, found.control) == (694, 13_194)
    assert not found.certain
    assert found.needed_fixed == 2_995
    assert found.needed == pytest.approx(3_804, rel=0.01)  # published for this case by another grid
    assert found.hours == pytest.approx(11.0, abs=0.15)
    assert found.hours_everywhere == pytest.approx(3.7, abs=0.1)
    assert found.share == pytest.approx(0.273, abs=0.002)
    assert 0.01 < found.detects < 0.05
    assert found.certifies == pytest.approx(3.787 / 694, rel=0.01)
    said = found.says()
    assert said[0].startswith("694 requests notice an error share of 3.5 % or more")
    assert "cannot certify errors below 0.1 %" in said[1]
    assert "3,787 requests (2,995 at one look): 10.9 h so, 3.6 h in all regions, or 27% of" in said[1]


@pytest.mark.parametrize(("bound", "fixed", "always"), [(0.001, 2_994, 3_804), (0.005, 598, 758), (0.01, 298, 378)])
def test_requests_without_an_error_to_certify(bound, fixed, always):
    """The published counts of D = 95 %: at one look, and at any look, to 1 %."""
    found = soak(CASE, bound)
    assert found.needed_fixed == pytest.approx(fixed, abs=1)
    assert found.needed == pytest.approx(always, rel=0.01)


@pytest.mark.parametrize("bound", [0.005, 0.02])
def test_promotion_keeps_its_level_at_any_look(seed, bound):
    """A version whose errors are at the bound is promoted, at whatever look, with 5 % at most."""
    looks = [certain_after(bound, errors) for errors in range(40)]
    rng = np.random.default_rng(seed)
    steps = np.diff([0, *looks])
    errors = np.cumsum(rng.binomial(steps, bound, (20_000, len(looks))), axis=1)
    promoted = (errors <= np.arange(len(looks))).any(axis=1).mean()
    assert 0.005 < promoted <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)


@given(st.integers(1, 400), st.floats(0.001, 0.5), st.integers(0, 400))
def test_at_least_is_the_binomial_tail(total, share, bad):
    """The tail equals the sum of its terms."""
    exact = math.fsum(math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(bad, total + 1))
    assert at_least(bad, total, share) == pytest.approx(exact, abs=1e-9)


@given(st.integers(1, 50_000), st.floats(0.0005, 0.1))
def test_counts_are_where_the_verdict_turns(total, bound):
    """One error fewer does not abort, one more does not promote, and no count does both."""
    least, most = aborted_from(total, bound), promoted_up_to(total, bound)
    assert most < least
    if least <= total:
        assert evidence_above(least, total, bound) >= 1 / ALPHA
        assert verdict(least, total, bound, bound) == "abort"
    assert least == 0 or evidence_above(least - 1, total, bound) < 1 / ALPHA
    if most >= 0:
        assert verdict(most, total, bound, bound) == "promote"
    if most + 1 <= total:
        assert evidence_below(most + 1, total, bound) < 20
    if most + 1 < least and most + 1 <= total:
        assert verdict(most + 1, total, bound, bound) == "hold"


@given(st.integers(10, 20_000), st.floats(0.001, 0.05), st.floats(1.1, 4.0))
def test_more_requests_see_and_certify_more(total, bound, more):
    """With more requests the smallest certified share falls, and a promise of fewer errors takes longer."""
    many = int(total * more)
    assert certified(many) <= certified(total)
    assert certain_after(bound / more) >= certain_after(bound)
    assert certain_after(bound, errors=1) > certain_after(bound)
    count = certain_after(bound)
    assert promoted_up_to(count, bound) == 0
    assert promoted_up_to(count - 1, bound) == -1


@settings(max_examples=15)
@given(st.integers(50, 5_000), st.floats(0.001, 0.05))
def test_what_is_seen_is_seen_with_ninety_percent(total, bound):
    """At the share that it names the count for abort is reached with 90 %."""
    share = seen_from(total, bound)
    assert share > bound
    if share < 1:
        draws = np.random.default_rng(total).binomial(total, share, 40_000)
        assert (draws >= aborted_from(total, bound)).mean() == pytest.approx(0.9, abs=0.01)


def test_a_slower_version_is_seen_sooner_where_times_are_alike():
    """A fifth longer is far out where times are narrow, and hardly visible where they are wide."""
    narrow, wide = slow_after(1.9, 2.5), slow_after(0.5, 5.0)
    assert 20 < narrow < wide < 10_000
    assert slow_after(2.0, 2.0) < narrow
    assert over(1.9, 2.9, 2.9) == pytest.approx(0.05)
    assert over(1.9, 2.9, 2.9, 1.2) > 0.1
    share = over(1.9, 2.5, 2.5, 1.2)
    draws = np.random.default_rng(1).binomial(narrow, share, 40_000)
    assert (draws >= aborted_from(narrow, 0.05)).mean() >= 0.895


def test_the_slowdown_that_a_rule_sees():
    """Against `20 % over control` 694 requests see a third, not a fifth; few requests see nothing."""
    assert 1.2 < slowdown_seen(694, 1.9, 2.9, 1.2 * 2.9) < 1.4
    assert slowdown_seen(10**6, 1.9, 2.9, 1.2 * 2.9) == pytest.approx(1.2, abs=0.01)
    assert slowdown_seen(1, 1.9, 2.9, 1.2 * 2.9) == math.inf


def test_no_traffic_says_nothing():
    """Without requests: hold, never promote, never abort, and no crash."""
    found = soak(Canary(0.0, 0.05, 7_200), 0.001, p50=1.0, p95=2.0)
    assert (found.requests, found.certifies, found.detects, found.promote_up_to) == (0, 1.0, 1.0, -1)
    assert found.hours == math.inf
    assert found.says() == ("no request reaches the new version in this time: nothing can be said of it",)
    assert verdict(0, 0, 0.001, 0.01) == "hold"
    assert slow_after(1.0, 1.0) < MANY


def test_a_long_soak_certifies():
    """With 20 % everywhere for a day the objective can be certified, with a few errors even."""
    found = soak(Canary(500_000 / 86_400, 0.2, 86_400), 0.001, abort=0.01)
    assert found.certain
    assert found.promote_up_to > 20
    assert "they certify errors below 0.1 %" in found.says()[1]


def test_large_canaries_are_quick_and_odd_bounds_are_the_objective():
    """Millions of requests a second are told in no time; an abort at 0 % or 100 % is no bound; no end is no latency."""
    big = soak(Canary(20e6, 0.1, 86_400), 0.001, abort=0.01, p50=1.0, p95=2.0)
    assert big.certain
    assert big.detects == pytest.approx(0.01, rel=0.02)
    for odd in (0.0, 1.0):
        assert soak(CASE, 0.001, abort=odd).abort == 0.001
    assert soak(CASE, 0.001, p50=math.inf, p95=math.inf).slow_needed is None
