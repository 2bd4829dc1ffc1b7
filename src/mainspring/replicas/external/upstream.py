"""The HTTP client of a server elsewhere: verified TLS, bounds on all that comes back, pieces as they come.

Who calls it: the forwarder and the health check. What it must never do: follow a redirect, speak to another host, or
hold more of an answer than its bound.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import httptools

from mainspring.replicas.external.target import Target

CONNECT = 5.0  # seconds for a connection, TLS included
IDLE = 15.0  # seconds that a connection may rest before it is not used again
KEPT = 64  # connections that rest at most
MAX_HEAD = 64 * 1024
MAX_ANSWER = 32 * 1024 * 1024
_PIECE = 64 * 1024
_AWAY = "the server can't be reached"


class Failed(Exception):
    """There is no answer, or no more of it; the message says why, for the log.

    `status` and `told` are what a client gets: nothing of where the server is.
    """

    def __init__(self, message: str, status: int = 502, told: str = "") -> None:
        super().__init__(message)
        self.status, self.told = status, told or message


class Stale(Failed):
    """A connection that had rested was closed by the server before a byte of the answer came."""


class _Reader(asyncio.StreamReader):
    """Counts what has come, so that a connection with bytes that nobody asked for is not used again."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit)
        self.come = 0  # bytes

    def feed_data(self, data: Any) -> None:
        self.come += len(data)
        super().feed_data(data)


class _Streams:
    """One connection."""

    __slots__ = ("reader", "rested", "taken", "used", "writer")

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = False
        self.taken = 0  # bytes that were read
        self.rested = 0.0

    def is_good(self, now: float) -> bool:
        """Whether it may carry another request: open, not old, and silent since its last answer."""
        silent = self.reader.come == self.taken and not self.reader.at_eof()
        return silent and now - self.rested < IDLE and not self.writer.is_closing()


class Answer:
    """An answer whose head is there; read it by `whole` or `pieces`, or `abort` it."""

    def __init__(self, upstream: Upstream, streams: _Streams, timeout: float) -> None:
        self._upstream, self._streams, self._timeout = upstream, streams, timeout
        self._parser = httptools.HttpResponseParser(self)
        self._found: list[bytes] = []
        self._raw = 0
        self._broken = False  # what came after the pieces that were found is not HTTP
        self.headed = self.ended = self._again = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    async def read(self) -> None:
        """Read once, and parse; raises `Failed`."""
        if self._broken:
            raise Failed("the server's answer is not HTTP")
        try:
            async with asyncio.timeout(self._timeout):
                data = await self._streams.reader.read(_PIECE)
        except TimeoutError:
            raise Failed(f"the server said nothing for {self._timeout:g} s", 504) from None
        except OSError as error:
            data = b""
            reason = f": {error.strerror}" if error.strerror else ""
        else:
            reason = ""
        if not data:
            self._at_end(reason)
            return
        self._raw += len(data)
        self._streams.taken += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._broken, self._again = not self.ended, False
            if not self.headed:
                raise Failed("the server's answer is not HTTP") from None
        if not self.headed and self._raw > MAX_HEAD:
            raise Failed(f"the server's answer has headers of more than {MAX_HEAD} bytes")

    def _at_end(self, reason: str) -> None:
        """The connection has ended: that may be the end of an answer that has no length."""
        framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self.headed and not framed and not reason:
            self.ended = True
            return
        if not self._raw and self._streams.used:
            raise Stale("the server closed a connection that had rested")
        raise Failed(f"the server closed the connection before {'the end of ' * self.headed}its answer{reason}")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises `Failed`. The connection is used again after its end."""
        while True:
            found, self._found = self._found, []
            if found:
                yield b"".join(found)
            if self.ended:
                break
            await self.read()
        if self._again:
            self._upstream.rest(self._streams)
        else:
            self.abort()

    async def whole(self) -> bytes:
        """The whole body; raises `Failed` also when it is larger than `MAX_ANSWER`."""
        body, size = [], 0
        said = self.headers.get(b"content-length", b"0")
        if not said.isdigit() or int(said[:20]) > MAX_ANSWER:
            raise Failed(f"the server's answer has more than {MAX_ANSWER} bytes")
        async for piece in self.pieces():
            body.append(piece)
            size += len(piece)
            if size > MAX_ANSWER:
                raise Failed(f"the server's answer has more than {MAX_ANSWER} bytes")
        return b"".join(body)

    def abort(self) -> None:
        """Close the connection at once: the server sees that nobody waits."""
        self._streams.writer.transport.abort()

    # --- the parser's side

    def on_message_begin(self) -> None:
        if self.ended:
            self._again = False  # more than was asked for: what else comes on this connection can't be trusted

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = {}
        elif not self.headed:
            self.status, self.headed = status, True

    def on_body(self, body: bytes) -> None:
        if not self.ended:
            self._found.append(body)

    def on_message_complete(self) -> None:
        if self.headed and not self.ended:
            self.ended, self._again = True, self._parser.should_keep_alive()


class Upstream:
    """Connections to one server."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._target, self._timeout = target, timeout
        self._tls = ssl.create_default_context() if target.tls else None
        self._idle: list[_Streams] = []

    async def ask(self, method: str, path: str, headers: bytes, body: bytes = b"") -> Answer:
        """Send one request; returns when the head of its answer is there. Raises `Failed`.

        `headers` are whole lines. It is sent again only when a connection that had rested turns out to be closed.
        """
        data = b"%b %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n%bcontent-length: %d\r\n\r\n%b" % (
            method.encode(), path.encode(), self._target.authority.encode(), headers, len(body), body,
        )  # fmt: skip
        streams = self._rested()
        if streams is not None:
            try:
                return await self._send(streams, data)
            except Stale:
                pass
        return await self._send(await self._connect(), data)

    async def _send(self, streams: _Streams, data: bytes) -> Answer:
        answer = Answer(self, streams, self._timeout)
        try:
            streams.writer.write(data)
            while not answer.headed:
                await answer.read()
        except BaseException:
            answer.abort()
            raise
        return answer

    async def _connect(self) -> _Streams:
        target, loop = self._target, asyncio.get_running_loop()
        reader = _Reader(_PIECE)
        protocol = asyncio.StreamReaderProtocol(reader)
        name = target.host if self._tls else None
        try:
            async with asyncio.timeout(CONNECT):
                transport, _ = await loop.create_connection(
                    lambda: protocol, target.host, target.port, ssl=self._tls, server_hostname=name
                )
        except TimeoutError:
            raise Failed(f"no connection to `{target.authority}` within {CONNECT:g} s", 503, _AWAY) from None
        except ssl.SSLCertVerificationError as error:
            message = f"the certificate of `{target.authority}` can't be verified: {error.verify_message}"
            raise Failed(f"{message} (`SSL_CERT_FILE` may name a file with its authority)", told=_AWAY) from error
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Failed(f"no connection to `{target.authority}`: {reason}", 503, _AWAY) from error
        return _Streams(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    def _rested(self) -> _Streams | None:
        """A connection that rests and may still be good."""
        now = time.monotonic()
        while self._idle:
            streams = self._idle.pop()
            if streams.is_good(now):
                streams.used = True
                return streams
            streams.writer.transport.abort()
        return None

    def rest(self, streams: _Streams) -> None:
        """Keep a connection for the next request."""
        streams.rested = time.monotonic()
        if len(self._idle) < KEPT:
            self._idle.append(streams)
        else:
            streams.writer.transport.abort()

    def close(self) -> None:
        """Close all that rest."""
        for streams in self._idle:
            streams.writer.transport.abort()
        self._idle.clear()
