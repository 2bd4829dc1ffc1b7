"""The replica of llama.cpp as a process, with real weights: OpenAI's API, a version's settings, and a clean end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mainspring.artefacts.load import WEIGHTS
from mainspring.errors import EnvironmentError_, MainspringError
from mainspring.replicas.asking import unsent
from mainspring.replicas.llamacpp.drain import drained, requests_inside
from mainspring.replicas.llamacpp.options import read_options
from mainspring.testing.artefacts import chat_artefact, smollm2
from mainspring.testing.serving import Process, Reply, Site, call

pytest.importorskip("xllamacpp")
try:
    smollm2()
except EnvironmentError_ as absent:
    pytest.skip(f"{absent.message}: {absent.hint}", allow_module_level=True)

KEY = "s3cret-of-the-upstream"
SYSTEM = 'You are a "pirate".\nSay \\arr {{ x }} {% y %} - and é 😀'
SETTINGS = {"system": SYSTEM, "temperature": 0, "max_tokens": 7, "seed": 3}
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
LINES = "\n".join(f"def get_{w}(self, key): return self.store.get('{w}', key)" for w in ("pear", "plum", "lime", "fig"))
REPEAT = [{"role": "user", "content": f"Repeat this text exactly, word for word:\n{LINES}"}]
WORDS = ("--threads", "2", "--slots", "2", "--context", "1024")


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A replica with all settings, a key, speculation, and inputs to embed as long as its context."""
    with Site(tmp_path_factory.mktemp("settled")) as site:
        artefact = chat_artefact(site.folder / "a", SETTINGS)
        key = site.upstream_key(KEY + "\n")
        process = site.llama(
            artefact, "chat-1-0", *WORDS, "--key-file", str(key), "--speculate", "ngram:8", "--embeddings"
        )
        process.wait_ready()
        yield process


@contextlib.contextmanager
def plain(folder: Path, *more: str) -> Iterator[Process]:
    """A replica with no settings, no key, no memory of prompts, and its environment as it comes."""
    with Site(folder) as site:
        words = ["mainspring.replicas.llamacpp", "--artefact", str(chat_artefact(folder / "a")), "--name", "chat-2-0",
                 "--model", "chat", "--version", "2", "--code", str(folder)]  # fmt: skip
        env = {"OMP_DISPLAY_ENV": "VERBOSE"}
        process = site.start("chat-2-0", [*words, *WORDS, *more], env=env)
        process.wait_ready()
        yield process


def ask(process: Process, path: str, body: dict[str, Any], key: str = KEY) -> Reply:
    """A POST with the key."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return call(process.address, "POST", path, json.dumps(body).encode(), headers, timeout=60)


def chat(process: Process, messages: Sequence[dict[str, str]] = HELLO, key: str = KEY, **more: object) -> Any:
    """The answer to a chat request."""
    reply = ask(process, "/v1/chat/completions", {"model": "chat", "messages": list(messages), **more}, key)
    assert reply.status == 200, reply.body
    return reply.json()


def get(process: Process, path: str, key: str = KEY) -> Reply:
    """A GET with the key."""
    return call(process.address, "GET", path, headers={"authorization": f"Bearer {key}"} if key else {})


def content(answer: Any) -> str:
    """What the model said."""
    said: str = answer["choices"][0]["message"]["content"]
    return said


def counter(process: Process, name: str, key: str = KEY) -> float:
    """One of the engine's counters."""
    lines = [line.split() for line in get(process, "/metrics", key).body.decode().splitlines()]
    return next(float(words[1]) for words in lines if words[0] == f"llamacpp:{name}")


# --- a version's settings ------------------------------------------------------------------------------------------


def test_settings_are_defaults_and_a_request_wins(settled: Process) -> None:
    """Without its own values a request gets the version's length and drawing, the same each time; its own win."""
    first, second = chat(settled), chat(settled)
    assert first["usage"]["completion_tokens"] == 7
    assert first["choices"][0]["finish_reason"] == "length"
    assert content(first) == content(second)
    assert chat(settled, max_tokens=3)["usage"]["completion_tokens"] == 3
    drawn = {content(chat(settled, temperature=1.5, seed=seed)) for seed in range(6)}
    assert len(drawn) > 1
    assert content(chat(settled, temperature=1.5, seed=4)) == content(chat(settled, temperature=1.5, seed=4))


def test_the_system_text_stands_where_a_request_has_none(settled: Process) -> None:
    """Its characters reach the model as they are; a request's own system message takes its place, also after turns."""

    def prompt(*messages: dict[str, str]) -> str:
        made: str = ask(settled, "/apply-template", {"messages": messages}).json()["prompt"]
        return made

    assert prompt(*HELLO).count(f"<|im_start|>system\n{SYSTEM}<|im_end|>") == 1
    own = prompt({"role": "system", "content": "Mine."}, *HELLO)
    assert "system\nMine.<|im_end|>" in own
    assert "pirate" not in own
    assert "pirate" not in prompt({"role": "developer", "content": "Mine."}, *HELLO)
    turns = prompt(*HELLO, {"role": "assistant", "content": "A ship."}, *HELLO)
    assert turns.count("<|im_start|>system") == 1


# --- OpenAI's API --------------------------------------------------------------------------------------------------


def test_the_model_has_the_endpoints_name(settled: Process) -> None:
    """The model is listed, and answers, under the name that it was told."""
    assert [row["id"] for row in get(settled, "/v1/models").json()["data"]] == ["chat"]
    assert chat(settled)["model"] == "chat"


def test_a_stream_ends_with_usage_and_done(settled: Process) -> None:
    """Chunks of text, then one of usage with no choices, then [DONE]; the text is that of a whole answer."""
    body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    reply = ask(settled, "/v1/chat/completions", body)
    events = [line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    last = chunks.pop()
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 7
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said == content(chat(settled))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_repeated_prompt_is_not_read_again(settled: Process) -> None:
    """A prompt that was there before comes from the cache, but for its last token."""
    messages = [{"role": "user", "content": "A prompt that no other test has: " + "quartz, " * 25}]
    before, after = chat(settled, messages)["usage"], chat(settled, messages)["usage"]
    assert before["prompt_tokens_details"]["cached_tokens"] < 60
    assert after["prompt_tokens_details"]["cached_tokens"] >= after["prompt_tokens"] - 1 > 90


def test_answers_keep_to_a_schema(settled: Process) -> None:
    """A JSON schema binds the answer, with a system text in the template too."""
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = json.loads(content(chat(settled, response_format=form, max_tokens=40)))
    assert list(answer) == ["age"]
    assert isinstance(answer["age"], int)


def test_embeddings_come_from_the_same_endpoint(settled: Process) -> None:
    """Texts become vectors of length 1, alike ones nearer, also one that fills most of the context."""
    texts = ["The cat sat on the mat.", "A dog lay on the rug.", "Quarterly revenue rose."]
    rows = ask(settled, "/v1/embeddings", {"input": texts}).json()["data"]
    a, b, c = ([float(x) for x in row["embedding"]] for row in rows)
    assert sum(x * x for x in a) == pytest.approx(1.0, abs=1e-3)
    assert sum(x * y for x, y in zip(a, b, strict=True)) > sum(x * y for x, y in zip(a, c, strict=True))
    long = ask(settled, "/v1/embeddings", {"input": "word " * 530})
    assert (long.status, long.json()["usage"]["prompt_tokens"]) == (200, 531)


def test_a_text_has_one_vector_in_whatever_company(settled: Process) -> None:
    """Texts of unlike length, embedded in one request, get the vectors that they get alone."""
    texts = ["a cat sat", "dogs", "the quick brown fox jumps over the lazy dog and runs", "one two three four"]
    together = ask(settled, "/v1/embeddings", {"input": texts}).json()["data"]
    for text, row in zip(texts, together, strict=True):
        alone = ask(settled, "/v1/embeddings", {"input": text}).json()["data"][0]["embedding"]
        assert sum(x * y for x, y in zip(alone, row["embedding"], strict=True)) > 0.999


def test_both_slots_can_be_filled(settled: Process) -> None:
    """Each slot has its whole context, also when all are full at once."""
    bodies = [{"prompt": f"{name} " * 480, "max_tokens": 4} for name in ("oak", "elm")]
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda body: ask(settled, "/v1/completions", body), bodies))
    assert [reply.status for reply in replies] == [200, 200]
    assert min(reply.json()["usage"]["prompt_tokens"] for reply in replies) > 470


def test_too_long_a_prompt_is_refused_with_its_numbers(settled: Process) -> None:
    """A prompt beyond a slot's context gets a 400 that says how long it was, and how long it may be."""
    reply = ask(settled, "/v1/completions", {"prompt": "word " * 2_000})
    error = reply.json()["error"]
    assert (reply.status, error["type"]) == (400, "exceed_context_size_error")
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (2_001, 1_024)


def test_guesses_are_counted_and_change_nothing(settled: Process, tmp_path: Path) -> None:
    """On a text that repeats itself most guesses are taken; the answer is that of an engine that does not guess."""
    before = (
        counter(settled, "spec_decode_num_draft_tokens_total"),
        counter(settled, "spec_decode_num_accepted_tokens_total"),
    )
    wanted = {"max_tokens": 96, "temperature": 0}
    messages = [{"role": "system", "content": "You repeat."}, *REPEAT]
    guessed = chat(settled, messages, **wanted)
    timings = guessed["timings"]
    assert timings["draft_n"] >= timings["draft_n_accepted"] > 20
    assert counter(settled, "spec_decode_num_draft_tokens_total") - before[0] == timings["draft_n"]
    assert counter(settled, "spec_decode_num_accepted_tokens_total") - before[1] == timings["draft_n_accepted"]
    with plain(tmp_path, "--no-prefix-cache") as other:
        slow = chat(other, messages, "", **wanted)
        assert "draft_n" not in slow["timings"]
        assert content(slow) == content(guessed)
        again = chat(other, messages, "", max_tokens=1)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        # The variable was not set for the process: it sets it in time for libgomp to see it.
        assert "GOMP_SPINCOUNT = '1000'" in other.log.read_text()


# --- what is closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x"])
def test_without_the_key_nothing_is_answered(settled: Process, key: str) -> None:
    """Only the health check is open; all else wants the key, and says no more than that."""
    assert ask(settled, "/v1/chat/completions", {"messages": HELLO}, key).status == 401
    assert ask(settled, "/v1/embeddings", {"input": "x"}, key).status == 401
    paths = ["/v1/models", "/metrics", "/slots", "/props"]
    assert [get(settled, path, key).status for path in paths] == [401] * len(paths)
    assert get(settled, "/health", key).status == 200
    assert get(settled, "/metrics").status == 200


def test_the_engines_own_doors_are_shut(settled: Process) -> None:
    """No page, no changing of properties, no files of caches, no tools, no leave for scripts of other sites."""
    assert get(settled, "/").status == 404
    assert ask(settled, "/props", {}).status == 501
    assert [ask(settled, f"/slots/0?action={verb}", {"filename": "x"}).status for verb in ("save", "restore")] == [
        501
    ] * 2
    assert get(settled, "/tools").status == 403
    assert ask(settled, "/models/load", {"model": "x"}).status == 404
    foreign = call(settled.address, "OPTIONS", "/v1/chat/completions", headers={"origin": "http://other.example"})
    assert foreign.headers["access-control-allow-origin"] == ""
    assert KEY[-4:] not in settled.log.read_text()


# --- the end -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stream(process: Process, tokens: int, key: str = "") -> Iterator[http.client.HTTPResponse]:
    """A stream of so many tokens whose first has come."""
    connection = http.client.HTTPConnection(process.address, timeout=30)
    body = {"messages": HELLO, "stream": True, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    answer.readline()
    yield answer
    answer.close()
    connection.close()


def test_sigterm_lets_a_stream_end(tmp_path: Path) -> None:
    """After SIGTERM the announcement goes at once, the stream comes to its end, and the exit status is 0."""
    with plain(tmp_path) as process, stream(process, 40) as answer:
        process.popen.terminate()
        until = time.monotonic() + 5
        while process.announce.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert process.popen.poll() is None
        rest = answer.read()
        assert rest.endswith(b"data: [DONE]\n\n")
        assert rest.count(b"data: {") >= 39
        assert process.popen.wait(5) == 0


def test_a_drain_has_an_end(tmp_path: Path) -> None:
    """A stream that goes on for longer than it was given is cut, without [DONE]; the exit status is 0 all the same."""
    with plain(tmp_path, "--drain", "0.2", "--kv", "q8_0") as process, stream(process, 900) as answer:
        asked = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - asked < 5
        with pytest.raises((http.client.HTTPException, OSError)):
            rest = answer.read()
            raise AssertionError(rest[-100:])
        assert "cut off" in process.log.read_text()


def test_a_client_that_goes_frees_its_slot(settled: Process) -> None:
    """When a streaming client goes away its slot is idle in less than a second."""
    with stream(settled, 900, KEY):
        assert counter(settled, "requests_processing") == 1
    gone = time.monotonic()
    while counter(settled, "requests_processing"):
        time.sleep(0.02)
        assert time.monotonic() - gone < 1.0


def test_unread_bytes_are_seen() -> None:
    """What a reader has not taken counts, on its port only; nobody there is no drain."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as reader, server.accept()[0] as writer:
            assert unsent(Path("/proc/self/net/tcp").read_text(), port) == 0
            writer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    writer.send(b"x" * 65_536)
            table = Path("/proc/self/net/tcp").read_text()
            assert unsent(table, port) > 0
            assert unsent(table, port + 1) == 0
            assert reader.recv(1) == b"x"
    assert not drained(f"127.0.0.1:{port}", port, "", 0.1)


def test_requests_inside_are_those_running_and_waiting() -> None:
    """The two gauges are added; comments, other counters and an empty page count nothing."""
    page = "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 3\n"
    assert requests_inside(page + "llamacpp:prompt_tokens_total 9\n") == 5
    assert requests_inside("") == 0


# --- what keeps it from starting -----------------------------------------------------------------------------------

NEEDED = ("--artefact", "a", "--name", "n", "--model", "chat", "--version", "1", "--announce", "f")


def run(*words: str, path: str = "") -> tuple[int, list[str]]:
    """Run the process to its end: its exit status, and its lines on stderr."""
    env = dict(os.environ) | ({"PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])} if path else {})
    command = [sys.executable, "-m", "mainspring.replicas.llamacpp", *words]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=env)
    return done.returncode, done.stderr.decode().splitlines()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--slotz", "4"), ("--slots", "0"), ("--slots", "many"), ("--context", "8"), ("--kv", "f8"),
        ("--speculate", "draft:8"), ("--speculate", "ngram:0"), ("--speculate", "ngram:x"), ("--speculate", "ngram"),
        ("--threads", "0"), ("--port", "70000"), ("--drain", "nan"), ("--model", " "), ("more",),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(wrong: tuple[str, ...]) -> None:
    """An unknown option, or a value out of range, is one line, and nothing is loaded."""
    with pytest.raises(MainspringError) as caught:
        read_options([*NEEDED, *wrong])
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", " \n", "two words", "a\x01b"])
def test_a_key_file_holds_a_key(tmp_path: Path, text: str) -> None:
    """An empty file or one with something else than a key would leave the door open: it is refused."""
    (tmp_path / "key").write_text(text)
    with pytest.raises(MainspringError, match="holds no key"):
        read_options([*NEEDED, "--key-file", str(tmp_path / "key")])
    with pytest.raises(MainspringError, match="cannot be read"):
        read_options([*NEEDED, "--key-file", str(tmp_path / "none")])


def test_an_unknown_option_is_one_line_and_status_2() -> None:
    """The process says what it does not know in one line."""
    status, lines = run(*NEEDED, "--slotz", "4")
    assert status == 2
    assert len(lines) == 1
    assert "--slotz" in lines[0]


def test_a_changed_byte_of_the_weights_is_refused(tmp_path: Path) -> None:
    """One byte of a tensor that is not what was promised, and the engine never sees the file."""
    folder = chat_artefact(tmp_path / "a")
    weights = folder / WEIGHTS
    weights.unlink()  # a link to the package's own file, which stays as it is
    shutil.copyfile(smollm2(), weights)
    with weights.open("r+b") as file:
        file.seek(60_000_000)
        byte = file.read(1)
        file.seek(60_000_000)
        file.write(bytes([byte[0] ^ 1]))
    status, lines = run(*NEEDED, "--artefact", str(folder), "--announce", str(tmp_path / "f"))
    assert status == 2
    assert "digest differs" in lines[0]
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("libgomp.so.1: cannot open shared object file: No such file or directory", "apt install libgomp1"),
        ("No module named 'xllamacpp'", "pip install 'mainspring[llamacpp]'"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path: Path, said: str, hint: str) -> None:
    """Without the engine, or the library that it needs of the machine, the process says what to install."""
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({said!r})\n")
    folder = chat_artefact(tmp_path / "a")
    status, lines = run(*NEEDED, "--artefact", str(folder), path=str(tmp_path))
    assert status == 2
    assert lines[-1] == f"hint: {hint}"


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """The engine does not start on another program's port, and the process says so."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        folder = chat_artefact(tmp_path / "a")
        status, lines = run(*NEEDED, "--artefact", str(folder), "--port", str(port))
    assert status == 2
    assert any(f"`127.0.0.1:{port}`" in line for line in lines)
