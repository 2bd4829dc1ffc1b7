"""Settings are rolled out as versions are: the old ones go on until the new ones have proved themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mainspring.loop.launches import adopted, begun, changes, launch_of, refused
from mainspring.loop.memory import EndpointMemory, Launch, Memory, RolloutMemory, from_json, to_json
from mainspring.loop.plan import Condition
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from tests.loop.rolling import Watch, challenge, chat, living, routes, there


def settings(loop: VirtualLoop) -> list[Condition]:
    """What is said of settings that are not live."""
    return [c for c in loop.store.conditions() if c.type == "Settings"]


def remembered(loop: VirtualLoop) -> EndpointMemory:
    """What is remembered of the endpoint's settings."""
    return loop.store.load()[1].endpoints["chat"]


def changed(loop: VirtualLoop, stack: Stack, days: float = 0.0) -> VirtualLoop:
    """The stack file is another one from now on."""
    loop.stack = stack
    return loop.run(days=days)


def test_other_settings_are_tried_on_a_candidate() -> None:
    """The candidate has the new ones; an old replica that dies meanwhile starts again with the old ones."""
    loop = living(chat(threads=1))
    loop.each = watch = Watch(least={"chat": 1})
    changed(loop, chat(threads=2), days=5 / 1440)
    assert [(one.name, one.version, one.weight) for one in routes(loop).revisions] == [
        ("chat-1", "1", 4_000), ("chat-1.fresh", "1", 3_000), ("chat-1.2", "1", 3_000)
    ]  # fmt: skip
    loop.world.crash("chat-1-0")
    loop.world.crash("chat-1.2-0")
    loop.run()
    assert {(start.name, start.generation, start.threads) for start in watch.started} == {
        ("chat-1.2-0", 1, 2), ("chat-1.2-0", 2, 2), ("chat-1.fresh-0", 1, 1), ("chat-1-0", 2, 1)
    }  # fmt: skip
    [pending] = settings(loop)
    assert (pending.status, pending.reason) == ("unknown", "RollsOut")
    assert pending.message == "the stack file's settings are not live yet (threads 1 -> 2)"
    loop.run(days=1)
    assert there(loop.world, "ready") == ["chat-1.2-0", "chat-1.2-1"]
    assert remembered(loop) == EndpointMemory(2, launch_of(loop.stack.serving["chat"]), (), 2)
    assert not settings(loop)
    assert loop.world.aliases["chat"] == {"champion": "1"}


def test_settings_that_were_given_up_are_not_tried_again() -> None:
    """The file's settings stay refused, and a condition says so, until the file says others; then it is asked anew."""
    loop = living(chat(slots=4))
    changed(loop, chat(slots=8), days=5 / 1440)
    loop.ask("abort", "chat")
    loop.run(days=1)
    assert there(loop.world, "ready") == ["chat-1-0", "chat-1-1"]
    [told] = settings(loop)
    assert (told.status, told.reason) == ("false", "Refused")
    assert "(options --slots 4" in told.message
    assert "its rollout" not in told.message
    assert remembered(loop).launch == launch_of(chat(slots=4).serving["chat"])
    changed(loop, chat(slots=4), days=1)
    assert not settings(loop)
    assert not remembered(loop).refused
    changed(loop, chat(slots=8), days=5 / 1440)
    assert "chat-1.3-0" in there(loop.world, "ready")


def test_while_they_are_refused_the_next_version_has_the_old_ones() -> None:
    """A version is rolled out with the live settings, whatever the file says of others."""
    loop = living(chat(threads=1))
    changed(loop, chat(threads=2), days=5 / 1440)
    loop.ask("abort", "chat")
    loop.run()
    loop.each = watch = Watch()
    challenge(loop).run(days=1)
    assert there(loop.world, "ready") == ["chat-2-0", "chat-2-1"]
    assert {start.threads for start in watch.started} == {1}


def test_a_version_after_other_settings_keeps_their_generation() -> None:
    """Revisions say both: version 2 with the second settings is `chat-2.2`, and its fresh control `chat-1.2.fresh`."""
    loop = living(chat(threads=1))
    changed(loop, chat(threads=2), days=1)
    challenge(loop).run(days=5 / 1440)
    assert [one.name for one in routes(loop).revisions] == ["chat-1.2", "chat-1.2.fresh", "chat-2.2"]
    loop.run(days=1)
    assert there(loop.world, "ready") == ["chat-2.2-0", "chat-2.2-1"]
    assert loop.world.aliases["chat"] == {"champion": "2", "previous": "1"}


def test_what_was_never_remembered_is_noted() -> None:
    """After an upgrade nothing is known of the settings: those of the file count as live, and nothing is rolled out."""
    loop = living(chat(threads=2))
    revision, memory = loop.store.load()
    text = to_json(replace(memory, endpoints={}))
    assert from_json(text).endpoints == {}
    loop.store.commit(revision, replace(_plan(loop), memory=from_json(text)), memory.last or pytest.fail("no cycle"))
    loop.run(days=1)
    assert remembered(loop).launch == launch_of(loop.stack.serving["chat"])
    assert there(loop.world, "ready") == ["chat-1-0", "chat-1-1"]


def _plan(loop: VirtualLoop) -> Any:
    plans: list[Any] = []
    before, loop.each = loop.each, lambda _, plan: plans.append(plan)
    loop.run()
    loop.each = before
    return plans[-1]


def test_before_there_is_a_version_settings_are_just_the_files() -> None:
    """Nobody answers with others, so that nothing has to be rolled out."""
    loop = VirtualLoop(chat(threads=1), 1362096000.0).run()
    changed(loop, chat(threads=2))
    assert remembered(loop) == EndpointMemory(1, launch_of(loop.stack.serving["chat"]))
    assert not settings(loop)


def test_a_longer_timeout_is_no_other_launch() -> None:
    """How long a replica may take to end what it has begun is told by a start anew, one replica after the other."""
    loop = living(chat())
    loop.each = watch = Watch(least={"chat": 1})
    changed(loop, chat(timeout="5m"))
    assert {(start.name, start.options[-1]) for start in watch.started} == {("chat-1-0", "300"), ("chat-1-1", "300")}
    assert [one.name for one in routes(loop).revisions] == ["chat-1"]


def test_the_same_end_wherever_the_controller_dies() -> None:
    """Killed before and after each effect of a rollout of settings: the same end, under the same names."""

    def life(die_at: frozenset[int] = frozenset()) -> VirtualLoop:
        loop = living(chat(threads=1), die_at=die_at)
        return changed(loop, chat(threads=2), days=1)

    whole = life()
    assert there(whole.world, "ready") == ["chat-1.2-0", "chat-1.2-1"]
    for point in range(40, whole.points.passed + 1, 3):
        assert life(frozenset({point})).story() == whole.story(), f"killed at point {point}"


def test_memory_of_settings() -> None:
    """What becomes of it when a rollout begins, ends well, or is given up; it can be written and read."""
    old, new = Launch(), Launch(threads=2, batch_wait=0.01, options=("--slots", "4"))
    memory = begun(EndpointMemory(launch=old), 2)
    rollout = RolloutMemory("chat", "chat", "1.2", "1", (), None, None, 0.0, 0.95, 0.0, launch=new, generation=2)
    assert adopted(memory, rollout) == EndpointMemory(2, new, (), 2)
    given_up = refused(refused(memory, rollout), rollout)
    assert given_up == EndpointMemory(1, old, (new,), 2)
    assert from_json(to_json(Memory(endpoints={"chat": given_up}))).endpoints["chat"] == given_up
    assert changes(old, new) == "threads 1 -> 2, batch wait 0.002 -> 0.01, options none -> --slots 4"
    assert changes(old, old) == ""
