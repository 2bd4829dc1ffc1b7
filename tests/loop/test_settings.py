"""Versions of a language model: a change of settings makes one, and its rollout goes by errors and times."""

from __future__ import annotations

from typing import Any

from mainspring.loop.memory import from_json, to_json
from mainspring.loop.plan import Plan
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs
from tests.loop.stacks import MARCH, flights


def chat(**changes: Any) -> Stack:
    """A language model's stack in little; `settings`, `rollout` and `control` may be changed."""
    return Stack.model_validate(chat_file(**changes))


def chat_file(**changes: Any) -> dict[str, Any]:
    """The same, as a file has it."""
    rollout = [{"canary": "30%", "for": "1h"}, {"all": "100%"}]
    return {
        "mainspring": 1,
        "stack": "chat",
        "compute": {"here": {"machine": "this"}},
        "orchestration": {"where": "here", "control": changes.get("control", "act")},
        "serving": {
            "chat": {
                "model": "assistant@champion",
                "runtime": "llamacpp",
                "rollout": changes.get("rollout", rollout),
                "abort": {"errors": "5%", "p95": "3s"},
            }
        },
        "pipelines": {
            "assistant": {
                "produces": "assistant",
                "weights": "model.gguf",
                "settings": changes.get("settings", {"temperature": 0.7}),
                "gates": {
                    "evals": {"quality": {"run": "evals:quality", "at_least": "40%", "no_worse_by": "3%"}},
                    "latency": {"p95": "3s", "at": "2/s per replica"},
                    "memory": {"at_most": "1GB"},
                },
            }
        },
    }


def runs(loop: VirtualLoop) -> list[str]:
    """Why each run was started."""
    return [record.value["cause"] for record in sorted(loop.store.records("run"), key=lambda r: r.at)]


def test_a_change_of_settings_makes_one_version_and_rolls_it_out() -> None:
    """New settings start one run by themselves; what it makes walks down the stages and becomes the champion."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    assert runs(loop) == ["first version"]
    loop.stack = chat(settings={"temperature": 0.2})
    loop.run(days=1)
    assert runs(loop) == ["first version", "settings changed"]
    assert loop.story()["aliases"]["assistant"] == {"champion": "2", "previous": "1"}
    loop.run(days=30)
    assert len(runs(loop)) == 2


def test_what_is_no_part_of_a_version_makes_none() -> None:
    """Another rollout or another bound is another opinion of the same version: nothing is run for it."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    loop.stack = chat(rollout=[{"canary": "10%", "for": "2h"}, {"all": "100%"}])
    loop.run(days=1)
    assert runs(loop) == ["first version"]


def test_settings_that_change_while_a_run_is_under_way_come_after_it() -> None:
    """The second change waits for the run of the first; then both are made, in order."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    waited = []

    def change(loop: VirtualLoop, plan: Plan) -> None:
        if "assistant-2" in loop.world.runs and runs(loop) == ["first version", "settings changed"]:
            loop.stack = chat(settings={"temperature": 0.1})
            waited.extend(w.why for w in plan.waiting if "its settings changed" in w.why)

    loop.each = change
    loop.stack = chat(settings={"temperature": 0.2})
    loop.run(days=1)
    assert any("assistant-2 is under way" in why for why in waited)
    assert runs(loop) == ["first version", "settings changed", "settings changed"]
    assert loop.story()["aliases"]["assistant"]["champion"] == "3"


def test_settings_that_change_while_a_version_is_rolled_out_overtake_it() -> None:
    """Nobody waits for a rollout that the file does not ask for any more: the newer version takes its place."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    loop.stack = chat(settings={"temperature": 0.2})
    loop.run()
    assert loop.store.load()[1].rollouts["chat"].candidate == "2"
    loop.stack = chat(settings={"temperature": 0.1})
    loop.run()
    assert loop.store.load()[1].rollouts["chat"].candidate == "3"
    loop.run(days=1)
    assert runs(loop) == ["first version", "settings changed", "settings changed"]
    assert loop.story()["aliases"]["assistant"] == {"champion": "3", "previous": "1"}


def test_back_to_the_champions_own_settings_makes_nothing() -> None:
    """Settings that did not become a version are taken back: the champion has these already, and no run is started."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    loop.world.failing["assistant"] = "the weights are no GGUF file"
    loop.stack = chat(settings={"temperature": 0.2})
    loop.run(days=1)
    loop.world.failing.clear()
    loop.stack = chat()
    loop.run(days=1)
    assert runs(loop) == ["first version", "settings changed"]
    loop.stack = chat(settings={"temperature": 0.1})
    loop.run(days=1)
    loop.stack = chat()  # by now another version is the champion, so that this is a change
    loop.run(days=1)
    assert runs(loop) == ["first version"] + ["settings changed"] * 3
    assert loop.story()["aliases"]["assistant"]["champion"] == "3"


def test_settings_that_fail_are_not_tried_again() -> None:
    """A run that failed is not repeated for the same settings; the champion answers on."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    loop.world.failing["assistant"] = "the weights are no GGUF file"
    loop.stack = chat(settings={"temperature": 0.2})
    loop.run(days=3)
    assert len(runs(loop)) == 2
    assert loop.story()["aliases"]["assistant"] == {"champion": "1"}
    assert loop.story()["answering"] == ["chat-1-0", "gateway-0"]


def test_the_same_end_whatever_was_killed() -> None:
    """The controller dies at every tenth point; versions, runs and aliases are those of an undisturbed loop."""

    def lived(die_at: frozenset[int] = frozenset()) -> VirtualLoop:
        loop = VirtualLoop(chat(), MARCH, die_at=die_at).run(days=1)
        loop.stack = chat(settings={"temperature": 0.2})
        return loop.run(days=1)

    killed = lived(frozenset(range(3, 400, 10)))
    assert killed.deaths > 3
    assert killed.story() == lived().story()


def test_pipelines_that_train_are_not_started_by_an_edit() -> None:
    """A training pipeline runs for its triggers only, and a memory of before has no content to compare."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    memory = loop.store.load()[1]
    assert memory.pipelines["delay"].content == ""
    old = to_json(memory).replace(b',"content":""', b"")
    assert from_json(old) == memory
    loop.stack = flights(auc=0.5)
    loop.run(days=1)
    assert len(runs(loop)) == 1


def test_suggest_asks_before_it_makes_a_version() -> None:
    """With `control: suggest` the changed settings are a proposal; approved, they are a version."""
    loop = VirtualLoop(chat(), MARCH).run(days=1)
    loop.stack = chat(settings={"temperature": 0.2}, control="suggest")
    loop.run(days=1)
    assert len(runs(loop)) == 1
    step = next(w.what.removeprefix("approval/") for w in loop.store.waiting() if "StartRun" in w.why)
    loop.ask("approve", step)
    loop.run()
    assert len(runs(loop)) == 2


def test_a_rollout_without_outcomes_says_what_it_went_by() -> None:
    """No outcomes come back from a language model: a mirror and a canary are judged by errors and times, and say so."""
    stages = [{"mirror": "100%", "for": "1h"}, {"canary": "30%", "for": "1h"}, {"all": "100%"}]
    loop = VirtualLoop(chat(rollout=stages), MARCH).run(days=1)
    loop.stack = chat(rollout=stages, settings={"temperature": 0.2})
    loop.run(days=1)
    ends = [r.value for r in loop.store.records("rollout")]
    told = {end["stage"]: end["message"] for end in ends if end["kind"] == "stage"}
    assert set(told) == {"mirror", "canary"}
    assert all("judged by errors and times alone" in message for message in told.values())
    assert loop.story()["aliases"]["assistant"]["champion"] == "2"


def test_a_slow_version_is_given_up_in_the_mirror() -> None:
    """Copies that take too long end a rollout before any user waits."""
    stages = [{"mirror": "100%", "for": "6h"}, {"all": "100%"}]
    loop = VirtualLoop(chat(rollout=stages), MARCH).run(days=1)
    loop.world.beliefs = Beliefs(latency=6.0)
    loop.stack = chat(rollout=stages, settings={"temperature": 0.2})
    loop.run(days=1)
    assert loop.story()["aliases"]["assistant"] == {"champion": "1"}
    assert [v[3] for v in loop.story()["versions"]] == ["passed", "refused"]
