"""The loop on language endpoints: options, regions, manners of the routes, changed settings without a lost stream."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.decide.routes import EndpointRoutes
from mainspring.loop.plan import Plan, StopProcess
from mainspring.loop.room import replicas
from mainspring.loop.snapshot import VersionSeen
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from tests.loop.stacks import MARCH


def chat(compute: dict[str, Any] | None = None, gateway: dict[str, Any] | None = None, **changes: Any) -> Stack:
    """Two replicas of a language model that no pipeline makes."""
    return Stack.model_validate(
        {
            "mainspring": 1,
            "stack": "chat",
            "compute": {"here": {"machine": "this"}, **(compute or {})},
            "orchestration": {"where": "here", "gateway": gateway or {}},
            "serving": {"chat": {"model": "chat@champion", "runtime": "llamacpp", "replicas": 2, **changes}},
        }
    )


def living(stack: Stack, **more: Any) -> VirtualLoop:
    """A loop with one version that has passed its gates."""
    loop = VirtualLoop(stack, MARCH, **more)
    loop.world.versions.append(VersionSeen("chat", "1", "chat-1", "d1", "/a/1", "passed"))
    return loop


def routes(loop: VirtualLoop) -> EndpointRoutes:
    assert loop.world.routes is not None
    return loop.world.routes.endpoints["chat"]


def test_the_route_table_tells_the_gateway_how_to_treat_a_language_model() -> None:
    """Kind, slots, waits, affinity and replicas' names reach the gateway."""
    loop = living(chat(slots=3, auth="token", route={"session": "x-session-id", "split": "user"})).run()
    told = routes(loop)
    assert (told.kind, told.slots, told.auth, told.prefix, told.keep_alive) == ("language", 3, True, True, False)
    assert (told.timeout_s, told.first_s, told.idle_s) == (600, 60, 30)
    assert (told.session, told.split, told.retry_share) == ("x-session-id", "user", 2000)
    assert told.revisions[0].names == ("chat-1-0", "chat-1-1")
    assert len(told.revisions[0].replicas) == 2
    assert told.revisions[0].regions == ()


def test_regions_are_dealt_out_and_told_nearest_first() -> None:
    """Replicas per region, each with its region; the order of regions is the file's."""
    compute = {"regions": ["east", "west", "north"], "nearest": {"west": ["north"]}}
    stack = chat(compute, {"region": "west"}, replicas="2 per region")
    count = stack.serving["chat"].replicas.low
    assert [region for _, region in replicas(stack, "chat", "1", count)] == ["east", "west", "north"] * 2
    loop = living(stack).run()
    assert routes(loop).revisions[0].regions == ("east", "west", "north") * 2
    table = loop.world.routes
    assert table is not None
    assert table.home == "west"
    assert table.near == {"east": ("east", "west", "north"), "west": ("west", "north", "east"),
                          "north": ("north", "east", "west")}  # fmt: skip


@pytest.mark.parametrize("deaths", [(), (3,), (5, 9), (7, 8, 11, 14)])
def test_a_changed_timeout_is_taken_up_one_replica_at_a_time(deaths: tuple[int, ...]) -> None:
    """It is no part of what is rolled out: replicas start again. Each is stopped only when nobody is routed to it, and
    the other answers meanwhile, whatever dies.
    """
    loop = living(chat(slots=2)).run()
    before = {p.name: p.generation for p in loop.world.observe().processes if p.kind == "replica"}

    def check(at: VirtualLoop, plan: Plan) -> None:
        routed = {address for r in routes(at).revisions for address in r.replicas}
        assert routed, "nobody answers"
        for step in plan.steps:
            if isinstance(step.action, StopProcess) and step.action.name.startswith("chat-"):
                seen = next(p for p in at.world.observe().processes if p.name == step.action.name)
                assert seen.address not in routed
                assert step.action.grace == 540

    loop.stack, loop.each = chat(slots=2, timeout="9m"), check
    loop.points.chosen = frozenset(loop.points.passed + n for n in deaths)
    loop.run()
    after = {p.name: p.generation for p in loop.world.observe().processes if p.kind == "replica"}
    assert after == {name: generation + 1 for name, generation in before.items()}
    assert len(routes(loop).revisions[0].replicas) == 2
    assert loop.deaths == len(deaths)
