"""Each check of a rollout by example, and where their parts of alpha go."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import checks, means
from mainspring.decide.arms import AMOUNTS, EDGES, Arms, Counts, Slice, Sums, Units
from mainspring.decide.levels import ALPHA, level, levels
from mainspring.decide.tally import tally
from mainspring.decide.terms import Bound, Terms
from mainspring.decide.times import (
    BLOCK,
    BUCKETS,
    beside,
    blocks,
    dense,
    maybe_over,
    quantile,
    surely_over,
)

BOUNDS = st.lists(st.builds(Bound, st.floats(0.001, 0.9), st.booleans()), max_size=4).map(tuple)
MAYBE = st.none() | st.floats(0.0, 0.9)


def histogram(values, edges=EDGES):
    """Counts of values by upper edges."""
    found, counts = np.unique(np.searchsorted(edges, values), return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))


def arms(own: Counts, rest: Counts, weight: float = 0.0, **more: object) -> Arms:
    """Both arms: times in the first of twenty slices, the rest evenly in all."""

    def part(whole: Counts, i: int) -> Counts:
        many, bad, refused, left = ((n + i) // 20 for n in (whole.requests, whole.errors, whole.refused, whole.left))
        times, waited = (whole.times, whole.waited) if i == 0 else ((), ())
        return Counts(many, bad, times, (), refused, left, waited)

    slices = tuple(Slice(i, 0, part(own, i), part(rest, i), weight) for i in range(20))
    return Arms(slices, **more)  # type: ignore[arg-type]


@given(BOUNDS, BOUNDS, BOUNDS, MAYBE, MAYBE, MAYBE, MAYBE, st.floats(0.001, 0.5))
def test_the_parts_of_alpha_are_alpha_at_most(errors, p95, ttft, tokens, cost, score, margin, alpha) -> None:
    """Whatever is asked for, the parts add up to no more than alpha, each is positive, and each bound has one."""
    terms = Terms(errors, p95, ttft, tokens, cost, score, margin, alpha=alpha)
    parts = levels(terms)
    assert math.fsum(parts.values()) <= alpha * (1 + 1e-9)
    assert min(parts.values()) > 0
    for name in ("errors", "p95", "ttft"):
        kinds = {bound.over for bound in getattr(terms, name)}
        assert (name in parts, f"{name} over control" in parts) == (False in kinds, True in kinds)
        assert level(terms, name) == parts.get(name, 0.0)
    assert ("pairs" in parts, "score" in parts) == (margin is not None, score is not None)


def test_sums_that_begin_anew_share_their_part() -> None:
    """Tokens, cost and feedback are summed stage by stage: each stage is a test of its own."""
    one, four = (levels(Terms(tokens=0.2, cost=0.2, score=0.1, p95=(Bound(1.0),), stages=n)) for n in (1, 4))
    for name in ("tokens over control", "cost over control", "score"):
        assert four[name] == pytest.approx(one[name] / 4)
    assert four["p95"] == one["p95"]
    users = [levels(Terms(p95=(Bound(1.0),), stages=n), units=True)["p95"] for n in (1, 4)]
    assert users[1] == pytest.approx(users[0] / 4)
    assert levels(Terms(tests=3))["ab"] == pytest.approx(levels(Terms())["ab"] / 3)


def test_refusals_are_looked_at_beside_any_bound_on_errors() -> None:
    """`errors: 1%` alone has a part for refusals beside the control."""
    alone = levels(Terms(errors=(Bound(0.01),)))
    assert (alone["errors"], alone["refusals over control"]) == (pytest.approx(0.03), pytest.approx(0.01))
    assert "refusals over control" not in levels(Terms(errors=()))


def test_errors_have_the_largest_part() -> None:
    """Four fifths of 5 %, a quarter of what is beside the control for refusals; without errors the rest has all."""
    alone = levels(Terms())
    assert alone["errors over control"] == pytest.approx(ALPHA)
    assert alone["errors over control"] + alone["refusals over control"] == pytest.approx(0.04)
    both = levels(Terms(errors=(Bound(0.01), Bound(0.5, over=True))))
    assert both["errors"] == pytest.approx(0.02)
    assert both["errors over control"] == pytest.approx(0.015)
    assert levels(Terms(errors=(), p95=(Bound(1.0),)))["p95"] == pytest.approx(0.05 * 4 / 7)


def test_errors_against_a_share_and_a_promise() -> None:
    """Mirrored answers count too; a promise is certain after as many answers as the calculator says."""
    seen = tally(arms(Counts(1_000, 0), Counts(9_000, 50), mirrored=Counts(3_000, 0)))
    found = checks.errors(seen, 0.01, 0.001, 40.0, 20.0)
    assert found is not None
    assert (found.state, found.requests_left, found.risk) == ("certain", 0, "")
    assert found.message == "0 of 4,000 answers failed, 1 % may; surely below 0.0947 %, promised is 0.1 %"
    few = checks.errors(tally(arms(Counts(694, 0), Counts(13_194, 13))), None, 0.001, 0.0, 20.0)
    assert few is not None
    assert (few.state, few.threshold) == ("open", 0.0)
    assert few.requests_left == pytest.approx(3_787 - 694, rel=0.03)
    assert few.risk == "errors may be up to 0.545 % (95 % sure), promised is 0.1 %"
    bad = checks.errors(tally(arms(Counts(100, 9), Counts(1_900, 2))), 0.01, 0.001, 40.0, 20.0)
    assert bad is not None
    assert (bad.state, bad.requests_left) == ("bad", None)
    assert checks.errors(seen, None, None, 40.0, 20.0) is None


def test_errors_of_one_user_count_as_one() -> None:
    """A user who tries again 30 times is no reason; thirty users who fail are."""
    own, rest = Counts(400, 31), Counts(7_600, 8)
    one = tally(
        arms(own, rest, candidate_units=Units(100, 2), control_units=Units(1_900, 7), routed=((0.05, 400, 7_600),))
    )
    many = tally(
        arms(own, rest, candidate_units=Units(100, 30), control_units=Units(1_900, 7), routed=((0.05, 400, 7_600),))
    )
    assert checks.errors_over(one, 0.0, 40.0).state == "open"
    assert checks.errors_over(many, 0.0, 40.0).state == "bad"
    found = [checks.errors(seen, 0.02, None, 40.0, 20.0) for seen in (one, many)]
    assert [check.state for check in found if check] == ["open", "bad"]
    assert "users or sessions" in checks.errors_over(one, 0.0, 40.0).message


def test_errors_beside_the_control() -> None:
    """As often as the control is no reason, however often that is; more often is; without one nothing is known."""
    assert checks.errors_over(tally(arms(Counts(500, 50), Counts(9_500, 950), 0.05)), 0.0, 40.0).state == "open"
    worse = checks.errors_over(tally(arms(Counts(500, 90), Counts(9_500, 950), 0.05)), 0.0, 40.0)
    assert worse.state == "bad"
    assert worse.message == "90 of 500 answers failed, 950 of 9,500 of the old version's"
    assert checks.errors_over(tally(arms(Counts(500, 90), Counts(9_500, 950), 0.05)), 1.0, 40.0).state == "open"
    assert checks.errors_over(tally(arms(Counts(500, 80), Counts())), 0.0, 40.0).state == "unknown"
    assert checks.errors_over(tally(arms(Counts(), Counts(500, 80))), 0.0, 40.0).state == "unknown"


def mirrored(copies: Counts, live: Counts) -> Arms:
    """Copies of half of the requests, evenly in twenty slices."""
    whole = arms(copies, live, 1 / 3)
    return Arms(mirrored=copies, mirrored_slices=whole.slices)


def test_mirrored_errors_beside_the_controls() -> None:
    """What nobody saw can give a rollout up, beside the control's answers of the same time."""
    quiet = Counts(10_000, 10)
    for seen, state in (
        (mirrored(Counts(500, 40), quiet), "bad"),
        (mirrored(Counts(500, 1), quiet), "open"),
        (mirrored(Counts(500, 40), Counts(500, 40)), "open"),
        (Arms(mirrored=Counts(500, 40)), "unknown"),
    ):
        found = checks.mirrored_over(tally(seen), 0.0, 280.0)
        assert found is not None
        assert found.state == state
        assert checks.mirrored_over(tally(seen), 0.0, 280.0, refused=True) is None
    refusing = tally(mirrored(Counts(500, 0, refused=40), quiet))
    refused = checks.mirrored_over(refusing, 0.0, 280.0, refused=True)
    assert refused is not None
    assert (refused.name, refused.state) == ("mirrored refusals over control", "bad")


def test_refusals_beside_the_controls() -> None:
    """A version that refuses what the old one takes is given up; bad requests to both are no reason."""
    worse = checks.refusals_over(tally(arms(Counts(1_200, refused=37), Counts(24_000, refused=3), 0.05)), 0.0, 100.0)
    assert worse is not None
    assert worse.state == "bad"
    assert worse.message == "37 of 1,200 answers were refused with 4xx, 3 of 24,000 of the old version's"
    same = checks.refusals_over(tally(arms(Counts(1_200, refused=37), Counts(24_000, refused=800), 0.05)), 0.0, 100.0)
    assert same is not None
    assert same.state == "open"
    assert checks.refusals_over(tally(arms(Counts(1_200), Counts(24_000), 0.05)), 0.0, 100.0) is None
    for refused, state in ((1, "open"), (9, "bad")):  # users count once each
        units = {"candidate_units": Units(9, 0, refused), "control_units": Units(90, 0), "routed": ((0.1, 99, 999),)}
        found = checks.refusals_over(tally(arms(Counts(99, refused=99), Counts(999), 0.1, **units)), 0.0, 100.0)
        assert found is not None
        assert found.state == state


def test_users_are_what_a_promise_is_about(seed: int) -> None:
    """One user in a hundred always fails: 99.9 % is not called kept, however many requests each makes."""
    rng, wrong, bad = np.random.default_rng(seed), 0, 0
    for _ in range(200):
        failing = int(rng.binomial(40, 0.01))
        units = {"candidate_units": Units(40, failing), "control_units": Units(800, 8)}
        seen = tally(arms(Counts(4_000, failing * 100), Counts(80_000, 800), 0.05, **units))
        found = checks.errors(seen, 0.01, 0.001, 75.0, 20.0)
        assert found is not None
        wrong, bad = wrong + (found.state == "certain"), bad + (found.state == "bad")
    assert wrong == 0
    assert bad / 200 <= 0.02 + 3 * math.sqrt(0.02 * 0.98 / 200)
    good = tally(arms(Counts(9_000, 0), Counts(80_000, 8), 0.05, candidate_units=Units(4_000), control_units=Units(9)))
    sure = checks.errors(good, None, 0.001, 0.0, 20.0)
    assert sure is not None
    assert sure.state == "certain"
    assert "users or sessions, 0 of 4,000 met one" in sure.message


def test_rare_errors_of_many_requests_are_within_a_bound() -> None:
    """Each of a hundred users makes a hundred requests, and one in five hundred fails: `1%` is kept."""
    units = {"candidate_units": Units(100, 18), "control_units": Units(1_900, 300)}
    found = checks.errors(tally(arms(Counts(10_000, 20), Counts(190_000, 380), 0.05, **units)), 0.01, None, 50.0, 20.0)
    assert found is not None
    assert found.state == "open"
    assert found.evidence < 1


def test_what_was_not_answered_keeps_no_promise() -> None:
    """Refused, or left by the client: no answer, so nothing is certain; waits count against times as long as known."""
    for silent in (Counts(9_000, refused=9_000), Counts(9_000, left=9_000)):
        found = checks.errors(tally(arms(silent, Counts(9_000))), None, 0.001, 0.0, 20.0)
        assert found is not None
        assert (found.state, found.wanted) == ("unknown", 20.0)
    half = checks.errors(tally(arms(Counts(8_000, 0, (), (), 2_000, 2_000), Counts(9_000))), None, 0.001, 0.0, 20.0)
    assert half is not None
    assert "of 4,000 answers" in half.message
    waits = histogram([2.0] * 300)
    left = tally(arms(Counts(800, 0, histogram([0.5] * 500), left=300, waited=waits), Counts(9_000)))
    promised = checks.times(left, "p95", "times", None, 3.0, 0.0, 20.0)
    assert promised is not None
    assert (promised.state, promised.numbers["left"]) == ("open", 300)
    within, over = (checks.times(left, "p95", "times", bound, None, 70.0, 20.0) for bound in (3.0, 1.0))
    assert within is not None
    assert over is not None
    assert (within.state, over.state) == ("open", "bad")


def test_scopes_of_users_share_the_money(seed: int) -> None:
    """Where each scope begins anew with the same users, a healthy version is given up in 3 % still; a bad one is."""
    rng, alarms, runs = np.random.default_rng(seed), 0, 300
    for _ in range(runs):
        scopes, fired = [], False
        for _ in range(4):
            order = np.cumsum(rng.random(30) < 0.05)
            for seen in (5, 10, 20, 30):
                mine = int(order[seen - 1])
                own = Units(50, mine), Units(950, seen - mine)
                data = Arms((), Sums(), Sums(), *own, ((0.05, 50, 950),), earlier=tuple(scopes))
                fired |= checks.errors_over(tally(data), 0.0, 1 / 0.03).state == "bad"
            scopes.append((*own, 0.05))
        alarms += fired
    assert alarms / runs <= 0.03 + 3 * math.sqrt(0.03 * 0.97 / runs)
    worse = (Units(50, 25), Units(950, 1), 0.05)
    later = Arms((), Sums(), Sums(), Units(5), Units(95), ((0.05, 5, 95),), earlier=(worse,))
    assert checks.errors_over(tally(later), 0.0, 1 / 0.03).state == "bad"


def test_buckets_are_rounded_to_the_side_that_does_not_help() -> None:
    """In a bucket with the bound inside an answer is not slow for an abort, and is slow for a promise."""
    counts = dense(histogram([0.1, 0.5, 2.0, 2.0]))
    edge = next(e for e in EDGES if e > 2.0)
    below = max(e for e in EDGES if e < 2.0)
    middle = (edge + below) / 2
    assert surely_over(counts, middle) == 0
    assert maybe_over(counts, middle) == 2
    assert surely_over(counts, below) == maybe_over(counts, below) == 2
    assert surely_over(counts, edge) == maybe_over(counts, edge) == 0
    assert quantile(counts) == edge
    assert math.isnan(quantile(np.zeros(BUCKETS)))
    assert checks.longest(np.zeros(BUCKETS), 20.0) == math.inf


def test_times_against_a_bound_and_a_promise() -> None:
    """More than 5 of 100 over the bound give it up; a promise takes some hundred answers; none are unknown."""
    rng = np.random.default_rng(1)
    times = histogram(0.5 * np.exp(0.4 * rng.standard_normal(800)))
    seen = tally(arms(Counts(800, 0, times), Counts()))
    good = checks.times(seen, "p95", "times", 2.0, 1.5, 70.0, 20.0)
    assert good is not None
    assert (good.state, good.requests_left) == ("certain", 0)
    assert good.numbers["p95"] <= good.numbers["upper"] <= 1.5
    slow = checks.times(seen, "p95", "times", 0.7, 0.9, 70.0, 20.0)
    assert slow is not None
    assert slow.state == "bad"
    near = checks.times(seen, "p95", "times", None, 1.0, 0.0, 20.0)
    assert near is not None
    assert near.state == "open"
    assert near.risk.startswith("p95 may be up to 1.0")
    unknown = checks.times(seen, "ttft", "firsts", None, 1.0, 0.0, 20.0)
    assert unknown is not None
    assert (unknown.state, unknown.wanted) == ("unknown", 20.0)
    assert checks.times(seen, "ttft", "firsts", None, None, 0.0, 20.0) is None


def streams(rng, slices, per_slice, scale=1.0):
    """Histograms (slices, buckets) of lognormal times at a load that swings."""
    load = 1 + 0.5 * np.sin(np.linspace(0, 20, slices))
    found = np.zeros((slices, BUCKETS))
    for i, n in enumerate(rng.poisson(per_slice, slices)):
        found[i] = np.bincount(
            np.searchsorted(EDGES, scale * load[i] * np.exp(0.5 * rng.standard_normal(n))), minlength=BUCKETS
        )
    return found


def test_equal_times_are_no_reason_and_slower_ones_are(seed: int) -> None:
    """At a swinging load: equal arms are hardly ever told apart; half as long again, over a bound of 20 %, soon is."""
    rng = np.random.default_rng(seed)
    alarms, found = 0, 0
    for _ in range(120):
        control = streams(rng, 120, 20)
        same, slower = streams(rng, 120, 2), streams(rng, 120, 2, 1.9)
        alarms += any(beside([blocks(same[:k], control[:k], 1.0)]) >= 20 for k in (30, 60, 90, 120))
        found += beside([blocks(slower, control, 1.2)]) >= 140
    assert alarms / 120 <= 0.05 + 3 * math.sqrt(0.05 / 120)
    assert found / 120 > 0.75


def test_slow_for_long_prompts_alone_is_seen_in_its_stratum(seed: int) -> None:
    """Three times as long for one prompt in ten: hidden in all together, plain among the long ones."""
    rng = np.random.default_rng(seed)
    short = (streams(rng, 400, 3), streams(rng, 400, 27))
    long = (streams(rng, 400, 0.35, 9.0), streams(rng, 400, 3, 3.0))
    apart = beside([blocks(*short, 1.2), blocks(*long, 1.2)])
    assert apart >= 140
    assert beside([blocks(*short, 1.2)]) < 1


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 288)), max_size=40), st.floats(1, 3))
def test_blocks_count_whole_slices_once(rows: list[tuple[int, int, int]], factor: float) -> None:
    """Each block has enough of both arms, no answer counts twice, and blocks before a limit is known count nothing."""
    own, rest = np.zeros((len(rows), BUCKETS)), np.zeros((len(rows), BUCKETS))
    for i, (mine, theirs, bucket) in enumerate(rows):
        own[i, bucket], rest[i, (bucket * 7) % BUCKETS] = mine, theirs
    found = blocks(own, rest, factor)
    starts = [0, *(found.ends[:-1] + 1)] if len(found.ends) else []
    for start, end in zip(starts, found.ends, strict=True):
        assert min(own[start : end + 1].sum(), rest[start : end + 1].sum()) >= BLOCK
    assert all(a < b for a, b in pairwise(found.ends))
    assert (found.slow <= found.answers).all()
    assert (found.control_slow <= found.control).all()
    assert found.answers.sum() <= own.sum()
    assert not len(found.ends) or found.answers[0] == 0
    assert 0 <= beside([found]) < math.inf


def sums(rng, tokens, count):
    """Sums of answers with so many output tokens on average."""
    return Sums(tokens=histogram(tokens * rng.exponential(1.0, count), AMOUNTS))


def test_more_tokens_give_a_version_up(seed: int) -> None:
    """Half as many tokens again, where a fifth is allowed, is seen; as many are not; none are unknown."""
    rng = np.random.default_rng(seed)
    control = sums(rng, 200.0, 8_000)
    wordy = means.amounts(sums(rng, 320.0, 1_000), control, "tokens", 0.2, 100.0)
    assert wordy.state == "bad"
    assert wordy.numbers["ratio"] == pytest.approx(1.6, abs=0.15)
    assert means.amounts(sums(rng, 200.0, 1_000), control, "tokens", 0.2, 100.0).evidence < 1
    assert means.amounts(Sums(), control, "tokens", 0.2, 100.0).state == "unknown"
    cost = means.amounts(Sums(compute=((100, 50),)), Sums(compute=((100, 900),)), "cost", 0.2, 100.0)
    assert (cost.name, cost.state) == ("cost over control", "open")


def test_longer_answers_that_are_fewer_tokens_are_no_reason() -> None:
    """20 tokens with 10,000 now and then, beside 50 always: the mean is lower, so it is not given up."""
    control = Sums(tokens=histogram([20.0] * 19_850 + [10_000.0] * 150, AMOUNTS))
    found = means.amounts(Sums(tokens=histogram([50.0] * 2_000, AMOUNTS)), control, "tokens", 0.2, 250.0)
    assert found.numbers["candidate"] < found.numbers["control"]
    assert found.state == "open"


def test_feedback_that_is_worse_gives_a_version_up() -> None:
    """Thumbs: 60 of 100 where the control has 80, with 5 of 100 allowed."""
    control = Sums(scores=((0.0, 400), (1.0, 1_600)))
    worse = means.score(Sums(scores=((0.0, 160), (1.0, 240))), control, 0.05, 100.0, 7)
    assert worse.state == "bad"
    assert worse.numbers["high"] < -0.05
    assert worse.numbers["untold"] == 7
    assert means.score(Sums(scores=((0.0, 80), (1.0, 320))), control, 0.05, 100.0, 0).state == "open"
    assert means.score(Sums(), control, 0.05, 100.0, 0).state == "unknown"


def test_paired_rows_that_are_worse_give_a_version_up() -> None:
    """On 2,800 rows a loss higher by 0.02 is seen at a margin of 0.005, one higher by 0.004 is not."""
    spread = [(-0.3, 300), (-0.1, 800), (0.0, 600), (0.1, 800), (0.3, 300)]
    found = means.pairs(tuple((round(v + 0.02, 3), n) for v, n in spread), 0.005, 133.0)
    assert found.state == "bad"
    assert found.numbers["low"] > 0.005
    assert found.numbers["low"] < found.numbers["difference"] < found.numbers["high"]
    assert means.pairs(tuple((round(v + 0.004, 3), n) for v, n in spread), 0.005, 133.0).state == "open"
    assert means.pairs((), 0.005, 133.0).state == "unknown"


def test_an_ab_test_is_won_lost_or_open() -> None:
    """By its interval: above 0, below 0, or neither; with none of the metric nothing is known."""
    control = Sums(metric=((0.0, 2_800), (1.0, 1_200)))
    won, lost, equal = (
        means.ab(Sums(metric=((0.0, 4_000 - good), (1.0, good))), control, "bought", 0.007)
        for good in (1_500, 900, 1_210)
    )
    assert (won.state, lost.state, equal.state) == ("certain", "bad", "open")
    assert won.numbers["low"] > 0
    assert lost.numbers["high"] < 0
    assert equal.numbers["low"] < 0 < equal.numbers["high"]
    assert "(98.6 % sure)" in equal.message
    assert means.ab(Sums(), control, "bought", 0.007).state == "unknown"
