"""The gateway's own HTTP client: connections to one replica, driven by callbacks.

Who calls it: exchanges. What it must never do: send a request twice by itself; it says how far a request came
(`decide.retry`: REFUSED, STALE, DIED; or GARBAGE) and the exchange decides. No request has a task, future or timer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from mainspring.decide import retry
from mainspring.gateway.connection import Connection, Sink
from mainspring.gateway.health import Health

MAX_CONNECTIONS = 256  # to one replica; more requests wait for a free one
_REST = 0.05  # seconds that a replica is left alone after a connection to it broke off
_PAUSE = 0.02  # and after it refused one
_ONE_DEATH = 0.25  # connections that end within this have ended of the same thing


class _Pending:
    """A request that waits for its connection."""

    __slots__ = ("data", "sink")

    def __init__(self, sink: Sink, data: bytes) -> None:
        self.sink: Sink | None = sink
        self.data = data

    def abort(self) -> None:
        self.sink = None

    def pause(self) -> None:
        """Nothing is read yet."""

    def resume(self) -> None:
        """Nothing is read yet."""

    leave = abort


class Upstream:
    """One replica, by its address."""

    def __init__(self, address: str, revived: Callable[[], None]) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self._host, self._port = host.strip("[]"), int(port)
        self.keep_alive, self.connect, self.limit = True, 1.0, MAX_CONNECTIONS
        self.name = ""  # of its process
        self.region = -1
        self.head = b""
        self.outstanding = 0  # requests
        self.work = 0  # the same in blocks: each request is one, and the prefill that it still waits for
        self.health = Health()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._connecting = 0
        self._queue: deque[_Pending] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._revived = revived
        self._down_until = 0.0
        self._suspect = False
        self._trying = False
        self._closed = False
        self._died_at, self._died_with = 0.0, 0
        self.setup(keep_alive=True, connect=1.0, limit=MAX_CONNECTIONS)

    def setup(self, *, keep_alive: bool, connect: float, limit: int, name: str = "", region: int = -1) -> None:
        """What the routes say of it."""
        self.keep_alive, self.connect, self.limit = keep_alive, connect, limit
        self.name, self.region = name or self.name, region
        closing = b"" if keep_alive else b"connection: close\r\n"
        self.head = b"host: %b\r\n%b" % (self.address.encode(), closing)

    def usable(self, now: float) -> bool:
        """Whether to try it: not when it has just refused, nor while another request tries it."""
        if self._suspect and (self._trying or now < self._down_until):
            return False
        health = self.health
        return health.is_good or health.usable(now)

    def crowd(self) -> int:
        """How many requests were with it when it last died."""
        return self._died_with

    def send(self, sink: Sink, line: bytes, headers: bytes, body: bytes, *, fresh: bool = False) -> None:
        """Send one request; what comes of it is told to `sink`, later.

        `fresh` makes a new connection: a pooled one may belong to a process that has just died.
        """
        data = b"%b%b%bcontent-length: %d\r\n\r\n%b" % (line, self.head, headers, len(body), body)
        if not fresh:
            while self._idle:
                connection = self._idle.pop()
                transport = connection.transport
                if transport is not None and not transport.is_closing():
                    connection.start(sink, data)
                    return
        pending = _Pending(sink, data)
        sink.link = pending
        if len(self._all) + self._connecting < self.limit:
            self._begin(pending)
        else:
            self._queue.append(pending)

    def _begin(self, pending: _Pending) -> None:
        if self._suspect:
            self._trying = True
        self._connecting += 1
        task = asyncio.ensure_future(self._open(pending))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, pending: _Pending) -> None:
        message, connection = "", None
        try:
            async with asyncio.timeout(self.connect):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), self._host, self._port
                )
        except TimeoutError:
            message = f"no connection within {self.connect:g} s"
        except OSError as error:
            message = f"no connection: {error.strerror or error}"
        finally:
            self._connecting -= 1
            self._trying = False
        if connection is None or connection.transport is None:
            self._suspect, self._down_until = True, time.monotonic() + _PAUSE
            sink, pending.sink = pending.sink, None
            if sink is not None:
                sink.broke(retry.REFUSED, message)
            self._next()
            return
        self._all.add(connection)
        if self._suspect:
            self._suspect = False
            self._revived()
        if pending.sink is not None:
            connection.start(pending.sink, pending.data)
        elif self.keep_alive:
            self.free(connection)
        else:
            connection.abort()

    def _next(self) -> None:
        """Serve those who wait for a connection."""
        while self._queue and len(self._all) + self._connecting < self.limit:
            pending = self._queue.popleft()
            if pending.sink is not None:
                self._begin(pending)

    def free(self, connection: Connection) -> None:
        """A connection is ready for the next request."""
        while self._queue:
            pending = self._queue.popleft()
            if pending.sink is not None:
                connection.start(pending.sink, pending.data)
                return
        if self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection, *, busy: bool, ours: bool) -> None:
        """A connection has ended. Unless it was `ours` to end, the process may be gone: idle ones are not used again.

        If it was busy, the replica gets a rest: a process that is being killed still takes connections
        until the kernel has closed its listening socket, and a second try there would be wasted.
        """
        self._all.discard(connection)
        if busy:
            now = time.monotonic()
            self._suspect, self._down_until = True, now + _REST
            if now - self._died_at > _ONE_DEATH:
                self._died_with = self.outstanding
            self._died_at = now
        if not ours:
            idle, self._idle = self._idle, []
            for other in idle:
                other.abort()
        if self._queue:
            self._next()

    def close(self) -> None:
        """Use it no more; requests on their way may end."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.abort()
