"""Requests that wait: in their order, let go when their client leaves, ended when their time is up, never twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

from mainspring.gateway.exchange import HELD, OVER, Exchange
from mainspring.gateway.hub import Hub
from mainspring.gateway.metrics import Metrics
from mainspring.gateway.outcome import Outcome
from mainspring.gateway.table import Table


class Waiting(Exchange):
    """A request that notes its outcomes."""

    __slots__ = ("outcomes",)

    def __init__(self, hub: Hub, timeout: float = 5.0) -> None:
        super().__init__(hub, hub.table.endpoints["chat"], b"GET / HTTP/1.1\r\n", b"", b"", timeout)
        self.outcomes: list[Outcome] = []

    def over(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def hub_at(folder: Path, *replicas: str) -> Hub:
    """A hub whose only endpoint has these replicas."""
    rows = [{"name": "chat-1", "version": "1", "weight": 10_000, "replicas": replicas}]
    table = {"epoch": time.monotonic_ns(), "endpoints": {"chat": {"revisions": rows, "connect_s": 0.2}}}
    (folder / "routes.json").write_text(json.dumps(table))
    made = Table(folder / "routes.json", folder / "ack.json", "b0")
    hub = Hub(made, Metrics())
    made.look()
    return hub


def test_held_and_let_go(tmp_path: Path) -> None:
    """Whoever leaves is forgotten at once, wherever it stands in the line; a deadline ends what is left, once."""

    async def scenario() -> None:
        hub = hub_at(tmp_path)
        held = [Waiting(hub) for _ in range(5)]
        for one in held:
            one.start()
        assert hub.waiting("chat") == 5
        for one in (held[3], held[0]):
            one.gone()
            one.gone()
        assert hub.waiting("chat") == 3
        hub.tick(time.monotonic() + 10)
        hub.tick(time.monotonic() + 20)
        assert hub.waiting("chat") == 0
        assert not hub.active
        assert [[o.status for o in one.outcomes] for one in held] == [[], [503], [503], [], [503]]
        assert {one.state for one in held} == {OVER}

    asyncio.run(scenario())


def test_the_order_is_kept(tmp_path: Path) -> None:
    """When a replica comes, those who wait are sent first, oldest first; who comes then waits behind them."""

    async def scenario() -> list[bytes]:
        seen: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while head := await reader.readuntil(b"\r\n\r\n"):
                    seen.append(head.partition(b"x-n: ")[2][:1])
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        hub = hub_at(tmp_path)
        held = [Waiting(hub) for _ in range(4)]
        for i, one in enumerate(held):
            one.headers = b"x-n: %d\r\n" % i
            one.start()
        assert {one.state for one in held} == {HELD}
        rows = [{"name": "chat-1", "version": "1", "weight": 10_000, "replicas": [address]}]
        (tmp_path / "routes.json").write_text(
            json.dumps({"epoch": 2, "endpoints": {"chat": {"revisions": rows, "slots": 1}}})
        )
        hub.table.look()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if all(one.outcomes for one in held):
                break
        assert [[o.status for o in one.outcomes] for one in held] == [[200]] * 4
        server.close()
        for upstream in hub.table.endpoints["chat"].revisions["chat-1"].upstreams:
            upstream.close()
        await asyncio.sleep(0.05)
        return seen

    assert asyncio.run(scenario()) == [b"0", b"1", b"2", b"3"]


def test_a_crash_of_ours_is_an_answer(tmp_path: Path) -> None:
    """When dealing with an outcome fails, that request is told, and others go on."""

    class Broken(Waiting):
        __slots__ = ("told",)

        def over(self, outcome: Outcome) -> None:
            raise RuntimeError(outcome.status)

        def crashed(self) -> None:
            self.told = True

    async def scenario() -> None:
        hub = hub_at(tmp_path)
        broken, good = Broken(hub, 0.0), Waiting(hub, 0.0)
        broken.start()
        good.start()
        hub.tick(time.monotonic() + 1)
        assert broken.told
        assert [o.status for o in good.outcomes] == [503]

    asyncio.run(scenario())
