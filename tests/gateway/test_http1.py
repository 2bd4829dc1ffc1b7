"""The HTTP server's deadlines and bounds, over real sockets, with the clock as an argument."""

from __future__ import annotations

import asyncio
import time

import pytest

from mainspring.wire.http1 import Handler, Request, Server


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


async def read_answer(sent: bytes, handler: Handler, *, until: bytes = b"0\r\n\r\n") -> bytes:
    """All that comes back for `sent`, up to the end of an answer or of the connection."""
    server = Server(handler)
    listener, port = await started(server)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.readuntil(until), 3)
    except asyncio.IncompleteReadError as error:
        return error.partial
    finally:
        writer.close()
        listener.close()


def in_pieces(request: Request) -> None:
    request.begin(200, b"x-a: b\r\n")
    request.send(b"data: 1\n\n")
    request.send(b"")
    request.end(b"data: [DONE]\n\n")
    request.send(b"too late")
    request.reply(500, b"too late")


@pytest.mark.parametrize("later", [False, True])
def test_answers_in_pieces(later: bool) -> None:
    """Pieces are chunks, whole and in order; nothing follows the end; the connection serves the next request."""

    def handler(request: Request) -> None:
        if later:
            asyncio.get_running_loop().call_later(0.01, in_pieces, request)
        else:
            in_pieces(request)

    one = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    got = asyncio.run(read_answer(one + one.replace(b"host", b"connection: close\r\nhost"), handler, until=b"never"))
    first, second = got.split(b"HTTP/1.1 200 OK\r\n")[1:]
    head, _, body = first.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"x-a: b" in head
    assert b"content-length" not in head
    assert body == b"9\r\ndata: 1\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    assert b"connection: close" in second
    assert second.endswith(body)


def test_pieces_for_an_old_client() -> None:
    """A client of HTTP/1.0 gets plain bytes, ended by the end of the connection."""
    sent = b"GET / HTTP/1.0\r\nconnection: keep-alive\r\nhost: x\r\n\r\n"
    got = asyncio.run(read_answer(sent, in_pieces, until=b"never"))
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"data: 1\n\ndata: [DONE]\n\n"


def test_slow_reader_is_told_of() -> None:
    """Who writes pieces is told when they pile up and when there is room again; another client is not held up."""

    async def scenario() -> tuple[list[bool], int, int]:
        told: list[bool] = []
        sent = 0

        def handler(request: Request) -> None:
            nonlocal sent
            if request.path == b"/quick":
                request.reply(200, b"now")
                return
            request.on_slow = told.append
            request.begin(200)
            while not told and sent < 64 << 20:
                request.send(b"x" * 65536)
                sent += 65536

        server = Server(handler)
        listener, port = await started(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65536)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while not told:
            await asyncio.sleep(0.01)
        other, other_writer = await asyncio.open_connection("127.0.0.1", port)
        other_writer.write(b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await asyncio.wait_for(other.readuntil(b"now"), 2)).startswith(b"HTTP/1.1 200")
        got = 0
        while told[-1] or got < sent:
            got += len(await asyncio.wait_for(reader.read(1 << 20), 2))
        for each in (writer, other_writer):
            each.close()
        listener.close()
        return told, sent, got

    told, sent, got = asyncio.run(scenario())
    assert told[:2] == [True, False]
    assert sent < 64 << 20
    assert got >= sent


def test_leaving_is_told_of() -> None:
    """A client that goes in the middle of an answer is told of at once; what is sent then goes nowhere."""

    async def scenario() -> float:
        gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        held: list[Request] = []

        def handler(request: Request) -> None:
            request.begin(200)
            request.on_gone = lambda: gone.set_result(time.monotonic())
            held.append(request)

        server = Server(handler)
        listener, port = await started(server)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        left = time.monotonic()
        writer.transport.abort()
        took = await asyncio.wait_for(gone, 2) - left
        held[0].send(b"x")
        held[0].end(b"y")
        listener.close()
        return took

    assert asyncio.run(scenario()) < 0.5


def test_drain_gives_up() -> None:
    """Answers that outlast the drain are ended by who is asked to, and only then is what is left broken off."""

    async def scenario() -> bytes:
        held: list[Request] = []

        def handler(request: Request) -> None:
            request.begin(200)
            held.append(request)

        server = Server(handler)
        listener, port = await started(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        await server.drain(0.05, lambda: held[0].end(b"sorry"))
        got = await asyncio.wait_for(reader.read(), 2)
        writer.close()
        listener.close()
        return got

    assert asyncio.run(scenario()).endswith(b"5\r\nsorry\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1_0\r\n\r\naaaaaaaaaa",
        b"GET / HTTP/1.1\r\nhost: x\r\n a: folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: b\rc\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_smuggling_is_refused(sent: bytes) -> None:
    """What two servers could read differently is a 4xx and the end of the connection, and reaches no handler."""
    handled: list[Request] = []

    def handler(request: Request) -> None:
        handled.append(request)
        request.reply(200, b"")

    got = asyncio.run(read_answer(sent, handler, until=b"never"))
    assert got.startswith(b"HTTP/1.1 4")
    assert not handled
