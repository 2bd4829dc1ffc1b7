"""One connection to a replica: a request out, the answer in, whole or in pieces, with limits on all of it.

Who calls it: `upstream` makes it; exchanges hold it as their `Link` and are its `Sink`. What it must never do: believe
a replica: heads, lengths and bodies have bounds, and what is not HTTP is the failure of that replica alone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Protocol, cast

import httptools

from mainspring.decide import retry

if TYPE_CHECKING:
    from mainspring.gateway.upstream import Upstream

MAX_ANSWER = 32 * 1024 * 1024
MAX_HEAD = 64 * 1024
GARBAGE = 4  # beside the failures that `decide.retry` knows: what came is not an answer, and more may come
_HEADERS = frozenset((b"content-type", b"content-length", b"retry-after", b"x-mainspring-compute-us"))
_KERNEL = 48 * 1024  # bytes of an answer that the kernel may hold before the gateway reads them
_DRAIN = 1.0  # seconds that a stream's connection may take to end after its last event


class Link(Protocol):
    """What a request holds on to while it is with a replica."""

    def abort(self) -> None:
        """Give the request up: nobody waits for its answer."""

    def pause(self) -> None:
        """Read no more for now."""

    def resume(self) -> None:
        """Read on."""

    def leave(self) -> None:
        """All that matters has come; what follows is dropped."""


class Sink(Protocol):
    """Who a replica's answer goes to."""

    streams: bool  # an event stream is wanted in pieces
    link: Link | None

    def answered(self, status: int, body: bytes, compute: float, wait: bytes) -> None:
        """The whole answer; `wait` is its `Retry-After`."""

    def begun(self) -> None:
        """The head of the answer is there."""

    def piece(self, data: bytes) -> None:
        """A piece of the event stream."""

    def ended(self) -> None:
        """The event stream has ended as HTTP has it."""

    def broke(self, failure: int, message: str) -> None:
        """There is no answer, or no more of it."""


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    __slots__ = (
        "_body", "_compute", "_events", "_head", "_in_head", "_parser", "_pieces", "_size", "_streaming", "_upstream",
        "_used", "_wait", "any", "sink", "transport",
    )  # fmt: skip

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._pieces: list[bytes] = []
        self._size = self._head = 0
        self._compute = 0.0
        self._wait = b""
        self._events = self._streaming = self._in_head = False
        self._used = 0  # requests that it has carried
        self.any = False  # whether a byte of the answer has come
        self.sink: Sink | None = None
        self.transport: asyncio.Transport | None = None

    # --- the exchange's side

    def start(self, sink: Sink, data: bytes) -> None:
        """Send a request."""
        self.sink = sink
        sink.link = self
        self.any = self._streaming = self._events = False
        self._in_head = True
        self._head = self._size = 0
        self._compute, self._wait = 0.0, b""
        self._used += 1
        if self.transport is not None:  # it is: only connections that are open are started
            self.transport.write(data)

    def abort(self) -> None:
        self.sink = None
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()

    def pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def leave(self) -> None:
        self.sink = None
        if not self._upstream.keep_alive or self.transport is None:
            self.abort()
        elif self._streaming:
            self.transport.resume_reading()
            asyncio.get_running_loop().call_later(_DRAIN, self._still_draining, self._used)

    def _still_draining(self, used: int) -> None:
        if self._streaming and self._used == used:
            self.abort()

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        sock = transport.get_extra_info("socket")
        if sock is not None:  # else the kernel takes in megabytes for a client that does not read
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        ours, self.transport = self.transport is None, None
        sink, self.sink = self.sink, None
        self._upstream.lost(self, busy=sink is not None, ours=ours)
        if sink is not None:
            stale = self._used > 1 and not self.any
            what = "its answer" if not self._streaming else "the end of its answer"
            sink.broke(retry.STALE if stale else retry.DIED, f"the replica closed the connection before {what}")

    def data_received(self, data: bytes) -> None:
        if self.sink is None and not self._streaming:
            self.abort()  # nobody asked
            return
        self.any = True
        if self._in_head:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broke("the replica changed the protocol")
        except httptools.HttpParserError:
            self._broke("the replica's answer is not HTTP")
        if self._in_head and self._head > MAX_HEAD:
            self._broke(f"the replica's answer has headers of more than {MAX_HEAD} bytes")
        if self._pieces:
            self._flush()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if self.sink is not None:
            self.sink.piece(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _broke(self, message: str) -> None:
        if self._pieces:
            self._flush()
        sink = self.sink
        self.abort()
        self._in_head = self._streaming = False
        if sink is not None:
            sink.broke(GARBAGE, message)

    # --- the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _HEADERS or not self._in_head:
            return
        if name == b"content-type":
            self._events = value[:17].lower() == b"text/event-stream"
        elif name == b"content-length":
            if not value.isdigit() or int(value[:20]) > MAX_ANSWER:
                self._size = MAX_ANSWER + 1
        elif name == b"retry-after":
            self._wait = value if value.isdigit() and len(value) < 6 else b""
        elif value.isdigit() and len(value) < 16:
            self._compute = int(value) / 1e6

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._size, self._events = 0, False
            return
        self._in_head = False
        if self._size > MAX_ANSWER:
            raise httptools.HttpParserError
        sink = self.sink
        if sink is not None:
            self._streaming = self._events and status == 200 and sink.streams
            sink.begun()

    def on_body(self, body: bytes) -> None:
        if self._streaming:
            self._pieces.append(body)
            return
        self._size += len(body)
        if self._size > MAX_ANSWER:
            raise httptools.HttpParserError
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._in_head:  # of the 1xx kind: the answer is still to come
            return
        streaming, self._streaming = self._streaming, False
        if self._pieces:
            self._flush()
        body, self._body = self._body, []
        sink, self.sink = self.sink, None
        if sink is None and not streaming:  # an answer that nobody asked for
            self.abort()
            return
        if self._parser.should_keep_alive() and self._upstream.keep_alive and self.transport is not None:
            self._upstream.free(self)
        else:
            self.abort()
        if sink is None:
            return
        if streaming:
            sink.ended()
        else:
            whole = body[0] if len(body) == 1 else b"".join(body)
            sink.answered(self._parser.get_status_code(), whole, self._compute, self._wait)
