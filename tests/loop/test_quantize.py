"""A conversion that somebody asks for, through the whole loop in virtual time."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mainspring.loop.memory import Memory, RunMemory, from_json, to_json
from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import Request, VersionSeen
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs
from tests.loop.stacks import MARCH, flights

QUIET = {"retrain": {"when": [], "at_most": "1 per month"}}


def settled(**more: object) -> VirtualLoop:
    """A loop whose first version serves; nothing is retrained by itself."""
    return VirtualLoop(flights(**QUIET), MARCH, **more).run(days=1)  # type: ignore[arg-type]


def answered(loop: VirtualLoop, verb: str, target: str, **args: object) -> tuple[bool, str]:
    """Ask for something; the answer."""
    ident = f"q{len(loop.store.requests())}-{loop.cycles}"
    loop.store.ask(Request(ident, verb, target, loop.world.wall, "anna", dict(args)))
    loop.run()
    answer = loop.store.answers(ident)
    assert answer is not None
    return answer.accepted, answer.message


def test_what_passes_is_rolled_out_like_any_version() -> None:
    """Asked for, converted, registered, judged (also by its worth), rolled out, champion."""
    loop = settled()
    assert answered(loop, "quantize", "delay", to="int8") == (True, "run delay-2 converts delay@1 to int8")
    spec = loop.world.runs["delay-2"].spec
    first = loop.world.versions[0]
    assert (spec.convert, spec.source, spec.champion, spec.first) == ("int8", first.artefact, first.artefact, False)
    assert spec.cause == "delay@1 to int8, asked by anna"
    made = loop.world.versions[1]
    assert (made.number, made.run, made.verdict) == ("2", "delay-2", "passed")
    assert "INT8 against the champion: size −50%" in made.note
    loop.run(days=6)
    assert loop.world.aliases["delay"] == {"champion": "2", "previous": "1"}


def test_what_gained_nothing_is_refused_and_sees_no_traffic() -> None:
    """As many bytes and the same speed: refused, registered with its reason, never rolled out."""
    loop = settled(beliefs=Beliefs(converted_size=0.97))
    assert answered(loop, "quantize", "delay", to="fp16")[0]
    loop.run(days=6)
    made = loop.world.versions[1]
    assert made.verdict == "refused"
    assert "neither 10% smaller nor 5% faster" in made.note
    assert loop.world.aliases["delay"]["champion"] == "1"


def test_an_older_version_may_be_named() -> None:
    """The version that is named is converted; it is compared with the champion, whichever that is."""
    loop = settled()
    assert answered(loop, "quantize", "delay", to="int8")[0]
    loop.run(days=6)
    assert loop.world.aliases["delay"]["champion"] == "2"
    assert answered(loop, "quantize", "delay", to="fp16", version="1")[1] == "run delay-3 converts delay@1 to fp16"
    spec = loop.world.runs["delay-3"].spec
    assert spec.source == loop.world.versions[0].artefact
    assert spec.champion == loop.world.versions[1].artefact


def test_what_cannot_be_is_answered() -> None:
    """No precision, no such version or model, one that cannot be served, a run under way: each its sentence."""
    loop = settled()
    assert answered(loop, "quantize", "delay") == (False, "no precision was named")
    assert answered(loop, "quantize", "delay", to="int8", version="7") == (False, "there is no version 7 of `delay`")
    assert answered(loop, "quantize", "other", to="int8") == (False, "there is no `other` to quantize")
    broken = VersionSeen("delay", "9", "", "d9", "/a/9", note="its model is gone", servable=False)
    loop.world.versions.append(broken)
    assert answered(loop, "quantize", "delay", to="int8", version="9") == (
        False, "version 9 of `delay` cannot be served: its model is gone",
    )  # fmt: skip
    loop.store.ask(Request("a", "run", "delay", loop.world.wall))
    loop.store.ask(Request("b", "quantize", "delay", loop.world.wall, args={"to": "int8"}))
    loop.run()
    answer = loop.store.answers("b")
    assert answer is not None
    assert answer.message == "not now: run delay-2 is under way"


def test_before_the_first_version_there_is_nothing_to_convert() -> None:
    """Asked while the first run works: there is no version yet."""
    loop = VirtualLoop(flights(**QUIET), MARCH)
    loop.store.ask(Request("a", "quantize", "delay", MARCH, args={"to": "int8"}))
    loop.run()
    answer = loop.store.answers("a")
    assert answer is not None
    assert (answer.accepted, answer.message) == (False, "there is no version of `delay` yet")


def test_a_conversion_does_not_use_up_the_runs_of_a_month() -> None:
    """Only triggered trainings count against `at_most` and `cooldown`."""
    loop = settled()
    assert answered(loop, "quantize", "delay", to="int8")[0]
    assert loop.store.load()[1].pipelines["delay"].starts == ()


def test_a_killed_controller_changes_nothing() -> None:
    """Whenever the controller dies, the story is the same."""

    def live(die_at: frozenset[int]) -> VirtualLoop:
        loop = VirtualLoop(flights(**QUIET), MARCH, die_at=die_at).run(days=1)
        loop.store.ask(Request("a", "quantize", "delay", loop.world.wall, args={"to": "int8"}))
        return loop.run(days=6)

    undisturbed = live(frozenset())
    assert undisturbed.world.aliases["delay"]["champion"] == "2"
    for point in range(1, undisturbed.points.passed + 1, 3):
        assert live(frozenset({point})).story() == undisturbed.story(), f"killed at point {point}"


def test_a_lost_run_is_resumed_as_the_same_conversion() -> None:
    """The second attempt converts the same version to the same precision."""
    loop = settled()
    loop.store.ask(Request("a", "quantize", "delay", loop.world.wall, args={"to": "int8"}))
    killed: list[StartRun] = []

    def crash(one: VirtualLoop, _: object) -> None:
        run = one.world.runs.get("delay-2")
        if run is not None and not killed:
            killed.append(run.spec)
            one.world.crash("run-delay-2")

    loop.each = crash
    loop.run()
    again = loop.world.runs["delay-2"].spec
    assert again == dataclasses.replace(killed[0], attempt=2)
    assert loop.world.versions[1].verdict == "passed"


def test_memories_from_before_conversions_are_read() -> None:
    """A run that was remembered without the new fields converts nothing."""
    run = RunMemory("delay-1", "delay", "asked", 1, None, MARCH, "", "", "", "", first=True)
    told = json.loads(to_json(Memory(runs={"delay-1": run})))
    for name in ("convert", "source"):
        del told["runs"]["delay-1"][name]
    assert from_json(json.dumps(told).encode()).runs["delay-1"] == run


@pytest.mark.parametrize("control", ["suggest", "watch"])
def test_control_keeps_its_meaning(control: str) -> None:
    """Asked for by a person it needs no approval; `watch` begins nothing and says so."""
    loop = VirtualLoop(flights(**QUIET), MARCH).run(days=1)
    loop.stack = flights(**QUIET, control=control)
    accepted, message = answered(loop, "quantize", "delay", to="int8")
    assert accepted == (control == "suggest"), message
    if control == "watch":
        assert message == "`control: watch` begins nothing"
