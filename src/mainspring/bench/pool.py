"""Requests on their way: connections kept open, requests that wait for one, deadlines.

What this is: who is sent on which connection, and what came of it, written to the log. Who calls it: `load.py`.
What it must never do: hold a request back while a connection may be had, or lose one: each begun request ends once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from array import array
from collections import deque
from collections.abc import Callable
from time import perf_counter

from mainspring.bench.client import DONE, STALE, Connection
from mainspring.bench.requests import Make
from mainspring.bench.samples import DONE as WELL
from mainspring.bench.samples import MOST_GAPS, Log
from mainspring.bench.target import Target
from mainspring.errors import EnvironmentError_

CONNECT = 10.0  # seconds for a connection


class Pool:
    """Connections to one server."""

    def __init__(self, target: Target, make: Make, log: Log, timeout: float, ended: Callable[[], None]) -> None:
        self._target = target
        self._make = make
        self._log = log
        self._timeout = timeout
        self._ended = ended
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._waiting: deque[int] = deque()  # begun, without a connection
        self._open: dict[int, Connection | None] = {}  # begun, not ended: on which connection
        self._deadlines: deque[tuple[float, int]] = deque()
        self._spare = array("d")  # gaps that are not kept
        self._tls = ssl.create_default_context() if target.secure else None
        self._ip = target.host
        self._closing = False
        self.crowded = 0  # requests that found all connections in use
        self.peak = 0  # connections open at once
        self.counts_from = 0.0  # requests due before are not counted

    @property
    def outstanding(self) -> int:
        """Requests begun and not ended."""
        return len(self._open)

    async def find(self) -> None:
        """Find the address that answers. Raises `EnvironmentError_` when none does."""
        target = self._target
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise EnvironmentError_("no-host", f"`{target.host}` is no known host: {error}") from error
        why = ""
        for *_, where in found:
            self._ip = str(where[0])
            try:
                self._idle.append(await self._connect())
                return
            except (OSError, TimeoutError) as error:
                why = getattr(error, "strerror", None) or str(error) or "no answer in time"
        message = f"nothing answers at `{target.address}`: {why}"
        raise EnvironmentError_("no-server", message, "mainspring status")

    def begin(self, due: float, now: float) -> None:
        """Take up a request that is due."""
        number = self._log.begin(due, now)
        self._open[number] = None
        self._deadlines.append((now + self._timeout, number))
        if self._idle:
            self._send(self._idle.pop(), number)
            return
        self._waiting.append(number)
        if len(self._all) + len(self._dialling) < self._target.connections:
            self._dial()
        else:
            self.crowded += 1

    def _send(self, connection: Connection, number: int) -> None:
        log = self._log
        keeps = log.due[number] >= self.counts_from and len(log.gaps) < MOST_GAPS
        self._open[number] = connection
        request = self._make(number)
        log.sent[number] = connection.send(number, request, log.gaps if keeps else self._spare)

    # --- connections

    def _dial(self, number: int = -1) -> None:
        task = asyncio.get_running_loop().create_task(self._dialled(number))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _dialled(self, number: int) -> None:
        """Make a connection for a request, or for whoever waits longest (-1)."""
        try:
            connection = await self._connect()
        except (OSError, TimeoutError) as error:
            self._forget_dial()
            if number < 0 and self._waiting:
                number = self._waiting.popleft()
            if number in self._open:
                why = getattr(error, "strerror", None) or str(error) or f"no connection in {CONNECT:g} s"
                self._fail(number, "connect", why)
            self._dial_more()
            return
        self._forget_dial()
        if number in self._open:
            self._send(connection, number)
        else:
            self._free(connection)

    def _forget_dial(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._dialling.discard(task)

    def _dial_more(self) -> None:
        """See that somebody who waits gets a connection, though the one that was meant for them is lost."""
        room = len(self._all) + len(self._dialling) < self._target.connections
        if not self._closing and room and len(self._dialling) < len(self._waiting):
            self._dial()

    async def _connect(self) -> Connection:
        loop, target = asyncio.get_running_loop(), self._target
        async with asyncio.timeout(CONNECT):
            _, connection = await loop.create_connection(
                lambda: Connection(self), self._ip, target.port, ssl=self._tls,
                server_hostname=target.host if self._tls else None,
            )  # fmt: skip
        if connection.transport is None:
            raise ConnectionResetError("closed at once")
        self._all.add(connection)
        self.peak = max(self.peak, len(self._all))
        return connection

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is closed: see that those who wait get another."""
        self._all.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._dial_more()

    # --- ends

    def answered(self, connection: Connection, failure: str, message: str, *, keep: bool) -> None:
        """An answer is whole, or has failed."""
        number, connection.number = connection.number, -1
        if failure == STALE:
            self._resend(number)
            return
        if failure == DONE:
            self._well(number, connection)
        else:
            self._fail(number, failure, message, connection.now)
        if keep:
            self._free(connection)

    def _resend(self, number: int) -> None:
        """Send once more, on a connection of its own, as HTTP clients do when a kept one was closed under a request."""
        self._log.resent += 1
        self._open[number] = None
        self._dial(number)

    def _well(self, number: int, connection: Connection) -> None:
        log, usage = self._log, connection.usage
        log.kind[number] = WELL
        log.well += 1
        log.end[number] = connection.now
        log.overhead[number] = connection.overhead
        self._pieces(number, connection)
        if usage is not None:
            log.prompt[number] = usage.prompt_tokens or 0
            log.output[number] = usage.completion_tokens or 0
            details = usage.prompt_tokens_details
            log.cached[number] = (details.cached_tokens or 0) if details is not None else 0
        elif self._target.api != "infer":
            log.uncounted += 1
            log.output[number] = log.pieces[number]
        self._end(number)

    def _pieces(self, number: int, connection: Connection) -> None:
        log, stream = self._log, connection.stream
        if stream is not None and stream.pieces:
            log.first[number], log.last[number], log.pieces[number] = stream.first, stream.last, stream.pieces

    def _fail(self, number: int, kind: str, message: str, now: float = 0.0) -> None:
        if self._target.token:
            message = message.replace(self._target.token, "***")
        self._log.failed(number, kind, "".join(char if char.isprintable() else " " for char in message)[:200])
        self._log.end[number] = now or perf_counter()
        self._end(number)

    def _end(self, number: int) -> None:
        del self._open[number]
        del self._spare[:]
        self._ended()

    def expire(self, now: float) -> None:
        """End what has taken too long."""
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][1] not in self._open):
            _, number = self._deadlines.popleft()
            if number not in self._open:
                continue
            connection = self._open[number]
            if connection is None:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(number)
            else:
                self._pieces(number, connection)
                connection.close()
            self._fail(number, "timeout", f"no whole answer in {self._timeout:g} s", now)

    async def close(self) -> None:
        """Close everything; requests in flight stay open in the log."""
        self._closing = True
        for task in list(self._dialling):
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)
        for connection in list(self._all):
            connection.close()
        await asyncio.sleep(0)
