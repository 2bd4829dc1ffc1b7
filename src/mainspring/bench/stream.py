"""Server-sent events of a streamed answer: found by `bytes.find`, decoded only where that can't tell.

What this is: bytes and the time of their arrival in, counts and times out. Who calls it: `client.py`. What it must
never do: decode each token, or hold an event without bound.

A piece is an event with text in it. What a piece looks like is learned from the first one that was decoded; the events
that do not look like it (the role, the end, usage, `[DONE]`, errors) are decoded.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec

MOST_EVENT = 4 * 1024 * 1024
_QUOTE = ord('"')
_KEYS = ("content", "text", "reasoning_content", "reasoning")
_NOTHING = b"\x00"


class Details(msgspec.Struct):
    """Of the prompt's tokens."""

    cached_tokens: int | None = 0


class Usage(msgspec.Struct):
    """What an answer says of its tokens."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: Details | None = None


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None


class Body(msgspec.Struct):
    """What is read of an answer that is not streamed."""

    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class Stream:
    """One streamed answer."""

    __slots__ = ("_gaps", "_mark", "_rest", "done", "error", "first", "last", "pieces", "usage")

    def __init__(self, gaps: array[float]) -> None:
        """`gaps`: where the seconds between pieces are put."""
        self._gaps = gaps
        self._mark = _NOTHING  # what a piece has just before its text
        self._rest = b""
        self.first = self.last = 0.0  # when pieces came
        self.pieces = 0
        self.usage: Usage | None = None
        self.error = ""  # what an event said that is an error, or why this is no stream of events
        self.done = False

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes that came at `now`."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        mark, skip, begin = self._mark, len(self._mark), 0
        while (end := data.find(b"\n\n", begin)) >= 0:
            at = data.find(mark, begin, end)
            if at >= 0 and data[at + skip] != _QUOTE:
                self._piece(now)
            else:
                self._read(data[begin:end], now)
                mark, skip = self._mark, len(self._mark)
            begin = end + 2
        self._rest = data[begin:]
        if len(self._rest) > MOST_EVENT:
            self.error, self._rest = self.error or f"an event of more than {MOST_EVENT} bytes", b""

    def _piece(self, now: float) -> None:
        if self.pieces:
            self._gaps.append(now - self.last)
        else:
            self.first = now
        self.last = now
        self.pieces += 1

    def _read(self, event: bytes, now: float) -> None:
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        data = b"\n".join(lines)
        if not data:
            return  # a comment, or a field that is not data
        if data == b"[DONE]":
            self.done = True
            return
        try:
            found = _decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            self.error = self.error or f"an event that is not one of this interface: {error}"
            return
        if found.error is not None:
            self.error = self.error or said(found.error)
        self.usage = found.usage or self.usage
        for choice in found.choices or ():
            if _has_text(choice):
                self._learn(event)
                self._piece(now)
                break

    def _learn(self, event: bytes) -> None:
        """Remember how this event introduces its text, so that the next one need not be decoded."""
        for key in _KEYS:
            for mark in (f'"{key}":"'.encode(), f'"{key}": "'.encode()):
                at = event.find(mark)
                if at >= 0 and event[at + len(mark)] != _QUOTE:
                    self._mark = mark
                    return


def _has_text(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return bool(choice.text)
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


def said(error: object) -> str:
    """An error of an answer as a line of text."""
    if isinstance(error, dict):
        error = error.get("message", error)
    return " ".join(str(error).split())[:200]
