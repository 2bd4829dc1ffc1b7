"""What becomes of a stage: three verdicts, what follows without certainty, and both error guarantees at many looks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.arms import EDGES, Arms, Counts, Slice, Sums, Units
from mainspring.decide.rollout import Bound, Evidence, Looked, StageVerdict, Terms, in_words, judge

TERMS = Terms(errors=(Bound(0.0, over=True), Bound(0.05)), p95=(Bound(1.0),), promised_errors=0.01)
ERRORS = Terms()
KINDS = st.sampled_from(["mirror", "canary", "ab", "waves", "all"])


def canary(elapsed: float = 3600.0, otherwise: str = "wait", *, kind: str = "canary", metric: str = "") -> Looked:
    """A stage of an hour."""
    return Looked(kind, 0.05, elapsed, 3600.0, otherwise, metric, per_second=0.1)


def sliced(own: Counts, rest: Counts, share: float) -> tuple[Slice, ...]:
    """Requests and errors evenly in twenty slices."""

    def part(whole: Counts, i: int) -> Counts:
        many, bad = ((n + i) // 20 for n in (whole.requests, whole.errors))
        return Counts(many, bad, tuple((bucket, many - bad) for bucket, _ in whole.times))

    return tuple(Slice(i, 0, part(own, i), part(rest, i), share) for i in range(20))


def both(own: int, bad: int, rest: int, base: int, share: float = 0.05, **more: object) -> Arms:
    """Both arms, split as they should be."""
    slices = sliced(Counts(own, bad, ((100, 1),)), Counts(rest, base, ((100, 1),)), share)
    return Arms(slices, routed=((share, own, rest),), **more)  # type: ignore[arg-type]


def said(arms: Arms | None, stage: Looked, terms: Terms = TERMS, **more: object) -> StageVerdict:
    """The verdict on such arms."""
    return judge(terms, Evidence(arms, **more), stage)  # type: ignore[arg-type]


COUNTS = st.builds(
    lambda n, bad, times, firsts: Counts(
        n,
        min(n, bad),
        tuple(sorted(times.items())),
        tuple(sorted(firsts.items())),
        (n - min(n, bad)) // 7,
        (n - min(n, bad)) // 5,
        tuple(sorted(firsts.items())),
    ),
    st.integers(0, 500),
    st.integers(0, 500),
    st.dictionaries(st.integers(0, 289), st.integers(1, 200), max_size=3),
    st.dictionaries(st.integers(0, 289), st.integers(1, 200), max_size=2),
)
SCORES = st.dictionaries(st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 900)).map(lambda d: tuple(d.items()))
AMOUNTS = st.dictionaries(st.integers(0, 273), st.integers(1, 900), max_size=3).map(lambda d: tuple(sorted(d.items())))
SUMS = st.builds(Sums, AMOUNTS, AMOUNTS, SCORES, SCORES)
UNITS = st.none() | st.builds(
    lambda n, bad: Units(n + bad, bad, n // 3, bad // 2), st.integers(0, 90), st.integers(0, 90)
)
ARMS = st.builds(
    Arms,
    st.lists(
        st.builds(Slice, st.integers(0, 50), st.integers(0, 4), COUNTS, COUNTS, st.sampled_from([0.0, 0.05, 0.9])),
        max_size=8,
    ).map(lambda slices: tuple(sorted(slices, key=lambda one: (one.at, one.stratum)))),
    SUMS,
    SUMS,
    UNITS,
    UNITS,
    st.lists(st.tuples(st.sampled_from([0.05, 0.9]), st.integers(0, 900), st.integers(0, 900)), max_size=2).map(tuple),
    COUNTS,
    st.lists(st.builds(Slice, st.integers(0, 50), st.just(0), COUNTS, COUNTS, st.just(0.5)), max_size=3).map(tuple),
    st.integers(0, 9),
)
EVERYTHING = Terms(
    errors=(Bound(0.1, over=True), Bound(0.0), Bound(1.0)),
    p95=(Bound(0.2, over=True), Bound(0.3)),
    ttft=(Bound(0.2, over=True), Bound(0.3)),
    tokens=0.2,
    cost=0.0,
    score=0.02,
    margin=0.005,
    promised_errors=0.001,
    promised_p95=0.5,
    promised_ttft=0.2,
)


@settings(max_examples=150)
@given(ARMS, KINDS, st.floats(0, 20), st.floats(0.1, 10), st.sampled_from(["wait", "proceed", "abort"]))
def test_any_evidence_has_a_verdict(arms: Arms, kind: str, elapsed: float, length: float, otherwise: str) -> None:
    """One of three verdicts, finite numbers, a sentence; never on before its time or without answers."""
    metric = "bought" if kind == "ab" else ""
    verdict = said(arms, Looked(kind, 0.05, elapsed, length, otherwise, metric, 2.0), EVERYTHING)
    live = sum(one.candidate.requests for one in arms.slices)
    if not (live + arms.mirrored.requests if kind == "mirror" else live):
        assert verdict.kind == "hold"
        return
    assert all(math.isfinite(number) for number in verdict.numbers.values())
    for check in verdict.checks:
        assert all(math.isfinite(number) for number in (check.evidence, check.certainty, *check.numbers.values()))
        assert check.message
        assert check.state != "bad" or check.evidence >= check.threshold > 0
        assert check.state != "certain" or check.certainty >= check.wanted > 0
    won = any(one.name == "ab" and one.state == "certain" for one in verdict.checks)
    if verdict.kind == "advance":
        assert elapsed >= length or won
        lacking = [one for one in verdict.checks if one.wanted and one.state != "certain"]
        assert live or kind == "mirror"
        assert not lacking or otherwise == "proceed" or kind == "mirror"
        assert not any(one.name == "split" and one.state == "bad" for one in verdict.checks)
    assert verdict.message


def test_no_data_means_hold() -> None:
    """Unknown arms, and arms without an answer of the new version's, hold, whatever `otherwise` says."""
    for otherwise in ("wait", "proceed", "abort"):
        assert said(None, canary(9e9, otherwise), unknown="the log is being read").message == "the log is being read"
        assert said(both(0, 0, 900, 900), canary(9e9, otherwise)).kind == "hold"
        assert said(both(0, 0, 900, 0, mirrored=Counts(500, 0)), canary(9e9, otherwise)).kind == "hold"


def test_a_promise_that_is_certain_lets_a_stage_end() -> None:
    """Before its time it is watched; then it goes on."""
    good = both(1_000, 1, 19_000, 20)
    assert said(good, canary(1800.0)).message == "watched for 30 min of 1 h"
    verdict = said(good, canary())
    assert (verdict.kind, verdict.message, verdict.risk) == ("advance", "1,000 answers, 1 failed", "")


def test_without_certainty_the_stack_file_says_what_follows() -> None:
    """`wait` says for what and how long still; `proceed` names the risk with its number; `abort` gives up."""
    few = both(300, 0, 5_700, 5)
    risk = "errors may be up to 1.26 % (95 % sure), promised is 1 %"
    waits = said(few, canary())
    assert waits.kind == "hold"
    assert waits.message.startswith(f"waits for certainty: {risk}; about ")
    assert "more answers like these, 13" in waits.message
    goes = said(few, canary(otherwise="proceed"))
    assert (goes.kind, goes.risk) == ("advance", risk)
    assert risk in goes.message
    gives_up = said(few, canary(otherwise="abort"))
    assert (gives_up.kind, gives_up.message) == ("abort", f"not certain in the time given: {risk}")
    users = {"candidate_units": Units(97), "control_units": Units(1_900)}
    waits = said(both(300, 0, 5_700, 5, **users), canary())
    assert (
        "more users or sessions like these; if no new ones come: `mainspring rollout promote --stage`" in waits.message
    )
    never = said(both(1_000, 14, 19_000, 280), canary())
    assert never.message.endswith("it does not get certain at what was seen")


def test_what_is_surely_bad_gives_a_rollout_up_at_once() -> None:
    """Before the stage's time, with the sentence of the check that says so."""
    verdict = said(both(200, 12, 3_800, 4), canary(60.0))
    assert verdict.kind == "abort"
    assert "12 of 200 answers failed, 4 of 3,800 of the old version's" in verdict.message
    slow = said(Arms((Slice(0, 0, Counts(200, 0, ((250, 200),)), Counts(3_800, 0), 0.05),)), canary(60.0))
    assert slow.kind == "abort"
    assert "took over 1 s" in slow.message


def test_a_split_that_is_off_holds_and_says_so() -> None:
    """Too many requests at the candidate: what is beside the control counts by what each slice got, or not at all."""
    off = Arms(sliced(Counts(3_000, 24), Counts(7_000, 56), 0.05), routed=((0.05, 3_000, 7_000),))
    verdict = said(off, canary())
    assert verdict.kind == "hold"
    assert verdict.message == "the arms cannot be compared: the new version got 30 % of 10,000 requests, 5 % was routed"
    failing = Arms(sliced(Counts(4_500, 4_500), Counts(55_500), 0.05), routed=((0.05, 4_500, 55_500),))
    assert said(failing, canary(60.0), ERRORS).kind == "abort"
    own = sliced(Counts(3_000, 600), Counts(7_000, 20), 0.05)
    assert said(Arms(own, routed=((0.05, 3_000, 7_000),)), canary()).kind == "abort"
    less = Arms(sliced(Counts(300, 15), Counts(9_700, 20), 0.1), routed=((0.1, 300, 9_700),))
    assert said(less, canary(), ERRORS).kind == "abort"  # it got less than it should have, and failed more


def copied(copies: int, bad: int) -> Arms:
    """All of some requests mirrored, of which few fail live."""
    return Arms(mirrored=Counts(copies, bad), mirrored_slices=sliced(Counts(copies, bad), Counts(copies, 0), 0.5))


def test_a_mirror_stage_needs_no_certainty_unless_it_is_asked_for() -> None:
    """No user is at risk: after its time it goes on; `abort` asks for the promises; surely bad answers give it up."""
    seen = copied(200, 0)
    assert said(seen, canary(kind="mirror")).kind == "advance"
    assert said(seen, canary(kind="mirror", otherwise="proceed")).risk.startswith("errors may be up to")
    assert said(seen, canary(kind="mirror", otherwise="abort")).kind == "abort"
    assert said(copied(200, 30), canary(60.0, kind="mirror")).kind == "abort"
    assert said(copied(200, 30), canary(60.0, kind="mirror"), ERRORS).kind == "abort"


def test_a_mirror_is_compared_with_the_same_requests() -> None:
    """3 % fail where it is mirrored, in both versions, and hardly any elsewhere or before: no reason."""
    here = sliced(Counts(7_000, 210), Counts(7_000, 210), 0.5)
    elsewhere = sliced(Counts(), Counts(60_000, 14), 0.0)
    arms = Arms(elsewhere, mirrored=Counts(7_000, 210), mirrored_slices=here)
    assert said(arms, canary(60.0, kind="mirror"), ERRORS).kind == "hold"
    worse = replace(arms, mirrored_slices=sliced(Counts(7_000, 210), Counts(7_000, 7), 0.5))
    assert said(worse, canary(60.0, kind="mirror"), ERRORS).kind == "abort"


def test_clients_that_leave_are_no_good_answers() -> None:
    """Each request hangs until its client leaves after 2 s: 99.9 % and a p95 of 3 s are not kept, nor is nothing."""
    left = tuple(replace(one, candidate=Counts(100, left=100, waited=((192, 100),)))
                 for one in sliced(Counts(1), Counts(9_000), 0.1))  # fmt: skip
    arms = Arms(left, routed=((0.1, 2_000, 18_000),))
    assert EDGES[192] > 2.0
    for terms in (Terms(promised_errors=0.001, promised_p95=3.0), Terms(promised_p95=3.0), Terms()):
        assert said(arms, canary(), terms).kind == "hold"


def test_a_version_that_refuses_everything_is_given_up() -> None:
    """With `errors: 1%` alone, and where users keep their version."""
    refuses = sliced(Counts(4_500), Counts(4_500), 0.5)
    refuses = tuple(replace(one, candidate=replace(one.candidate, refused=one.candidate.requests)) for one in refuses)
    arms = Arms(refuses, routed=((0.5, 4_500, 4_500),))
    terms = Terms(errors=(Bound(0.01),), promised_errors=0.001)
    assert said(arms, canary(), terms).kind == "abort"
    users = replace(arms, candidate_units=Units(498, 0, 498), control_units=Units(499))
    assert said(users, canary(), Terms(promised_errors=0.001)).kind == "abort"


def test_a_stage_needs_requests_of_its_own() -> None:
    """Good as the stage before was: without a request in this one, or before all of them are known, it is held."""
    good = both(9_000, 0, 171_000, 20)
    for terms in (ERRORS, Terms(promised_errors=0.001)):
        for otherwise in ("wait", "proceed", "abort"):
            stage = canary(otherwise=otherwise)
            assert said(good, replace(stage, requests=0), terms).kind == "hold"
            assert said(good, replace(stage, requests=9, covered=3_000.0), terms).kind == "hold"
            assert said(good, replace(stage, requests=9, covered=3_610.0), terms).kind == "advance"
    waits = said(good, replace(canary(), requests=9, covered=3_000.0)).message
    assert waits == "what became of all requests is known for 50 min of 1 h"
    assert said(good, replace(canary(), requests=0)).message == "no request came to the new version in this stage yet"


def test_hardly_anything_seen_is_not_enough_where_nothing_is_promised() -> None:
    """One good answer, or two that failed, hold it; one error of many does not; `proceed` names the risk."""
    assert said(both(1, 0, 4, 0), canary(), ERRORS).kind == "hold"
    bad = said(both(2, 2, 5, 0, 0.3), canary(), ERRORS)
    assert (bad.kind, "2 answers so far, 2 failed" in bad.message) == ("hold", True)
    assert said(both(30, 1, 570, 0), canary(), ERRORS).message.startswith("waits for certainty: errors look more")
    assert said(both(300, 1, 5_700, 0), canary(), ERRORS).kind == "advance"
    assert said(both(2, 2, 5, 0, 0.3), canary(otherwise="proceed"), ERRORS).risk
    assert said(both(30, 0, 570, 0), canary(), ERRORS).kind == "advance"


def test_what_is_asked_for_and_not_known_is_waited_for() -> None:
    """A bound on times beside a control that has none holds a canary, and not the stage that has no control."""
    untimed = Arms(sliced(Counts(900), Counts(17_100), 0.05), routed=((0.05, 900, 17_100),))
    terms = Terms(p95=(Bound(0.2, over=True),))
    waits = said(untimed, canary(), terms)
    assert (waits.kind, "too few times of answers" in waits.message) == ("hold", True)
    assert "too few times" in said(untimed, canary(otherwise="proceed"), terms).risk
    assert said(untimed, replace(canary(kind="all"), share=1.0), terms).kind == "advance"


def test_a_look_at_the_same_is_not_worked_out_again() -> None:
    """The same evidence, looked at later, has the same checks, themselves; other terms or new evidence has not."""
    arms = both(1_000, 1, 19_000, 20)
    once, later = said(arms, canary(60.0)), said(arms, canary(120.0))
    assert all(a is b for a, b in zip(once.checks, later.checks, strict=True))
    assert said(arms, canary(60.0), ERRORS).checks != once.checks
    assert said(both(1_000, 1, 19_000, 20), canary(60.0)).checks == once.checks
    assert said(arms, canary(120.0)).message == "watched for 2 min of 1 h"


def test_an_ab_stage_ends_with_its_metric() -> None:
    """Won: on, if the promises are kept; lost: given up; open at the end: as `otherwise` says; always its interval."""
    stage = canary(600.0, kind="ab", metric="bought")

    def tried(good: int, own: int = 4_000, bad: int = 4) -> Arms:
        sums = Sums(metric=((0.0, 4_000 - good), (1.0, good))), Sums(metric=((0.0, 2_800), (1.0, 1_200)))
        return both(own, bad, 19 * own, 76, candidate=sums[0], control=sums[1])

    won = said(tried(1_500), stage)
    assert won.kind == "advance"
    assert "`bought` 0.375 on 4,000 answers, the old version's 0.3 on 4,000: difference +0.0750" in won.message
    assert said(tried(1_500, own=100, bad=0), stage).kind == "hold"  # errors are not certain yet
    assert said(tried(900), stage).kind == "abort"
    assert said(tried(1_210), stage).kind == "hold"
    late = canary(kind="ab", metric="bought", otherwise="proceed")
    assert said(tried(1_210), late).risk.startswith("`bought` may be worse by up to 0.0")
    assert said(tried(1_210), canary(kind="ab", metric="bought")).kind == "hold"


def test_paired_rows_that_are_worse_end_a_mirror_stage() -> None:
    """Worse than the margin row by row: given up; a little worse: on, with what it is by days told."""
    mirrored = Arms(mirrored=Counts(3_000, 0))
    terms = Terms(errors=(), margin=0.005)
    worse = tuple((round(v + 0.02, 3), n) for v, n in ((-0.2, 800), (0.0, 1_400), (0.2, 800)))
    assert said(mirrored, canary(60.0, kind="mirror"), terms, differences=worse).kind == "abort"
    slightly = tuple((round(v + 0.003, 3), n) for v, n in ((-0.2, 800), (0.0, 1_400), (0.2, 800)))
    days = ((1_000, 3.0), (1_000, 4.0), (1_000, 3.5))
    verdict = said(mirrored, canary(kind="mirror"), terms, differences=slightly, days=days)
    assert verdict.kind == "advance"
    assert "Brier +0.0035 on 3,000 pairs, below +0.0043 by days (95 % sure)" in verdict.message
    assert verdict.numbers["pairs"] == 3_000
    told = said(mirrored, canary(kind="mirror"), terms, told=False)
    assert told.message.endswith("judged by errors and times alone, since no outcomes come back")


def test_bounds_at_the_ends_raise_nothing() -> None:
    """`errors: 0%` and `100%` are bounds like others."""
    for bound, kind in ((0.0, "abort"), (1.0, "advance")):
        assert said(both(100, 100, 100, 100, 0.5), canary(), Terms(errors=(Bound(bound),))).kind == kind


@pytest.mark.parametrize(
    ("seconds", "text"), [(259_200.0, "72 h"), (5_400.0, "1.5 h"), (600.0, "10 min"), (1.0, "1 s")]
)
def test_lengths_in_words(seconds: float, text: str) -> None:
    """The largest unit that it fills."""
    assert in_words(seconds) == text
