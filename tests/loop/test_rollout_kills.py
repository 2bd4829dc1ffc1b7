"""`kill -9` in every phase of a rollout: the same end, no stage twice, and every request goes somewhere at any time."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from mainspring.loop.plan import Plan
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs, Conduct
from tests.loop.stacks import ends, passed, records, service, standing

MINUTE = 1 / 1440
STAGES = (
    {"mirror": "100%", "for": "5m"},
    {"canary": "20%", "for": "5m"},
    {"waves": "1 replica", "within": "10m"},
)
SHORT = ({"canary": "20%", "for": "5m"}, {"all": "100%"})
FINE = Beliefs(requests_per_day=500_000)
BAD = Beliefs(requests_per_day=500_000, conduct={"2": Conduct(error_rate=0.2)})


def whole(loop: VirtualLoop, _: Plan) -> None:
    """Weights sum to all requests, in each region, and whoever has some can answer."""
    for name, routes in (loop.world.routes.endpoints if loop.world.routes else {}).items():
        if not routes.revisions:
            continue
        regions = {"", *(region for one in routes.revisions for region in one.regional)}
        for region in regions:
            assert sum(one.weight_in(region) for one in routes.revisions) == 10_000, (name, region)


def version(die_at: frozenset[int] = frozenset(), beliefs: Beliefs = FINE) -> VirtualLoop:
    """A version walks down mirror, canary and waves."""
    loop = standing(service(*STAGES, replicas=2), beliefs=beliefs)
    loop.points.chosen = frozenset(point + loop.points.passed for point in die_at)
    loop.each = whole
    return passed(loop, "2").run(days=40 * MINUTE)


def settings(die_at: frozenset[int] = frozenset(), beliefs: Beliefs = FINE) -> VirtualLoop:
    """Settings are changed, overtaken by others, and those walk down a canary."""
    loop = standing(service(*SHORT), beliefs=beliefs)
    loop.points.chosen = frozenset(point + loop.points.passed for point in die_at)
    loop.each = whole
    loop.stack = service(*SHORT, threads=2)
    loop.run(days=2 * MINUTE)
    loop.stack = service(*SHORT, threads=3)
    return loop.run(days=10 * MINUTE)


def once(loop: VirtualLoop) -> None:
    """No decision was taken twice: each stage and wave ended once, and the rollout too."""
    taken = Counter(
        (r["version"], r["kind"], r["stage"], r["wave"]) for r in records(loop, "began", "stage", "promoted", "aborted")
    )
    assert set(taken.values()) == {1}, taken
    began = [kept for kept in loop.store.events(limit=10_000) if kept.event.reason in ("StageBegan", "StageJudged")]
    assert all(kept.count == 1 for kept in began)


LIVES = {
    "a fine version": lambda die_at=frozenset(): version(die_at),
    "a bad version": lambda die_at=frozenset(): version(die_at, BAD),
    "settings": lambda die_at=frozenset(): settings(die_at),
}
ENDS = {"a fine version": ["promoted"], "a bad version": ["aborted"], "settings": ["superseded", "promoted"]}


@pytest.mark.parametrize("life", LIVES)
def test_controller_killed_at_every_effect(life: str) -> None:
    """Before and after each commit and each effect of the rollout, once each: the story stays."""
    undisturbed = LIVES[life]()
    assert ends(undisturbed) == ENDS[life]
    once(undisturbed)
    story, points = undisturbed.story(), undisturbed.points.passed
    first = standing(service(*SHORT) if life == "settings" else service(*STAGES, replicas=2)).points.passed
    assert points - first > 20
    for point in range(1, points - first + 1):
        loop = LIVES[life](frozenset({point}))
        assert loop.deaths == 1, f"point {point}"
        assert loop.story() == story, f"killed at point {point} of {points - first}"
        once(loop)


def test_killed_again_and_again_and_replicas_too() -> None:
    """Controller and replicas die at random moments from a printed seed: a fine version is promoted all the same."""
    seed = int(os.environ.get("MAINSPRING_SEED", "6"))
    print(f"MAINSPRING_SEED={seed}")
    luck = random.Random(seed)
    for _ in range(12):
        loop = standing(service(*STAGES, replicas=2), beliefs=FINE)
        loop.points.chosen = frozenset(luck.sample(range(loop.points.passed + 1, loop.points.passed + 60), 12))
        victims = {luck.randrange(10, 120): luck.choice(["api-1-0", "api-1-1", "api-2-0", "api-2-1"]) for _ in range(4)}

        def each(loop: VirtualLoop, plan: Plan, victims: dict[int, str] = victims) -> None:
            whole(loop, plan)
            if loop.cycles in victims:
                loop.world.crash(victims[loop.cycles])

        loop.each = each
        passed(loop, "2").run(days=60 * MINUTE)
        assert loop.deaths > 3
        assert ends(loop) == ["promoted"]
        assert loop.story()["routes"]["api"] == [("2", 10_000)]
        once(loop)
