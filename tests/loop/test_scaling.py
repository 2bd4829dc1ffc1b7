"""The number of replicas follows the load: in the whole loop, in virtual time, with crashes."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from mainspring.decide.scale import Load
from mainspring.loop.memory import from_json, to_json
from mainspring.loop.plan import Plan, StopProcess
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs
from mainspring.worlds.twin.world import TwinWorld
from tests.loop.stacks import MARCH
from tests.loop.test_settings import chat_file

SECONDS = 4.0  # of a request
SLOTS = 4


def file(replicas: str = "0..3", budget: str = "", **changes: Any) -> dict[str, Any]:
    """The file of a language model whose replicas follow the load."""
    made = chat_file(**changes)
    made["compute"] = {"here": {"machine": "this", "price": "$0.10/h"}}
    made["serving"]["chat"] |= {"replicas": replicas, "scale": {"down": "30s", "idle": "60s"}}
    return made | ({"cost": {"budget": budget}} if budget else {})


def stack(replicas: str = "0..3", budget: str = "", **changes: Any) -> Stack:
    """The same, read."""
    return Stack.model_validate(file(replicas, budget, **changes))


def replicas(world: TwinWorld, version: str = "1") -> list[str]:
    """Replicas that are ready."""
    there = [p for p in world.processes.values() if p.ready_at <= world.mono < p.stop_at and not p.died]
    return [p.name for p in there if p.name.startswith(f"chat-{version}-")]


class Users:
    """So many requests a second from `began` on; those that find no slot wait."""

    def __init__(self, rate: float, began: float, ended: float = math.inf) -> None:
        self.rate, self.began, self.ended = rate, began, ended
        self.waiting = 0.0
        self.last = -math.inf
        self.silent = False

    def __call__(self, world: TwinWorld) -> dict[str, Load]:
        if self.silent:
            return {}
        now, ready = world.wall, len(replicas(world))
        passed = min(now - self.last, 60.0) if math.isfinite(self.last) else 0.0
        self.last = now
        rate = self.rate if self.began <= now < self.ended else 0.0
        busy = min(rate * SECONDS + self.waiting, ready * SLOTS)
        self.waiting = max(0.0, self.waiting + passed * (rate - ready * SLOTS / SECONDS))
        lately = self.rate if self.began <= now - 60 < self.ended else rate
        seconds = SECONDS if busy else math.nan
        return {"chat": Load(world.mono, round(self.waiting), round(busy), 0.0, rate, lately, seconds)}


def told(loop: VirtualLoop) -> list[str]:
    """What was told of scaling, in order."""
    return [kept.event.message for kept in reversed(loop.store.events()) if kept.event.reason == "Scaled"]


def counts(loop: VirtualLoop) -> list[str]:
    """The changes, in order: "0 → 1"."""
    return [message.partition("` ")[2].partition(":")[0] for message in told(loop)]


def answering(loop: VirtualLoop) -> int:
    """Replicas that the routes name."""
    table = loop.world.routes
    return sum(len(r.replicas) for r in table.endpoints["chat"].revisions) if table else 0


def test_from_zero_and_back() -> None:
    """Nobody asks: no replica. Requests come: as many as they need, then none; each change has its reason."""
    loop = VirtualLoop(stack(), MARCH)
    loop.world.loads = Users(0.0, MARCH)
    loop.run(days=0.01)
    assert answering(loop) == 0
    assert any(c.reason == "AtZero" and c.status == "true" for c in loop.store.conditions())
    began = loop.world.wall
    loop.world.loads = Users(1.5, began, began + 300)
    loop.run(days=200 / 86400)
    assert answering(loop) >= 2
    assert counts(loop)[0] == "0 → 1"
    loop.run(days=700 / 86400)
    assert answering(loop) == 0
    assert counts(loop)[-1].endswith("→ 0")
    assert all("requests/s" in one or "waiting" in one for one in told(loop))


def test_unknown_is_not_zero() -> None:
    """A gateway that says nothing keeps what there is, however long it is silent."""
    loop = VirtualLoop(stack(), MARCH)
    users = Users(1.5, MARCH)
    loop.world.loads = users
    loop.run(days=300 / 86400)
    there = answering(loop)
    assert there >= 2
    users.silent = True
    loop.run(days=1000 / 86400)
    assert answering(loop) == there
    assert any(c.reason == "Unknown" and c.type == "Scales" for c in loop.store.conditions())


def test_nobody_is_stopped_who_is_routed_to() -> None:
    """A replica that is not wanted leaves the routes first; it is stopped when every worker has taken that up."""
    wrong: list[str] = []

    def look(loop: VirtualLoop, plan: Plan) -> None:
        routed = (
            {a for r in loop.world.routes.endpoints["chat"].revisions for a in r.replicas}
            if loop.world.routes
            else set()
        )
        acked = loop.world.observe().acked.values()
        for step in plan.steps:
            if isinstance(step.action, StopProcess) and step.action.name.startswith("chat-"):
                seen = next(p for p in loop.world.observe().processes if p.name == step.action.name)
                epoch = loop.world.routes.epoch if loop.world.routes else 0
                if seen.address in routed or any(one < epoch for one in acked):
                    wrong.append(step.action.name)

    loop = VirtualLoop(stack(), MARCH, each=look)
    loop.world.loads = Users(1.5, MARCH, MARCH + 200)
    loop.run(days=600 / 86400)
    assert answering(loop) == 0
    assert counts(loop)[0].startswith("0 → ")
    assert not wrong


def test_killed_at_every_effect() -> None:
    """The controller dies before and after each effect of a life with scaling: it ends with the same replicas."""

    def life(die_at: frozenset[int] = frozenset()) -> VirtualLoop:
        loop = VirtualLoop(stack(), MARCH, die_at=die_at)
        loop.world.loads = Users(1.5, MARCH + 30, MARCH + 150)
        return loop.run(days=200 / 86400)

    whole = life()
    assert answering(whole) >= 2
    points = whole.points.passed
    assert points > 20
    for point in range(1, points + 1):
        loop = life(frozenset({point}))
        assert loop.deaths == 1
        assert answering(loop) == answering(whole), f"killed at point {point} of {points}"
    chance = random.Random(5)
    for _ in range(5):
        loop = life(frozenset(chance.sample(range(1, points * 2), 12)))
        assert answering(loop) == answering(whole)


def test_a_version_under_way_is_never_at_zero() -> None:
    """While a new version is looked at, there is at least one replica of each, though nobody asks."""
    loop = VirtualLoop(stack(), MARCH)
    loop.world.loads = Users(0.0, MARCH)
    loop.run(days=0.01)
    loop.stack = stack(settings={"temperature": 0.2})
    least: list[int] = []

    def look(now: VirtualLoop, plan: Plan) -> None:
        rollout = plan.memory.rollouts.get("chat")
        if rollout is not None and rollout.ready:
            least.append(min(len(replicas(now.world, version)) for version in ("1", "2")))

    loop.each = look
    loop.run(days=0.05, most=20_000)
    assert len(least) > 100
    assert min(least[5:]) >= 1  # the champion's starts when the rollout begins


def test_the_budget_is_a_ceiling() -> None:
    """What is left of the budget allows one replica: there is one, whatever waits, and it says why."""
    hours = (2629746.0 - MARCH % 2629746.0) / 3600
    loop = VirtualLoop(stack("0..3", budget=f"${0.10 * hours * 1.5:.2f}/month"), MARCH)
    loop.world.loads = Users(1.5, MARCH)
    loop.run(days=300 / 86400)
    assert answering(loop) == 1
    [why] = [c.message for c in loop.store.conditions() if c.type == "Scales"]
    assert "the budget allows no more than 1" in why


def test_a_spent_budget_takes_no_last_replica() -> None:
    """Nothing is left of the budget: the range's lower end stays, and it is told as a warning."""
    loop = VirtualLoop(stack("1..3", budget="$0.01/month"), MARCH)
    loop.world.loads = Users(1.5, MARCH)
    loop.run(days=300 / 86400)
    assert answering(loop) == 1
    assert any(kept.event.reason == "OverBudget" and kept.event.level == "warning" for kept in loop.store.events())
    assert any(c.reason == "OverBudget" and c.status == "false" for c in loop.store.conditions())


def test_a_range_per_region_is_scaled_once() -> None:
    """The load of all regions asks for so many replicas in all, not in each."""
    made = file("1..4 per region")
    made["compute"]["regions"] = ["east", "west", "north"]
    loop = VirtualLoop(Stack.model_validate(made), MARCH)
    loop.world.loads = Users(2.5, MARCH)
    loop.run(days=400 / 86400)
    assert answering(loop) in (3, 6)


def test_what_nobody_watched_is_no_calm() -> None:
    """After the controller was away for hours, its first look stops nothing."""
    loop = VirtualLoop(stack(), MARCH)
    users = Users(1.5, MARCH)
    loop.world.loads = users
    loop.run(days=300 / 86400)
    there = answering(loop)
    assert there >= 2
    users.ended = loop.world.wall
    loop.world.advance(7200.0)
    loop.run(days=5 / 86400)
    assert answering(loop) == there
    loop.run(days=600 / 86400)
    assert answering(loop) == 0


def test_wanted_back_while_it_drains_is_no_death() -> None:
    """A replica that was told to stop and is wanted again before it has ended: it starts again, and nothing "died"."""
    loop = VirtualLoop(stack(), MARCH, beliefs=Beliefs(process_stop=120.0))
    users = Users(1.5, MARCH)
    loop.world.loads = users
    loop.run(days=300 / 86400)
    users.rate = 0.2
    stopping: list[str] = []

    def back(now: VirtualLoop, plan: Plan) -> None:
        if not stopping and any(
            isinstance(s.action, StopProcess) and s.action.name.startswith("chat-") for s in plan.steps
        ):
            stopping.append("yes")
            users.rate = 2.0

    loop.each = back
    loop.run(days=900 / 86400)
    assert stopping
    assert answering(loop) >= 2
    assert not [kept for kept in loop.store.events() if kept.event.reason == "Died"]


@pytest.mark.parametrize("control", ["suggest", "watch"])
def test_control(control: str) -> None:
    """Under `suggest` and `watch` nothing is started by itself, and what would be is said."""
    loop = VirtualLoop(stack(), MARCH)
    loop.world.loads = Users(0.0, MARCH)
    loop.run(days=0.01)
    loop.stack = stack(control=control)
    loop.world.loads = Users(1.5, loop.world.wall)
    loop.run(days=100 / 86400)
    started = answering(loop)
    assert (started > 0) == (control == "suggest") or started == 0
    assert any(w.what.startswith("approval/") for w in loop.store.waiting()) or started > 0


def test_memory_survives() -> None:
    """What is remembered of scaling can be written and read."""
    loop = VirtualLoop(stack(), MARCH)
    loop.world.loads = Users(1.5, MARCH)
    loop.run(days=300 / 86400)
    memory = loop.store.load()[1]
    assert memory.scales["chat"].load_seconds > 0
    assert from_json(to_json(memory)) == memory


def test_routes_say_limits() -> None:
    """Tenants, their limits, prices and the time to hold are in the route table."""
    made = file()
    made["serving"]["chat"] |= {
        "auth": "token",
        "tenants": {"acme": {
            "tokens": ["20k/min", "2M/day"], "requests": "60/min", "at_once": 4, "budget": "$300/month",
            "context": "1k tokens", "share": 2, "priority": "high"}},
    }  # fmt: skip
    loop = VirtualLoop(Stack.model_validate(made), MARCH)
    loop.world.cores = 2
    loop.run(days=0.01)
    assert loop.world.routes is not None
    routes = loop.world.routes.endpoints["chat"]
    acme = routes.tenants["acme"]
    assert {(one.what, one.amount, one.per) for one in acme.limits} == {
        ("requests", 60, "min"), ("tokens", 20_000, "min"), ("tokens", 2_000_000, "day"), ("at_once", 4, ""),
        ("dollars", 300_000_000_000, "month"),
    }  # fmt: skip
    assert (acme.share, acme.priority, acme.context) == (2.0, 0, 1000)
    assert routes.hold_s == 60.0
    assert routes.slot_cores == pytest.approx(1 / 4)
    assert routes.core_price == pytest.approx(0.10 / 3600 / 2)
