"""What people do to rollouts, what is told of it, and what does not follow by itself afterwards."""

from __future__ import annotations

from mainspring.loop.plan import Plan
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import DAY
from tests.loop.rolling import challenge, chat, living, version
from tests.loop.stacks import MARCH, flights, told, under_way

MINUTE = 1 / 1440  # of a day
SHORT = [{"canary": "30%", "for": "20m", "otherwise": "proceed"}, {"all": "100%"}]


def champion(loop: VirtualLoop, model: str = "chat") -> str:
    """The number of the version that the registry calls champion."""
    return loop.world.aliases[model]["champion"]


def test_after_an_undo_nothing_older_is_rolled_out_by_itself() -> None:
    """An overtaken version is not tried when the newer one is undone; one that is made afterwards is."""
    loop = challenge(living(chat(rollout=SHORT))).run(days=3 * MINUTE)
    loop.world.versions.append(version("chat", "3"))
    loop.run(days=3 * MINUTE)
    assert under_way(loop, "chat").candidate == "3"
    loop.ask("promote", "chat")

    def at_once(living: VirtualLoop, plan: Plan) -> None:
        if plan.memory.models["chat"].champion == "3":
            living.each = lambda *_: None
            living.ask("undo", "chat")

    loop.each = at_once
    loop.run(days=90 * MINUTE)
    assert (champion(loop), loop.store.load()[1].rollouts) == ("1", {})
    assert told(loop, "AliasPutBack") == []
    assert loop.store.load()[1].models["chat"].undone == ""
    loop.world.versions.append(version("chat", "4"))
    loop.run(days=90 * MINUTE)
    assert champion(loop) == "4"


def test_after_an_undo_of_a_rollout_nothing_older_follows() -> None:
    """The same where the rollout is still under way; a person may name the older one all the same."""
    loop = challenge(living(chat(rollout=SHORT))).run(days=3 * MINUTE)
    loop.world.versions.append(version("chat", "3"))
    loop.run(days=3 * MINUTE)
    loop.ask("undo", "chat")
    loop.run(days=90 * MINUTE)
    assert (champion(loop), loop.store.load()[1].rollouts) == ("1", {})
    loop.world.aliases["chat"]["challenger"] = "2"
    loop.run(days=90 * MINUTE)
    assert champion(loop) == "2"


def test_an_alias_that_somebody_else_sets_is_still_told() -> None:
    """Once an undo has been taken up, the undone version's alias is a foreign edit as any other."""
    loop = challenge(living(chat(rollout=SHORT))).run(days=90 * MINUTE)
    loop.ask("undo", "chat")
    loop.run(days=3 * MINUTE)
    loop.world.aliases["chat"]["champion"] = "2"
    loop.run(days=3 * MINUTE)
    assert "was set to 2 by somebody" in told(loop, "AliasPutBack")[0]
    assert champion(loop) == "1"


def given_up() -> VirtualLoop:
    """Version 5 has passed by itself, was named, and its rollout was given up by a person."""
    loop = VirtualLoop(flights(retrain={"when": []}), MARCH).run(days=1)
    loop.world.add_version("delay", "5", "theirs", (MARCH - 300 * DAY, MARCH))
    loop.ask("gate", "delay", version="5")
    loop.run(days=1)
    loop.world.aliases["delay"]["challenger"] = "5"
    loop.run()
    loop.ask("abort", "delay")
    return loop.run(days=1)


def verdict(loop: VirtualLoop) -> str:
    """The verdict on version 5."""
    return next(v.verdict for v in loop.world.versions if v.number == "5")


def test_gates_that_are_passed_again_lift_a_rollout_that_was_given_up() -> None:
    """The verdict stays passed, nothing is rolled out for it, and a person may have it tried again."""
    loop = given_up()
    assert (verdict(loop), len(loop.store.load()[1].aborted)) == ("refused", 1)
    loop.ask("gate", "delay", version="5")
    loop.run(days=3)
    memory = loop.store.load()[1]
    assert (verdict(loop), memory.aborted, memory.rollouts) == ("passed", (), {})
    loop.world.aliases["delay"]["challenger"] = "5"
    loop.run()
    assert under_way(loop, "delay").candidate == "5"


def test_gates_asked_for_before_a_rollout_was_given_up_lift_nothing() -> None:
    """Who had them run meanwhile did not know of it."""
    loop = VirtualLoop(flights(retrain={"when": []}), MARCH).run(days=1)
    loop.world.add_version("delay", "5", "theirs", (MARCH - 300 * DAY, MARCH))
    loop.ask("gate", "delay", version="5")
    loop.run(days=1)
    loop.world.aliases["delay"]["challenger"] = "5"
    loop.run()
    loop.ask("gate", "delay", version="5")

    def meanwhile(living: VirtualLoop, plan: Plan) -> None:
        if plan.memory.runs:
            living.each = lambda *_: None
            living.ask("abort", "delay")

    loop.each = meanwhile
    loop.run(days=1)
    assert (verdict(loop), len(loop.store.load()[1].aborted)) == ("refused", 1)


def test_a_stage_that_a_person_ended_is_recorded_so() -> None:
    """By whom and why; and the end does not say that all stages went well."""
    loop = challenge(living(chat(rollout=SHORT))).run(days=3 * MINUTE)
    loop.ask("promote", "chat", stage=True, why="quick")
    loop.run(days=90 * MINUTE)
    (ended,) = [r.value for r in loop.store.records("rollout") if r.value.get("ended_by")]
    assert (ended["ended_by"], ended["number"], ended["kind"]) == ("tester: quick", 1, "stage")
    assert told(loop, "Promoted")[-1].endswith("its stages are over, of which 1 was ended by a person")


def test_settings_behind_a_version_say_what_they_wait_for() -> None:
    """While a version is rolled out behind the same endpoint."""
    loop = challenge(living(chat(rollout=SHORT))).run(days=3 * MINUTE)
    waits: list[str] = []
    loop.each = lambda _, plan: waits.extend(one.why for one in plan.waiting if one.what == "endpoint/chat")
    loop.stack = chat(rollout=SHORT, threads=2)
    loop.run(days=3 * MINUTE)
    assert "new settings wait for the rollout of version 2" in waits
    loop.run(days=180 * MINUTE)
    assert loop.store.load()[1].endpoints["chat"].generation == 2


def test_to_resume_what_is_not_paused_says_so() -> None:
    """Nothing is changed, and nobody is told that it was."""
    loop = challenge(living(chat(rollout=SHORT))).run(days=3 * MINUTE)
    for verb, said in (("resume", "is not paused"), ("pause", "paused"), ("pause", "is paused already")):
        ident = f"{verb}-chat-{loop.cycles}"
        loop.ask(verb, "chat")
        loop.run()
        answer = loop.store.answers(ident)
        assert answer is not None
        assert answer.message.endswith(said)
    assert told(loop, "RolloutResumed") == []
