"""Another model server is rolled out as other settings are: each revision is started and asked in its own words."""

from __future__ import annotations

from dataclasses import replace

from mainspring.loop.launches import protocol_of
from mainspring.loop.memory import Launch
from mainspring.runtimes.catalog import runtimes
from tests.loop.rolling import Watch, chat, living, routes, version


def test_another_runtime_is_a_candidate_that_is_asked_in_its_own_words() -> None:
    """In the canary the old replicas and the new ones have words of their own; then the new stay."""
    loop = living(chat(runtime="llamacpp"))
    loop.each = watch = Watch(least={"chat": 1})
    loop.stack = chat(runtime="vllm")
    loop.run(days=5 / 1440)
    told = {one.name: (one.protocol, one.model, one.keep_alive) for one in routes(loop).revisions}
    assert told == {
        "chat-1": ("openai", "", False), "chat-1.fresh": ("openai", "", False), "chat-1.2": ("openai", "", True)
    }  # fmt: skip
    [new] = {start.options for start in watch.started if start.name == "chat-1.2-0"}
    assert new[:4] == ("--runtime", "vllm", "--drain", "600")
    assert new[4] == "--"
    assert new[5:] == loop.stack.serving["chat"].words
    loop.run(days=1)
    assert {one.name for one in routes(loop).revisions} == {"chat-1.2"}


def test_what_a_launch_speaks_is_its_runtimes() -> None:
    """A runtime says its own protocol; an external server's is in the words."""
    for name, runtime in runtimes().items():
        if not runtime.foreign:
            assert protocol_of(Launch(name)) == runtime.protocol
    assert protocol_of(Launch("external", options=("--protocol", "oip"))) == "oip"
    assert protocol_of(Launch("one that is not installed any more")) == "mainspring"


def test_a_version_that_nobody_has_gates_for_goes_to_its_rollout() -> None:
    """Where no pipeline makes a model, one that a person names is rolled out, and it is said that nobody judged it."""
    loop = living(chat())
    loop.world.versions.append(replace(version("chat", "2"), verdict=""))
    loop.run(days=1)
    assert loop.world.aliases["chat"] == {"champion": "1"}  # nobody has named it
    loop.world.aliases["chat"]["challenger"] = "2"
    loop.run(days=2)
    assert loop.world.aliases["chat"]["champion"] == "2"
    [seen] = [one for one in loop.world.versions if one.number == "2"]
    assert seen.verdict == "passed"
    assert "no pipeline of the stack file produces `chat`" in seen.note
    assert any("without a judgement" in one.event.message for one in loop.store.events())
