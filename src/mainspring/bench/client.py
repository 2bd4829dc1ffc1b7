"""One HTTP/1.1 connection of the load generator: a request out, an answer in, times taken at the bytes.

What this is: asyncio.Protocol and httptools, as thin as can be. Who calls it: `pool.py`. What it must never do: send
a request a second time, or hold an answer without bound.
"""

from __future__ import annotations

import asyncio
from array import array
from time import perf_counter
from typing import Protocol, cast

import httptools
import msgspec

from mainspring.bench.stream import Body, Stream, Usage, said

MOST_BODY = 64 * 1024 * 1024
DONE = ""  # the failure of an answer that is well
STALE = "stale"  # closed without a byte, on a connection that had been used: nobody's failure yet
_decode = msgspec.json.Decoder(Body).decode


class Taker(Protocol):
    """Who is told of the connection's answers."""

    def answered(self, connection: Connection, failure: str, message: str, *, keep: bool) -> None:
        """An answer is whole, or has failed; `keep`: the connection can be used again."""

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None
        self.number = -1  # of the request in flight
        self._used = 0
        self.now = 0.0  # when the last bytes came
        self._begin(array("d"))

    def _begin(self, gaps: array[float]) -> None:
        self._gaps = gaps
        self._status = 0  # 0 until the head is whole
        self._events = self._bounded = self._any = False
        self._body: list[bytes] = []
        self._size = 0
        self.stream: Stream | None = None
        self.usage: Usage | None = None
        self.overhead = float("nan")

    def send(self, number: int, request: bytes, gaps: array[float]) -> float:
        """Send a request; gives the moment of it. `gaps` takes the seconds between pieces."""
        self.number = number
        self._used += 1
        self._begin(gaps)
        sent = perf_counter()
        if self.transport is not None:
            self.transport.write(request)
        return sent

    def close(self) -> None:
        """Close at once, telling nobody of the request in flight."""
        self.number = -1
        if self.transport is not None:
            self.transport.abort()

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.number >= 0:
            self.now = perf_counter()
            self._end_of_file(exc)
        self._taker.lost(self)

    def data_received(self, data: bytes) -> None:
        self.now = perf_counter()
        if self.number < 0:
            self.close()  # nobody asked
            return
        self._any = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._answer("garbage", f"an answer that is not HTTP: {error}", keep=False)

    # --- the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._events = value.startswith(b"text/event-stream")
        elif name in (b"content-length", b"transfer-encoding"):
            self._bounded = True
        elif name == b"x-mainspring-overhead-us" and len(value) < 16:
            self._charged(value)

    def _charged(self, value: bytes) -> None:
        try:
            self.overhead = float(value) / 1e6
        except ValueError:
            pass

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._events and self._status == 200:
            self.stream = Stream(self._gaps)

    def on_body(self, body: bytes) -> None:
        if self.stream is not None:
            self.stream.feed(body, self.now)
            return
        self._size += len(body)
        if self._size <= MOST_BODY:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200:
            self._begin(self._gaps)
            return
        if self.number >= 0:
            self._whole(keep=self._parser.should_keep_alive())

    # --- what it comes to

    def _end_of_file(self, error: Exception | None) -> None:
        """The connection was closed with a request in flight."""
        why = f": {error}" if error is not None and str(error) else ""
        if self.stream is not None and (self.stream.done or self.stream.error):
            self._whole(keep=False)
        elif self.stream is not None:
            self._answer("cut", f"the stream ended without [DONE]{why}", keep=False)
        elif self._status and not self._bounded and error is None:
            self._whole(keep=False)  # an answer that ends with its connection, as it may
        elif self._any:
            self._answer("cut", f"the connection was closed within an answer{why}", keep=False)
        else:
            stale = self._used > 1
            self._answer(STALE if stale else "closed", f"the connection was closed without an answer{why}", keep=False)

    def _whole(self, *, keep: bool) -> None:
        """An answer is there to its end."""
        stream = self.stream
        if stream is not None:
            self.usage = stream.usage
            if stream.error:
                self._answer("stream error", stream.error, keep=keep)
            elif not stream.done:
                self._answer("cut", "the stream ended without [DONE]", keep=keep)
            else:
                self._answer(DONE, "", keep=keep)
            return
        self._plain(b"".join(self._body), keep=keep)

    def _plain(self, body: bytes, *, keep: bool) -> None:
        """An answer that is not streamed."""
        try:
            told = _decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            if 200 <= self._status < 300:
                self._answer("garbage", f"an answer that is not one of this interface: {error}", keep=keep)
                return
            told = Body(error=body[:200].decode("utf-8", "replace"))
        self.usage = told.usage
        if not 200 <= self._status < 300:
            self._answer(f"http {self._status}", said(told.error) if told.error is not None else "", keep=keep)
        elif told.error is not None:
            self._answer("stream error", said(told.error), keep=keep)
        else:
            self._answer(DONE, "", keep=keep)

    def _answer(self, failure: str, message: str, *, keep: bool) -> None:
        if self.number < 0:
            return
        keep = keep and self.transport is not None and not self.transport.is_closing()
        self._taker.answered(self, failure, message, keep=keep)
        if not keep and self.transport is not None:
            self.transport.abort()
