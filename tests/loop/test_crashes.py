"""`kill -9` of anything at any moment ends in the same story: versions, verdicts, rollouts, what answers."""

from __future__ import annotations

import os
import random

import pytest

from mainspring.loop.plan import Plan
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs
from tests.loop.stacks import MARCH, flights

DAYS = 35
FEW = Beliefs(requests_per_day=200)  # as many moments to die in, in half the time


@pytest.fixture(scope="module")
def undisturbed() -> VirtualLoop:
    """Five weeks without a crash: a first version, retraining, a rollout through all stages."""
    loop = VirtualLoop(flights(), MARCH, beliefs=FEW).run(days=DAYS)
    assert "promoted" in [kind for _, kind in loop.story()["rollouts"]]
    return loop


def test_controller_killed_at_every_effect(undisturbed: VirtualLoop) -> None:
    """The controller dies before and after each commit and each effect, once each: the story stays."""
    wanted, points = undisturbed.story(), undisturbed.points.passed
    assert points > 60
    for point in range(1, points + 1):
        loop = VirtualLoop(flights(), MARCH, beliefs=FEW, die_at=frozenset({point})).run(days=DAYS)
        assert loop.deaths == 1, f"point {point}"
        assert loop.story() == wanted, f"killed at point {point} of {points}"


def test_controller_killed_again_and_again(undisturbed: VirtualLoop) -> None:
    """The controller dies at many random points of one life: the story stays."""
    seed = int(os.environ.get("MAINSPRING_SEED", "20130301"))
    print(f"MAINSPRING_SEED={seed}")
    random_points = random.Random(seed)
    for _ in range(20):
        die_at = frozenset(random_points.sample(range(1, undisturbed.points.passed * 2), 25))
        loop = VirtualLoop(flights(), MARCH, beliefs=FEW, die_at=die_at).run(days=DAYS)
        assert loop.deaths > 5
        assert loop.story() == undisturbed.story(), f"die_at={sorted(die_at)}"


@pytest.mark.parametrize("victim", ["gateway-0", "delay-1-0", "delay-2-0", "run-delay-1", "run-delay-2"])
def test_process_killed_whenever_it_is_there(undisturbed: VirtualLoop, victim: str) -> None:
    """A worker, a replica or a run dies in each cycle in which it is seen, once in each life: the story stays."""
    lives: list[int] = []

    def count(loop: VirtualLoop, plan: Plan) -> None:
        if any(p.name == victim and p.state in ("starting", "ready") for p in loop.world.observe().processes):
            lives.append(loop.cycles)

    VirtualLoop(flights(), MARCH, beliefs=FEW, each=count).run(days=DAYS)
    assert lives
    for moment in lives[:: max(1, len(lives) // 12)]:

        def kill(loop: VirtualLoop, plan: Plan, moment: int = moment) -> None:
            if loop.cycles == moment:
                loop.world.crash(victim)

        loop = VirtualLoop(flights(), MARCH, beliefs=FEW, each=kill).run(days=DAYS)
        assert loop.story() == undisturbed.story(), f"{victim} killed in cycle {moment}"
