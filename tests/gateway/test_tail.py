"""A stream on its way: however it is cut into pieces, the client gets the same bytes and the same usage is read."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.gateway.tail import MAX_EVENT, Stream

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}}
TIMINGS = {"cache_n": 6, "draft_n": 5, "draft_n_accepted": 3}
HOSTILE = [
    '"usage":{"prompt_tokens":1}',
    "data: [DONE]\n\n",
    '{"error":{"message":"x"}}',
    '"choices":[]',
    "\r\n\r\n",
    "",
]


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def token(text: str, **more: Any) -> bytes:
    return event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]} | more)


def fed(stream: Stream, data: bytes, cuts: list[int]) -> bytes:
    """All that goes to the client, the terminal event included."""
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    out = b"".join(stream.feed(data[a:b]) for a, b in pairwise(edges) if b > a)
    return out + stream.finish() + stream.last


texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12), max_size=6)
cuts = st.lists(st.integers(0, 100_000), max_size=12)


@given(texts, cuts, st.booleans(), st.booleans(), st.sampled_from([b"\n", b"\r\n"]))
def test_any_cut_is_the_same(words: list[str], at: list[int], hide: bool, nulls: bool, line: bytes) -> None:
    """Events reach the client as they are but for the usage that was not asked for; the usage is read either way."""
    nothing = {"usage": None} if nulls else {}
    tokens = b"".join(token(word, **nothing) for word in words)
    usage = event({"object": "chat.completion.chunk", "choices": [], "usage": USAGE, "timings": TIMINGS})
    end = b"data: [DONE]\n\n"
    stream = Stream(hide)
    got = fed(stream, (tokens + usage + end).replace(b"\n", line), at)
    assert got == tokens + (b"" if hide else usage) + end
    assert stream.ended == "done"
    counted = stream.counted
    assert (counted.prompt, counted.output, counted.cached) == (9, 4, 6)
    assert (counted.drafted, counted.accepted) == (5, 3)


@given(texts, cuts, st.sampled_from([
    b'data: {"error":{"message":"no","type":"BadRequestError","code":500}}\n\n',
    b'data: {"object":"error","message":"no","code":500,"error":null}\n\n',
    b'error: {"message":"no","code":500}\n\n',
    b'data: {"error":"no"}\n\n',
]))  # fmt: skip
def test_an_error_is_the_end(words: list[str], at: list[int], error: bytes) -> None:
    """An engine's error is the last event, in OpenAI's shape with a string code; not even a [DONE] comes after it."""
    tokens = b"".join(map(token, words))
    stream = Stream(hide=True)
    got = fed(stream, tokens + error + b"data: [DONE]\n\n", at)
    assert stream.ended == "error"
    assert got.startswith(tokens)
    last = json.loads(got[len(tokens) :].removeprefix(b"data: "))
    assert last["error"]["message"] == "no"
    assert isinstance(last["error"]["code"], str)
    assert isinstance(last["error"]["type"], str)


@given(texts, cuts, st.integers(1, 60))
def test_a_cut_stream_shows_whole_events(words: list[str], at: list[int], short: int) -> None:
    """Of a stream that breaks off, whole events have gone to the client, and it is not taken for one that ended."""
    whole = b"".join(map(token, [*words, "the last"]))
    stream = Stream(hide=True)
    edges = [0, *sorted({cut % (len(whole) - short + 1) for cut in at}), len(whole) - short]
    out = b"".join(stream.feed(whole[a:b]) for a, b in pairwise(edges))
    assert out == whole[: len(out)]
    assert out.endswith(b"\n\n") or not out
    assert len(whole) - len(out) <= len(token("the last")) or short > 2
    assert not stream.ended


def test_nothing_comes_after_the_end() -> None:
    """What follows [DONE] is dropped, in the same piece and in later ones; a lone [DONE] needs no blank line."""
    stream = Stream(hide=False)
    assert stream.feed(token("a") + b"data: [DONE]\n\n" + token("b")) == token("a")
    assert stream.feed(token("c")) == b""
    late = Stream(hide=False)
    assert late.feed(b"data: [DONE]") + late.finish() == b""
    assert late.ended == "done"


@pytest.mark.parametrize(
    "value", [{"choices": [], "usage": None}, {"choices": []}, {"usage": USAGE, "choices": [{"index": 0}]}]
)
def test_only_the_usage_chunk_is_hidden(value: dict[str, Any]) -> None:
    """An event without choices that has no usage, and one with both, are the client's."""
    stream = Stream(hide=True)
    assert stream.feed(event(value)) == event(value)


def test_an_event_without_end() -> None:
    """An event of more than the limit ends the stream, so that memory is bounded."""
    stream = Stream(hide=True)
    for _ in range(MAX_EVENT // 1_000_000 + 2):
        stream.feed(b"a" * 1_000_000)
    assert stream.ended == "overlong"
