"""The choice of samples: nothing when nothing needs it, each look once and in order."""

from __future__ import annotations

from dataclasses import replace

from mainspring.loop import window
from mainspring.loop.memory import Memory, ModelMemory, RolloutMemory, StagePinned
from mainspring.loop.readings import DriftQuery, PairsQuery, QualityQuery, TrafficQuery
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


def test_mirror_stage() -> None:
    """While mirrored: the candidate's unseen answers, and pairs since the mirror began."""
    found = wanted(replace(MEMORY, rollouts={"delay": ROLLOUT}), 8 * DAY)
    assert TrafficQuery("delay", "delay-2", "mirror", 100.0, 8 * DAY) in found
    assert PairsQuery("delay", "delay-2", "delay-1", 100.0, 8 * DAY) in found


def test_canary_stage() -> None:
    """As a canary: the candidate's live answers since the stage began; pairs still, as outcomes come late."""
    rollout = replace(ROLLOUT, stage=1, stage_began=3 * DAY)
    found = wanted(replace(MEMORY, rollouts={"delay": rollout}), 8 * DAY)
    assert TrafficQuery("delay", "delay-2", "live", 3 * DAY, 8 * DAY) in found
    assert PairsQuery("delay", "delay-2", "delay-1", 100.0, 8 * DAY) in found
    alone = replace(rollout, mirror_since=None)
    assert not any(isinstance(q, PairsQuery) for q in wanted(replace(MEMORY, rollouts={"delay": alone}), 8 * DAY))
