"""The fake language server does what its knobs and faults say, on the wire: else tests that use it mean nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.testing import language_faults as faults
from mainspring.testing.language_answers import Answers, BadBody, PrefixCache, told_in
from mainspring.testing.serving import Process, Site, call
from mainspring.testing.streaming import CHAT, Told, ask, ask_all, ask_now, chat, raw, wire


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that stays; faults are asked for in prompts."""
    with Site(tmp_path_factory.mktemp("fake")) as site:
        yield site.language().wait_ready()


def one(site: Site, *options: str) -> Process:
    """One that a test may kill."""
    process = site.language(f"chat-1-{len(site.processes)}", *options)
    process.wait_ready()
    return process


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A place for those."""
    with Site(tmp_path_factory.mktemp("others")) as site:
        yield site


def streamed(address: str, words: str, **more) -> Told:
    return ask_now(address, chat(f"go on {words}"), **{"timeout": 5, **more})


def whole(address: str, words: str, **more) -> Told:
    return ask_now(address, chat(f"go on {words}", stream=False), **{"timeout": 5, **more})


def test_the_same_prompt_gets_the_same_words(fake: str) -> None:
    """Streamed or not; another prompt gets others."""
    first, again, other = (
        streamed(fake, "fake:tokens=30"), whole(fake, "fake:tokens=30"), streamed(fake, "fake:tokens=31"),
    )  # fmt: skip
    assert first.text == again.text != other.text
    assert len(first.text.split()) == 30


def test_times_are_as_told(fake: str) -> None:
    """The first token after `first-ms`, the others `gap-ms` apart, a whole answer after all of it."""
    told = streamed(fake, "fake:tokens=5 fake:first-ms=100 fake:gap-ms=40")
    assert told.is_done, told
    tokens = told.times[1:6]
    assert 0.09 < tokens[0] < 0.5
    assert tokens[4] - tokens[0] == pytest.approx(0.16, abs=0.1)
    assert whole(fake, "fake:tokens=5 fake:first-ms=100 fake:gap-ms=40").seconds > 0.25


def test_slots_have_a_queue_in_order(other: Site) -> None:
    """With one slot three requests take turns, first come first served; the one that left is not waited for."""
    address = one(other, "--slots", "1", "--first-ms", "80").address

    async def run() -> list[Told]:
        tasks = []
        for number in range(3):
            leave = (lambda _: True) if number == 1 else None
            timeout = 0.05 if number == 1 else 5.0  # the second gives up while it waits
            tasks.append(asyncio.create_task(ask(address, chat(f"number {number}"), leave=leave, timeout=timeout)))
            await asyncio.sleep(0.01)
        return list(await asyncio.gather(*tasks))

    first, gone, last = asyncio.run(run())
    assert first.is_done
    assert gone.problem == "hangs"
    assert last.is_done
    assert last.seconds == pytest.approx(first.seconds + 0.08, abs=0.06)
    stats = call(address, "GET", "/stats").json()
    assert (stats["running"], stats["waiting"], stats["done"], stats["cancelled"]) == (0, 0, 2, 1)


def test_the_prefix_cache(other: Site) -> None:
    """Whole blocks that were seen are cached and cost nothing; what was used least recently goes first."""
    address = one(other, "--cache-blocks", "40", "--prompt-us-per-token", "500").address
    prompts = {name: f"{name * 1024} and" for name in "ab"}  # 16 blocks and a bit each
    cached, seconds = [], []
    for name in ("a", "a", "b", "a", "c" * 3, "a"):
        told = ask_now(address, chat(prompts.get(name, name * 1024), stream=False))
        usage = told.json()["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        seconds.append(told.seconds)
        assert usage["prompt_tokens"] >= 256
    assert cached[0] == 0 == cached[2]
    assert cached[1] == cached[3] == 256  # 40 blocks hold both
    assert cached[4] == 0
    assert cached[5] < 256  # pushed out, at least in part
    assert seconds[0] > 0.12
    assert seconds[1] < 0.1


def test_shapes_do_not_change_what_is_said(fake: str) -> None:
    """However the bytes come, the events are the same."""
    plain = streamed(fake, "fake:tokens=8", timeout=5)
    for shape in ("split", "split=1", "joined", "comments", "crlf", "early-head", "drip=1"):
        told = ask_now(fake, chat(f"go on fake:tokens=8 fake:{shape}"), timeout=20)
        assert told.is_done, (shape, str(told))
        assert len(told.events) == len(plain.events)
    huge = streamed(fake, "fake:huge-chunk=300")
    assert huge.is_done
    assert max(map(len, huge.events)) > 300_000
    assert len(whole(fake, "fake:huge-chunk=300").body) > 300_000


def test_faults_before_the_first_byte(fake: str) -> None:
    """Each fault is what its name says, and leaves the others alone."""
    assert "Reset" in streamed(fake, "fake:reset-before-first").problem
    assert streamed(fake, "fake:close-before-first").problem == "closed"
    assert streamed(fake, "fake:never-answer", timeout=0.3).problem == "hangs"
    assert "ParserError" in streamed(fake, "fake:garbage").problem
    assert streamed(fake, "fake:endless-headers", timeout=0.3).problem == "hangs"
    ok = streamed(fake, "fake:ok-then-garbage")
    assert "ParserError" in ok.problem
    assert not ok.events
    short = whole(fake, "fake:short-body")
    assert (short.status, short.is_whole, short.problem) == (200, False, "closed")
    for name, status, code in (("error-500", 500, "internal_error"), ("error-503", 503, 503), ("vllm-error", 400, 400),
                               ("error-429", 429, "rate_limit_exceeded"), ("llama-error", 400, 400)):  # fmt: skip
        told = whole(fake, f"fake:{name}")
        assert (told.status, told.json()["error"]["code"]) == (status, code)
    assert whole(fake, "fake:html-error").status == 502
    assert streamed(fake, "").is_done


def test_faults_in_mid_stream(fake: str) -> None:
    """After as many tokens as asked for; the slot is free again, unless the fault is to keep it."""
    for name in ("reset-mid-stream", "close-mid-stream", "truncated-chunk", "garbage-mid-stream", "stall-mid-stream"):
        told = streamed(fake, f"fake:{name}=4", timeout=0.5)
        assert told.status == 200
        assert len(told.chunks) == 5, (name, str(told))  # the role, and four tokens
        assert told.ends == 0
        assert not told.is_whole
    error = streamed(fake, "fake:error-mid-stream=2")
    assert (len(error.chunks), error.errors[0]["code"], error.dones) == (3, 500, 1)
    last = streamed(fake, "fake:die-after-last-token fake:tokens=5")
    assert (len(last.chunks), last.ends, last.is_whole) == (7, 0, False)
    undone = streamed(fake, "fake:no-done fake:tokens=5")
    assert (len(undone.chunks), undone.ends, undone.is_whole) == (7, 0, True)
    time.sleep(0.1)
    stats = call(fake, "GET", "/stats").json()
    assert (stats["running"], stats["open_streams"]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "status"),
    [("fake:crash", -signal.SIGABRT), ("fake:killed", -signal.SIGKILL), ("fake:exit=7", 7),
     ("fake:crash-mid-stream", -signal.SIGABRT), ("fake:killed-mid-stream", -signal.SIGKILL)],
)  # fmt: skip
def test_deaths(other: Site, words: str, status: int) -> None:
    """The process ends as asked, and how it ended is written down."""
    process = one(other)
    told = streamed(process.address, words)
    assert told.ends == 0
    assert len(told.chunks) == (4 if "mid" in words else 0)
    assert process.popen.wait(5) == status
    path = process.announce.with_name("exit.json")
    until = time.monotonic() + 5
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert json.loads(path.read_text())["status"] == status


def test_faults_of_a_whole_process(other: Site) -> None:
    """A port that swallows, one that is silent, one that resets; and a fault that is turned on and off."""
    hole = one(other, "--fault", "blackhole")
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", int(hole.address.split(":")[1])), timeout=0.3)
    assert streamed(one(other, "--fault", "silent").address, "", timeout=0.3).problem == "hangs"
    assert "Reset" in streamed(one(other, "--fault", "reset-on-accept").address, "").problem
    process = one(other, "--fault", "error-500")
    assert streamed(process.address, "").status == 500
    assert call(process.address, "GET", "/health").status == 200
    assert call(process.address, "POST", "/knobs", b'{"fault": ""}').status == 200
    assert streamed(process.address, "").is_done
    for bad in (b'{"fault": "nonsense"}', b'{"nonsense": 1}', b"[]", b'{"tokens": "many"}'):
        assert call(process.address, "POST", "/knobs", bad).status == 400


def test_a_client_that_leaves_is_noticed(fake: str) -> None:
    """Its stream is counted as cancelled at once."""
    before = call(fake, "GET", "/stats").json()["cancelled"]
    told = streamed(fake, "fake:tokens=500 fake:gap-ms=10", leave=lambda told: len(told.events) > 2)
    assert told.ends == 0
    time.sleep(0.05)
    assert call(fake, "GET", "/stats").json()["cancelled"] == before + 1


def test_a_slow_reader_holds_only_itself(fake: str) -> None:
    """Megabytes that nobody reads are not piled up: the stream waits, and goes on when it is read."""
    host, _, port = fake.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        sock.sendall(wire(CHAT, json.dumps(chat("fake:tokens=60000")).encode()))
        time.sleep(0.3)
        assert call(fake, "GET", "/stats").json()["output_tokens"] < 59_000
        got = b""
        while b"[DONE]" not in got[-100:]:
            got = got[-100:] + sock.recv(1 << 20)


def test_the_last_request_can_be_looked_at(fake: str) -> None:
    """Headers and body as they came."""
    ask_now(fake, chat("look at me"), headers={"x-Some": "thing"})
    last = call(fake, "GET", "/last").json()
    assert ["x-some", "thing"] in last["headers"]
    assert json.loads(last["body"]) == chat("look at me")


def test_a_stop_lets_streams_end(other: Site) -> None:
    """SIGTERM: no new connection, the stream that runs is whole, exit status 0."""
    process = one(other)

    async def run() -> Told:
        running = asyncio.create_task(ask(process.address, chat("fake:tokens=30 fake:gap-ms=10")))
        await asyncio.sleep(0.1)
        process.popen.terminate()
        await asyncio.sleep(0.05)
        assert (await ask(process.address, chat("too late"), timeout=2)).status == 0
        return await running

    assert asyncio.run(run()).is_done
    assert process.popen.wait(5) == 0
    assert not process.announce.exists()


def test_bad_requests_and_pipelining(fake: str) -> None:
    """What is not HTTP gets a 400; pipelined requests are answered in order."""
    assert raw(fake, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    bodies = [json.dumps(chat(f"pipelined {i}", stream=bool(i % 2), max_tokens=2)).encode() for i in range(4)]
    got = raw(fake, b"".join(wire(CHAT, body) for body in bodies[:-1])
              + wire(CHAT, bodies[-1], {"connection": "close"}), half_close=False)  # fmt: skip
    assert got.count(b"HTTP/1.1 200") == 4
    assert got.count(b"[DONE]") == 2


def test_many_streams_at_once(fake: str) -> None:
    """Two hundred, all whole."""
    bodies = [chat(f"{i} fake:tokens=20 fake:gap-ms=5") for i in range(200)]
    assert all(told.is_done for told in asyncio.run(ask_all(fake, bodies)))


@given(body=st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["messages", "prompt", "input", "stream", "max_tokens", "role", "content"]), inner),
    max_leaves=20,
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """Nothing but `BadBody` comes out of a body that is none."""
    answers = Answers("chat", 4, PrefixCache(8))
    for read in (lambda: answers.plan("chat", body), lambda: answers.plan("completion", body),
                 lambda: answers.embeddings(body)):  # fmt: skip
        try:
            read()
        except BadBody as error:
            assert str(error)


def test_magic_words() -> None:
    """Names with and without a value; each name that is documented is known."""
    assert told_in(b"please fake:drip=2.5 and fake:tokens=7, fake:crash") == {"drip": 2.5, "tokens": 7, "crash": -1}
    assert told_in(b"a fake one: crash") == {}
    for name in (*faults.BEFORE, *faults.MIDDLE, *faults.SHAPE, *faults.LISTENING):
        assert faults.parse(name) == (name, -1)
        assert told_in(f"fake:{name}".encode()) == {name: -1}
    with pytest.raises(ValueError, match="nonsense"):
        faults.parse("nonsense")
