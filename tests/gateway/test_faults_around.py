"""What goes wrong around the replicas: full queues, slow readers, lost regions, no controller, stops and drains."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator

import pytest

from mainspring.testing.serving import Process, Site, call
from mainspring.testing.stage import Stage, memory, stats, within
from mainspring.testing.streaming import CHAT, Told, chat, wire


@pytest.fixture
def stage(tmp_path) -> Iterator[Stage]:
    """A gateway of its own: some of these stop it."""
    with Site(tmp_path) as site:
        yield a_gateway(site)


def a_gateway(site: Site, *options: str) -> Stage:
    site.route([])
    gateway = site.gateway("gateway-0", *site.exits, *options)
    gateway.wait_ready()
    return Stage(site, gateway)


async def streams(stage: Stage, count: int, words: str = "fake:tokens=40 fake:gap-ms=20") -> list[asyncio.Task[Told]]:
    """So many streams, all of them begun."""
    tasks = [asyncio.create_task(stage.asking(f"{i} {words}", f"s-{i}", timeout=60)) for i in range(count)]
    until = time.monotonic() + 20
    while stage.metric("mainspring_streams") < count:
        assert time.monotonic() < until, "the streams do not begin"
        await asyncio.sleep(0.02)
    return tasks


# --- too many, too slow


def test_a_full_queue(stage: Stage) -> None:
    """What is over `queue` gets 429 and Retry-After at once; what is inside is answered; nothing hangs."""
    [fake] = stage.fakes(1, "--slots", "1", "--first-ms", "100")
    stage.route([fake], queue=4, slots=1)

    async def run() -> list[Told]:
        return list(await asyncio.gather(*(stage.asking(f"{i}", f"q-{i}", stream=bool(i % 2)) for i in range(12))))

    tolds = asyncio.run(run())
    full = [told for told in tolds if told.status == 429]
    assert len(full) == 8, [str(told) for told in tolds]
    for told in full:
        assert told.json()["error"]["code"] == "rate_limit_exceeded"
        assert told.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(told.headers["retry-after"]) <= 60
        assert told.seconds < 1
    assert all(told.status == 200 for told in tolds if told not in full)
    assert stats(fake)["requests"] == 4
    assert stage.ask("and after").is_done


def test_a_full_queue_and_nobody_there(stage: Stage) -> None:
    """With no replica it is 503: at once when the queue is full, else when time is up."""
    stage.route([], queue=2, timeout_s=0.5)

    async def run() -> list[Told]:
        return list(await asyncio.gather(*(stage.asking(f"{i}") for i in range(5))))

    tolds = asyncio.run(run())
    assert {told.status for told in tolds} == {503}
    assert all(int(told.headers["retry-after"]) >= 1 for told in tolds)
    assert sorted(told.seconds > 0.4 for told in tolds) == [False] * 3 + [True] * 2
    assert {told.json()["error"]["type"] for told in tolds} == {"server_error"}
    assert {told.json()["error"]["code"] for told in tolds} <= {"no_replica", "overloaded"}


def slow_readers(address: str, count: int) -> list[socket.socket]:
    """Clients that ask for a megabyte each, and read nothing."""
    host, _, port = address.rpartition(":")
    request = wire(CHAT, json.dumps(chat("fake:tokens=60000")).encode())
    found = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        sock.sendall(request)
        found.append(sock)
    return found


@pytest.mark.slow
def test_a_thousand_slow_readers(stage: Stage) -> None:
    """They cost a bounded bit of memory each, and a quick client nothing; when they leave, all of it is let go."""
    fakes = stage.fakes(2)
    stage.route(fakes, queue=2_000, timeout_s=60.0, idle_s=1.0)
    before = memory(stage.gateway)
    slow = slow_readers(stage.address, 1_000)
    try:
        within(20, lambda: stage.metric("mainspring_streams") == 1_000)
        time.sleep(0.5)  # the time in which what is not bounded would grow
        grown = memory(stage.gateway) - before
        assert grown < 400 << 20, f"{grown >> 20} MiB for 1,000 MB that nobody reads"
        seconds = sorted(stage.ask(f"quick {i}").seconds for i in range(100))
        assert seconds[98] < 0.5, f"p99 {seconds[98]:.3f} s"
        assert stage.metric("mainspring_streams") == 1_000, "who reads slowly is not thrown out by `idle_s`"
        # one of them reads on: it has lost nothing
        slow[0].settimeout(10)
        got, total = b"", 0
        while b"[DONE]" not in got:
            piece = slow[0].recv(1 << 20)
            assert piece
            total += len(piece)
            got = got[-100:] + piece
        assert total > 1_000_000
    finally:
        for sock in slow:
            sock.close()
    within(10, lambda: stage.metric("mainspring_streams") == 0)
    within(2, lambda: sum(stats(fake)["running"] for fake in fakes) == 0)
    assert sum(stats(fake)["cancelled"] for fake in fakes) == 999


# --- no controller


def test_the_controller_is_dead(stage: Stage) -> None:
    """Routes that are gone, torn or nonsense change nothing: running streams and new ones go by the last good table."""
    fakes = stage.fakes(2)
    stage.route(fakes)
    path = stage.site.folder / "routes.json"
    good = path.read_text()

    async def run() -> list[Told]:
        running = await streams(stage, 10)
        found = []
        for bad in (good[: len(good) // 2], "", "[]", "\x00" * 100, '{"epoch": 99, "endpoints": {"chat": 5}}', None):
            if bad is None:
                path.unlink()
            else:
                path.write_text(bad)
            await asyncio.sleep(0.12)
            found.append(await stage.asking("hello"))
        return [*await asyncio.gather(*running), *found]

    tolds = asyncio.run(run())
    assert all(told.is_done for told in tolds), [str(told) for told in tolds]
    stage.route(fakes[:1])
    assert stage.ask("hello").is_done


# --- regions


def test_a_region_is_lost(stage: Stage) -> None:
    """The near region answers; when all of it is dead, the far one does; when it is back, the near one again."""
    near, far = stage.fakes(2), stage.fakes(2)

    def route(replicas: list[Process]) -> None:
        regions = {fake.address: "far" if fake in far else "near" for fake in replicas}
        stage.route(replicas, regions=regions, home="near", near={"near": ["near", "far"], "far": ["far", "near"]})

    route(near + far)
    assert all(stage.ask(f"{i}").is_done for i in range(12))
    assert sum(stats(fake)["requests"] for fake in near) == 12
    assert all(stats(fake)["requests"] == 0 for fake in far)

    async def lose() -> list[Told]:
        running = await streams(stage, 8, "fake:tokens=30 fake:gap-ms=20")
        for fake in near:
            await asyncio.to_thread(fake.kill)
        after = [await stage.asking(f"after {i}") for i in range(10)]
        return [*await asyncio.gather(*running), *after]

    tolds = asyncio.run(lose())
    assert all(told.is_cut for told in tolds[:8]), [str(told) for told in tolds[:8]]
    assert all(told.is_done for told in tolds[8:]), [str(told) for told in tolds[8:]]
    assert sum(stats(fake)["requests"] for fake in far) == 10
    back = [stage.site.language(fake.name, "--port", fake.address.rpartition(":")[2]) for fake in near]
    for fake in back:
        fake.wait_ready()

    def is_near_again() -> bool:
        assert stage.ask("again").is_done
        return sum(stats(fake)["done"] for fake in back) >= 5

    within(15, is_near_again)
    far_before = sum(stats(fake)["requests"] for fake in far)
    assert all(stage.ask(f"{i}").is_done for i in range(10))
    assert sum(stats(fake)["requests"] for fake in far) == far_before


def test_a_region_says_where_it_comes_from(stage: Stage) -> None:
    """A request of another region goes where that one is near; a full region is passed over for one with room."""
    [near] = stage.fakes(1)
    [far] = stage.fakes(1)
    stage.route([near, far], regions={near.address: "near", far.address: "far"}, home="near", slots=1,
                near={"near": ["near", "far"], "far": ["far", "near"]})  # fmt: skip
    body = json.dumps(chat("hello", stream=False)).encode()
    assert call(stage.address, "POST", CHAT, body, {"x-mainspring-region": "far"}).status == 200
    assert (stats(near)["requests"], stats(far)["requests"]) == (0, 1)
    assert call(stage.address, "POST", CHAT, body, {"x-mainspring-region": "nowhere"}).status == 200
    assert (stats(near)["requests"], stats(far)["requests"]) == (1, 1)

    async def run() -> list[Told]:
        running = await streams(stage, 1)
        told = await stage.asking("where there is room")
        return [told, *await asyncio.gather(*running)]

    assert all(told.is_done for told in asyncio.run(run()))
    assert (stats(near)["requests"], stats(far)["requests"]) == (2, 2)


# --- drains and stops


def test_the_drain_of_a_replica(stage: Stage) -> None:
    """A replica that is taken out of the routes gets nothing new, and its streams are whole; so for an endpoint."""
    fakes = stage.fakes(2)
    stage.route(fakes)

    async def run() -> tuple[list[Told], list[Told]]:
        running = await streams(stage, 20)
        before = stats(fakes[0])["requests"]
        assert before == 10
        await asyncio.to_thread(stage.route, fakes[1:])
        fresh = [await stage.asking(f"fresh {i}") for i in range(5)]
        assert stats(fakes[0])["requests"] == before
        await asyncio.to_thread(stage.route, [])  # and now nobody is there for new ones
        return list(await asyncio.gather(*running)), fresh

    running, fresh = asyncio.run(run())
    assert all(told.is_done for told in running), [str(told) for told in running]
    assert all(told.is_done for told in fresh)
    assert fakes[0].stop() == 0


@pytest.mark.slow
def test_a_stop_of_the_gateway(stage: Stage) -> None:
    """SIGTERM with 200 streams that end in time: all are whole and written down, nothing new is taken; exit 0."""
    stage.route(stage.fakes(2))

    async def run() -> list[Told]:
        running = await streams(stage, 200, "fake:tokens=50 fake:gap-ms=50")
        stage.gateway.popen.terminate()
        await asyncio.sleep(0.2)
        late = await stage.asking("too late", timeout=5)
        assert late.status in (0, 503), late
        return list(await asyncio.gather(*running))

    tolds = asyncio.run(run())
    assert all(told.is_done for told in tolds), [str(told) for told in tolds if not told.is_done][:3]
    assert stage.gateway.popen.wait(10) == 0
    ends = [stage.record(f"s-{i}")["end"] for i in range(200)]
    assert set(ends) == {"done"}


def test_a_stop_that_cannot_wait(tmp_path) -> None:
    """Streams that outlast the drain get exactly one error event: none just stops; all are written down."""
    with Site(tmp_path) as site:
        stage = a_gateway(site, "--drain", "0.5")
        stage.route(stage.fakes(2), timeout_s=60.0)

        async def run() -> list[Told]:
            running = await streams(stage, 100, "fake:tokens=600 fake:gap-ms=50")
            stage.gateway.popen.terminate()
            return list(await asyncio.gather(*running))

        tolds = asyncio.run(run())
        assert all(told.is_cut for told in tolds), [str(told) for told in tolds if not told.is_cut][:3]
        assert stage.gateway.popen.wait(10) == 0
        assert {stage.record(f"s-{i}")["end"] for i in range(100)} == {"cut"}


def test_a_kill_of_the_gateway(stage: Stage) -> None:
    """SIGKILL: no stream looks complete, and the replicas are free within a second."""
    fakes = stage.fakes(2)
    stage.route(fakes)

    async def run() -> list[Told]:
        running = await streams(stage, 20, "fake:tokens=600 fake:gap-ms=20")
        stage.gateway.popen.kill()
        return list(await asyncio.gather(*running))

    tolds = asyncio.run(run())
    assert all(told.ends == 0 and not told.is_whole for told in tolds)
    within(1, lambda: sum(stats(fake)["running"] for fake in fakes) == 0)
