"""One request to the fake language server, from its slot to its end: times, shapes and faults.

Who calls it: `language_server`. What it must never do: write after its end, or keep a slot that it does not need.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mainspring.testing import language_faults as faults
from mainspring.testing.language_answers import DONE, Plan, chunked, error, event

if TYPE_CHECKING:
    from mainspring.testing.language_server import Connection, Fake

_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_AT_ONCE = 32  # tokens written without looking whether the reader keeps up
_GARBAGE = bytes(range(1, 32)) + b"\xff\xfe not what was asked for \x00"
_PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed",
            429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway",
            503: "Service Unavailable"}  # fmt: skip


def head(status: int, length: int, kind: str = "application/json", more: str = "") -> bytes:
    """The head of a whole answer."""
    return (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}\r\n"
    ).encode()


class Job:
    """One request that has, or waits for, a slot."""

    __slots__ = (
        "_at", "_cached", "_connection", "_fake", "_gap", "_is_over", "_is_streaming", "_number", "_rest", "_timer",
        "plan", "told",
    )  # fmt: skip

    def __init__(self, fake: Fake, connection: Connection, plan: Plan) -> None:
        self._fake, self._connection, self.plan = fake, connection, plan
        self.told = {**fake.told, **plan.told} if fake.told else plan.told
        self._timer: asyncio.TimerHandle | None = None
        self._cached = self._number = 0
        self._at = self._gap = 0.0
        self._is_over = self._is_streaming = False
        self._rest = b""  # what is left to drip

    def start(self) -> None:
        """It has a slot now."""
        fake, plan, options = self._fake, self.plan, self._fake.options
        self._cached = fake.answers.cached(plan) if plan.blocks else 0
        self._gap = self.told.get("gap-ms", options.gap_ms) / 1e3
        wait = self.told.get("first-ms", options.first_ms) / 1e3
        wait += (plan.prompt_tokens - self._cached) * options.prompt_us_per_token / 1e6
        if not plan.stream:
            wait += self._gap * max(plan.tokens - 1, 0)
        if plan.stream and "early-head" in self.told:
            self._connection.write(_STREAM)
        self._at = fake.loop.time() + wait
        if wait > 0:
            self._timer = fake.loop.call_at(self._at, self._first)
        else:
            self._first()

    def _first(self) -> None:
        """The time of the first token has come."""
        self._timer = None
        for name in self.told:
            if name in faults.BEFORE:
                self._fail(name, self.told[name])
                return
        fake, plan = self._fake, self.plan
        if not plan.stream:
            self._unary()
            return
        fake.count(plan, self._cached, 0)
        fake.counts["streams"] += 1
        begin = b"" if "early-head" in self.told else _STREAM
        if plan.kind == "chat":
            begin += self._frame(fake.answers.role_chunk)
        if "joined" in self.told or "drip" in self.told:
            self._at_once(begin)
            return
        self._connection.write(begin)
        self._is_streaming = True
        self.go_on()

    def _unary(self) -> None:
        answers, plan = self._fake.answers, self.plan
        self._fake.count(plan, self._cached, plan.tokens)
        body = answers.body(plan, self._cached)
        if "huge-chunk" in self.told:
            body = body[:-1] + b',"padding":"' + b"x" * _kilobytes(self.told["huge-chunk"]) + b'"}'
        begin = head(200, len(body))
        if "drip" in self.told:
            self._connection.write(begin)
            self._rest = body
            self._drip()
        else:
            self._connection.write(begin + body)
            self._finish()

    # --- a stream

    def go_on(self) -> None:
        """Write the tokens whose time has come, as far as the reader keeps up."""
        if self._is_streaming and self._timer is None and not self._is_over:
            self._tick()

    def _tick(self) -> None:
        self._timer = None
        fake, plan, connection = self._fake, self.plan, self._connection
        end, stop = plan.tokens, self._middle()
        while not connection.is_slow:
            if stop is not None and self._number >= stop[0]:
                self._fail_midway(*stop[1:])
                return
            if self._number >= end:
                self._last()
                return
            now = fake.loop.time() if self._gap else 0.0
            pieces: list[bytes] = []
            while self._number < end and len(pieces) < _AT_ONCE and (stop is None or self._number < stop[0]):
                if self._gap and self._at > now:
                    break
                pieces.append(self._frame(fake.answers.piece(plan, self._number)))
                self._number += 1
                self._at += self._gap
            if pieces:
                fake.counts["output_tokens"] += len(pieces)
                connection.write(b"".join(pieces))
            if self._is_over:  # the write may have found that the client is gone
                return
            if self._gap and self._at > now and self._number < end:
                self._timer = fake.loop.call_at(self._at, self._tick)
                return

    def _middle(self) -> tuple[int, str, float] | None:
        for name, value in self.told.items():
            if name in faults.MIDDLE and name not in ("die-after-last-token", "no-done"):
                return (min(int(value) if value >= 0 else 3, self.plan.tokens), name, value)
        return None

    def _frame(self, piece: bytes) -> bytes:
        told = self.told
        if not told:
            return chunked(piece)
        if "comments" in told:
            piece = b": still here\n\n" + piece
        if "crlf" in told:
            piece = piece.replace(b"\n", b"\r\n")
        if "split" in told:
            size = int(told["split"]) if told["split"] > 0 else 7
            return b"".join(chunked(piece[at : at + size]) for at in range(0, len(piece), size))
        return chunked(piece)

    def _end_events(self) -> bytes:
        events = self._fake.answers.last(self.plan, self._cached)
        if "huge-chunk" in self.told:
            filler = {"choices": [], "padding": "x" * _kilobytes(self.told["huge-chunk"])}
            events.insert(0, event(filler))
        return b"".join(self._frame(e) for e in events)

    def _last(self) -> None:
        end = self._end_events()
        if "die-after-last-token" in self.told:
            self._connection.write(end)
            self._over()
            self._connection.reset()
            return
        if "no-done" not in self.told:
            end += self._frame(DONE)
        self._connection.write(end + b"0\r\n\r\n")
        self._finish()

    def _at_once(self, begin: bytes) -> None:
        """The whole stream in one piece (as one chunk, or byte by byte)."""
        answers, plan = self._fake.answers, self.plan
        pieces = [answers.piece(plan, i) for i in range(plan.tokens)] + answers.last(plan, self._cached) + [DONE]
        self._fake.counts["output_tokens"] += plan.tokens
        rest = b"".join(pieces)
        if "joined" in self.told:
            self._connection.write(begin + chunked(rest) + b"0\r\n\r\n")
            self._finish()
        else:
            self._connection.write(begin)
            self._rest = b"".join(chunked(rest[at : at + 1]) for at in range(len(rest))) + b"0\r\n\r\n"
            self._drip()

    def _drip(self) -> None:
        size = 6 if self.plan.stream else 1  # a chunk of one byte is six on the wire
        self._connection.write(self._rest[:size])
        self._rest = self._rest[size:]
        if self._rest:
            pause = self.told["drip"] if self.told["drip"] >= 0 else 1000.0
            self._timer = self._fake.loop.call_later(pause / 1e3, self._drip)
        else:
            self._timer = None
            self._finish()

    # --- failing

    def _fail(self, name: str, value: float) -> None:
        connection = self._connection
        if name in ("crash", "killed", "exit"):
            faults.die(name, value)
        elif name == "reset-before-first":
            self._over()
            connection.reset()
        elif name == "close-before-first":
            self._over()
            connection.close()
        elif name in ("garbage", "ok-then-garbage", "endless-headers"):
            begin = {"garbage": b"", "ok-then-garbage": _STREAM}.get(name, b"HTTP/1.1 200 OK\r\n")
            self._connection.write(begin)
            self._pour(b"x-more: and more\r\n" * 50 if name == "endless-headers" else _GARBAGE)
        elif name == "short-body":
            body = self._fake.answers.body(self.plan, self._cached)
            connection.write(head(200, len(body)) + body[: len(body) // 2])
            self._over()
            connection.close()
        elif name != "never-answer":
            self._over()
            self._say_error(name)

    def _pour(self, what: bytes) -> None:
        """Bytes without end, 100 times a second, until the client goes."""
        self._connection.write(what)
        self._timer = self._fake.loop.call_later(0.01, self._pour, what)

    def _say_error(self, name: str) -> None:
        connection = self._connection
        connection.job = None
        if name == "error-429":
            connection.reply(
                429, error(429, "too many", "rate_limit_error", "rate_limit_exceeded"), "retry-after: 7\r\n"
            )
        elif name == "error-503":
            connection.reply(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
        elif name == "vllm-error":
            connection.reply(400, _vllm("This model's maximum context length is 1024 tokens."))
        elif name == "llama-error":
            connection.reply(400, too_long(9_999, 1_024))
        elif name == "html-error":
            page = b"<html><body>502 Bad Gateway</body></html>"
            connection.write_whole(head(502, len(page), "text/html") + page)
        else:
            connection.reply(500, error(500, "the engine failed", "server_error", "internal_error"))

    def _fail_midway(self, name: str, value: float) -> None:
        connection = self._connection
        if name in ("crash-mid-stream", "killed-mid-stream"):
            # what is written lies in the socket only after this turn of the loop
            self._timer = self._fake.loop.call_later(0.01, faults.die, name, value)
        elif name == "garbage-mid-stream":
            self._pour(_GARBAGE)
        elif name == "error-mid-stream":
            connection.write(chunked(event(_vllm("the engine failed", 500))) + chunked(DONE) + b"0\r\n\r\n")
            self._finish()
        elif name == "stall-mid-stream":
            self._is_over = True  # and keeps its slot until the client goes
        else:
            if name == "truncated-chunk":
                connection.write(b"1000\r\ndata: {")
            self._over()
            if name == "reset-mid-stream":
                connection.reset()
            else:
                connection.close()

    # --- ending

    def _finish(self) -> None:
        self._fake.counts["done"] += 1
        self._over()
        if "unannounced-close" in self.told:
            self._connection.close()
        else:
            self._connection.end()

    def _over(self) -> None:
        """The slot is free again."""
        self._is_over = True
        self._connection.job = None
        self._fake.release()

    def cancel(self) -> None:
        """The client is gone: the slot is free again, or the place in the queue."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_over = True
        self._connection.job = None
        self._fake.counts["cancelled"] += 1
        if self in self._fake.queue:
            self._fake.queue.remove(self)
        else:
            self._fake.release()


def _kilobytes(value: float) -> int:
    return int(value if value > 0 else 1000) * 1000


def _vllm(message: str, code: int = 400) -> dict[str, Any]:
    kind = "BadRequestError" if code < 500 else "InternalServerError"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def too_long(prompt: int, context: int) -> dict[str, Any]:
    """llama.cpp's error for a prompt that does not fit."""
    return {
        "error": {
            "code": 400,
            "message": f"the request exceeds the available context size ({context} tokens)",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": prompt,
            "n_ctx": context,
        }
    }
