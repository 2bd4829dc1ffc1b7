"""Random lives: whatever is asked, edited, named or killed, every request goes somewhere; it ends in one version."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from mainspring.loop.labels import label_of
from mainspring.loop.plan import Plan, SetRoutes
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs, Conduct
from tests.loop.stacks import passed, service, standing

MINUTE = 1 / 1440
SEED = int(os.environ.get("MAINSPRING_SEED", "60"))
LIVES = 12


def drawn(luck: random.Random) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Stages, and what else the endpoint has."""
    regions = luck.choice([None, ["us", "eu"]])
    middle: list[dict[str, Any]] = [
        {"mirror": "100%", "for": "2m"},
        {"canary": luck.choice(["5%", "30%", "50%"]), "for": "3m"},
        {"canary": "20%", "for": "2m", **({"in": "us"} if regions else {})},
        {"ab": "50%", "for": "3m", "metric": "liked", "otherwise": "proceed"},
    ]
    last = luck.choice(
        [
            {"all": "100%"},
            {"all": "100%", "for": "2m"},
            {"waves": "1 replica", "for": "2m"},
            {"waves": "50%", "within": "4m"},
        ]
    )
    stages = [*luck.sample(middle, luck.randint(0, 2)), last]
    endpoint: dict[str, Any] = {"replicas": luck.randint(1, 3)}
    if regions:
        endpoint |= {"regions": regions, "replicas": "1..1 per region" if luck.random() < 0.3 else endpoint["replicas"]}
    if luck.random() < 0.4:
        endpoint["here"] = {"cores": luck.randint(3, 5)}
    return stages, endpoint


def whole(_: VirtualLoop, plan: Plan) -> None:
    """Every table that is written shares out all requests of every region, exactly."""
    for step in plan.steps:
        if isinstance(step.action, SetRoutes):
            for name, routes in step.action.table.endpoints.items():
                regions = {"", "us", "eu"} if routes.revisions else set()
                for region in regions:
                    assert sum(one.weight_in(region) for one in routes.revisions) == 10_000, (name, region)


def happens(loop: VirtualLoop, luck: random.Random, stack: Any) -> None:
    """One thing that a person, a pipeline or fate does."""
    what = luck.randrange(7)
    if what < 3:
        loop.ask(luck.choice(["pause", "resume", "promote", "abort", "undo"]), "api", stage=luck.random() < 0.5)
    elif what == 3:
        passed(loop, str(1 + max(int(v.number) for v in loop.world.versions)), challenger=luck.random() < 0.5)
    elif what == 4:
        loop.stack = stack(luck.choice([1, 2]))
    else:
        alive = [p.name for p in loop.world.observe().processes if p.state == "ready"]
        loop.world.crash(luck.choice(alive))


@pytest.mark.parametrize("number", range(LIVES))
def test_whatever_happens_every_request_goes_somewhere(number: int) -> None:
    """Things happen at random moments, the controller dies at some of them; then it is left alone, and it ends."""
    print(f"MAINSPRING_SEED={SEED}, life {number}")
    luck = random.Random(f"{SEED}/{number}")
    stages, endpoint = drawn(luck)

    def stack(batch: int) -> Stack:
        return service(*stages, batch={"size": batch}, **endpoint)

    beliefs = Beliefs(requests_per_day=100_000, feedback=0.5, conduct={"3": Conduct(error_rate=0.3)})
    loop = standing(stack(1), beliefs=beliefs, seed=number)
    loop.points.chosen = frozenset(luck.sample(range(loop.points.passed + 1, loop.points.passed + 300), 10))
    loop.each = whole
    passed(loop, "2")
    for _ in range(12):
        loop.run(days=luck.uniform(0.05, 3.0) * MINUTE)
        happens(loop, luck, stack)
    loop.ask("resume", "api")
    loop.run(days=40 * MINUTE)
    memory = loop.store.load()[1]
    assert not memory.rollouts
    answering = {label_of(name.rpartition("-")[0]) for name in loop.story()["answering"] if name.startswith("api")}
    assert {one.partition(".")[0] for one in answering} == {memory.models["scorer"].champion}
    assert len(answering) == 1
    assert [weight for _, weight in loop.story()["routes"]["api"]] == [10_000]
