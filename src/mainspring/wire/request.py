"""One request of HTTP and the ways to answer it: whole, or in pieces.

Who calls it: `http1` makes it; handlers answer it. What it must never do: be answered twice, or write to a client that
has left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from mainspring.wire.http1 import Connection

JSON = b"application/json"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"
EVENTS = b"text/event-stream; charset=utf-8"


def error_body(message: str) -> bytes:
    """An error as the Open Inference Protocol words it."""
    return msgspec.json.encode({"error": message})


class Request:
    """One whole request; answer it once, with `reply` or with `begin` ... `end`."""

    __slots__ = (
        "_connection", "answered", "arrived", "body", "chunked", "headers", "method", "on_gone", "on_slow", "path",
        "query",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, method: bytes, url: bytes, headers: dict[bytes, bytes], body: bytes,
    ) -> None:  # fmt: skip
        self._connection = connection
        self.method = method
        self.path, _, self.query = url.partition(b"?")
        self.headers = headers  # names in lower case; the last of a name
        self.body = body
        self.chunked = True  # whether the client knows chunks (HTTP/1.1)
        self.arrived = time.perf_counter()
        self.on_gone: Callable[[], object] | None = None  # called when the client leaves before the answer's end
        self.on_slow: Callable[[bool], object] | None = None  # called with True when pieces pile up, then False
        self.answered = False

    def reply(self, status: int, body: bytes, headers: bytes = b"", kind: bytes = JSON) -> None:
        """Write the answer; `headers` are whole lines, each ended by CR LF. A second call does nothing."""
        if not self.answered:
            self.answered = True
            self.on_gone = None
            self._connection.answer(self, status, body, headers, kind)

    def fail(self, status: int, message: str, headers: bytes = b"") -> None:
        """Write an error as the answer."""
        self.reply(status, error_body(message), headers)

    def begin(self, status: int, headers: bytes = b"", kind: bytes = EVENTS) -> None:
        """Write the head of an answer in pieces; does nothing after another answer."""
        if not self.answered:
            self.answered = True
            self._connection.begin(self, status, headers, kind)

    def send(self, data: bytes) -> None:
        """Write one piece, at once; nothing is written to a client that has left."""
        self._connection.piece(self, data)

    def end(self, data: bytes = b"") -> None:
        """Write the last piece, if there is one, and the end of the answer."""
        self.on_gone = self.on_slow = None
        self._connection.end(self, data)

    def abort(self) -> None:
        """Break the connection off: the client sees that the answer is not whole."""
        self.on_gone = self.on_slow = None
        self._connection.abort()
