"""An open-loop HTTP/1.1 client: each request leaves when it is due, whatever became of the earlier ones.

Who calls it: the benchmarks of serving, in the process that measures. Latencies count from the moment that a request
was due, so that a client that is late, or a server that makes it wait, is in the figure (no coordinated omission);
`Call.late` says how much of it is the client's own. What it must never do: time anything in whole milliseconds (the
wait is a `select` with the finest timer slack), collect garbage while it measures, or take an answer for right unseen.
"""

from __future__ import annotations

import ctypes
import gc
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import httptools

_PR_SET_TIMERSLACK = 29
_READ = 1 << 18
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_DONE = b"data: [DONE]"

Right = Callable[[int, bytes], bool]
"""Says of a status and a body whether they are the right answer."""


@dataclass(slots=True)
class Call:
    """One request and its answer; moments in seconds of `time.perf_counter`, 0 where it never came."""

    due: float
    request: bytes
    sent: float = 0.0
    first: float = 0.0  # the first event of a stream, or the first byte of a body
    done: float = 0.0
    status: int = 0
    body: bytes = b""
    events: list[float] = field(default_factory=list)  # of a stream: when each event was there
    right: bool = False

    @property
    def late(self) -> float:
        """Seconds by which the client itself was late."""
        return self.sent - self.due

    @property
    def seconds(self) -> float:
        """From due to the answer's end."""
        return self.done - self.due

    @property
    def to_first(self) -> float:
        """From due to the first event."""
        return self.first - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds between events, without that before `[DONE]`: no token comes with it."""
        events = self.events[:-1] if _DONE in self.body[-32:] else self.events
        return [b - a for a, b in pairwise(events)]


class _Connection:
    """One keep-alive connection, and the parser of what comes on it."""

    def __init__(self, address: tuple[str, int], epoll: select.epoll) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self._epoll = epoll
        epoll.register(self.fd, _IN)
        self._parser = httptools.HttpResponseParser(self)
        self.call: Call | None = None
        self._rest: memoryview | None = None
        self._pieces: list[bytes] = []
        self._half = False  # the last piece ended within the blank line that ends an event
        self._now = 0.0
        self.whole = self.keep = False
        self.answered = 0  # requests

    def send(self, call: Call) -> None:
        """Begin a request."""
        self.call, self._pieces, self._half, self.whole = call, [], False, False
        call.sent = time.perf_counter()
        self._push(memoryview(call.request))

    def _push(self, data: memoryview) -> None:
        try:
            data = data[self.socket.send(data) :]
        except BlockingIOError:
            pass
        waits = len(data) > 0
        if waits or self._rest is not None:
            self._epoll.modify(self.fd, _IN | _OUT if waits else _IN)
        self._rest = data if waits else None

    def ready(self, event: int, now: float) -> bool:
        """Take what has come; False when the connection has ended."""
        if event & _OUT and self._rest is not None:
            self._push(self._rest)
        if not event & ~_OUT:
            return True
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        self._now = now
        self._parser.feed_data(data)
        return True

    def on_headers_complete(self) -> None:
        if self.call is not None:
            self.call.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        call = self.call
        if call is None:
            return
        call.first = call.first or self._now
        self._pieces.append(piece)
        ended = piece.count(b"\n\n") + (self._half and piece[:1] == b"\n")
        self._half = piece[-1:] == b"\n" and piece[-2:] != b"\n\n"
        call.events += [self._now] * ended

    def on_message_complete(self) -> None:
        if self.call is not None:
            self.call.done, self.call.body = self._now, b"".join(self._pieces)
        self.whole, self.keep = True, self._parser.should_keep_alive()
        self.answered += 1

    def close(self) -> None:
        """Leave."""
        self.socket.close()


class Client:
    """Connections to one address, used again; a context."""

    def __init__(self, address: str, warm: int = 4) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._epoll = select.epoll()  # made first: `select` takes low descriptors only
        self._all: dict[int, _Connection] = {}
        self._idle = [self._open() for _ in range(warm)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._all.values():
            connection.close()
        self._epoll.close()

    def _open(self) -> _Connection:
        connection = _Connection(self._address, self._epoll)
        self._all[connection.fd] = connection
        return connection

    def open_loop(self, calls: Sequence[Call], right: Right, patience: float = 30.0) -> Sequence[Call]:
        """Send each call when it is due (`due` is in seconds from now, and becomes a moment); wait for all.

        Those without an answer `patience` seconds after the last was due keep `done` 0. Returns `calls`.
        """
        start = time.perf_counter() + 0.02
        for call in calls:
            call.due += start
        with _steady():
            self._drive(calls, right, calls[-1].due + patience, 0)
        return calls

    def closed_loop(self, calls: Sequence[Call], right: Right, at_once: int, patience: float = 120.0) -> Sequence[Call]:
        """Send the next call when one of `at_once` is answered: it is due at that moment. Returns `calls`."""
        with _steady():
            self._drive(calls, right, time.perf_counter() + patience, at_once)
        return calls

    def _drive(self, calls: Sequence[Call], right: Right, until: float, at_once: int) -> None:
        waiting, sent, ended, clock = [self._epoll.fileno()], 0, 0, time.perf_counter
        while ended < len(calls):
            now = clock()
            if now > until:
                self._give_up()
                return
            while sent < len(calls) and (sent - ended < at_once if at_once else calls[sent].due <= now):
                if at_once:
                    calls[sent].due = clock()
                (self._idle.pop() if self._idle else self._open()).send(calls[sent])
                sent += 1
                now = clock()
            next_due = until if at_once or sent == len(calls) else calls[sent].due
            select.select(waiting, [], [], max(next_due - now, 0.0))
            ready, now = self._epoll.poll(0), clock()
            for fd, event in ready:
                ended += self._take(self._all[fd], event, now, right)

    def _take(self, connection: _Connection, event: int, now: float, right: Right) -> int:
        """Read a connection; 1 when its call has ended."""
        alive = connection.ready(event, now)
        call = connection.call
        if alive and not connection.whole:
            return 0
        connection.call, connection.whole = None, False
        if not alive and call is not None and connection.answered and not call.status:
            self._drop(connection)  # the server closed a connection that it had kept: as any client, ask again
            self._open().send(call)
            return 0
        if call is not None and call.done:
            call.right = right(call.status, call.body)
        if alive and connection.keep:
            self._idle.append(connection)
        else:
            self._drop(connection)
        return 0 if call is None else 1

    def _drop(self, connection: _Connection) -> None:
        self._all.pop(connection.fd, None)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close()

    def _give_up(self) -> None:
        for connection in [one for one in self._all.values() if one.call is not None]:
            self._drop(connection)

    def hold(self, request: bytes, streams: int, per_second: float, seconds: float) -> int:
        """Open streams and keep reading them for `seconds` from the first; how many had begun by then."""
        calls = [Call(number / per_second, request) for number in range(streams)]
        self.open_loop(calls, lambda _status, _body: True, patience=seconds - streams / per_second)
        return sum(1 for call in calls if call.status == 200 and call.events)


@contextmanager
def _steady() -> Iterator[None]:
    """The finest timers, and no collection of garbage."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # nanoseconds; of this thread
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def request(path: str, body: bytes, token: str = "", headers: str = "") -> bytes:
    """A POST of JSON, as bytes; `headers` are whole lines, each ended by CR LF."""
    bearer = f"authorization: Bearer {token}\r\n" if token else ""
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{bearer}{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
