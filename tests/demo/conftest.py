"""A small gateway for tests: real HTTP on a real port, that can be told to refuse, to hang up, or to go away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httptools
import pytest


class Door:
    """Answers OIP requests with a fixed score; remembers each id and how often it came."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.truths: dict[str, Any] = {}
        self.refuse: list[int] = []  # statuses to answer with first
        self.hang_up_after: int | None = None  # answers before a connection is cut without one
        self.answers = 0
        self.server: asyncio.Server | None = None
        self.open: set[asyncio.BaseTransport] = set()

    async def start(self, port: int = 0) -> str:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", port)
        return f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for transport in list(self.open):
            transport.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    def answer(self, path: str, body: bytes) -> tuple[int, bytes] | None:
        if self.refuse:
            return self.refuse.pop(0), b'{"error":"not now"}'
        self.answers += 1
        if self.hang_up_after is not None and self.answers % self.hang_up_after == 0:
            return None
        request = json.loads(body)
        if path.endswith("/feedback"):
            self.truths |= {t["id"]: t["truth"] for t in request["feedback"]}
            return 200, b"{}"
        self.seen[request["id"]] = self.seen.get(request["id"], 0) + 1
        return 200, b'{"outputs":[{"name":"score","datatype":"FP64","shape":[1],"data":[0.25]}]}'


class _Connection(asyncio.Protocol):
    def __init__(self, door: Door) -> None:
        self.door = door
        self.parts: list[bytes] = []
        self.path = ""
        self.parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.door.open.add(transport)

    def connection_lost(self, _error: Exception | None) -> None:
        self.door.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.path = url.decode()

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        answer = self.door.answer(self.path, b"".join(self.parts))
        self.parts.clear()
        if answer is None:
            self.transport.abort()  # type: ignore[attr-defined]
            return
        status, body = answer
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)  # type: ignore[attr-defined]


@pytest.fixture
def new_door() -> Callable[[], Door]:
    """A function that makes a gateway for tests."""
    return Door
