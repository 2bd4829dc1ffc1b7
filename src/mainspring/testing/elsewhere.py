"""Servers elsewhere, for tests of what stands in front of them: one that answers as it is told, one that speaks TLS.

Who calls it: tests. What it must never do: listen anywhere but on loopback, or outlive its context.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Self

from mainspring.testing.own_models import external_artefact
from mainspring.testing.serving import Process, Site

KEY = "sk-of-the-user-0123456789"
"""What the server elsewhere asks for."""
OWN = "internal-token-of-the-gateway"
"""What the forwarder asks for."""
HEADERS = {"authorization": f"Bearer {OWN}"}


def forwarder(
    site: Site,
    url: str,
    protocol: str = "openai",
    name: str = "far-1-0",
    *more: str,
    env: Mapping[str, str] | None = None,
    **settings: str | int,
) -> Process:
    """Start a forwarder to `url` (a version's `settings` besides); it is not ready yet."""
    folder = site.folder / f"artefact-{name}"
    external_artefact(folder, {"url": url, "protocol": protocol, **settings})
    words = ["mainspring.replicas.external", "--artefact", str(folder), "--name", name, "--model", "far",
             "--version", "1", "--code", str(site.folder / "code"), "--key-file", str(site.upstream_key(OWN)),
             "--protocol", protocol, "--health-every", "0.2", *more]  # fmt: skip
    return site.start(name, words, env={"FAR_KEY": KEY, **(env or {})})


def fake(site: Site, *options: str) -> Process:
    """A language server that asks for `KEY`, ready."""
    path = site.folder / "far.key"
    path.write_text(KEY)
    process = site.language("elsewhere", "--key-file", str(path), *options)
    process.wait_ready()
    return process


def answered(body: bytes, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    """An answer, as bytes; `more` are whole lines of headers."""
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), more, body)


def _ended(loop: asyncio.AbstractEventLoop, server: asyncio.Server, thread: threading.Thread) -> None:
    """Close a server, cancel its connections, and end its loop and thread."""

    async def end() -> None:
        server.close()
        mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        await asyncio.sleep(0.02)  # transports say that they are closed in the loop's next turns

    asyncio.run_coroutine_threadsafe(end(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


class Scripted:
    """A server that answers each request with what `answer` gives for its head; it keeps heads, counts connections."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.connections = 0
        self.closes = False  # each connection after its first answer, without having said so
        self.later = b""  # what it says after each answer, a moment later, unasked
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                self.heads.append(head)
                said = self.answer(head)
                writer.write(said)
                await writer.drain()
                if self.later:
                    await asyncio.sleep(0.02)
                    writer.write(self.later)
                if self.closes or b"connection: close" in said:
                    writer.close()
                    await writer.wait_closed()
                    return
        except (EOFError, OSError, asyncio.CancelledError):  # the other side has left, or the context ends
            writer.transport.abort()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _ended(self._loop, self._server, self._thread)


@contextlib.contextmanager
def terminated(address: str, context: ssl.SSLContext) -> Iterator[int]:
    """A port that speaks TLS and passes bytes on to `address`."""
    host, _, port = address.rpartition(":")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))

        async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    to.write(data)
                    await to.drain()
            to.close()

        try:
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer))
        except asyncio.CancelledError:  # the end of the context
            pass
        finally:
            for one in (writer, back):
                one.transport.abort()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        _ended(loop, server, thread)
