"""The gateway's own HTTP client: pooled keep-alive connections to one replica.

Who calls it: forwarding. What it must never do: send a request twice by itself; it says how far a
request came (`Refused`, `Died`, `Late`) and the caller decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

MAX_CONNECTIONS = 256  # to one replica; more requests wait for a free one
_REST = 0.05  # seconds that a replica is left alone after a connection to it broke off
MAX_ANSWER = 32 * 1024 * 1024


class Refused(Exception):
    """No connection, so nothing was sent."""


class Died(Exception):
    """The connection ended before a whole answer; the request may have been worked on."""


class Late(Exception):
    """No answer in time."""


class Answer:
    """A replica's answer."""

    __slots__ = ("body", "compute", "status")

    def __init__(self, status: int, body: bytes, compute: float) -> None:
        self.status = status
        self.body = body
        self.compute = compute  # seconds that the replica charges


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._compute = 0.0
        self._keep = True
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.transport = None
        busy = self.answer is not None
        self._fail(Died("the replica closed the connection before its answer"))
        self._upstream.lost(self, busy=busy)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(Died("the replica's answer is not HTTP"))
            self.abort()

    def on_message_begin(self) -> None:
        self._body, self._size, self._compute = [], 0, 0.0

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-mainspring-compute-us" and value.isdigit() and len(value) < 16:
            self._compute = int(value) / 1e6

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size <= MAX_ANSWER:
            self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return
        answer, self.answer = self.answer, None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        if answer is None or not self._parser.should_keep_alive() or self._size > MAX_ANSWER:
            self.abort()
        else:
            self._upstream.free(self)
        if answer is not None and not answer.done():
            if self._size > MAX_ANSWER:
                answer.set_exception(Died(f"the replica's answer has more than {MAX_ANSWER} bytes"))
            else:
                answer.set_result(Answer(status, body, self._compute))

    def expire(self) -> None:
        """The deadline has passed."""
        self._fail(Late())
        self.abort()

    def _fail(self, error: Exception) -> None:
        answer, self.answer = self.answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
            self.transport = None


class Upstream:
    """One replica, by its address."""

    def __init__(self, address: str, revived: Callable[[], None]) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._head = f"host: {address}\r\n".encode()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._revived = revived
        self._down_until = 0.0
        self._suspect = False
        self._probing = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self.outstanding = 0

    def usable(self) -> bool:
        """Whether to try it now: not when it has just refused, nor while another request tries it."""
        return not self._suspect or (not self._probing and time.monotonic() >= self._down_until)

    async def send(
        self, line: bytes, headers: bytes, body: bytes, timeout: float, *, fresh: bool = False
    ) -> tuple[Answer, float]:
        """Send one request; returns the answer and the seconds it took. Raises `Refused`, `Died` or `Late`.

        `fresh` makes a new connection: a pooled one may belong to a process that has just died.

        Cancelling it closes the connection, so that the replica sees that nobody waits.
        """
        self.outstanding += 1
        try:
            until = self._loop.time() + timeout
            if self._slots.locked():
                await self._wait_for_slot(timeout)
            else:
                await self._slots.acquire()
            try:
                return await self._exchange(line, headers, body, until, fresh)
            finally:
                self._slots.release()
        finally:
            self.outstanding -= 1

    async def _wait_for_slot(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._slots.acquire(), timeout)
        except TimeoutError:
            raise Late from None

    async def _exchange(
        self, line: bytes, headers: bytes, body: bytes, until: float, fresh: bool
    ) -> tuple[Answer, float]:
        connection = (None if fresh else self._pooled()) or await self._connect(until - self._loop.time())
        transport = connection.transport
        if transport is None:
            raise Refused
        answer: asyncio.Future[Answer] = self._loop.create_future()
        connection.answer = answer
        started = time.perf_counter()
        transport.write(b"%b%b%bcontent-length: %d\r\n\r\n%b" % (line, self._head, headers, len(body), body))
        timer = self._loop.call_at(until, connection.expire)
        try:
            return await answer, time.perf_counter() - started
        finally:
            timer.cancel()
            if connection.answer is answer:  # cancelled: the answer would come for nobody
                connection.answer = None
                connection.abort()

    def _pooled(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                return connection
        return None

    async def _connect(self, timeout: float) -> _Connection:
        if self._suspect:
            self._probing = True
        try:
            async with asyncio.timeout(max(timeout, 0.001)):
                _, connection = await self._loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except TimeoutError:
            raise Late from None
        except OSError as error:
            self._suspect, self._down_until = True, time.monotonic() + 0.02
            raise Refused(str(error)) from None
        finally:
            self._probing = False
        self._all.add(connection)
        if self._suspect:
            self._suspect = False
            self._revived()
        return connection

    def free(self, connection: _Connection) -> None:
        """A connection is ready for the next request."""
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, *, busy: bool) -> None:
        """A connection has ended. The process behind it may be gone: the others are not used again.

        If it was busy, the replica gets a rest: a process that is being killed still takes connections
        until the kernel has closed its listening socket, and a second try there would be wasted.
        """
        self._all.discard(connection)
        if busy:
            self._suspect, self._down_until = True, time.monotonic() + _REST
        idle, self._idle = self._idle, []
        for other in idle:
            other.abort()

    def close(self) -> None:
        """Use it no more; requests on their way may end."""
        self._closed = True
        for connection in self._idle:
            connection.abort()
        self._idle = []
