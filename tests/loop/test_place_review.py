"""What a second review of where replicas run found: changes by a person, fresh controls, endpoints with no replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from mainspring.decide.routes import EndpointRoutes
from mainspring.loop.memory import RolloutMemory
from mainspring.loop.plan import Plan
from mainspring.testing.virtual import VirtualLoop
from tests.loop.rolling import Watch, challenge, chat, living, routes, stack, there

MINUTE = 1 / 1440  # of a day
TO_ALL = [{"canary": "10%", "for": "20m", "otherwise": "proceed"}, {"all": "100%"}]
QUARTER = {"canary": "25%", "for": "20m", "otherwise": "proceed"}
BY_ONE = [{"waves": "1 replica", "for": "10m", "otherwise": "proceed"}]


@dataclass
class Shares(Watch):
    """Looks at each table that is written, too: what one replica gets of an endpoint's requests, at most."""

    part: float = 0.0
    tables: int = 0

    def _weighed(self, name: str, told: EndpointRoutes) -> None:
        super()._weighed(name, told)
        self.tables += 1
        for one in told.revisions:
            self.part = max(self.part, one.weight / 10_000 / max(1, len(one.replicas)))


def rolling(loop: VirtualLoop, name: str = "chat") -> RolloutMemory | None:
    """The rollout of an endpoint that is under way."""
    return loop.store.load()[1].rollouts.get(name)


def told(loop: VirtualLoop, reason: str) -> list[str]:
    """The messages of events with a reason."""
    return [one.event.message for one in loop.store.events() if one.event.reason == reason]


def weights(loop: VirtualLoop, name: str = "chat") -> dict[str, tuple[int, int]]:
    """By revision: its part of the requests, and how many of its replicas answer."""
    return {one.name: (one.weight, len(one.replicas)) for one in routes(loop, name).revisions}


def test_a_promotion_by_a_person_moves_requests_as_replicas_answer() -> None:
    """From a canary of one replica of ten: none of the new ones gets more than a tenth, and the old ones go last."""
    loop = challenge(living(chat(replicas=10, rollout=TO_ALL))).run(days=3 * MINUTE)
    loop.each = watch = Shares(least={"chat": 10})
    loop.ask("promote", "chat")
    loop.run(days=5 * MINUTE)
    assert weights(loop) == {"chat-2": (10_000, 10)}
    assert watch.tables > 5
    assert watch.part == pytest.approx(0.1)
    assert there(loop.world, "ready") == sorted(f"chat-2-{i}" for i in range(10))


def test_an_undo_moves_requests_as_replicas_answer() -> None:
    """The version before has no replica any more: the champion's go on until ten of it answer."""
    loop = challenge(living(chat(replicas=10, rollout=TO_ALL))).run(days=3 * MINUTE)
    loop.ask("promote", "chat")
    loop.run(days=5 * MINUTE)
    loop.each = watch = Shares(least={"chat": 10})
    loop.ask("undo", "chat")
    loop.run(days=5 * MINUTE)
    assert weights(loop) == {"chat-1": (10_000, 10)}
    assert watch.part == pytest.approx(0.1)


def test_a_promotion_reaches_every_endpoint_of_the_model_so() -> None:
    """A promotion on one endpoint makes a champion for another: that one's replicas are as many as before, too."""
    given = {"model": "m@champion", "rollout": TO_ALL}
    loop = living(stack({"a": {**given, "replicas": 2}, "b": {**given, "replicas": 6}}))
    challenge(loop, "m").run(days=3 * MINUTE)
    loop.each = watch = Shares(least={"a": 2, "b": 6})
    loop.ask("promote", "a")
    loop.run(days=5 * MINUTE)
    assert weights(loop, "a") == {"a-2": (10_000, 2)}
    assert weights(loop, "b") == {"b-2": (10_000, 6)}
    assert watch.tables > 3


@pytest.mark.parametrize("cores", [8, 9, 20])
def test_a_newer_challenger_in_the_last_wave_waits_until_the_old_version_is_back(cores: int) -> None:
    """Seven of eight replicas are of version 2 when 3 takes its place: they give way one by one, and then 3 begins."""
    loop = living(chat({"cores": cores}, replicas=8, cores=1, rollout=BY_ONE))
    challenge(loop).run(days=76 * MINUTE)
    assert weights(loop)["chat-2"] == (8_750, 7)
    loop.each = watch = Shares(room=cores, least={"chat": 7})
    challenge(loop, number="3").run(days=15 * MINUTE)
    assert watch.part < 0.2
    assert weights(loop)["chat-3"][1] in (1, 2)
    assert "chat-2" not in weights(loop)
    loop.run(days=90 * MINUTE)
    assert weights(loop) == {"chat-3": (10_000, 8)}


def test_settings_promoted_by_a_person_leave_the_old_replicas_as_they_are() -> None:
    """Replicas with the settings of before are not started anew with those of now while they give way."""
    before, rollout = {"replicas": 4, "cores": 1}, TO_ALL
    loop = living(chat({"cores": 5}, **before, rollout=rollout))
    loop.stack = chat({"cores": 5}, **before, rollout=rollout, threads=2)
    loop.run(days=3 * MINUTE)
    assert weights(loop)["chat-1.2"][1] == 1
    loop.each = watch = Shares(room=5, least={"chat": 4})
    loop.ask("promote", "chat")
    loop.run(days=5 * MINUTE)
    assert weights(loop) == {"chat-1.2": (10_000, 4)}
    assert {one.name for one in watch.started} == {f"chat-1.2-{index}" for index in (1, 2, 3)}


def test_a_version_that_was_given_up_gets_nothing_at_once() -> None:
    """However few old replicas answer: nobody is to have an answer of it any more."""
    loop = living(chat({"cores": 8}, replicas=8, cores=1, rollout=BY_ONE))
    challenge(loop).run(days=76 * MINUTE)
    loop.each = watch = Shares()
    loop.ask("abort", "chat")
    loop.run(days=5 * MINUTE)
    assert watch.weights["chat"][0] == (("chat-1", 10_000),)
    assert weights(loop) == {"chat-1": (10_000, 8)}


def test_a_fresh_control_that_does_not_stay_up_gives_its_share_back() -> None:
    """In mid-stage: the requests that it had go to the old ones, and the candidate is compared with these."""
    loop = living(chat(replicas=4, rollout=[{"canary": "25%", "for": "3h"}, {"all": "100%"}]))
    challenge(loop).run(days=5 * MINUTE)
    assert weights(loop)["chat-1.fresh"] == (2_500, 1)
    for _ in range(6):
        for name in there(loop.world, "ready", "starting"):
            if "fresh" in name:
                loop.world.crash(name)
        loop.run(days=MINUTE / 2)
    assert weights(loop) == {"chat-1": (7_500, 4), "chat-2": (2_500, 1)}
    assert told(loop, "NotFresh")
    going = rolling(loop)
    assert going is not None
    assert going.ready
    assert [scope.fresh for scope in going.scopes] == [True, False]


def test_a_canary_needs_no_fresh_control_of_a_version_that_is_gone() -> None:
    """The registry has the old version no more: what runs of it goes on, and the candidate is compared with that."""
    loop = living(chat(replicas=4, rollout=[QUARTER, {"all": "100%"}]))
    loop.world.versions = [one for one in loop.world.versions if one.number != "1"]
    challenge(loop).run(days=5 * MINUTE)
    going = rolling(loop)
    assert going is not None
    assert (going.ready, going.fresh) == (True, 0)
    assert weights(loop) == {"chat-1": (7_500, 4), "chat-2": (2_500, 1)}


def test_a_version_that_goes_while_its_fresh_control_gets_ready_is_done_without() -> None:
    """The wish for a fresh control is looked at anew while the stage gets ready."""
    stages = [{"mirror": "100%", "for": "5m"}, QUARTER, {"all": "100%"}]
    loop = challenge(living(chat(replicas=4, rollout=stages))).run(days=2 * MINUTE)
    loop.world.versions = [one for one in loop.world.versions if one.number != "1"]
    loop.run(days=10 * MINUTE)
    assert weights(loop) == {"chat-1": (7_500, 4), "chat-2": (2_500, 1)}


@pytest.mark.parametrize(
    ("other", "machine"), [({"replicas": 0}, {}), ({"replicas": 1, "cores": 1}, {"cores": 2})], ids=["none", "no room"]
)
def test_an_endpoint_without_a_replica_holds_up_no_other(other: dict[str, Any], machine: dict[str, Any]) -> None:
    """Nothing is begun behind it, and the version becomes champion without it."""
    first = {"model": "m@champion", "replicas": 2, "rollout": TO_ALL, "cores": 1}
    loop = living(stack({"a": first, "b": {**first, **other}}, **machine))
    challenge(loop, "m").run(days=60 * MINUTE)
    assert rolling(loop, "a") is rolling(loop, "b") is None
    assert loop.store.load()[1].models["m"].champion == "2"
    assert weights(loop, "a") == {"a-2": (10_000, 2)}


def test_an_endpoint_that_loses_its_replicas_lets_the_loop_rest() -> None:
    """They are taken out of the file before the stage has begun: it waits, and says for what."""
    waits: list[str] = []

    def look(loop: VirtualLoop, plan: Plan) -> None:
        del loop
        waits[:] = [one.why for one in plan.waiting]

    loop = challenge(living(chat(replicas=1, rollout=TO_ALL), each=look))
    loop.stack = chat(replicas=0, rollout=TO_ALL)
    loop.run()
    assert rolling(loop) is None
    assert waits == ["version 2 is not rolled out here: `chat` has no replicas"]
    loop.stack = chat(replicas=1, rollout=TO_ALL)
    loop.run(days=MINUTE)
    loop.stack = chat(replicas=0, rollout=TO_ALL)
    loop.run(days=MINUTE)
    assert rolling(loop) is not None
