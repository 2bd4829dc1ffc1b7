"""vLLM in a stack, with real weights: a canary from llama.cpp to it, the same questions, replicas by its own queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Self

import pytest
from tests.cli_verbs.conftest import mainspring
from tests.engine.rolling import Scene
from tests.engine.rolling_stacks import Chats, chat
from tests.engine.runtimes import machine as here

from mainspring.testing.artefacts import chat_artefact
from mainspring.testing.runtime_under_test import KEY, UnderTest
from mainspring.testing.serving import call

pytestmark = pytest.mark.engine

RUNTIME = "vllm"
PATIENCE = 600.0  # seconds for a rollout: a replica of vLLM takes half a minute to start, or two where others work too
CANARY = [{"canary": "50%", "for": "20s"}, {"all": "100%"}]
LENIENT = {"objective": {"p95": "60s", "availability": "90%"},
           "abort": {"errors": ["0% over control", "50%"], "p95": ["60s", "2000% over control"]}}  # fmt: skip
QUESTIONS = ("Write one sentence about the moon.", "What is 2+2?", "Who wrote Hamlet?", "Say hello.")
BEGINNINGS = (
    "The capital of France is", "Water boils at", "The opposite of hot is", "Python is a programming",
    "The sun rises in the", "A dog is a kind of", "1, 2, 3, 4,", "The chemical symbol for gold is", "Good morning, how",
    "The Great Wall of",
)  # fmt: skip
"""Texts that go on in one way, whatever the rounding of the arithmetic is."""

FULL = {"runtime": RUNTIME, "slots": 16, "context": 512, "kv": {"size": "16MiB"}, "replicas": "1..2",
        "scale": {"down": "20s", "forecast": False, "ahead": "10s"}}  # fmt: skip
"""A KV cache for about three of the crowd's conversations, though there are slots for 16."""
CROWD = 8
LONG = "Tell me a long story about a harbour. " * 18  # of more than a block of 128 tokens


def asked(scene: Scene, path: str, body: dict[str, Any], timeout: float = 120.0) -> tuple[int, str, bytes]:
    """One request through the gateway: the status, the revision that answered, the body."""
    connection = HTTPConnection(scene.control.gateway().removeprefix("http://"), timeout=timeout)
    try:
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.getheader("x-mainspring-revision", ""), answer.read()
    finally:
        connection.close()


def goes_on(scene: Scene, beginning: str) -> str:
    """The first word that a text goes on with; greedy."""
    body = {"model": "chat", "prompt": beginning, "max_tokens": 4, "temperature": 0}
    status, _, said = asked(scene, "/v1/completions", body)
    assert status == 200, said
    return str(json.loads(said)["choices"][0]["text"]).split(maxsplit=1)[0]


def answers(scene: Scene) -> dict[str, str]:
    """What it answers to each question; greedy."""
    found = {}
    for one in QUESTIONS:
        messages = [{"role": "user", "content": one}]
        body = {"model": "chat", "messages": messages, "max_tokens": 24, "temperature": 0}
        status, _, said = asked(scene, "/v1/chat/completions", body)
        assert status == 200, said
        found[one] = json.loads(said)["choices"][0]["message"]["content"]
    return found


def streamed(scene: Scene) -> tuple[str, str]:
    """One answer as a stream: its text, and the revision that gave it."""
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    body = {"model": "chat", "messages": messages, "max_tokens": 24, "temperature": 0, "stream": True}
    status, revision, said = asked(scene, "/v1/chat/completions", body)
    events = [line.removeprefix("data: ") for line in said.decode().splitlines() if line.startswith("data: ")]
    assert status == 200, said
    assert events[-1] == "[DONE]"
    parts = [json.loads(one)["choices"] for one in events[:-1]]
    return "".join(one[0]["delta"].get("content") or "" for one in parts if one), revision


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The chat example, up on llama.cpp; weights and vLLM's environment are there, or it is skipped and counted."""
    here.weights()
    here.note(here.installed(RUNTIME).name)
    made = chat(tmp_path_factory.mktemp("v") / "stack", CANARY, **LENIENT)
    try:
        made.up()
        yield made
    finally:
        made.clear()


def test_a_canary_from_llama_cpp_loses_nobody_and_answers_the_same(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """`runtime: vllm` is rolled out as settings are, under traffic; the same weights then answer the same questions."""
    before, words = answers(scene), {one: goes_on(scene, one) for one in BEGINNINGS}
    with scene.users(Chats(characters=200), 1.0) as users:
        began = time.time()
        label = scene.settings_changed(runtime=RUNTIME)
        end = scene.ended(label, PATIENCE)
    by = users.count()
    failed = [one for one in users.since(0.0) if one.status != 200]
    after, then = answers(scene), {one: goes_on(scene, one) for one in BEGINNINGS}
    text, revision = streamed(scene)
    too_long = {"model": "chat", "prompt": "word " * 20_000, "max_tokens": 1}
    refused, _, why = asked(scene, "/v1/completions", too_long)
    same = sum(words[one] == then[one] for one in BEGINNINGS)
    with capsys.disabled():
        print(f"\nllama.cpp to vLLM: {end['kind']} after {time.time() - began:.0f} s; {dict(by)}")
        print(f"the same first word for {same} of {len(BEGINNINGS)} texts")
        for one in QUESTIONS:
            print(f"  {one}\n    llama.cpp: {before[one]}\n    vLLM:      {after[one]}")
    assert end["kind"] == "promoted", scene.tell()
    assert not users.lost(), users.lost()[:5]
    assert not failed, failed[:5]
    assert {name for name, _ in by} == {"chat-1", f"chat-{label}"}, "both answered"
    assert same >= len(BEGINNINGS) - 1
    assert text == after[QUESTIONS[0]]
    assert revision == f"chat-{label}"
    assert (refused, "error" in json.loads(why)) == (400, True), why


SETTINGS: dict[str, str | float | int] = {"system": "You are a pirate. Be brief.", "temperature": 0.0, "max_tokens": 7}


def told(one: UnderTest) -> dict[str, Any]:
    """What a replica answers to a question that says nothing of how: the whole answer."""
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": QUESTIONS[0]}]}).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    reply = call(one.up().address, "POST", "/v1/chat/completions", body, headers)
    assert reply.status == 200, reply.body
    return dict(json.loads(reply.body))


def test_settings_of_a_version_are_its_defaults(tmp_path: Path) -> None:
    """The same prompt as llama.cpp makes of them, and no more tokens than they allow; the key is asked for."""
    here.weights()
    good = chat_artefact(tmp_path / "good", SETTINGS)
    found = {}
    for name in ("llamacpp", RUNTIME):
        state = tmp_path / name
        with UnderTest(here.installed(name), state, good, state / "code", endpoint="chat", patience=PATIENCE) as one:
            found[name] = told(one)
            assert call(one.up().address, "POST", "/v1/chat/completions", b"{}").status == 401
    usage = {name: one["usage"] for name, one in found.items()}
    assert usage[RUNTIME]["prompt_tokens"] == usage["llamacpp"]["prompt_tokens"]
    assert usage[RUNTIME]["completion_tokens"] == usage["llamacpp"]["completion_tokens"] == SETTINGS["max_tokens"]
    assert found[RUNTIME]["choices"][0]["finish_reason"] == "length"


class Crowd:
    """Users who ask again as soon as they are answered; use it as a context."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._over = scene, threading.Event()
        self.statuses: list[int] = []
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in range(CROWD)]
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join(180.0)

    def _ask(self, user: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            body = {"model": "chat", "prompt": f"{user} {number} {LONG}", "max_tokens": 48, "temperature": 0}
            try:
                self.statuses.append(asked(self._scene, "/v1/completions", body, 180.0)[0])
            except (OSError, HTTPException) as error:
                self.problems.append(f"{type(error).__name__}: {error}")


def queue(scene: Scene, name: str) -> dict[str, Any]:
    """What a replica's engine says of itself, once it lets requests wait all along; empty before."""
    path = scene.state / "processes" / name / "gauges.json"
    said: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return said if said.get("held") else {}


def replicas(scene: Scene) -> int:
    """How many replicas take requests."""
    return sum(len(one["replicas"]) for one in scene.control.status()["endpoints"][0]["revisions"])


def test_replicas_follow_its_own_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight users fill the KV cache of one: what waits in the engine asks for a second, and when they go it goes."""
    here.weights()
    here.installed(RUNTIME)
    made = chat(tmp_path / "stack", CANARY, **LENIENT, **FULL)
    try:
        done = mainspring(made.path, "up", "--yes", timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr + made.tell()
        assert replicas(made) == 1
        began = time.monotonic()
        with Crowd(made) as crowd:
            first = made.until("requests to wait in vLLM", lambda: queue(made, "chat-1-0"), PATIENCE)
            queued = time.monotonic() - began
            made.until("a second replica", lambda: replicas(made) == 2, PATIENCE)
            second = time.monotonic() - began
            time.sleep(10.0)  # both at work
        gone = time.monotonic()
        made.until("one replica again", lambda: replicas(made) == 1, PATIENCE)
        whys = [one["message"] for one in made.events() if "1 → 2" in one["message"]]
        with capsys.disabled():
            print(f"\nqueue seen after {queued:.0f} s ({first}), second replica after {second:.0f} s")
            print(f"  {whys}; {len(crowd.statuses)} answers; one again after {time.monotonic() - gone:.0f} s")
        assert not crowd.problems, crowd.problems[:5]
        assert set(crowd.statuses) == {200}
        assert any("at once and lets others wait" in one for one in whys), made.tell()
        assert first["most"] < FULL["slots"], "it was the KV cache, not its slots"
    finally:
        made.clear()
