"""What every language server must do, as tests: a replica, the fake, and the gateway in front of them.

    class TestMyServer(LanguageConformance):
        @pytest.fixture(scope="class")
        @classmethod
        def server(cls) -> Iterator[LanguageServer]: ...

Who calls it: pytest, through such a subclass. What it must never do: know which server it tests, or ask for certain
words: what a small model says is not tested here.
"""

from __future__ import annotations

import asyncio
import base64
import math
import struct
import time
from dataclasses import dataclass
from typing import Any

import pytest

from mainspring.testing.serving import Client
from mainspring.testing.streaming import CHAT, Told, ask, ask_all, ask_now, chat

_LONG = "Tell me all that you know of the sea, of ships, and of those who sail in them. fake:tokens=400 fake:gap-ms=20"


@dataclass
class LanguageServer:
    """Where the server is, and what it was started with."""

    address: str
    model: str = "chat"
    key: str = ""  # a bearer token that it asks for
    slots: int = 2  # that it works on at once
    context: int = 0  # tokens that a slot holds; 0: not known, and not tested
    has_embeddings: bool = True
    has_cache: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """What a request must carry."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def ask(self, body: dict[str, Any] | bytes, path: str = CHAT, **more: Any) -> Told:
        """One request."""
        return ask_now(self.address, body, path, self.headers, **more)

    def chat(self, prompt: str, *, stream: bool = False, **more: Any) -> Told:
        """One chat request, with the sampling turned off."""
        return self.ask(chat(prompt, stream=stream, model=self.model, temperature=0, **more))


def assert_error(told: Told, *statuses: int) -> dict[str, Any]:
    """An error in OpenAI's shape, whole; gives its inside."""
    assert told.status in statuses, told
    assert told.is_whole, told
    error: dict[str, Any] = told.json()["error"]
    assert isinstance(error["message"], str), told
    assert error["message"], told
    assert isinstance(error["type"], str), told
    return error


def _assert_usage(usage: dict[str, Any]) -> None:
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def _likeness(a: list[float], b: list[float]) -> float:
    """The cosine of two vectors."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


class AnswersConformance:
    """Answers, streamed and not."""

    def test_models(self, server: LanguageServer) -> None:
        """The model is listed under the name that requests use."""
        told = ask_now(server.address, b"", "/v1/models", server.headers, method="GET")
        assert told.status == 200
        answer = told.json()
        assert answer["object"] == "list"
        assert server.model in [model["id"] for model in answer["data"]]
        assert all(model["object"] == "model" for model in answer["data"])

    def test_chat(self, server: LanguageServer) -> None:
        """One choice with a message, a reason for its end, and a usage that adds up."""
        told = server.chat("Say something.", max_tokens=12)
        assert told.status == 200, told
        answer = told.json()
        assert answer["object"] == "chat.completion"
        assert answer["id"]
        assert isinstance(answer["created"], int)
        [choice] = answer["choices"]
        assert choice["index"] == 0
        assert choice["message"]["role"] == "assistant"
        assert isinstance(choice["message"]["content"], str)
        assert choice["finish_reason"] in ("stop", "length")
        _assert_usage(answer["usage"])

    def test_stream(self, server: LanguageServer) -> None:
        """Chunks of one id, the role first, one reason for the end, no usage unasked, one [DONE] as the last."""
        told = server.chat("Say something.", stream=True, max_tokens=12)
        assert told.is_done, told
        assert told.headers["content-type"].startswith("text/event-stream")
        chunks = told.chunks
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        ends = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]]
        assert ends in (["stop"], ["length"])
        assert told.text
        assert not told.usages
        assert all(chunk["choices"] for chunk in chunks), "a chunk that nobody asked for"

    def test_usage_of_a_stream(self, server: LanguageServer) -> None:
        """With `include_usage` one chunk more, the last before [DONE]: no choices, and the usage."""
        told = server.chat("Say something.", stream=True, max_tokens=12, stream_options={"include_usage": True})
        assert told.is_done, told
        [usage] = told.usages
        _assert_usage(usage)
        assert usage["completion_tokens"] <= 12
        assert told.chunks[-1]["usage"] == usage
        assert told.chunks[-1]["choices"] == []
        unasked = server.chat("Say something.", stream=True, max_tokens=12, stream_options={"include_usage": False})
        assert unasked.is_done, unasked
        assert not unasked.usages
        whole = server.chat("Say something.", max_tokens=12).json()["usage"]
        assert whole["prompt_tokens"] == usage["prompt_tokens"]

    def test_max_tokens(self, server: LanguageServer) -> None:
        """No more tokens than asked for, and `length` says why it ended; both spellings are known."""
        for word in ("max_tokens", "max_completion_tokens"):
            most: dict[str, Any] = {word: 3}
            answer = server.chat("Count from one to a hundred, in words. fake:tokens=50", **most).json()
            assert answer["usage"]["completion_tokens"] == 3
            assert answer["choices"][0]["finish_reason"] == "length"

    def test_messages(self, server: LanguageServer) -> None:
        """A conversation, a system message, and content in parts are understood; more of it is more tokens."""
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You are a sailor."},
            {"role": "user", "content": [{"type": "text", "text": "Who are you? \u00e9\u4e2d\U0001f600"}]},
        ]
        more = [*messages, {"role": "assistant", "content": "A sailor."}, {"role": "user", "content": "Indeed?"}]
        counts = []
        for given in (messages, more):
            told = server.ask({"model": server.model, "messages": given, "max_tokens": 4})
            assert told.status == 200, told
            counts.append(told.json()["usage"]["prompt_tokens"])
        assert counts[0] < counts[1]

    def test_completions(self, server: LanguageServer) -> None:
        """The older API, streamed and not."""
        body = {"model": server.model, "prompt": "The sea is", "max_tokens": 6, "temperature": 0}
        told = server.ask(body, "/v1/completions")
        assert told.status == 200, told
        answer = told.json()
        assert answer["object"] == "text_completion"
        assert isinstance(answer["choices"][0]["text"], str)
        _assert_usage(answer["usage"])
        streamed = server.ask(body | {"stream": True}, "/v1/completions")
        assert streamed.is_done, streamed
        assert all(chunk["choices"] for chunk in streamed.chunks), "a chunk that nobody asked for"
        asked = server.ask(body | {"stream": True, "stream_options": {"include_usage": True}}, "/v1/completions")
        assert asked.is_done, asked
        usage = asked.usages[-1]
        assert usage["completion_tokens"] == answer["usage"]["completion_tokens"]

    def test_embeddings(self, server: LanguageServer) -> None:
        """One vector an input, in order, all of one length; as numbers and as base64 alike."""
        if not server.has_embeddings:
            pytest.skip("started without embeddings")
        body = {"model": server.model, "input": ["a cat sat", "dogs ran"]}
        told = server.ask(body, "/v1/embeddings")
        assert told.status == 200, told
        answer = told.json()
        assert answer["object"] == "list"
        assert [row["index"] for row in answer["data"]] == [0, 1]
        first, second = (row["embedding"] for row in answer["data"])
        assert len(first) == len(second) > 1
        assert first != second
        assert answer["usage"]["prompt_tokens"] > 0
        packed = server.ask(body | {"encoding_format": "base64"}, "/v1/embeddings").json()["data"][0]["embedding"]
        floats = struct.unpack(f"<{len(first)}f", base64.b64decode(packed))
        assert floats == pytest.approx(first, abs=1e-3)
        alone = server.ask({"model": server.model, "input": "a cat sat"}, "/v1/embeddings").json()
        assert _likeness(alone["data"][0]["embedding"], first) > 0.99
        assert _likeness(alone["data"][0]["embedding"], first) > _likeness(first, second)

    def test_prompt_cache(self, server: LanguageServer) -> None:
        """A prompt that begins like the last one is mostly in the cache, and the usage says so."""
        if not server.has_cache:
            pytest.skip("started without a prefix cache")
        prompt = " ".join(f"Fact {number}: the ship number {number} is at sea." for number in range(25))
        server.chat(f"{prompt} Which one?", max_tokens=2)
        usage = server.chat(f"{prompt} How many?", max_tokens=2).json()["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        assert usage["prompt_tokens"] * 0.7 < cached < usage["prompt_tokens"]
        streamed = server.chat(
            f"{prompt} Where?", max_tokens=2, stream=True, stream_options={"include_usage": True}
        ).usages  # fmt: skip
        assert streamed[0]["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] * 0.7

    def test_the_official_client(self, server: LanguageServer) -> None:
        """The `openai` package works, unchanged."""
        openai = pytest.importorskip("openai")
        with openai.OpenAI(
            base_url=f"http://{server.address}/v1", api_key=server.key or "none", max_retries=0
        ) as client:
            assert server.model in [model.id for model in client.models.list()]
            messages = [{"role": "user", "content": "Say something."}]
            answer = client.chat.completions.create(model=server.model, messages=messages, max_tokens=5, temperature=0)
            assert answer.choices[0].message.content
            stream = client.chat.completions.create(
                model=server.model, messages=messages, max_tokens=5, stream=True, stream_options={"include_usage": True}
            )
            chunks = list(stream)
            assert chunks[-1].usage.completion_tokens <= 5
            assert client.completions.create(model=server.model, prompt="The sea", max_tokens=3).choices
            if server.has_embeddings:
                assert len(client.embeddings.create(model=server.model, input=["a", "b"]).data) == 2


class EdgesConformance:
    """Errors, many at once, and clients that leave."""

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (CHAT, b""),
            (CHAT, b"{"),
            (CHAT, b"[]"),
            (CHAT, b'{"model": "chat"}'),
            (CHAT, b'{"model": "chat", "messages": 5}'),
            (CHAT, b'{"model": "chat", "messages": [{"role": "user", "content": "a'),
            (CHAT, b'{"model": "chat", "messages": [{"role": "user", "content": "\xff\xfe"}]}'),
            ("/v1/completions", b"{"),
            ("/v1/embeddings", b"{"),
        ],
    )
    def test_bad_bodies(self, server: LanguageServer, path: str, body: bytes) -> None:
        """What is no request gets a 400 that says so, and the next request an answer."""
        if path == "/v1/embeddings" and not server.has_embeddings:
            pytest.skip("started without embeddings")
        assert_error(server.ask(body, path), 400)
        assert server.chat("Say something.", max_tokens=1).status == 200

    def test_unknown_paths(self, server: LanguageServer) -> None:
        """404 in OpenAI's shape; a GET of what is a POST is 404 or 405."""
        assert_error(server.ask(b"{}", "/v1/nothing"), 404)
        assert_error(ask_now(server.address, b"", CHAT, server.headers, method="GET"), 404, 405)

    def test_keys(self, server: LanguageServer) -> None:
        """Where a key is asked for, none or a wrong one is 401, whatever the body; it is no other's secret."""
        if not server.key:
            pytest.skip("started without a key")
        body = chat("Say something.", model=server.model, max_tokens=1)
        for wrong in ("", "Bearer wrong", f"Basic {server.key}", f"Bearer {server.key}x"):
            headers = {"authorization": wrong} if wrong else {}
            error = assert_error(ask_now(server.address, body, CHAT, headers), 401)
            assert server.key not in str(error)
        assert server.ask(body).is_done

    def test_a_prompt_that_is_too_long(self, server: LanguageServer) -> None:
        """400, streamed or not, and the next request is answered."""
        if not server.context:
            pytest.skip("its context is not known")
        prompt = "one two three four " * server.context
        for stream in (False, True):
            assert_error(server.chat(prompt, stream=stream, max_tokens=2), 400, 413)
        assert server.chat("Say something.", max_tokens=1).status == 200

    def test_one_connection(self, server: LanguageServer) -> None:
        """Requests one after the other on one connection, or on a new one where the server says that it closes."""

        async def run() -> None:
            client = Client(server.address)
            body = b'{"model":"%b","messages":[{"role":"user","content":"Hi"}],"max_tokens":1}' % server.model.encode()
            for _ in range(5):
                reply = await client.post(CHAT, body, server.headers)
                assert reply.status == 200
            client.close()

        asyncio.run(run())

    def test_more_than_there_are_slots(self, server: LanguageServer) -> None:
        """Three times as many streams as slots: each is whole, with one end."""
        bodies = [
            chat(f"Say something of the number {i}.", model=server.model, max_tokens=8) for i in range(3 * server.slots)
        ]
        for told in asyncio.run(ask_all(server.address, bodies, headers=server.headers, timeout=60)):
            assert told.is_done, told
            assert told.text

    def test_leaving_frees_the_slots(self, server: LanguageServer) -> None:
        """All slots are taken by clients that leave; the next one is answered within a second."""
        body = chat(_LONG, model=server.model, max_tokens=300, ignore_eos=True)

        async def run() -> float:
            streams = [
                ask(server.address, body, headers=server.headers, leave=lambda told: len(told.events) > 3)
                for _ in range(server.slots)
            ]
            for told in await asyncio.gather(*streams):
                assert told.status == 200, told
                assert not told.ends, "it was over before its client left"
            left = time.perf_counter()
            short = chat("Hi", model=server.model, max_tokens=1)
            told = await ask(server.address, short, headers=server.headers)
            assert told.is_done, told
            return time.perf_counter() - left

        assert asyncio.run(run()) < 1.0


class LanguageConformance(AnswersConformance, EdgesConformance):
    """Subclass it, and give a fixture `server` (one for all tests is enough)."""
