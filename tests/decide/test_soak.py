"""The soak calculator: the case study's canary, counts that are exact, times that a simulation agrees with."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.detect import boundary, looks, passage
from mainspring.decide.rollout import Bound, Terms, level
from mainspring.decide.sequential import (
    FIRST,
    evidence_above,
    evidence_below,
    ratio_evidence,
    share_above,
    without_bursts,
)
from mainspring.decide.sights import over
from mainspring.decide.soak import MANY, Canary, certain_after, certified, promoted_up_to, soak, timed_after

CASE = Canary(500_000 / 86_400, 0.05, 7_200, 1 / 3, "us-east-1")
PROMISED = Terms(promised_errors=0.001)


def test_the_case_studys_canary():
    """5 % of one region for 2 h is 694 requests: what it detects, what it cannot certify, and what would."""
    found = soak(CASE, PROMISED, p50=1.9, p95=2.9)
    assert (found.requests, found.control) == (694, 13_194)
    assert not found.certain
    assert found.needed_fixed == 2_995
    assert found.needed == pytest.approx(3_804, rel=0.01)  # published for this case by another grid
    assert found.hours == pytest.approx(11.0, abs=0.15)
    assert found.hours_everywhere == pytest.approx(3.7, abs=0.1)
    assert found.hours_mirrored == pytest.approx(0.55, abs=0.02)
    assert found.share == pytest.approx(0.273, abs=0.002)
    assert found.certifies == pytest.approx(3.787 / 694, rel=0.01)
    assert found.detects is not None
    assert found.detects.size == 0.02
    assert 15 * 60 < found.detects.median < 24 * 60
    said = found.says()
    head = "5 % of us-east-1 for 2 h is 694 requests: it detects a 2 % error rate in about"
    assert re.fullmatch(f"{head} (1[5-9]|2[0-3]) minutes, where 0.1 % is usual", said[0])
    assert (
        "it cannot certify 99.9 %, which takes 3,787 requests without an error: 11 h so, or 3.6 h at 5 % of" in said[1]
    )
    assert said[2].startswith("a stage of `mirror: 100%` before gives 6,944 requests an hour at no user's risk")


@pytest.mark.parametrize(("bound", "fixed", "always"), [(0.001, 2_994, 3_804), (0.005, 598, 758), (0.01, 298, 378)])
def test_requests_without_an_error_to_certify(bound, fixed, always):
    """The published counts of D = 95 %: at one look, and at any look, to 1 %."""
    found = soak(CASE, Terms(promised_errors=bound))
    assert found.needed_fixed == pytest.approx(fixed, abs=1)
    assert found.needed == pytest.approx(always, rel=0.01)


@pytest.mark.parametrize("size", [0.02, 0.05, 0.5])
def test_the_median_is_that_of_the_live_test(seed, size):
    """A simulation of the canary in slices of 10 s, judged by the loop's own e-value at each, agrees to 15 %."""
    sight = next(s for s in soak(CASE, PROMISED).errors if s.size == size)
    rng, runs, width, count = np.random.default_rng(seed), 1_500, 10.0, 720
    own = rng.poisson(CASE.per_second * width, (runs, count))
    rest = rng.poisson(CASE.rate * CASE.part * 0.95 * width, (runs, count))
    bad, usual = rng.binomial(own, size), rng.binomial(rest, 0.001)
    bad, usual = without_bursts(bad, usual)
    path = ratio_evidence(bad, own, usual, rest, 1.0, np.full(count, CASE.share), path=True, anew=True)
    fired = path >= 1.0 / level(PROMISED, "errors over control")
    when = np.where(fired.any(axis=1), (fired.argmax(axis=1) + 1) * width, math.inf)
    assert float(np.median(when)) == pytest.approx(sight.median, rel=0.15)
    assert fired.any(axis=1).mean() == pytest.approx(sight.chance, abs=0.03)


def test_the_median_of_a_bound_is_that_of_its_test(seed):
    """The same of `errors: 1%`: 5 % of errors, looked at after each request."""
    terms = Terms(errors=(Bound(0.01),), promised_errors=0.001)
    sight = next(s for s in soak(CASE, terms).errors if s.size == 0.05)
    bad = np.cumsum(np.random.default_rng(seed).random((2_000, CASE.requests)) < 0.05, axis=1)
    every = np.arange(1, CASE.requests + 1)
    least = boundary(lambda some, all_: share_above(some, all_, 0.01), 1.0 / level(terms, "errors") / FIRST, every)
    median = np.median((bad >= least).argmax(axis=1) + 1) / CASE.per_second
    assert float(median) == pytest.approx(sight.median, rel=0.15)


def test_more_errors_are_seen_sooner_and_surer():
    """Times fall, and chances grow, with the share of errors; a version within the bound is not asked about."""
    for terms in (PROMISED, Terms(errors=(Bound(0.01),)), Terms(errors=(Bound(0.01), Bound(0.0, over=True)))):
        found = soak(CASE, terms, p50=1.9, p95=2.9).errors
        assert all(a.median >= b.median for a, b in pairwise(found))
        assert all(a.chance <= b.chance + 2e-3 for a, b in pairwise(found))  # the rest is not followed
        assert found[0].size > 0.001
    both, one = (soak(CASE, Terms(errors=e)).errors for e in ((Bound(0.0, over=True), Bound(0.01)), (Bound(0.01),)))
    assert {s.size: s.median for s in both}[0.05] < {s.size: s.median for s in one}[0.05]


@settings(max_examples=40)
@given(st.integers(1, 9), st.floats(0.05, 0.95), st.floats(0.01, 0.3))
def test_first_passage_is_that_of_every_path(trials, share, bound):
    """The recursion gives what counting every path of up to 9 trials gives."""
    counts = looks(trials)
    least = boundary(lambda bad, total: share_above(bad, total, bound), 8.0, counts)
    found = passage(counts, least, share)
    exact = np.zeros(trials)
    for path in range(2**trials):
        steps = [path >> i & 1 for i in range(trials)]
        hit = next((i for i, bad in enumerate(np.cumsum(steps)) if bad >= least[i]), None)
        if hit is not None:
            exact[hit] += share ** sum(steps) * (1 - share) ** (trials - sum(steps))
    np.testing.assert_allclose(found.chance, exact[: len(found.chance)], atol=1e-3)


@given(st.integers(1, 3_000), st.floats(0.001, 0.3))
def test_the_boundary_is_where_the_evidence_turns(total, bound):
    """One bad fewer is not enough, and none are needed beyond what there is."""
    least = int(boundary(lambda bad, n: share_above(bad, n, bound), 40.0, np.array([total]))[0])
    if least <= total:
        assert evidence_above(least, total, bound) >= 40.0 * (1 - 1e-9)
    assert least == 0 or evidence_above(least - 1, total, bound) < 40.0


def test_times_longer_by_a_half_are_seen_after_the_controls_own_p95_is_known():
    """`20% over control`: a half longer is seen, a tenth longer is allowed; a bound in seconds is a test of its own."""
    beside = soak(CASE, Terms(p95=(Bound(0.2, over=True),)), p50=1.9, p95=2.9)
    assert beside.notices is not None
    assert beside.notices.size == 1.5
    assert min(s.median for s in beside.slow) > 40 / CASE.per_second
    assert all(s.size > 1.2 for s in beside.slow)
    alone = soak(CASE, Terms(p95=(Bound(3.5),)), p50=1.9, p95=2.9)
    assert alone.notices is not None
    assert "it detects times longer by" in alone.says()[-1]
    assert soak(CASE, PROMISED, p50=1.9, p95=2.9).slow == ()
    assert soak(CASE, Terms(p95=(Bound(3.5),)), p50=math.inf, p95=math.inf).slow == ()


def test_a_promised_p95_is_certified_when_it_is_kept_with_room():
    """The fewer are slow, the sooner; at 5 % or more never. The evidence is that of the live loop."""
    counts = [timed_after(share) for share in (0.0, 0.01, 0.02, 0.03, 0.04)]
    assert counts == sorted(counts)
    assert timed_after(0.05) == timed_after(0.2) == MANY
    assert evidence_below(round(0.02 * counts[2]), counts[2], 0.05) == pytest.approx(20, rel=0.3)
    kept = soak(CASE, Terms(promised_p95=3.5), p50=1.9, p95=2.9)
    assert kept.says()[-1].startswith("it certifies a p95 of 3.5 s after about ")
    close = soak(CASE, Terms(promised_p95=2.95), p50=1.9, p95=2.9)
    assert close.says()[-1].startswith("it cannot certify a p95 of 2.95 s, which takes about ")
    missed = soak(CASE, Terms(promised_p95=2.0), p50=1.9, p95=2.9)
    assert "it cannot certify a p95 of 2 s, over which" in missed.says()[-1]
    assert soak(CASE, Terms(promised_p95=2.0)).promised_p95 is None


def test_what_is_over_a_limit():
    """Lognormal through p50 and p95: 5 % over the p95, more when all is slower; a time that is always the same too."""
    assert over(1.9, 2.9, 2.9) == pytest.approx(0.05)
    assert over(1.9, 2.9, 2.9, 1.2) > 0.1
    assert (over(2.0, 2.0, 2.1), over(2.0, 2.0, 2.1, 1.2)) == (0.0, 1.0)


def test_no_traffic_says_nothing():
    """Without requests, or without knowing of any: no figure, and no crash."""
    unknown = soak(Canary(0.0, 0.05, 7_200), PROMISED, p50=1.0, p95=2.0)
    assert (unknown.requests, unknown.certifies, unknown.detects, unknown.promote_up_to) == (0, 1.0, None, -1)
    assert unknown.hours == unknown.share == math.inf
    assert "nothing is known of the traffic" in unknown.says()[0]
    few = soak(Canary(1e-6, 0.05, 7_200), PROMISED)
    assert few.says() == ("no request reaches the new version in this time: nothing can be said of it",)
    some = soak(Canary(0.01, 0.05, 7_200), PROMISED)
    assert "3 requests: too few to detect even that all of them fail" in some.says()[0]


def test_a_long_soak_certifies():
    """With 20 % everywhere for a day the objective can be certified, with a few errors even."""
    found = soak(Canary(500_000 / 86_400, 0.2, 86_400), PROMISED)
    assert found.certain
    assert found.promote_up_to > 20
    assert found.says()[1].startswith("it certifies 99.9 % with up to ")
    assert len(found.says()) == 2


def test_where_nothing_is_promised_nothing_is_certified():
    """Only what is detected is told; a promise of nothing or of everything is none."""
    for promised in (None, 0.0, 1.0):
        found = soak(CASE, Terms(promised_errors=promised))
        assert found.objective is None
        assert len(found.says()) == 1


def test_a_mirror_puts_nobody_at_risk():
    """Mirrored answers are judged too, alone and beside the old version's; no mirror is offered beside a whole one."""
    mirror = Canary(500_000 / 86_400, 1.0, 600, mirror=True)
    found = soak(mirror, Terms(errors=(Bound(0.01),), promised_errors=0.001))
    assert (found.requests, found.control) == (3_472, 3_472)
    head = "100 % of all requests mirrored for 10 min is 3,472 requests: it detects a 2 % error"
    assert found.says()[0].startswith(head)
    assert not any("mirror: 100%" in line for line in found.says())
    beside = soak(mirror, PROMISED).detects
    assert beside is not None
    assert beside.size <= 0.02


def test_large_canaries_are_quick_and_odd_bounds_are_bounds():
    """Millions of requests a second are told in no time; `0%` and `100%` do not crash."""
    big = soak(Canary(20e6, 0.1, 86_400), Terms(errors=(Bound(0.01), Bound(0.0, over=True)), promised_errors=0.001))
    assert big.certain
    assert big.detects is not None
    assert big.detects.size <= 0.002
    for odd in (0.0, 1.0):
        assert soak(CASE, Terms(errors=(Bound(odd),))).requests == 694


@pytest.mark.parametrize("bound", [0.005, 0.02])
def test_promotion_keeps_its_level_at_any_look(seed, bound):
    """A version whose errors are at the bound is promoted, at whatever look, with 5 % at most."""
    when = [certain_after(bound, errors) for errors in range(40)]
    rng = np.random.default_rng(seed)
    errors = np.cumsum(rng.binomial(np.diff([0, *when]), bound, (20_000, len(when))), axis=1)
    promoted = (errors <= np.arange(len(when))).any(axis=1).mean()
    assert 0.005 < promoted <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 20_000)


@settings(max_examples=40)
@given(st.integers(1, 50_000), st.floats(0.0005, 0.1))
def test_the_errors_that_are_certified_are_where_the_evidence_turns(total, bound):
    """So many errors are certain, one more is not."""
    most = promoted_up_to(total, bound)
    if most >= 0:
        assert evidence_below(most, total, bound) >= 20
    if most + 1 <= total:
        assert evidence_below(most + 1, total, bound) < 20


@settings(max_examples=40)
@given(st.integers(10, 20_000), st.floats(0.001, 0.05), st.floats(1.1, 4.0))
def test_more_requests_certify_more(total, bound, more):
    """With more requests the smallest certified share falls, and a promise of fewer errors takes longer."""
    assert certified(int(total * more)) <= certified(total)
    assert certain_after(bound) <= certain_after(bound / more) < MANY
    assert certain_after(bound, errors=1) > certain_after(bound)
    count = certain_after(bound)
    assert (promoted_up_to(count, bound), promoted_up_to(count - 1, bound)) == (0, -1)
