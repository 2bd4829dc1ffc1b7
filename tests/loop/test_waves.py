"""Rollouts where room is short: they end, they fit, enough answer meanwhile, and what is borrowed is given back."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.scale import Load
from mainspring.loop.snapshot import Request
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs
from mainspring.worlds.twin.world import TwinWorld
from tests.loop.rolling import CANARY, WAVES, Watch, challenge, chat, living, routes, stack, there

DAY = 1.0


def champion(loop: VirtualLoop, model: str = "chat") -> str:
    """The version that answers in the end."""
    return loop.store.load()[1].models[model].champion


def told(loop: VirtualLoop, reason: str) -> list[str]:
    """What was told for a reason, oldest first."""
    return [kept.event.message for kept in reversed(loop.store.events()) if kept.event.reason == reason]


def test_with_room_for_all_nothing_leaves_before_the_end() -> None:
    """Old replicas, a fresh control of as many as the candidate's, then wave by wave; the old ones stay warm."""
    loop = living(chat(replicas=4))
    loop.each = watch = Watch(least={"chat": 4})
    challenge(loop).run(days=DAY)
    assert champion(loop) == "2"
    fresh = [start.name for start in watch.started if "fresh" in start.name]
    assert fresh == ["chat-1.fresh-0", "chat-1.fresh-1"]
    assert watch.weights["chat"] == [
        (("chat-1", 10_000),),
        (("chat-1", 4_000), ("chat-1.fresh", 3_000), ("chat-2", 3_000)),
        (("chat-1", 5_000), ("chat-2", 5_000)),
        (("chat-1", 2_500), ("chat-2", 7_500)),
        (("chat-2", 10_000),),
    ]
    assert there(loop.world, "ready") == [f"chat-2-{i}" for i in range(4)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_full_pool_is_no_deadlock(count: int, spare: int) -> None:
    """With little or nothing to spare a rollout ends; never over the room, and at most one replica fewer answers."""
    loop = living(chat({"cores": count + spare}, replicas=count))
    alone = count == 1 and spare == 0
    loop.each = watch = Watch(room=count + spare, least={"chat": 0 if alone else max(1, count - (spare == 0))})
    challenge(loop).run(days=DAY)
    assert champion(loop) == "2"
    assert there(loop.world, "ready") == [f"chat-2-{i}" for i in range(count)]
    assert routes(loop).revisions[0].weight == 10_000
    assert watch.fewest["chat"] >= watch.least["chat"]
    assert bool(told(loop, "RoomForRollout")) == (spare == 0)
    assert bool(told(loop, "StageSkipped")) == alone


def test_an_endpoint_that_fills_the_room_alone_says_what_follows() -> None:
    """Its only replica has to stop first: that is told, the canary is left out, and the new one takes everything."""
    loop = living(chat({"cores": 1}, replicas=1))
    challenge(loop).run(days=DAY)
    [said] = told(loop, "RoomForRollout")
    assert said == (
        "the only replica of `chat` stops before the new one starts, and requests wait: 1 core of `here` may be used"
    )
    [skipped] = told(loop, "StageSkipped")
    assert "beside its only replica" in skipped


def test_given_up_in_place_the_old_ones_come_back() -> None:
    """In the middle of its waves a rollout is given up: the old replicas take the room, and the requests, back."""
    loop = living(chat({"cores": 3}, replicas=3))
    challenge(loop).run(days=30 / 1440)
    assert any(one.name == "chat-2" and one.weight > 3_000 for one in routes(loop).revisions)
    loop.each = Watch(room=3, least={"chat": 1})
    loop.ask("abort", "chat")
    loop.run()
    assert champion(loop) == "1"
    assert there(loop.world, "ready") == ["chat-1-0", "chat-1-1", "chat-1-2"]
    assert [(one.name, one.weight) for one in routes(loop).revisions] == [("chat-1", 10_000)]


def test_undone_on_a_full_pool() -> None:
    """Back to the last version where nothing is spare: one replica leaves for the first of them, then the others."""
    loop = living(chat({"cores": 3}, replicas=3))
    challenge(loop).run(days=DAY)
    assert champion(loop) == "2"
    loop.each = watch = Watch(room=3, least={"chat": 1})
    loop.ask("undo", "chat")
    loop.run()
    assert champion(loop) == "1"
    assert there(loop.world, "ready") == ["chat-1-0", "chat-1-1", "chat-1-2"]
    assert watch.fewest["chat"] >= 1


def test_two_rollouts_want_the_last_room() -> None:
    """The one that began first has it; the other says what it waits for, and goes when that has ended."""
    both = stack({"a": {"replicas": 1}, "b": {"replicas": 1}}, cores=3)
    loop = living(both)
    loop.each = watch = Watch(room=3, least={"a": 1, "b": 1})
    challenge(loop, "a").run(days=5 / 1440)
    challenge(loop, "b").run(days=5 / 1440)
    assert any("the rollout of `a` has the room, and began first" in w.why for w in loop.store.waiting())
    assert not any(name.startswith("b-2") for name in there(loop.world, "ready", "starting"))
    loop.run(days=DAY)
    assert (champion(loop, "a"), champion(loop, "b")) == ("2", "2")
    assert watch.most == 3


@pytest.mark.parametrize(("cores", "replicas"), [(2, 1), (3, 1), (4, 2), (5, 2)])
def test_one_version_behind_two_endpoints(cores: int, replicas: int) -> None:
    """Both follow one model, so that the first waits for the second at its end: it lets that one have the room."""
    each = {"model": "m@champion", "replicas": replicas}
    both = stack({"a": each, "b": each}, cores=cores)
    loop = living(both)
    loop.each = Watch(room=cores)
    challenge(loop, "m").run(days=2 * DAY)
    assert champion(loop, "m") == "2"
    assert there(loop.world, "ready") == [f"{name}-2-{i}" for name in "ab" for i in range(replicas)]


def quiet_loads(waiting: int = 0) -> Any:
    """What gateways say of an endpoint that nobody asks, but for so many who wait."""

    def loads(world: TwinWorld) -> dict[str, Load]:
        return {"b": Load(world.mono, waiting, 0, 0.0, 0.0, 0.0, math.nan)}

    return loads


SHORT = [{"canary": "30%", "for": "60s", "otherwise": "proceed"}, {"all": "100%"}]
SCALED = {"replicas": "1..3", "scale": {"down": "30d"}}


def scaled_up(cores: int, replicas: int) -> VirtualLoop:
    """`a` with so many replicas beside `b`, which has scaled to three."""
    both = stack({"a": {"replicas": replicas, "rollout": SHORT}, "b": SCALED}, cores=cores)
    loop = living(both, beliefs=Beliefs(requests_per_day=200_000))
    loop.world.loads = quiet_loads(waiting=40)
    loop.run(days=120 / 86400)
    assert sum(name.startswith("b-1-") for name in there(loop.world, "ready")) == 3
    return loop


def test_idle_replicas_of_others_are_borrowed() -> None:
    """Where nothing is free, an endpoint above its least number gives up what it does not use, and gets it back."""
    loop = scaled_up(cores=4, replicas=1)
    loop.world.loads = quiet_loads()
    loop.each = watch = Watch(room=4, least={"a": 1, "b": 1})
    challenge(loop, "a").run(days=30 / 86400)
    assert told(loop, "RoomForRollout") == [
        "`a` borrows the room of replicas above others' least number (1 of `b`): 4 cores of `here` may be used"
    ]
    assert sum(name.startswith("b-1-") for name in there(loop.world, "ready")) == 2
    loop.world.loads = quiet_loads(waiting=40)
    loop.run(days=5 / 86400)
    [why] = [c.message for c in loop.store.conditions() if c.type == "Scales"]
    assert "the room allows no more than 2" in why
    loop.run(days=120 / 86400)
    assert champion(loop, "a") == "2"
    assert sum(name.startswith("b-1-") for name in there(loop.world, "ready")) == 3
    assert watch.most == 4


def test_a_busy_endpoint_lends_nothing() -> None:
    """Replicas that are needed are not borrowed: the rollout goes on in place."""
    loop = scaled_up(cores=5, replicas=2)
    loop.each = Watch(room=5, least={"a": 1, "b": 3})
    challenge(loop, "a").run(days=150 / 86400)
    assert champion(loop, "a") == "2"
    assert "one by one" in told(loop, "RoomForRollout")[0]


def test_busy_ones_lend_to_who_would_not_answer_at_all() -> None:
    """Before the only replica of an endpoint stops for a rollout, others give up what is above their least number."""
    loop = scaled_up(cores=4, replicas=1)
    loop.each = Watch(room=4, least={"a": 1, "b": 1})
    challenge(loop, "a").run(days=150 / 86400)
    assert champion(loop, "a") == "2"
    assert not told(loop, "StageSkipped")
    assert sum(name.startswith("b-1-") for name in there(loop.world, "ready")) == 3


def test_the_same_end_wherever_the_controller_dies() -> None:
    """Killed before and after each effect of a rollout on a full pool: the same end, never over the room."""

    def life(die_at: frozenset[int] = frozenset()) -> VirtualLoop:
        loop = VirtualLoop(chat({"cores": 2}, replicas=2), 1362096000.0, die_at=die_at)
        loop.each = Watch(room=2)
        loop.world.versions = living(chat()).world.versions
        loop.run()
        return challenge(loop).run(days=DAY)

    whole = life()
    assert champion(whole) == "2"
    points = whole.points.passed
    assert points > 60
    for point in range(1, points + 1, 3):
        loop = life(frozenset({point}))
        assert loop.deaths == 1
        assert loop.story() == whole.story(), f"killed at point {point} of {points}"


@settings(max_examples=30)
@given(
    count=st.integers(1, 4), spare=st.integers(0, 3), seed=st.integers(0, 1_000_000),
    stages=st.lists(st.sampled_from(["canary", "mirror", "ab"]), max_size=2),
    ends=st.sampled_from(["waves", "all"]), wave=st.sampled_from(["1 replica", "2 replicas", "50%"]),
)  # fmt: skip
def test_whatever_dies(count: int, spare: int, seed: int, stages: list[str], ends: str, wave: str) -> None:
    """Replicas and the controller die at random: weights sum to 10,000, nothing is over the room, and it ends."""
    chance = random.Random(seed)
    shares = [chance.choice([5, 30, 50, 100]) for _ in stages]
    walk: list[dict[str, Any]] = [
        {kind: f"{share}%", "for": "20m", "otherwise": "proceed", **({"metric": "liked"} if kind == "ab" else {})}
        for kind, share in zip(stages, shares, strict=True)
    ]
    walk.append({"waves": wave, "within": "20m", "otherwise": "proceed"} if ends == "waves" else {"all": "100%"})
    die_at = frozenset(chance.sample(range(20, 400), 6))
    loop = living(chat({"cores": count + spare}, replicas=count, rollout=walk), die_at=die_at)
    watch = Watch(room=count + spare)

    def each(now: VirtualLoop, plan: Any) -> None:
        watch(now, plan)
        replicas = there(now.world, "ready", "starting")
        if replicas and chance.random() < 0.02:
            now.world.crash(chance.choice(replicas))

    loop.each = each
    challenge(loop).run(days=DAY)
    loop.each = watch
    loop.run(days=DAY)
    memory = loop.store.load()[1]
    assert not memory.rollouts, (seed, loop.store.waiting())
    end = memory.models["chat"].champion
    assert there(loop.world, "ready") == [f"chat-{end}-{i}" for i in range(count)]
    assert [(one.version, one.weight) for one in routes(loop).revisions] == [(end, 10_000)]


def test_requests_are_answered_by_hand() -> None:
    """A person may promote in the middle of an exchange on a full pool: the new version ends with all replicas."""
    loop = living(chat({"cores": 3}, replicas=3, rollout=[CANARY, WAVES]))
    loop.each = Watch(room=3, least={"chat": 1})
    challenge(loop).run(days=10 / 1440)
    loop.store.ask(Request("p", "promote", "chat", loop.world.wall, "tester", {}))
    loop.run(days=1 / 1440)
    loop.run()
    assert champion(loop) == "2"
    assert there(loop.world, "ready") == ["chat-2-0", "chat-2-1", "chat-2-2"]
