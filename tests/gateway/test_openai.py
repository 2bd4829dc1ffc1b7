"""OpenAI's API through the gateway: the official client, errors, records, metrics, and what a client does not see."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from mainspring.gateway import errors
from mainspring.testing.language_conformance import LanguageConformance, LanguageServer
from mainspring.testing.serving import Process, Reply, Site, call
from mainspring.testing.streaming import ask_now, chat

TOKEN = "ms_" + "a" * 43
OTHER = "ms_" + "b" * 43
PATH = "/v1/chat/completions"
HI: list[Any] = [{"role": "user", "content": "hello"}]


class Door:
    """A site with a gateway before two fakes, `chat` with a token and `open` without."""

    def __init__(self, site: Site) -> None:
        self.site = site
        key = site.upstream_key("upstream-secret")
        more = ["--key-file", str(key)]
        self.replicas = [site.language(f"chat-1-{i}", *more) for i in range(2)]
        for replica in self.replicas:
            replica.wait_ready()
        self.route()
        words = site.keys({TOKEN: ["chat"], OTHER: ["nothing"]})
        self.gateway = site.gateway("gateway-0", *words, *site.exits, "--upstream-key", str(key))
        self.address = self.gateway.wait_ready()
        self.client = openai.OpenAI(base_url=f"http://{self.address}/v1", api_key=TOKEN, max_retries=0, timeout=20)

    def route(self, **more: Any) -> None:
        """All traffic to the fakes."""
        rows: list[tuple[str, int, list[str | Process]]] = [("chat-1", 10_000, [*self.replicas])]
        beside = {
            "open": {"kind": "language", "revisions": [
                {"name": "open-1", "version": "1", "weight": 10_000, "replicas": [self.replicas[0].address]}]},
        }  # fmt: skip
        wait = ["gateway-0"] if hasattr(self, "gateway") else []
        settings = {"kind": "language", "auth": True, "timeout_s": 20.0} | more
        self.site.route(rows, endpoint="chat", beside=beside, wait=wait, **settings)

    def post(self, body: bytes, path: str = PATH, token: str = TOKEN, **headers: str) -> Reply:
        """One request."""
        given = {"authorization": f"Bearer {token}"} if token else {}
        return call(self.address, "POST", path, body, given | {k.replace("_", "-"): v for k, v in headers.items()})

    def records(self, id: str) -> list[dict[str, Any]]:
        """The records of a request."""
        return [record for record in self.site.records() if record["id"] == id]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A gateway with fakes behind it."""
    with Site(tmp_path_factory.mktemp("door")) as site:
        yield Door(site)


class TestConformance(LanguageConformance):
    """What every language server must do, the gateway does."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
        with Site(tmp_path_factory.mktemp("conformance")) as site:
            replica = site.language("chat-1-0", "--slots", "2")
            site.route([("chat-1", 10_000, [replica.wait_ready()])], endpoint="chat", kind="language", auth=True)
            gateway = site.gateway("gateway-0", *site.keys({TOKEN: ["chat"]}))
            yield LanguageServer(gateway.wait_ready(), key=TOKEN)


def test_whole_answer(door: Door) -> None:
    """A completion through the official client, with its usage, revision, id and record; the prompt isn't recorded."""
    raw = door.client.chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": "a secret prompt"}], extra_headers={"x-request-id": "abc-1"}
    )
    said = raw.parse()
    assert said.choices[0].message.content
    assert said.usage is not None
    assert raw.headers["x-request-id"] == "abc-1"
    assert raw.headers["x-mainspring-revision"] == "chat-1"
    assert 0 < int(raw.headers["x-mainspring-overhead-us"]) < 1_000_000
    [record] = door.records("abc-1")
    assert (record["status"], record["revision"], record["role"], record["end"]) == (200, "chat-1", "live", "")
    assert record["prompt_tokens"] == said.usage.prompt_tokens > 0
    assert record["output_tokens"] == said.usage.completion_tokens > 0
    assert record["inputs"] is None
    assert "secret" not in json.dumps(record)


def test_stream(door: Door) -> None:
    """A stream ends with one [DONE]; its usage is recorded, and the chunk with it is hidden unless it was asked for."""
    for asked in (False, True):
        body = chat("fake:tokens=5", **({"stream_options": {"include_usage": True}} if asked else {}))
        told = ask_now(door.address, body, PATH, {"authorization": f"Bearer {TOKEN}", "x-request-id": f"st-{asked}"})
        assert told.status == 200
        assert told.is_whole
        assert told.events[-1] == "[DONE]"
        assert told.dones == 1
        usages = [chunk for chunk in told.chunks if chunk.get("usage")]
        assert len(usages) == asked
        assert all(chunk["choices"] for chunk in told.chunks if not chunk.get("usage"))
        assert told.headers["cache-control"] == "no-cache"
        assert told.headers["x-accel-buffering"] == "no"
        [record] = door.records(f"st-{asked}")
        assert (record["end"], record["output_tokens"], record["status"]) == ("done", 5, 200)
        assert 0 < record["first"] <= record["seconds"]


@pytest.mark.parametrize("shape", ["split", "split=1", "joined", "comments", "crlf", "early-head", "huge-chunk=300"])
def test_shapes_of_streams(door: Door, shape: str) -> None:
    """However a stream is cut into pieces, the client gets its events, one end, and no chunk it did not ask for."""
    told = ask_now(door.address, chat(f"fake:tokens=6 fake:{shape}"), PATH, {"authorization": f"Bearer {TOKEN}"})
    assert told.status == 200
    assert told.is_whole
    assert told.events[-1] == "[DONE]"
    assert told.dones == 1
    assert not any(chunk.get("usage") for chunk in told.chunks)
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in told.chunks if c["choices"])
    assert text


def test_official_client_streams(door: Door) -> None:
    """The official client's own streaming works, and its tool for usage too."""
    chunks = list(
        door.client.chat.completions.create(
            model="chat", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    pieces = list(door.client.completions.create(model="chat", prompt="once", stream=True))
    assert "".join(c.choices[0].text for c in pieces if c.choices)


def test_the_rest_of_the_api(door: Door) -> None:
    """Completions, embeddings and models answer the official client."""
    assert door.client.completions.create(model="chat", prompt="once").choices[0].text
    assert len(door.client.embeddings.create(model="chat", input=["a", "b"]).data) == 2
    assert [model.id for model in door.client.models.list()] == ["chat", "open"]
    assert door.client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        door.client.models.retrieve("none")


def test_errors_are_the_clients_own(door: Door) -> None:
    """Each error becomes the official client's exception, with a string code."""
    client = door.client
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="none", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as denied:
        client.with_options(api_key="ms_wrong").chat.completions.create(model="chat", messages=HI)
    assert denied.value.code == "invalid_api_key"
    assert denied.value.response.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="chat", messages=HI, n=9)
    assert bad.value.param == "n"
    for fault, kind, code in (
        ("vllm-error", openai.BadRequestError, "context_length_exceeded"),
        ("llama-error", openai.BadRequestError, "context_length_exceeded"),
        ("error-429", openai.RateLimitError, "rate_limit_exceeded"),
        ("error-500", openai.InternalServerError, "internal_error"),
        ("error-503", openai.InternalServerError, "no_replica"),
        ("html-error", openai.InternalServerError, "replica_failed"),
    ):
        for stream in (False, True):
            with pytest.raises(kind) as failed:
                client.chat.completions.create(
                    model="chat", messages=[{"role": "user", "content": f"fake:{fault}"}], stream=stream
                )
            assert isinstance(failed.value, openai.APIStatusError)
            assert isinstance(failed.value.code, str)
            if fault not in ("error-429", "error-500"):
                assert failed.value.code == code, fault
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "fake:error-429"}])
    assert limited.value.response.headers["retry-after"] == "7"


def test_error_in_mid_stream(door: Door) -> None:
    """An engine's error in mid-stream is the one terminal event, in OpenAI's shape; the record says `cut`."""
    headers = {"authorization": f"Bearer {TOKEN}", "x-request-id": "mid-1"}
    told = ask_now(door.address, chat("fake:error-mid-stream"), PATH, headers)
    assert told.dones == 0
    [error] = told.errors
    assert isinstance(error["code"], str)
    assert told.is_whole
    [record] = door.records("mid-1")
    assert record["end"] == "cut"
    assert record["status"] >= 400
    with pytest.raises(openai.APIError):
        list(
            door.client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "fake:error-mid-stream"}], stream=True
            )
        )


def test_tokens_are_kept(door: Door) -> None:
    """A token is never forwarded: replicas see the gateway's own key, and no header that is the client's alone."""
    reply = door.post(json.dumps(chat("hi", stream=False)).encode(), x_secret="1", cookie="c=1")
    assert reply.status == 200
    seen = json.dumps([call(r.address, "GET", "/last", headers={"authorization": "Bearer upstream-secret"}).json()
                       for r in door.replicas])  # fmt: skip
    assert TOKEN not in seen
    assert "x-secret" not in seen
    assert "cookie" not in seen
    written = "".join(path.read_text() for path in door.site.folder.glob("segments/*.jsonl"))
    assert TOKEN not in written + door.gateway.log.read_text()


def test_who_may_ask(door: Door) -> None:
    """No token, a wrong one, one for another endpoint, and one that is revoked while all runs."""
    body = json.dumps(chat("hi", stream=False)).encode()
    assert door.post(body, token="").status == 401
    assert door.post(body, token="x").status == 401
    assert door.post(body, token=OTHER).status == 404
    assert door.post(body.replace(b'"chat"', b'"open"'), token="").status == 200
    assert door.post(body).status == 200
    assert [m["id"] for m in call(door.address, "GET", "/v1/models").json()["data"]] == ["open"]
    door.site.keys({OTHER: ["chat"]})
    until = time.monotonic() + 1.0
    while door.post(body).status != 401:
        assert time.monotonic() < until
    assert door.post(body, token=OTHER).status == 200
    door.site.keys({TOKEN: ["chat"], OTHER: ["nothing"]})
    while door.post(body).status != 200:
        assert time.monotonic() < until + 1.0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"stream": "yes"}, "stream"),
        ({"n": 0}, "n"),
        ({"n": "1"}, "n"),
        ({"n": 10**30}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"model": 5}, "model"),
        ({"user": "u" * 300}, "user"),
        ({"id_slot": 1}, "id_slot"),
        ({"cache_prompt": False}, "cache_prompt"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"lora": [{"id": 0}]}, "lora"),
        ({"n_predict": 5}, "n_predict"),
        ({"grammar": "a" * 20_000}, "grammar"),
        ({"logit_bias": {str(i): 1 for i in range(1001)}}, "logit_bias"),
        ({"logit_bias": 7}, "logit_bias"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
    ],
)
def test_what_is_refused(door: Door, change: dict[str, Any], param: str) -> None:
    """A field of the wrong kind or one that reaches into the engine is a 400 that names it."""
    reply = door.post(json.dumps(chat("hi", stream=False) | change).encode())
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"chat"', b"{}", b'{"model":"chat"}', b"\xff\xfe",
        b'{"model":"\\ud800","messages":[{}]}',
        b'{"model":"chat","messages":[NaN]}', b'{"model":"chat","messages":' + b"[" * 100_000,
        b'{"model":"chat","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"chat","\\u0069d_slot":3,"messages":[{"role":"user","content":"a"}]}',
        b'{"model":"chat","n":1,"n":99,"messages":[{"role":"user","content":"a"}]}',
    ],
)  # fmt: skip
def test_bodies_that_are_none(door: Door, body: bytes) -> None:
    """What is no request is a 400 in OpenAI's shape, and never more."""
    reply = door.post(body)
    assert reply.status == 400
    assert isinstance(reply.json()["error"]["message"], str)


def test_paths_methods_and_encodings(door: Door) -> None:
    """Unknown paths, wrong methods and compressed bodies are told so in OpenAI's shape."""
    for method, path, status in (
        ("GET", PATH, 405), ("POST", "/v1/models", 405), ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/models/chat", 405),
    ):  # fmt: skip
        reply = call(door.address, method, path)
        assert reply.status == status
        assert isinstance(reply.json()["error"]["code"], str)
    assert door.post(b"x", content_encoding="gzip").status == 415
    assert door.post(b"{" + b" " * 9_000_000).json()["error"]["code"] == "request_too_large"


def test_queue_is_full(door: Door) -> None:
    """More than `queue` inside is a 429 with `Retry-After`; those inside are answered."""
    door.route(queue=1)
    try:
        stream = door.client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "fake:tokens=30 fake:gap-ms=30"}], stream=True
        )
        with pytest.raises(openai.RateLimitError) as full:
            door.client.chat.completions.create(model="chat", messages=HI)
        assert 1 <= int(full.value.response.headers["retry-after"]) <= 60
        assert full.value.code == "rate_limit_exceeded"
        assert list(stream)[-1].choices[0].finish_reason
    finally:
        door.route()


def test_slots_are_waited_for(door: Door) -> None:
    """With all replicas at their slots requests wait in the gateway, and each is answered."""
    door.route(slots=1)
    try:
        many = [f"fake:tokens=4 fake:gap-ms=10 number {i}" for i in range(12)]
        streams = [
            door.client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": prompt}], stream=True
            )
            for prompt in many[:2]
        ]
        for prompt in many[2:]:
            assert door.client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": prompt}]
            ).choices
        assert all(list(stream) for stream in streams)
    finally:
        door.route()


def test_client_leaves(door: Door) -> None:
    """A client that leaves a stream cancels it at the replica in less than a second, and the record says so."""
    key = {"authorization": "Bearer upstream-secret"}

    def cancelled() -> int:
        return sum(call(r.address, "GET", "/stats", headers=key).json()["cancelled"] for r in door.replicas)

    before = cancelled()
    stream = door.client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "fake:tokens=400 fake:gap-ms=20"}], stream=True,
        extra_headers={"x-request-id": "gone-1"},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 1.0
    while cancelled() == before:
        assert time.monotonic() < until
        time.sleep(0.02)
    while not door.records("gone-1"):
        assert time.monotonic() < until
    assert door.records("gone-1")[0]["end"] == "gone"


def test_metrics(door: Door) -> None:
    """Tokens, times to the first token and ends of streams are counted by endpoint and revision."""
    slow: list[Any] = [{"role": "user", "content": "fake:tokens=4 fake:gap-ms=10"}]  # so that it comes in pieces
    list(door.client.chat.completions.create(model="chat", messages=slow, stream=True))
    text = call(door.address, "GET", "/metrics").body.decode()
    labels = 'endpoint="chat",revision="chat-1",role="live"'
    for name in (f"mainspring_ttft_seconds_count{{{labels}}}", f'mainspring_tokens_total{{{labels},kind="output"}}',
                 f'mainspring_stream_ends_total{{{labels},end="done"}}',
                 f"mainspring_inter_chunk_seconds_count{{{labels}}}",
                 ):  # fmt: skip
        [line] = [line for line in text.splitlines() if line.startswith(name + " ")]
        assert float(line.rpartition(" ")[2]) > 0
    assert f"mainspring_streams{{{labels}}} 0" in text
    assert 'mainspring_breaker_open{endpoint="chat",revision="chat-1",replica="chat-1-0"} 0' in text


def test_mirror(door: Door) -> None:
    """Copies for a shadow version are sent without streaming, recorded as such, and seen by nobody."""
    rows: list[Any] = [("chat-1", 10_000, [door.replicas[0]]), ("chat-2", 0, [door.replicas[1]])]
    door.site.route(rows, endpoint="chat", kind="language", mirror="chat-2", mirror_share=10_000, wait=["gateway-0"])
    try:
        for i in range(6):
            headers = {"authorization": f"Bearer {TOKEN}", "x-request-id": f"mirror-{i}"}
            assert ask_now(door.address, chat(f"hi {i}", stream=i % 2 == 0), PATH, headers).status == 200
        assert call(door.address, "GET", "/internal/quiesce?timeout=10").json()["quiet"]
        for i in range(6):
            roles = {r["role"]: r for r in door.records(f"mirror-{i}")}
            assert set(roles) == {"live", "mirror"}
            assert (roles["mirror"]["revision"], roles["mirror"]["status"]) == ("chat-2", 200)
            assert roles["mirror"]["output_tokens"] == roles["live"]["output_tokens"]
    finally:
        door.route()


def test_a_too_long_embedding_is_the_clients_fault() -> None:
    """llama.cpp answers it with 500; the client gets a 400 with OpenAI's code."""
    answer = b'{"error":{"code":500,"message":"input (900 tokens) is too large to process","type":"server_error"}}'
    status, body = errors.normalised(500, answer)
    assert status == 400
    assert json.loads(body)["error"]["code"] == "context_length_exceeded"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
