"""A quick HTTP/1.1 client that sends one request a row and loses none.

What this is: raw asyncio with httptools, one request at a time on each of a few persistent connections, which is
the cheapest way to keep N in flight. Who calls it: the demo's day loop (`flights.py`).
What it must never do: give a request up before `patience` seconds of retries by the same id, or count a retry as
an error (nor an error as a retry).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httptools
import numpy as np

from mainspring.errors import EnvironmentError_

RETRIED = frozenset({429, 502, 503, 504})  # nobody was there, or too many were: the same request again
STUCK = 30.0  # seconds without an answer after which a connection is taken for dead
FIRST_BACKOFF, LAST_BACKOFF = 0.05, 2.0  # seconds

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class DayResult:
    """How a day's requests went; latencies in seconds from a request's first try to its answer."""

    requests: int
    errors: int
    retries: int
    seconds: float
    p50: float
    p95: float
    first_error: str = ""  # status and body of the first request that failed for good

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return self.requests / self.seconds if self.seconds > 0 else 0.0


async def send_day(
    address: str,
    rows: Sequence[bytes],
    in_flight: int = 24,
    *,
    path: str = "/v2/models/delay/infer",
    patience: float = 60.0,
    find: Callable[[], str] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> DayResult:
    """Send each body once (again, by its id, when the door was shut) and wait for all answers.

    `address` is `HOST:PORT`; `find` gives it anew (it may block) after a connection failed. Raises
    `EnvironmentError_` (`gateway-away`) when nothing was answered for `patience` seconds: then the whole day may
    be sent again.
    """
    sender = _Sender(address, rows, path, patience, find, clock)
    began = clock()
    await sender.run(min(in_flight, len(rows)))
    waits = np.array(sender.latencies) if sender.latencies else np.zeros(1)
    p50, p95 = (float(q) for q in np.quantile(waits, [0.5, 0.95]))
    return DayResult(len(rows), sender.errors, sender.retries, clock() - began, p50, p95, sender.first_error)


async def post(
    address: str, path: str, body: bytes, *, patience: float = 60.0, find: Callable[[], str] | None = None
) -> None:
    """Post one body until it is taken; raises `EnvironmentError_` when it is refused, or nobody is there."""
    result = await send_day(address, [body], 1, path=path, patience=patience, find=find)
    if result.errors:
        raise EnvironmentError_("feedback-refused", f"`{path}` refused: {result.first_error}", "mainspring status")


def run(work: Coroutine[Any, Any, R]) -> R:
    """Run on uvloop where it is installed, which halves the client's own cost."""
    try:
        import uvloop

        return uvloop.run(work)
    except ImportError:
        return asyncio.run(work)


class _Sender:
    """What all connections share: the requests that wait, and the counts."""

    def __init__(
        self,
        address: str,
        rows: Sequence[bytes],
        path: str,
        patience: float,
        find: Callable[[], str] | None,
        clock: Callable[[], float],
    ) -> None:
        self.address = address
        self.find = find
        self.finding = asyncio.Lock()
        self.found = clock()  # when the address was asked for last
        self.path = path
        self.patience = patience
        self.clock = clock
        self.rows = rows
        self.next = 0  # the first row that was never sent
        self.again: deque[tuple[int, float]] = deque()  # rows to be sent again, with the moment of their first try
        self.open = len(rows)  # not answered yet
        self.latencies: list[float] = []
        self.errors = 0
        self.retries = 0
        self.first_error = ""
        self.answered = clock()  # when anything was answered last
        self.done = asyncio.Event()

    async def run(self, connections: int) -> None:
        if not self.rows:
            return
        workers = [asyncio.create_task(self._connection()) for _ in range(connections)]
        try:
            while not self.done.is_set():
                await _within(self.done.wait(), 1.0)
                for worker in workers:
                    if worker.done():
                        worker.result()  # only a mistake in this module ends one early: show it
                if not self.done.is_set() and self.clock() - self.answered > self.patience:
                    why = f"`{self.address}` answered nothing for {self.patience:.0f} s"
                    raise EnvironmentError_("gateway-away", why, "mainspring status")
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _connection(self) -> None:
        """Hold one connection up for as long as there is something to send."""
        backoff = FIRST_BACKOFF
        loop = asyncio.get_running_loop()
        while not self.done.is_set():
            host, port = self.address.rsplit(":", 1)
            wire = _Wire(self, f"POST {self.path} HTTP/1.1\r\nHost: {self.address}\r\n".encode())
            try:
                await asyncio.wait_for(loop.create_connection(lambda w=wire: w, host, int(port)), 5.0)  # type: ignore[misc]
                await wire.lost.wait()
            except (OSError, TimeoutError):
                pass
            finally:
                wire.close()
            if wire.answers:
                backoff = FIRST_BACKOFF
            if not self.done.is_set():
                await asyncio.sleep(backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)
                await self._find()

    async def _find(self) -> None:
        """Ask for the address anew, at most once a second for all connections together."""
        async with self.finding:
            if self.find is not None and self.clock() - self.found > 1.0:
                self.address = await asyncio.to_thread(self.find)
                self.found = self.clock()

    def take(self) -> tuple[int, float] | None:
        """The next request to send: a new one, or one to be sent again."""
        if self.again:
            return self.again.popleft()
        if self.next < len(self.rows):
            self.next += 1
            return self.next - 1, self.clock()
        return None

    def answer(self, row: int, since: float, status: int, body: bytes) -> bool:
        """Count an answer; False when the same request is to be sent again."""
        now = self.clock()
        if status in RETRIED and now - since < self.patience:
            self.back(row, since)
            return False
        self.answered = now
        if status != 200:
            self.errors += 1
            self.first_error = self.first_error or f"{status} {body[:300].decode('utf-8', 'replace')}"
        else:
            self.latencies.append(now - since)
        self.open -= 1
        if self.open == 0:
            self.done.set()
        return True

    def back(self, row: int, since: float) -> None:
        """Put a request back: its connection was lost, or the door was shut."""
        self.retries += 1
        self.again.append((row, since))


class _Wire(asyncio.Protocol):
    """One connection with one request on it at a time."""

    def __init__(self, sender: _Sender, head: bytes) -> None:
        self.sender = sender
        self.head = head + b"Content-Type: application/json\r\nContent-Length: "
        self.lost = asyncio.Event()
        self.answers = 0
        self.backoff = FIRST_BACKOFF
        self.row: int | None = None
        self.since = 0.0
        self.sent = 0.0
        self.keep = True
        self.body: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._watch()
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.row is not None and not self.sender.done.is_set():
            self.sender.back(self.row, self.since)
        self.row = None
        self.transport = None
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # httptools calls these.
    def on_body(self, part: bytes) -> None:
        self.body.append(part)

    def on_message_complete(self) -> None:
        row, status = self.row, self.parser.get_status_code()
        body = b"".join(self.body) if status != 200 else b""
        self.body.clear()
        self.keep = self.parser.should_keep_alive()
        self.parser = httptools.HttpResponseParser(self)
        if row is None:
            self.close()
            return
        self.row = None
        self.answers += 1
        if self.sender.answer(row, self.since, status, body):
            self.backoff = FIRST_BACKOFF
            self._send()
        else:
            asyncio.get_running_loop().call_later(self.backoff, self._send)
            self.backoff = min(LAST_BACKOFF, self.backoff * 2)

    def _send(self) -> None:
        if self.transport is None or self.row is not None:
            return
        if not self.keep:
            self.close()
            return
        taken = self.sender.take()
        if taken is None:  # all are sent; one may come back from another connection
            if not self.sender.done.is_set():
                asyncio.get_running_loop().call_later(0.05, self._send)
            return
        self.row, self.since = taken
        self.sent = self.sender.clock()
        body = self.sender.rows[self.row]
        self.transport.write(b"%b%d\r\n\r\n%b" % (self.head, len(body), body))

    def _watch(self) -> None:
        """Give a connection up that does not answer."""
        if self.row is not None and self.sender.clock() - self.sent > STUCK:
            self.close()
            return
        self.timer = asyncio.get_running_loop().call_later(STUCK / 6, self._watch)


async def _within(work: Awaitable[Any], seconds: float) -> None:
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        pass
