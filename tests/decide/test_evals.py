"""Evaluations of a language model: what passes, what is refused, and what it says of its own certainty."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.evals import MIN_ITEMS, judge_eval, missed, needed, paired_difference, wilson
from mainspring.decide.gate import judge
from mainspring.loop.snapshot import EvalNumbers, Footprint, GateNumbers
from mainspring.stack.pipelines import EvalGate, Gates

SCORES = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=MIN_ITEMS, max_size=60)


def gate(**bounds: object) -> EvalGate:
    return EvalGate.model_validate({"run": "evals:quality", **bounds})


def scores(good: int, of: int) -> tuple[float, ...]:
    return (1.0,) * good + (0.0,) * (of - good)


def message(bounds: dict[str, object], own: tuple[float, ...], other: tuple[float, ...] = ()) -> tuple[bool, str]:
    champion = "1" if other else ""
    (item,) = judge_eval("quality", gate(**bounds), EvalNumbers("quality", own, other), champion, seed=0)
    return item.passed, item.message


def test_a_better_version_passes_and_the_sentence_has_all_numbers() -> None:
    """Eight items of forty better and none worse: no worse than +0.10 with 95 %, where -0.03 is allowed."""
    passed, told = message({"no_worse_by": "3%"}, scores(28, 40), scores(20, 40))
    assert passed
    assert told.startswith(
        "Eval `quality` 0.70 vs 0.50 of version 1 on 40 items: difference +0.20, 95% sure it is no worse"
    )
    assert "(allowed −0.03)" in told


def test_a_worse_version_and_a_doubtful_one_are_refused() -> None:
    """Worse by more than the margin is refused; so is equal on average with items that go both ways."""
    assert not message({"no_worse_by": "3%"}, scores(12, 40), scores(20, 40))[0]
    left, right = (1.0, 0.0) * 20, (0.0, 1.0) * 20
    passed, told = message({"no_worse_by": "3%"}, left, right)
    assert not passed
    assert "difference +0.00" in told


def test_the_same_answers_pass_and_the_blind_spot_is_told() -> None:
    """Where nothing got worse resampling sees no doubt, so the sentence says what so few items can miss."""
    passed, told = message({"no_worse_by": "3%"}, scores(20, 40), scores(20, 40))
    assert passed
    assert told.endswith("no item got worse, and so few can miss a loss in 7% of prompts: passed")
    assert "can miss" not in message({"no_worse_by": "10%"}, scores(20, 40), scores(20, 40))[1]


def test_bounds_of_its_own_tell_their_interval_and_what_they_cannot_tell() -> None:
    """The mean decides; an interval stands beside it, and whether so few items could make sure at all."""
    passed, told = message({"at_least": "90%"}, scores(27, 30))
    assert passed
    assert told == (
        "Eval `quality` 0.90 on 30 items (95% interval 0.74 to 0.97), wanted at least 0.9;"
        " it is not 95% sure of other prompts: passed"
    )
    assert not message({"at_least": "90%"}, scores(26, 30))[0]
    assert "20 items can't make sure of it, 29 without a flaw could" in message({"at_least": "90%"}, scores(20, 20))[1]
    assert "no number of items makes sure of 1" in message({"at_least": "100%"}, scores(30, 30))[1]


@pytest.mark.parametrize(
    ("own", "other", "why"),
    [
        ((), (), "was not run"),
        (scores(9, 9), (), "can't be judged on 9 items (at least 10 are needed)"),
        (scores(20, 40), scores(20, 39), "they can't be paired"),
    ],
)
def test_what_decides_nothing_is_refused(own: tuple[float, ...], other: tuple[float, ...], why: str) -> None:
    """No scores, too few, or another set for the champion: refused, with the reason."""
    passed, told = message({"no_worse_by": "10%"}, own, other)
    assert not passed
    assert why in told


def test_a_first_version_has_nothing_to_be_worse_than() -> None:
    """Without a champion the comparison passes and says so; the bound of its own still holds."""
    assert message({"no_worse_by": "1%"}, scores(1, 40)) == (
        True, "Eval `quality` 0.03 on 40 items; there is no champion to compare with: passed"
    )  # fmt: skip
    found = judge_eval(
        "quality", gate(no_worse_by="1%", at_least="50%"), EvalNumbers("quality", scores(1, 40)), "", seed=0
    )
    assert [item.passed for item in found] == [False, True]


def test_wilson_against_published_values() -> None:
    """The interval of 81 of 263 at 95 % is 0.2553 to 0.3662 (Newcombe 1998, Statistics in Medicine 17, table I)."""
    low, high = wilson(81 / 263, 263, 0.95)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0.0, 20, 0.95) == pytest.approx((0.0, 0.1611), abs=1e-4)  # 0 of 20, the same table
    assert wilson(0.5, 0, 0.95) == (0.0, 1.0)


def test_how_many_items_it_takes() -> None:
    """29 items without a flaw show 90 % with 95 %, 299 show 99 %; 40 items miss a loss in 7.2 % of prompts."""
    assert (needed(0.9, 0.95), needed(0.99, 0.95), needed(0.0, 0.95)) == (29, 299, 1)
    assert missed(40, 0.95) == pytest.approx(1 - 0.05 ** (1 / 40))


@given(SCORES, st.floats(0, 0.5), st.integers(0, 3))
def test_a_wider_margin_never_refuses_what_a_narrower_one_passed(own: list[float], margin: float, seed: int) -> None:
    """The same scores and seed give the same verdict, and verdicts grow with the margin."""
    numbers = EvalNumbers("q", tuple(own), tuple(own[1:] + own[:1]))
    narrow, wide = (judge_eval("q", gate(no_worse_by=m), numbers, "1", seed)[0] for m in (margin, margin + 0.1))
    assert narrow == judge_eval("q", gate(no_worse_by=margin), numbers, "1", seed)[0]
    assert wide.passed or not narrow.passed


@given(SCORES)
def test_bounds_surround_the_mean(own: list[float]) -> None:
    """Low, mean and high are in order, and turning the two versions round turns the signs."""
    other = own[1:] + own[:1]
    mean, low, high = paired_difference(own, other, 0.95, 0)
    assert low <= mean + 1e-12
    assert mean <= high + 1e-12
    assert paired_difference(other, own, 0.95, 0) == pytest.approx((-mean, -high, -low))


def test_false_pass_rate() -> None:
    """A version that is truly worse by the margin passes in about 5 of 100 trials of 60 items, and not in 12."""
    random, passed, trials = np.random.default_rng(3), 0, 200
    for _ in range(trials):
        other = (random.random(60) < 0.5).astype(float)
        worse = other * (random.random(60) < 0.7)  # loses 15 points
        better = np.where(other == 0, (random.random(60) < 0.10).astype(float), worse)  # and wins 5 back
        passed += judge_eval("q", gate(no_worse_by=0.10), EvalNumbers("q", tuple(better), tuple(other)), "1", 0)[
            0
        ].passed
    assert 1 <= passed <= 24


def test_all_gates_of_a_language_model_together() -> None:
    """Evaluations, latency at a rate, and memory are judged in one verdict, each with its sentence."""
    gates = Gates.model_validate(
        {
            "evals": {"quality": {"run": "e:q", "at_least": "40%"}, "safety": {"run": "e:s", "at_least": "90%"}},
            "latency": {"p95": "3s", "at": "2/s per replica"},
            "memory": {"at_most": "1GB"},
        }
    )
    evals = (EvalNumbers("quality", scores(20, 40)), EvalNumbers("safety", scores(20, 40)))
    footprint = Footprint(98_000_000, 4.1e8, 0.4, math.nan)
    numbers = GateNumbers(0, (), math.nan, math.nan, 2.5, evals=evals, own=footprint)
    verdict = judge(gates, numbers)
    assert {item.name: item.passed for item in verdict.items} == {
        "latency": True, "evals.quality": True, "evals.safety": False, "memory": True
    }  # fmt: skip
    told = [item.message for item in verdict.items]
    assert told[0] == "95 of 100 answers at 2/s take at most 2.50 s (allowed 3 s): passed"
    assert told[-1] == "Memory of a replica that serves: 410 MB (allowed 1,000 MB): passed"
    unknown = GateNumbers(0, (), math.nan, math.nan, math.nan, evals=evals)
    assert [item.passed for item in judge(gates, unknown).items if item.name in ("latency", "memory")] == [False, False]
