"""A streamed answer on its way to the client: whole events, as they come, with the usage read at the end.

What this is: bytes in, bytes out. Events are forwarded as they are; what is looked for is found by a few searches for
bytes that no text of a model can hold unescaped. Only the events that have them are parsed: the last one or two.
Who calls it: the exchange of a streamed request.
What it must never do: decode an event for each token, hold back a whole event, or let two terminal events through.

A client acts on an event when its blank line is there, so holding back the beginning of an event delays nothing, and
an error of ours never lands in the middle of one.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mainspring.gateway import errors

MAX_EVENT = 4 * 1024 * 1024  # bytes of one event; beyond it the stream is not one
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DONE = re.compile(rb"(?:\A|\n)data: ?\[DONE\][ \t]*(?=\n|\Z)")


class Details(msgspec.Struct):
    """`usage.prompt_tokens_details`."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """What an answer says of its tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Timings(msgspec.Struct):
    """What llama.cpp says beside it."""

    cache_n: int | None = None
    draft_n: int | None = None
    draft_n_accepted: int | None = None
    prompt_ms: float | None = None
    predicted_ms: float | None = None


class Counted(msgspec.Struct):
    """The tokens of one answer."""

    prompt: int = 0
    output: int = 0
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    prefill: float = 0.0  # seconds that the engine says; 0 where it does not
    decode: float = 0.0

    def take(self, usage: Usage | None, timings: Timings | None) -> None:
        """Note what an event or an answer says; what it does not say stays."""
        if usage is not None:
            self.prompt, self.output = usage.prompt_tokens or 0, usage.completion_tokens or 0
            if usage.prompt_tokens_details is not None:
                self.cached = usage.prompt_tokens_details.cached_tokens or 0
        if timings is not None:
            self.cached = self.cached or timings.cache_n or 0
            self.drafted, self.accepted = timings.draft_n or 0, timings.draft_n_accepted or 0
            self.prefill, self.decode = (timings.prompt_ms or 0.0) / 1e3, (timings.predicted_ms or 0.0) / 1e3


class Whole(msgspec.Struct):
    """An answer that is not streamed, as far as the gateway reads it."""

    usage: Usage | None = None
    timings: Timings | None = None


class _Event(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event).decode
_anything = msgspec.json.Decoder().decode
whole = msgspec.json.Decoder(Whole).decode


class Stream:
    """One streamed answer. `ended` is "" | "done" | "error" | "overlong"."""

    __slots__ = ("_held", "_hide", "counted", "ended", "last", "said")

    def __init__(self, hide: bool) -> None:
        self._hide = hide  # the usage-only event was not asked for by the client
        self._held = b""
        self.counted = Counted()
        self.ended = ""
        self.said: Any = None  # what the engine says of its failure
        self.last = b""  # the terminal event, for the caller to send when all is written down

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; returns what goes to the client now, whole events or nothing."""
        if self.ended:
            return b""
        if self._held:
            piece = self._held + piece
            self._held = b""
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n")
        if not piece.endswith(b"\n\n"):
            cut = piece.rfind(b"\n\n") + 2
            if cut < 2:
                self._hold(piece)
                return b""
            self._hold(piece[cut:])
            piece = piece[:cut]
        if (
            (b'"usage"' in piece and _USAGE.search(piece) is not None)
            or b"[DONE]" in piece
            or b'"error"' in piece
            or b"\nerror:" in piece
            or piece.startswith(b"error:")
        ):
            return self._look(piece)
        return piece

    def _hold(self, rest: bytes) -> None:
        self._held = rest
        if len(rest) > MAX_EVENT:
            self._held, self.ended = b"", "overlong"

    def finish(self) -> bytes:
        """The upstream has ended: its last event may lack the blank line. Returns what else goes to the client."""
        rest, self._held = self._held.strip(b"\r\n"), b""
        return self.feed(rest + b"\n\n") if rest and not self.ended else b""

    def _look(self, block: bytes) -> bytes:
        """Go through the events of a block one by one."""
        out: list[bytes] = []
        for event in block.split(b"\n\n"):
            if not event:
                continue
            if b"[DONE]" in event and _DONE.search(event) is not None:
                self.ended, self.last = "done", event + b"\n\n"
                break
            if self._is_error(event):
                break
            if not (b'"usage"' in event and _USAGE.search(event) is not None and self._is_hidden(event)):
                out.append(event + b"\n\n")
        return b"".join(out)

    def _is_error(self, event: bytes) -> bool:
        """Whether the engine says that it failed; then `last` says so too, in OpenAI's words."""
        plain = event.startswith(b"error:")
        if not plain and b'"error"' not in event:
            return False
        try:
            said = _anything(event[6:] if plain else _data(event))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            said = None
        if isinstance(said, dict):
            named = said.get("error")
            found = named if isinstance(named, (dict, str)) and named else None
            if found is None and (plain or said.get("object") == "error"):
                found = said
        else:
            found = "the replica failed in mid-stream" if plain else None
        if found is None:
            return False
        self.ended, self.said = "error", {"error": found}
        self.last = errors.event_of(self.said)
        return True

    def _is_hidden(self, event: bytes) -> bool:
        try:
            said = _event(_data(event))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False
        self.counted.take(said.usage, said.timings)
        return self._hide and said.usage is not None and said.choices is not None and not said.choices


def _data(event: bytes) -> bytes:
    """The data of an event: its `data:` lines, joined."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    return b"\n".join(line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:"))
