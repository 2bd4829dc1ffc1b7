"""The HTTP server's deadlines and bounds, over real sockets, with the clock as an argument."""

from __future__ import annotations

import asyncio
import time

import pytest

from mainspring.wire.http1 import Request, Server


async def started(server: Server) -> tuple[asyncio.Server, int]:
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    return listener, listener.sockets[0].getsockname()[1]


def echo(request: Request) -> None:
    request.reply(200, request.body)


@pytest.mark.parametrize(
    ("sent", "after", "answer"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n", 11.0, b"HTTP/1.1 408 "),  # headers too slow
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab", 61.0, b"HTTP/1.1 408 "),  # body too slow
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab", 11.0, None),  # a body may take longer
        (b"", 121.0, b""),  # idle: closed without a word
        (b"", 100.0, None),
    ],
)
def test_deadlines(sent: bytes, after: float, answer: bytes | None) -> None:
    """A request that comes in too slowly is told so and cut off; an unused connection is closed."""

    async def scenario() -> bytes | None:
        server = Server(echo, idle=120.0)
        listener, port = await started(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await asyncio.sleep(0.05)
        for connection in list(server.connections):
            connection.tick(time.monotonic() + after)
        try:
            return await asyncio.wait_for(reader.read(), 0.3)
        except TimeoutError:
            return None
        finally:
            writer.close()
            listener.close()

    got = asyncio.run(scenario())
    assert got is None if answer is None else got is not None and got.startswith(answer)


def test_no_more_connections_than_allowed() -> None:
    """One connection too many is refused with 503; when one goes, the next is served."""

    async def scenario() -> list[bytes]:
        server = Server(echo, max_connections=2)
        listener, port = await started(server)
        got = []
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        got.append(await asyncio.wait_for(streams[2][0].read(12), 2))
        streams[0][1].close()
        await asyncio.sleep(0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        got.append(await asyncio.wait_for(reader.read(12), 2))
        for _, other in [*streams, (reader, writer)]:
            other.close()
        listener.close()
        return got

    assert asyncio.run(scenario()) == [b"HTTP/1.1 503", b"HTTP/1.1 200"]


def test_chunked_and_continue() -> None:
    """A chunked body arrives whole, and `Expect: 100-continue` is answered first."""

    async def scenario() -> bytes:
        server = Server(echo)
        listener, port = await started(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        body = await reader.readexactly(5)
        writer.close()
        listener.close()
        return body

    assert asyncio.run(scenario()) == b"abcde"


def test_drain_waits_for_answers() -> None:
    """Draining closes idle connections at once and busy ones after their answer, which says so."""

    async def scenario() -> tuple[bytes, bytes]:
        held: list[Request] = []
        server = Server(held.append)
        listener, port = await started(server)
        idle, busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        busy[1].write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        draining = asyncio.ensure_future(server.drain(5.0))
        first = await asyncio.wait_for(idle[0].read(), 2)
        assert not draining.done()
        held[0].reply(200, b"bye")
        second = await asyncio.wait_for(busy[0].read(), 2)
        await draining
        for _, writer in (idle, busy):
            writer.close()
        listener.close()
        return first, second

    first, second = asyncio.run(scenario())
    assert first == b""
    assert b"connection: close" in second
    assert second.endswith(b"bye")
