"""An HTTP/1.1 server on asyncio.Protocol and httptools: strict framing, limits, keep-alive.

What this is: bytes in, `Request` out, an answer back, in order. Who calls it: the gateway and the replicas.
What it must never do: interpret a body, or let one connection hold memory without bound.

A handler is called on the event loop for each whole request; it answers then or later, once: whole with `reply`, or
in pieces with `begin`, `send` and `end`. Who sends pieces to a slow reader is told by `on_slow` and must then wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import cast

import httptools

from mainspring.wire.request import EVENTS, JSON, TEXT, Request, error_body

__all__ = [
    "EVENTS", "JSON", "MAX_BODY", "MAX_CONNECTIONS", "MAX_HEAD", "TEXT", "Connection", "Handler", "Request", "Server",
    "Wording", "error_body",
]  # fmt: skip

MAX_HEAD = 64 * 1024  # bytes of request line and headers
MAX_BODY = 8 * 1024 * 1024
HEAD_SECONDS = 10.0  # from a request's first byte to the end of its headers
BODY_SECONDS = 60.0  # and to the end of its body
MAX_CONNECTIONS = 2_000
_MOST_DROPPED = 8 * MAX_BODY

_ONCE = frozenset((b"content-length", b"transfer-encoding", b"host", b"authorization", b"content-encoding"))
_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\ncontent-type: ".encode() for s in HTTPStatus}

Handler = Callable[[Request], None]
Wording = Callable[[bytes, int, str], bytes]
"""The body of an error by path, status and message."""


def _plain(path: bytes, status: int, message: str) -> bytes:  # noqa: ARG001 - the signature of `Wording`
    return error_body(message)


class Server:
    """What all connections of one listening process share."""

    def __init__(
        self, handler: Handler, *, idle: float | None = None, max_connections: int = MAX_CONNECTIONS,
        wording: Wording = _plain,
    ) -> None:  # fmt: skip
        self.handler = handler
        self.wording = wording  # of what is refused before it is a request
        self.idle = idle  # seconds after which an unused connection is closed; None: never
        self.max_connections = max_connections
        self.connections: set[Connection] = set()
        self.closing = False

    def __call__(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self)

    async def watch(self) -> None:
        """Enforce the deadlines, once a second, for as long as it runs."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.tick(now)

    async def drain(self, seconds: float, give_up: Callable[[], object] | None = None) -> None:
        """Let requests end, then close; returns when all is closed or `seconds` have passed.

        What is not over by then is broken off, unless `give_up` ends it: it is called first, and a second is waited.
        """
        self.closing = True
        until = time.monotonic() + seconds
        for connection in list(self.connections):
            connection.close_when_idle()
        while self.connections and time.monotonic() < until:
            await asyncio.sleep(0.01)
        if self.connections and give_up is not None:
            give_up()
            until = time.monotonic() + 1.0
            while self.connections and time.monotonic() < until:
                await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()


class Connection(asyncio.Protocol):
    """One client's connection; requests on it are handled one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()  # pipelined behind the one being handled
        self._current: Request | None = None
        self._close_after: Request | bool = False
        self._slow_reader = False
        self._failure: tuple[int, str] | None = None  # what is wrong with the message being read
        self._since = time.monotonic()  # of the message being read, or of being idle
        self._reading = False
        self._in_head = False
        self._began = False
        self._raw = self._dropped = 0
        self._reset()

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        if len(self._server.connections) >= self._server.max_connections:
            self._refuse(503, "too many connections", b"retry-after: 1\r\n")
            return
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._server.connections.discard(self)
        self._transport = None
        self._waiting.clear()
        current, self._current = self._current, None
        if current is not None and current.on_gone is not None:
            gone, current.on_gone, current.on_slow = current.on_gone, None, None
            gone()

    def data_received(self, data: bytes) -> None:
        if self._close_after is True or self._failure is not None:
            self._drop(len(data))
            return
        self._began = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._wrong(400, "a change of protocol is not offered")
        except httptools.HttpParserError as error:
            self._wrong(400, f"not a well-formed HTTP/1.1 request: {error}")
        if self._in_head and not self._began:
            self._raw += len(data)
            if self._raw > MAX_HEAD:
                self._wrong(431, f"headers of more than {MAX_HEAD} bytes")
        self._after_reading()

    def _after_reading(self) -> None:
        if self._failure is not None and self._current is None:
            self._refuse(*self._failure)
        elif len(self._waiting) > 8 and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._slow_reader = True
        self._since = time.monotonic()
        if self._current is not None and self._current.on_slow is not None:
            self._current.on_slow(True)

    def resume_writing(self) -> None:
        self._slow_reader = False
        self._since = time.monotonic()
        if self._current is not None and self._current.on_slow is not None:
            self._current.on_slow(False)
        self._next()

    # --- the parser's side

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_size = 0
        self._head = 0

    def _wrong(self, status: int, message: str) -> None:
        """Note the first thing that is wrong with the request being read."""
        if self._failure is None:
            self._failure = (status, message)

    def on_message_begin(self) -> None:
        self._reset()
        self._reading = self._in_head = self._began = True
        self._raw = 0
        self._since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value) + 4
        if not self._in_head:  # a trailer: read, bounded, not used
            if self._head > MAX_HEAD:
                self._wrong(431, f"headers of more than {MAX_HEAD} bytes")
            return
        name = name.lower()
        headers = self._headers
        if name in headers and name in _ONCE:
            self._wrong(400, f"`{name.decode()}` twice")
        headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        headers = self._headers
        length, encoding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        if self._head > MAX_HEAD:
            self._wrong(431, f"headers of more than {MAX_HEAD} bytes")
        elif self._parser.should_upgrade():
            self._wrong(400, "a change of protocol is not offered")
        elif length is not None and encoding is not None:
            self._wrong(400, "both `Content-Length` and `Transfer-Encoding`")
        elif encoding is not None and encoding.lower() != b"chunked":
            self._wrong(400, "a `Transfer-Encoding` other than `chunked`")
        elif length is not None and (not length.isdigit() or int(length[:20]) > MAX_BODY):
            self._wrong(413, f"a body of more than {MAX_BODY} bytes")
        elif headers.get(b"expect", b"").lower() == b"100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > MAX_BODY:
            self._wrong(413, f"a body of more than {MAX_BODY} bytes")
        if self._failure is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._reading = False
        self._since = time.monotonic()
        if self._failure is not None or self._close_after:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(self, self._parser.get_method(), self._url, self._headers, body)
        keep = self._parser.should_keep_alive()
        if not keep or b"connection" in self._headers:  # a client of HTTP/1.0 that stays has to say so
            request.chunked = self._parser.get_http_version() == "1.1"
        if not keep:
            self._close_after = request
        if self._current is None and not self._slow_reader:
            self._handle(request)
        else:
            self._waiting.append(request)

    # --- answering

    def _handle(self, request: Request) -> None:
        self._current = request
        self._server.handler(request)

    def _next(self) -> None:
        while self._current is None and self._waiting and not self._slow_reader:
            self._handle(self._waiting.popleft())
        if self._current is None and self._transport is not None:
            if self._failure is not None:
                self._refuse(*self._failure)
            else:
                self._transport.resume_reading()

    def answer(self, request: Request, status: int, body: bytes, headers: bytes, kind: bytes) -> None:
        """Write the answer of the current request (called by `Request.reply`)."""
        if request is not self._current or self._transport is None:
            return  # the client has left
        last = self._is_last(request)
        self._transport.write(
            b"%b%b\r\ncontent-length: %d\r\n%b%b\r\n%b"
            % (
                _LINES[status],
                kind,
                len(body),
                headers,
                b"connection: close\r\n" if last else b"",
                b"" if request.method == b"HEAD" else body,
            )
        )
        self._answered(last)

    def begin(self, request: Request, status: int, headers: bytes, kind: bytes) -> None:
        """Write the head of an answer in pieces (called by `Request.begin`)."""
        if request is not self._current or self._transport is None:
            return
        last = self._is_last(request) or not request.chunked
        if last:
            self._close_after = request
        framing = b"transfer-encoding: chunked\r\n" if request.chunked else b""
        closing = b"connection: close\r\n" if last else b""
        self._transport.write(b"%b%b\r\n%b%b%b\r\n" % (_LINES[status], kind, framing, headers, closing))
        if self._slow_reader and request.on_slow is not None:
            request.on_slow(True)

    def piece(self, request: Request, data: bytes) -> None:
        """Write a piece of the current answer (called by `Request.send`)."""
        if request is self._current and self._transport is not None and data:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if request.chunked else data)

    def end(self, request: Request, data: bytes) -> None:
        """Write the last piece and the end of the current answer (called by `Request.end`)."""
        if request is not self._current or self._transport is None:
            return
        if not request.chunked:
            self._transport.write(data)
        elif data:
            self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        else:
            self._transport.write(b"0\r\n\r\n")
        self._answered(self._is_last(request))

    def _is_last(self, request: Request) -> bool:
        after = self._close_after
        return after is request or after is True or (self._server.closing and not self._waiting)

    def _answered(self, last: bool) -> None:
        """The current request has its answer; go on to the next, or close."""
        self._current = None
        self._since = time.monotonic()
        if last and self._transport is not None:
            self._close_after = True
            self._transport.close()
        elif self._waiting or self._failure is not None:
            self._next()

    def _refuse(self, status: int, message: str, headers: bytes = b"") -> None:
        """Say what is wrong and close: what follows on this connection cannot be trusted."""
        if self._transport is None or self._close_after is True:
            return
        body = self._server.wording(self._url, status, message)
        head = b"%b%b\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n" % (_LINES[status], JSON, len(body), headers)
        self._close_after = True
        self._since = time.monotonic()
        self._transport.write(head + body)
        if status == 413 and self._transport.can_write_eof():
            self._transport.write_eof()  # a client that is still sending reads this only if we read on: see `_drop`
        else:
            self._transport.close()

    def _drop(self, size: int) -> None:
        """What follows is not looked at; of a body that is too large a bounded part is taken off the wire."""
        self._dropped += size
        if self._dropped > _MOST_DROPPED:
            self.abort()

    # --- deadlines and closing

    def tick(self, now: float) -> None:
        """Close what took too long."""
        if self._close_after is True:  # answered and closing, but the client does not read
            if now - self._since > HEAD_SECONDS:
                self.abort()
        elif self._reading:
            if now - self._since > (HEAD_SECONDS if self._in_head else BODY_SECONDS):
                self._wrong(408, "the request took too long to come in")
                self._after_reading()  # not into the middle of an answer that is on its way
        elif self._slow_reader:
            if now - self._since > BODY_SECONDS:
                self.abort()
        elif self._current is None and self._server.idle is not None and now - self._since > self._server.idle:
            self.close_when_idle()

    def close_when_idle(self) -> None:
        """Close now if nothing is going on, else after the last answer."""
        refused = self._close_after is True
        if self._current is None and (refused or not self._reading) and self._transport is not None:
            self._close_after = True
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
