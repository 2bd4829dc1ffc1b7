"""Whatever comes in over the wire: no 5xx of the gateway's own, no hang, and the next request is answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.serving import Site, call, infer_body
from mainspring.testing.stage import Stage
from mainspring.testing.streaming import CHAT, Told, ask_now, chat, raw, wire

schemathesis = pytest.importorskip("schemathesis")

V1 = (CHAT, "/v1/completions", "/v1/embeddings")
OTHERS = ("/v1/models/delay:predict", "/predictions/delay")
V2 = ("/v2/models/delay/infer", "/v2/models/delay/versions/1/infer", "/v2/models/delay/feedback")
ROW = json.loads(infer_body({"x0": 1.0, "x1": 2.0, "x2": 0.25, "x3": -1.5}))
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A gateway with both kinds of endpoints; what is said about a failure of its own is in its log."""
    with Site(tmp_path_factory.mktemp("fuzz")) as site:
        tiny_artefact(site.folder / "a", site.folder / "code")
        replica = site.replica(site.folder / "a")
        site.route([])
        made = Stage(site, site.gateway("gateway-0", *site.exits, *site.keys({"ms_" + "k" * 43: ["closed"]})))
        made.gateway.wait_ready()
        fakes = made.fakes(2)
        delay = {
            "revisions": [{"name": "delay-1", "version": "1", "weight": 10_000, "replicas": [replica.wait_ready()]}]
        }
        closed = {"kind": "language", "auth": True,
                  "revisions": [{"name": "closed-1", "version": "1", "weight": 10_000, "replicas": []}]}  # fmt: skip
        made.route(fakes, beside={"delay": delay, "closed": closed}, prefix=True, session="x-session", split="user")
        yield made
        assert made.gateway.popen.poll() is None
        assert "Traceback" not in made.gateway.log.read_text()


@pytest.fixture(autouse=True)
def _still_serving(stage: Stage) -> Iterator[None]:
    """After each test both kinds of requests are answered, and nothing is left inside."""
    yield
    assert stage.ask("hello").is_done
    assert call(stage.address, "POST", V2[0], json.dumps(ROW).encode()).status == 200
    assert stage.metric("mainspring_inflight") == 0
    assert stage.metric("mainspring_streams") == 0


# --- bodies

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**400, -1, 0, 1, 2**31]),
    st.floats(),
    st.sampled_from(["", "\x00", "\ud800", "a\r\nb", "\u2028", "../..", "chat", "x" * 5_000, "\U0001f600"]),
    st.text(max_size=20),
)
VALUE = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
TEXT = st.one_of(st.text(max_size=30), VALUE)
FIELDS = st.dictionaries(
    st.sampled_from(
        ["model", "messages", "prompt", "input", "stream", "stream_options", "max_tokens", "n", "user", "stop", "tools",
         "temperature", "logit_bias", "response_format", "encoding_format", "best_of", "seed", "prompt_embeds", "usage"]
    ),
    VALUE,
    max_size=4,
)  # fmt: skip
MESSAGES = (
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), TEXT), max_size=3) | VALUE
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def language_bodies(draw: st.DrawFn) -> bytes:
    """Requests that are nearly right, in each way that is not."""
    good: dict[str, Any] = {
        "model": "chat",
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi",
        "input": "hi",
    }
    if draw(st.booleans()):
        good["stream"] = draw(st.booleans())
    if draw(st.booleans()):
        good["messages"] = draw(MESSAGES)
    body = encoded(good | draw(FIELDS))
    return _twisted(draw, body)


@st.composite
def tensor_bodies(draw: st.DrawFn) -> bytes:
    """The same for the Open Inference Protocol."""
    good = json.loads(json.dumps(ROW))
    for _ in range(draw(st.integers(0, 2))):
        tensor = draw(st.sampled_from(good["inputs"]))
        tensor[draw(st.sampled_from(["name", "shape", "datatype", "data", "parameters"]))] = draw(VALUE)
    good |= draw(
        st.dictionaries(st.sampled_from(["id", "inputs", "outputs", "parameters", "feedback"]), VALUE, max_size=2)
    )
    return _twisted(draw, encoded(good))


@st.composite
def row_bodies(draw: st.DrawFn) -> bytes:
    """The same for TensorFlow Serving's and TorchServe's doors."""
    row = {tensor["name"]: tensor["data"][0] for tensor in ROW["inputs"]}
    row |= draw(st.dictionaries(st.sampled_from([*row, "other"]), VALUE, max_size=1))
    columns = {name: [value, draw(ODD)] for name, value in row.items()}
    good = draw(st.sampled_from([row, [row], [row, list(row.values())], columns, {"inputs": columns},
                                 {"instances": [row, row]}, {"instances": [list(row.values())]}]))  # fmt: skip
    if isinstance(good, dict):
        good = good | draw(
            st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), VALUE, max_size=1)
        )
    return _twisted(draw, encoded(good))


def _twisted(draw: st.DrawFn, body: bytes) -> bytes:
    how = draw(st.sampled_from(["as it is"] * 6 + ["cut", "flip", "nest", "twice", "after", "bom"]))
    if how == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if how == "flip":
        at = draw(st.integers(0, max(len(body) - 1, 0)))
        return body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
    if how == "nest":
        depth = draw(st.sampled_from([100, 1_000, 100_000]))
        return body[:-1] + b',"deep":' + b"[" * depth + b"]" * depth + b"}"
    if how == "twice":
        return b'{"model":"chat","stream":1,' + body[1:]
    if how == "after":
        return body + draw(st.binary(max_size=10))
    return b"\xef\xbb\xbf" + body if how == "bom" else body


def assert_fair(told: Told, is_v1: bool) -> None:
    """One whole answer with a status that is not the gateway's fault, in the words of its API."""
    assert told.is_whole, told
    assert 200 <= told.status < 500, told
    if told.status >= 400:
        error = told.json()["error"]
        assert isinstance(error, dict) == is_v1, told
        assert not is_v1 or (isinstance(error["code"], str) and isinstance(error["type"], str)), told
    elif told.headers["content-type"].startswith("text/event-stream"):
        assert told.is_done, told


@given(path=st.sampled_from(V1), body=language_bodies())
@settings(max_examples=300)
def test_bodies_for_language_models(stage: Stage, path: str, body: bytes) -> None:
    """Near-misses of OpenAI's API: an answer, or a 4xx in its shape; a stream is whole."""
    assert_fair(ask_now(stage.address, body, path, timeout=10), is_v1=True)


@given(path=st.sampled_from(V2), body=tensor_bodies())
@settings(max_examples=150)
def test_bodies_for_predictive_models(stage: Stage, path: str, body: bytes) -> None:
    """Near-misses of the Open Inference Protocol."""
    assert_fair(ask_now(stage.address, body, path, timeout=10), is_v1=False)


@given(path=st.sampled_from(OTHERS), body=row_bodies())
@settings(max_examples=150)
def test_bodies_at_the_other_doors(stage: Stage, path: str, body: bytes) -> None:
    """Near-misses of what TensorFlow Serving and TorchServe are asked: an answer, or a 4xx in the door's shape."""
    told = ask_now(stage.address, body, path, timeout=10)
    assert told.is_whole
    # Of a missing value the model makes NaN, which is the model's failure and no answer.
    assert 200 <= told.status < 500 or b"the model gave no number" in told.body, told
    if told.status >= 400:
        said = told.json()
        assert (
            (said["code"], type(said["message"])) == (told.status, str) if path == OTHERS[1] else set(said) == {"error"}
        )


@given(path=st.sampled_from((*V1, *V2)), body=st.binary(max_size=300))
@settings(max_examples=150)
def test_bodies_of_any_bytes(stage: Stage, path: str, body: bytes) -> None:
    """Bytes that are no JSON at all."""
    assert_fair(ask_now(stage.address, body, path, timeout=10), is_v1=path in V1)


# --- headers and paths

NAMES = st.sampled_from(
    ["authorization", "x-request-id", "content-type", "content-encoding", "accept", "accept-encoding", "x-session",
     "x-mainspring-region", "expect", "connection", "cookie", "inference-header-content-length",
     "x-forwarded-for", "te"]
)  # fmt: skip
LINE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)
WORTH = LINE | st.sampled_from(
    ["Bearer ", "Bearer ms_" + "a" * 43, "Bearer ms_" + "k" * 43, "close", "keep-alive, x", "gzip", "100-continue",
     "-1", "99999999999999999999", "0", "x" * 3_000, "%00", "upgrade"]
)  # fmt: skip


@given(headers=st.dictionaries(NAMES, WORTH, max_size=5), path=st.sampled_from((*V1, *V2)),
       model=st.sampled_from(["chat", "closed", "none", "delay"]), stream=st.booleans())  # fmt: skip
@settings(max_examples=250)
def test_headers(stage: Stage, headers: dict[str, str], path: str, model: str, stream: bool) -> None:
    """Hostile header values with a good body: an answer or a 4xx, and an id that is safe to print."""
    body = (
        ROW
        if path in V2
        else chat("hi", stream=stream and path != V1[2], model=model) | {"prompt": "hi", "input": "hi"}
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
    request = wire(path, encoded(body)).replace(b"host: test\r\n", b"host: test\r\n" + lines, 1)
    closes = headers.get("connection") == "close"
    got = raw(stage.address, request, half_close=False) if closes else sent_and_closed(stage.address, request)
    statuses = [int(status) for status in STATUS.findall(got) if status != b"100"]
    assert statuses, (headers, got)
    assert all(status < 500 for status in statuses), (headers, got)


def sent_and_closed(address: str, request: bytes) -> bytes:
    """Send a request and a last one behind it that closes the connection; all that came."""
    last = b"GET /v2/health/live HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    return raw(address, request + last, half_close=False, timeout=10)


SEGMENT = st.sampled_from(
    ["v1", "v2", "models", "chat", "completions", "infer", "delay", "..", "%2e%2e", "%00", "", "ready", "versions", "1",
     "internal", "quiesce", "metrics", "openapi.json", "feedback",
     "predictions", "delay:predict", "delay:", "metadata", "\u00e9", "a" * 2_000, "?", "#", "*", "health",
     "live"]
)  # fmt: skip


@given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"]),
       parts=st.lists(SEGMENT, max_size=6))  # fmt: skip
@settings(max_examples=250)
def test_paths(stage: Stage, method: str, parts: list[str]) -> None:
    """Any path with any method is answered, with less than 500."""
    path = "/" + "/".join(parts)
    request = f"{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    statuses = [int(status) for status in STATUS.findall(sent_and_closed(stage.address, request))]
    assert statuses
    assert all(status < 500 for status in statuses), (path, statuses)


# --- framing

PIECE = st.one_of(
    st.sampled_from(
        [b"POST /v1/chat/completions HTTP/1.1\r\n", b"GET /v1/models HTTP/1.0\r\n",
         b"POST /v2/models/delay/infer HTTP/1.1\r\n",
         b"GET http://other/v2 HTTP/1.1\r\n", b"POST /v1/chat/completions HTTP/9.9\r\n", b"host: x\r\n", b"host: y\r\n",
         b"content-length: 5\r\n", b"content-length: 4\r\n", b"content-length: +5\r\n", b"content-length: 5, 5\r\n",
         b"content-length : 5\r\n", b"content-length: 99999999999999999999999\r\n", b"content-length: -1\r\n",
         b"transfer-encoding: chunked\r\n", b"transfer-encoding: xchunked\r\n", b"transfer-encoding: gzip, chunked\r\n",
         b"Transfer-Encoding:\tchunked\r\n", b" folded\r\n", b"a: b\x00c\r\n", b"a: b\rc\r\n", b"a: b\nc: d\r\n",
         b"connection: close\r\n", b"connection: upgrade\r\nupgrade: websocket\r\n", b"expect: 100-continue\r\n",
         b"\r\n", b"\n", b"\r", b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;ext=1\r\nhello\r\n", b"ffffffffffffffffff\r\n",
         b"-5\r\n", b"{}", b"hello", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00",
         b"x: " + b"y" * 70_000 + b"\r\n",
         b"z: 1\r\n" * 3_000]
    ),
    st.binary(max_size=20),
)  # fmt: skip


@given(pieces=st.lists(PIECE, min_size=1, max_size=9), cut=st.booleans())
@settings(max_examples=400)
def test_framing(stage: Stage, pieces: list[bytes], cut: bool) -> None:
    """What is not strict HTTP/1.1 gets a 4xx or a close, in time; never a 5xx, never two readings of one request."""
    got = raw(stage.address, *(pieces if cut else [b"".join(pieces)]), timeout=10)
    assert all(int(status) < 500 for status in STATUS.findall(got)), (pieces, got)


@given(lines=st.permutations([b"content-length: 6\r\n", b"transfer-encoding: chunked\r\n", b"host: x\r\n"]),
       extra=st.sampled_from([b"", b"content-length: 6\r\n", b"Content-Length: 7\r\n",
                              b"TRANSFER-ENCODING: chunked\r\n"]))  # fmt: skip
@settings(max_examples=30)
def test_smuggling(stage: Stage, lines: list[bytes], extra: bytes) -> None:
    """Two framings in one request: 400 and the end of the connection; what follows is never taken for a request."""
    hidden = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    got = raw(
        stage.address, b"POST /v1/chat/completions HTTP/1.1\r\n" + b"".join(lines) + extra + b"\r\n0\r\n\r\n" + hidden
    )
    assert STATUS.findall(got) == [b"400"], got
    assert b'"live"' not in got


# --- the document


def test_the_document(stage: Stage) -> None:
    """Requests made of the OpenAPI document, good and bad: answers are as it says, with no server error."""
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS

    document = call(stage.address, "GET", "/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=f"http://{stage.address}")
    checks = [CHECKS.get_one(name) for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    )]  # fmt: skip
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                cases = operation.as_strategy(generation_mode=mode)

                @given(case=cases)
                @settings(max_examples=8, suppress_health_check=list(HealthCheck))
                def check(case: Any) -> None:
                    case.call_and_validate(checks=checks, timeout=10)
                    seen.add((case.method, case.path))

                check()
            except Unsatisfiable:  # there is nothing to negate in some operations
                assert mode is GenerationMode.NEGATIVE
    assert len(seen) == sum(len(set(item) & {"get", "post"}) for item in document["paths"].values())
