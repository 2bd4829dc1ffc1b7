"""Events of a stream: the same whatever the cuts, counted without being decoded, wrong ones told."""

from __future__ import annotations

import json
from array import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mainspring.bench.stream import MOST_EVENT, Stream


def data(told: object, *, tight: bool = True) -> bytes:
    text = json.dumps(told, separators=(",", ":")) if tight else json.dumps(told)
    return b"data: " + text.encode() + b"\n\n"


def delta(**fields: object) -> dict:
    return {"id": "x", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}}
CHAT = [
    data(delta(role="assistant", content="")),
    data(delta(content="He")),
    b": a comment\n\n",
    data(delta(content='say "content":"" and\n\ngo')),
    data(delta(content="\\")),
    data(delta(reasoning_content="hm")),
    data(delta()),
    data({"choices": [], "usage": USAGE}),
    b"data: [DONE]\n\n",
]


def fed(pieces: list[bytes]) -> tuple[Stream, array]:
    gaps = array("d")
    stream = Stream(gaps)
    for number, piece in enumerate(pieces):
        stream.feed(piece, 1.0 + number)
    return stream, gaps


def test_a_chat() -> None:
    """Events with text are pieces; role, comments, the end and usage are none; gaps are those between pieces."""
    stream, gaps = fed(CHAT)
    assert (stream.pieces, stream.first, stream.last, stream.done, stream.error) == (4, 2.0, 6.0, True, "")
    assert list(gaps) == [2.0, 1.0, 1.0]
    assert stream.usage is not None
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (9, 4)
    assert stream.usage.prompt_tokens_details.cached_tokens == 8


@given(st.lists(st.integers(0, len(b"".join(CHAT)) + 8), max_size=12), st.booleans())
def test_cuts_change_nothing(cuts: list[int], crlf: bool) -> None:
    """However the bytes are cut, and with either kind of line end, the same is found."""
    whole = b"".join(CHAT)
    whole = whole.replace(b"\n\n", b"\r\n\r\n") if crlf else whole
    edges = [0, *sorted(cuts), len(whole)]
    stream, _ = fed([whole[a:b] for a, b in pairwise(edges)])
    assert (stream.pieces, stream.done, stream.error) == (4, True, "")


@given(
    st.lists(st.text(min_size=0, max_size=12), min_size=1, max_size=30),
    st.sampled_from(["chat", "text"]),
    st.booleans(),
)
def test_pieces_are_events_with_text(texts: list[str], kind: str, tight: bool) -> None:
    """For any texts, written by any encoder, the pieces are the events whose text is not empty."""
    if kind == "chat":
        told = [delta(content=text) for text in texts]
    else:
        told = [{"choices": [{"text": text, "index": 0}]} for text in texts]
    stream, gaps = fed([data(one, tight=tight) for one in told])
    assert stream.pieces == sum(bool(text) for text in texts)
    assert len(gaps) == max(0, stream.pieces - 1)


def test_what_is_wrong() -> None:
    """An error event is told in its own words; what is no JSON, and an event without end, are errors too."""
    stream, _ = fed([data(delta(content="a")), data({"error": {"message": "no\nroom", "code": "overloaded"}})])
    assert (stream.pieces, stream.error, stream.done) == (1, "no room", False)
    assert "not one of this interface" in fed([b"data: {what\n\n"])[0].error
    assert "event of more than" in fed([b"data: " + b"x" * (MOST_EVENT + 1)])[0].error
