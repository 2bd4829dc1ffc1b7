"""The choice of samples: nothing when nothing needs it, each look once and in order."""

from __future__ import annotations

from dataclasses import replace

from mainspring.loop import window
from mainspring.loop.memory import Memory, ModelMemory, RolloutMemory, Scope, StagePinned
from mainspring.loop.readings import ArmsQuery, DriftQuery, PairsQuery, QualityQuery
from mainspring.loop.snapshot import Desired, Now, Observed
from mainspring.stack.model import Stack

DAY = 86400.0
STACK = Stack.model_validate(
    {
        "mainspring": 1, "stack": "flights", "compute": {"laptop": {"machine": "this"}},
        "orchestration": {"where": "laptop"},
        "serving": {"delay": {"model": "delay@champion", "truth": {"field": "late"}}},
        "monitoring": {
            "every": "7d",
            "drift": {"weather": {"features": ["temp", "dewp"], "prediction": True}},
            "quality": {"worse": {"brier_skill": "below 10%", "over": "14d"}},
        },
    }
)  # fmt: skip
DESIRED = Desired(STACK, "r1")
ROLLOUT = RolloutMemory(
    endpoint="delay", model="delay", candidate="2", control="1",
    stages=(StagePinned("mirror", 1.0, 3 * DAY), StagePinned("canary", 0.1, DAY), StagePinned("all", 1.0, 0.0)),
    abort_errors=0.05, abort_p95=0.1, margin=0.005, confidence=0.95, began=90.0, stage_began=100.0,
    mirror_since=100.0, ready=True,
)  # fmt: skip
MEMORY = Memory(began=0.0, looked=7 * DAY, models={"delay": ModelMemory(champion="1")})


def at(wall: float) -> Now:
    """A moment."""
    return Now(wall, wall, wall)


def wanted(memory: Memory, wall: float) -> tuple[object, ...]:
    """The queries of a cycle."""
    return window.wanted(DESIRED, memory, Observed(), at(wall))


def test_nothing_when_nothing_needs_it() -> None:
    """Between looks, without a rollout, after `down` and before the first cycle, nothing is asked."""
    assert wanted(MEMORY, 14 * DAY - 1) == ()
    assert window.wanted(replace(DESIRED, down=True), MEMORY, Observed(), at(99 * DAY)) == ()
    assert wanted(Memory(), 99 * DAY) == ()
    assert wanted(replace(MEMORY, rollouts={"delay": replace(ROLLOUT, ready=False)}), 8 * DAY) == ()


def test_a_look() -> None:
    """A look asks for its own window: a week of inputs and the score, two weeks of outcomes."""
    assert wanted(MEMORY, 14 * DAY) == (
        DriftQuery("delay", "delay", "1", ("temp", "dewp", ""), 7 * DAY, 14 * DAY),
        QualityQuery("delay", 0.0, 14 * DAY),
    )


def test_looks_are_taken_in_order() -> None:
    """After a long pause each look has its own window, the oldest first; the first counts from the beginning."""
    assert window.due(MEMORY, DESIRED, at(100 * DAY)) == 14 * DAY
    assert window.due(replace(MEMORY, looked=14 * DAY), DESIRED, at(100 * DAY)) == 21 * DAY
    assert window.due(replace(MEMORY, looked=None), DESIRED, at(100 * DAY)) == 7 * DAY
    assert window.due(MEMORY, DESIRED, at(13 * DAY)) is None


def arms(found: tuple[object, ...]) -> list[ArmsQuery]:
    """Of some queries those about both arms, oldest scope first."""
    return [query for query in found if isinstance(query, ArmsQuery)]


def test_mirror_stage() -> None:
    """While mirrored: the candidate's unseen answers, and pairs since the mirror began."""
    found = wanted(replace(MEMORY, rollouts={"delay": ROLLOUT}), 8 * DAY)
    (query,) = arms(found)
    assert (query.candidate, query.control, query.fresh) == ("delay-2", ("delay-1", "delay-1.fresh"), "")
    assert (query.since, query.until, query.mirror_since) == (100.0, 8 * DAY, 100.0)
    assert PairsQuery("delay", "delay-2", "delay-1", 100.0, 8 * DAY) in found


def test_copies_are_compared_with_the_same_requests() -> None:
    """Which requests were copied is said, from the first mirror stage on, though users saw the candidate before it."""
    mirrors = ((200.0, 0.5, "us"), (300.0, 0.0, ""), (400.0, 1.0, ""))
    stages = (StagePinned("canary", 0.1, 7200.0), StagePinned("mirror", 1.0, DAY), StagePinned("all", 1.0, 0.0))
    rollout = replace(
        ROLLOUT, stages=stages, stage=1, live_since=50.0, mirror_since=200.0, mirrors=mirrors,
        scopes=(Scope(50.0, "eu"), Scope(90.0)),
    )  # fmt: skip
    first, last = arms(window.rollout_queries(rollout, 9500.0))
    assert (first.mirror_since, first.mirrors) == (None, ())
    assert (last.since, last.mirror_since, last.mirrors, last.width, last.mirror_width) == (90, 200, mirrors, 10, 120)
    assert [last.copied(at) for at in range(3)] == [(0.0, ""), (0.0, ""), (1.0, "")]
    alike = replace(last, mirror_width=50.0)
    assert [alike.copied(at) for at in range(5)] == [(0.5, "us"), (0.5, "us"), (0.0, ""), (0.0, ""), (1.0, "")]
    (unseen,) = arms(window.rollout_queries(replace(rollout, live_since=None, scopes=(), stage=0), 9500.0))
    assert (unseen.since, unseen.width) == (200.0, 120.0)


def test_canary_stage() -> None:
    """As a canary: both arms since the first user saw the candidate; pairs still, as outcomes come late."""
    rollout = replace(ROLLOUT, stage=1, stage_began=3 * DAY, live_since=3 * DAY, scopes=(Scope(3 * DAY),))
    found = wanted(replace(MEMORY, rollouts={"delay": rollout}), 8 * DAY)
    (query,) = arms(found)
    assert (query.since, query.until, query.stage_since, query.mirror_since) == (3 * DAY, 8 * DAY, 3 * DAY, 100.0)
    assert PairsQuery("delay", "delay-2", "delay-1", 100.0, 8 * DAY) in found
    alone = replace(rollout, mirror_since=None)
    assert not any(isinstance(q, PairsQuery) for q in wanted(replace(MEMORY, rollouts={"delay": alone}), 8 * DAY))


def test_scopes_are_asked_for_one_by_one() -> None:
    """A canary in one region with fresh control, then waves in all: a query each, with its own shares and warm-ups."""
    rollout = replace(
        ROLLOUT,
        stages=(StagePinned("canary", 0.05, 7200.0, region="us"), StagePinned("waves", 1.0, 3600.0, step=1)),
        stage=1,
        stage_began=9000.0,
        live_since=1000.0,
        mirror_since=None,
        scopes=(Scope(1000.0, "us", fresh=True), Scope(9000.0)),
        shares=((1000.0, 0.05), (8000.0, 0.0), (9000.0, 0.25)),
        skip=((1000.0, 1030.0), (9000.0, 9030.0)),
    )
    first, second = arms(window.rollout_queries(rollout, 9500.0))
    assert (first.since, first.until, first.region, first.fresh) == (1000.0, 9000.0, "us", "delay-1.fresh")
    assert first.shares == ((1000.0, 0.05), (8000.0, 0.0))
    assert first.skip == ((1000.0, 1030.0),)
    assert (second.since, second.until, second.region, second.fresh) == (9000.0, 9500.0, "", "")
    assert second.shares == ((9000.0, 0.25),)
    assert second.skip == ((9000.0, 9030.0),)
    assert first.width == second.width == 10.0


def test_evidence_is_asked_for_while_the_next_wave_gets_ready() -> None:
    """A candidate that users see is watched, though the stage's clock does not run."""
    rollout = replace(ROLLOUT, ready=False, live_since=100.0, scopes=(Scope(100.0),))
    assert arms(wanted(replace(MEMORY, rollouts={"delay": rollout}), 8 * DAY))


def test_slices_are_a_720th_of_the_first_stage_that_users_see() -> None:
    """Not of the mirror; from 1 s to 1 h."""
    lengths = {60.0: 1.0, 7200.0: 10.0, 30 * DAY: 3600.0}
    for seconds, width in lengths.items():
        stages = (StagePinned("mirror", 1.0, 9e9), StagePinned("canary", 0.1, seconds))
        assert window.slice_width(stages) == width
