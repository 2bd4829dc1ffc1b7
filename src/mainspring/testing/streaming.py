"""A client of language servers for tests: it keeps what came, when it came, and how it ended.

Who calls it: the conformance suite, the gateway's fault tests. What it must never do: hide a broken ending: a stream
that stops without its end, or goes on after it, is told as it was.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools

CHAT = "/v1/chat/completions"


def chat(prompt: str, *, stream: bool = True, model: str = "chat", **more: Any) -> dict[str, Any]:
    """The body of a chat request of one message."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream} | more


@dataclass
class Told:
    """All that came back for one request."""

    status: int = 0  # 0: no answer at all
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: list[str] = field(default_factory=list)  # the data of each event
    times: list[float] = field(default_factory=list)  # of each event, seconds from the request's last byte
    is_whole: bool = False  # the HTTP message came to its end
    seconds: float = 0.0  # until the end
    problem: str = ""  # what the connection died of

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The events that are answers, decoded."""
        return [json.loads(e) for e in self.events if e != "[DONE]" and not _is_error(e)]

    @property
    def dones(self) -> int:
        """How many [DONE] came."""
        return self.events.count("[DONE]")

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The error events, decoded."""
        return [json.loads(e)["error"] for e in self.events if _is_error(e)]

    @property
    def ends(self) -> int:
        """Terminal events: [DONE] or an error. A right stream has exactly one, and nothing after it."""
        return self.dones + len(self.errors)

    @property
    def text(self) -> str:
        """All words of the answer, streamed or not."""
        if not self.events:
            [choice] = self.json()["choices"]
            return str(choice["message"]["content"] if "message" in choice else choice["text"])
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        parts = [choice["delta"].get("content") if "delta" in choice else choice["text"] for choice in choices]
        return "".join(part or "" for part in parts)

    @property
    def usages(self) -> list[dict[str, Any]]:
        """The usage of each chunk that has one."""
        return [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]

    @property
    def is_done(self) -> bool:
        """A whole stream: 200, one terminal event, which is [DONE], is the last, and ends the message."""
        return self.status == 200 and self.ends == 1 and self.events[-1] == "[DONE]" and self.is_whole

    @property
    def is_cut(self) -> bool:
        """A stream that was cut as it should be: 200, one terminal event, which is an error and is the last."""
        return self.status == 200 and self.ends == 1 and _is_error(self.events[-1])

    def __str__(self) -> str:
        last = self.events[-1][:300] if self.events else self.body[:300].decode("utf-8", "replace")
        return (
            f"status {self.status}, {len(self.events)} events, {self.dones} [DONE], {len(self.errors)} errors, "
            f"whole {self.is_whole}, {self.seconds:.2f} s, {self.problem or 'no problem'}; last: {last}"
        )


def _is_error(event: str) -> bool:
    return event.startswith('{"error"')


class _Reader:
    """The parser's callbacks."""

    def __init__(self, told: Told, started: float) -> None:
        self.told, self.started = told, started
        self.has_head = False
        self._rest = b""
        self._pieces: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.told.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        if not self.told.headers.get("content-type", "").startswith("text/event-stream"):
            return
        self._rest += body
        *lines, self._rest = self._rest.split(b"\n")
        now = time.perf_counter() - self.started
        for line in lines:
            if line.startswith(b"data: "):
                self.told.events.append(line[6:].rstrip(b"\r").decode())
                self.told.times.append(now)

    def on_message_complete(self) -> None:
        self.told.is_whole = True

    def end(self) -> None:
        self.told.body = b"".join(self._pieces)


def wire(path: str, body: bytes, headers: Mapping[str, str] | None = None, method: str = "POST") -> bytes:
    """A request as bytes."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"{method} {path} HTTP/1.1\r\nhost: test\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


async def ask(
    address: str, body: Mapping[str, Any] | bytes, path: str = CHAT, headers: Mapping[str, str] | None = None,
    *, timeout: float = 20.0, leave: Callable[[Told], bool] | None = None, pause: float = 0.0, method: str = "POST",
) -> Told:  # fmt: skip
    """One request on a connection of its own, to its end; never raises for what the server does.

    `leave`: asked after each piece; the connection is closed when it says so. `pause`: seconds between two reads
    (a slow reader). A server that says nothing for `timeout` seconds in all is told as the problem `hangs`.
    """
    told = Told()
    host, _, port = address.rpartition(":")
    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    started = time.perf_counter()
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, int(port), limit=4096 if pause else 65536)
            writer.write(wire(path, given, headers, method))
            started = time.perf_counter()
            await _read(reader, told, started, leave, pause)
    except TimeoutError:
        told.problem = "hangs"
    except (OSError, httptools.HttpParserError) as error:
        told.problem = f"{type(error).__name__}: {error}"
    finally:
        told.seconds = time.perf_counter() - started
        if writer is not None:
            writer.close()
    return told


async def _read(
    reader: asyncio.StreamReader, told: Told, started: float, leave: Callable[[Told], bool] | None, pause: float
) -> None:
    calls = _Reader(told, started)
    parser = httptools.HttpResponseParser(calls)
    try:
        while not told.is_whole:
            data = await reader.read(1024 if pause else 65536)
            if not data:
                told.problem = "closed"
                return
            try:
                parser.feed_data(data)
            finally:
                if calls.has_head and not told.status:
                    told.status = parser.get_status_code()
            if leave is not None and leave(told):
                return
            if pause:
                await asyncio.sleep(pause)
    finally:
        calls.end()


async def ask_all(address: str, bodies: list[dict[str, Any]], **more: Any) -> list[Told]:
    """All at once; the answers in order of the bodies."""
    return list(await asyncio.gather(*(ask(address, body, **more) for body in bodies)))


def ask_now(address: str, body: Mapping[str, Any] | bytes, *words: Any, **more: Any) -> Told:
    """`ask` outside of an event loop."""
    return asyncio.run(ask(address, body, *words, **more))


def raw(address: str, *parts: bytes, timeout: float = 10.0, half_close: bool = True) -> bytes:
    """Send bytes as they are; what came until the server closed. Raises `TimeoutError` when it does not close."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as sock:
        got = b""
        try:
            for part in parts:
                sock.sendall(part)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server has said its word already
        try:
            while data := sock.recv(65536):
                got += data
        except TimeoutError:
            raise
        except OSError:
            pass
        return got


def slam(sock: socket.socket) -> None:
    """Close with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
