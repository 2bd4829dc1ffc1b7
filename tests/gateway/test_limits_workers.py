"""Limits over several workers: bursts, retries, broken streams, kills and restarts; never over, and nothing lost.

Replicas count what they were asked and what they sent: that, not what the gateway says, is held against the limits.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mainspring.decide.limits import block
from mainspring.monitoring.metered import origin
from mainspring.monitoring.predictions import PredictionStore
from mainspring.testing.serving import Site
from mainspring.testing.stage import stats, within
from mainspring.testing.streaming import Told
from mainspring.testing.tenants import Tenancy, as_limit

WORKERS = 3
IN_HAND = 2
"""Blocks that a worker may hold of a limit: one that it leased, and one that came back."""
GAP = "fake:gap-ms=25"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Tenancy]:
    """Three workers with one ledger before two fakes."""
    with Site(tmp_path) as site:
        made = Tenancy(site)
        made.start_fakes(2)
        made.start_workers(*(f"gateway-{number}" for number in range(WORKERS)))
        yield made
        for worker in made.workers:
            assert "Traceback" not in worker.log.read_text()


@dataclass
class Burst:
    """Clients that ask for one tenant, each again and again until it is refused for good or has had enough."""

    shop: Tenancy
    key: str
    chance: random.Random
    tolds: list[tuple[float, Told]] = field(default_factory=list)  # when each began, and what came of it

    def prompt(self) -> str:
        """A prompt of some 25 tokens for an answer of 1 to 20, sometimes one that its replica breaks off."""
        fault = self.chance.choice(["", "", "", "", f"fake:close-mid-stream={self.chance.randint(0, 5)}",
                                    f"fake:error-mid-stream={self.chance.randint(0, 5)}"])  # fmt: skip
        return f"fake:tokens={self.chance.randint(1, 20)} {GAP} {fault:28} " + "words " * 5

    async def client(self, until: float) -> None:
        """One of them: any worker, streams and whole answers; it leaves some streams, and comes again when told to."""
        chance = random.Random(self.chance.random())
        while time.monotonic() < until:
            living = [worker.address for worker in self.shop.workers if worker.popen.poll() is None]
            after = chance.randint(1, 8) if chance.random() < 0.2 else 99
            began = time.monotonic()
            told = await self.shop.asking(
                self.key, self.prompt(), at=chance.choice(living), stream=chance.random() < 0.8, tokens=20,
                leave=lambda told, after=after: len(told.events) >= after,
            )  # fmt: skip
            self.tolds.append((began, told))
            if told.status == 429 and told.json()["error"]["code"] == "insufficient_quota":
                return
            if told.status in (0, 429, 503):
                await asyncio.sleep(0.05)

    async def run(self, clients: int, seconds: float) -> None:
        """All of them at once."""
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.client(until) for _ in range(clients)))

    def statuses(self) -> Counter[int]:
        """How many had which status."""
        return Counter(told.status for _, told in self.tolds)


def sent(shop: Tenancy) -> tuple[int, int]:
    """Requests that the replicas got, and tokens of prompts and answers."""
    within(5, lambda: shop.counted("running") == 0)
    return shop.counted("requests"), shop.counted("prompt_tokens") + shop.counted("output_tokens")


def records(shop: Tenancy, tenant: str) -> list[dict[str, Any]]:
    """All records of a tenant."""
    return [r for r in shop.site.records() if r["tenant"] == tenant]


def account(tenant: str) -> str:
    """Its name in the ledger."""
    return f"tenant/chat/{tenant}"


@pytest.mark.parametrize(("requests", "tokens"), [(90, 100_000), (10_000, 2_500)])
def test_a_burst_over_all_workers(shop: Tenancy, seed: int, requests: int, tokens: int) -> None:
    """Thirty clients on three workers: replicas get no more than the day's limit, and all of it but for what workers
    hold in hand; when all is quiet, ledger, records and replicas agree to the token.
    """
    room, day, words = "7 at_once", f"{requests} requests/day", f"{tokens} tokens/day"
    name = shop.tenant("acme", day, words, room)
    burst = Burst(shop, name, random.Random(seed))
    most = 0

    async def scenario() -> None:
        nonlocal most
        asked = asyncio.create_task(burst.run(30, 20.0))
        while not asked.done():
            running = await asyncio.to_thread(shop.counted, "running")
            most = max(most, running)
            await asyncio.sleep(0.02)
        await asked

    asyncio.run(scenario())
    got, used = sent(shop)
    left = sum(told.status == 200 and not told.ends and told.events != [] for _, told in burst.tolds)
    assert got <= requests
    # A stream that is left frees its place a moment before its replica has heard of it.
    assert 4 <= most <= 7 + 2
    found = records(shop, name)
    metered = sum(r["prompt_tokens"] + r["output_tokens"] for r in found)
    assert len(found) == got
    if requests < 1000:
        assert got >= requests - WORKERS * IN_HAND * block(requests)
    else:
        # The last request of each worker needs all that it reserves: 20 of an answer and its prompt, with a margin.
        assert used >= tokens - WORKERS * (IN_HAND * block(tokens) + 150) - 7 * 60
        assert metered <= tokens
    within(6, lambda: shop.used(account(name), day) == got)
    within(6, lambda: shop.used(account(name), words) == metered)
    within(6, lambda: shop.used(account(name), room) == 0)
    whole = [r for r in found if not r["estimated"]]
    assert len(whole) > 20
    exact = sum(r["output_tokens"] for r in found)
    assert shop.counted("output_tokens") - 2 * left - broken(burst) <= exact <= shop.counted("output_tokens")


def broken(burst: Burst) -> int:
    """The most output tokens of whole answers that clients left, or that did not come whole: nobody had them."""
    return sum(20 for _, told in burst.tolds if told.status in (0, 502) or (not told.events and told.status != 429))


def test_a_minute_in_any_stretch(shop: Tenancy, seed: int) -> None:
    """Requests a second over three workers: in any stretch of t seconds at most `amount * (1 + t)` reach a replica."""
    name = shop.tenant("steady", "20 requests/s")
    times: list[float] = []

    async def client(chance: random.Random, until: float) -> None:
        while time.monotonic() < until:
            before = time.monotonic()
            told = await shop.asking(name, at=chance.choice(shop.workers).address, stream=False, tokens=1)
            if told.status == 200:
                times.append(before)
            else:
                assert told.headers["retry-after"] == "1"
                await asyncio.sleep(chance.uniform(0.0, 0.1))

    async def scenario() -> None:
        until = time.monotonic() + 3.0
        await asyncio.gather(*(client(random.Random(seed + i), until) for i in range(12)))

    began = time.monotonic()
    asyncio.run(scenario())
    seconds = time.monotonic() - began
    assert len(times) == shop.counted("requests") <= 20 * (1 + seconds)
    assert len(times) >= 20 * 2.0, "and not much less than is allowed: what refills is used"


def test_workers_on_one_port(tmp_path: Path) -> None:
    """Workers that share a port share the limits too: whichever the kernel gives a connection to."""
    with Site(tmp_path) as site:
        shop = Tenancy(site)
        shop.start_fakes(1)
        first = shop.worker("gateway-0", "--workers-share")
        for number in (1, 2):
            shop.worker(f"gateway-{number}", "--workers-share", "--port", first.address.rpartition(":")[2])
        name = shop.tenant("acme", "50 requests/day")
        time.sleep(0.2)  # `wait_for_keys` asks one of them, whichever that is

        async def scenario() -> Counter[int]:
            return Counter(t.status for t in await asyncio.gather(*(shop.asking(name, tokens=1) for _ in range(120))))

        found = asyncio.run(scenario())
        assert found[200] == shop.counted("requests") <= 50
        assert found[200] >= 50 - 3 * IN_HAND
        assert found[200] + found[429] == 120


@pytest.mark.slow
def test_kills_and_restarts(shop: Tenancy, seed: int, tmp_path: Path) -> None:
    """Workers are killed in the middle of bursts and come again under their names: what replicas get stays within the
    limits; what was under way is an orphan, once; what ended is metered, once; the places of the dead are free.
    """
    requests, tokens = 260, 60_000
    day, words, room = f"{requests} requests/day", f"{tokens} tokens/day", "8 at_once"
    name = shop.tenant("acme", day, words, room)
    chance = random.Random(seed)
    burst = Burst(shop, name, chance)
    killed: list[tuple[float, str]] = []

    async def kill(number: int) -> None:
        victim = shop.workers[number]
        await asyncio.to_thread(victim.kill)
        killed.append((time.monotonic(), victim.address))
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        await asyncio.to_thread(shop.restart, number)

    async def scenario() -> None:
        asked = asyncio.create_task(burst.run(24, 25.0))
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0.5, 0.9))
            await kill(chance.randrange(WORKERS))
        await asked

    asyncio.run(scenario())
    got, used = sent(shop)
    found, orphans = records(shop, name), orphans_of(shop)
    under_way = [told for _, told in burst.tolds if told.status == 200 and told.events and not told.ends
                 and told.problem]  # fmt: skip
    died = len(killed)
    assert got <= requests
    assert used <= tokens
    assert got >= min(requests, len(found)) > 60
    # An answer that was whole may have gone to a client with its worker's last breath: written down, not counted twice.
    assert len({(r["n"], r["seconds"]) for r in found}) == len(found)
    in_hand = (WORKERS + died) * IN_HAND
    in_flight = 8 * died
    count = shop.used(account(name), day)
    assert got <= count <= min(requests, got + in_hand * block(requests) + in_flight)
    within(6, lambda: shop.used(account(name), room) == 0)
    metered = sum(r["prompt_tokens"] + r["output_tokens"] for r in found)
    lost = died * (8 * 500 + IN_HAND * block(tokens))
    assert metered <= shop.used(account(name), words) <= min(tokens, metered + lost)
    # Streams that were older than a quarter of a second when their worker was killed left a beginning.
    old = sum(1 for began, told in burst.tolds if told in under_way and any(
        began + 0.25 < at <= began + told.seconds + 0.1 for at, _ in killed))  # fmt: skip
    assert old <= len(orphans)
    assert len(orphans) <= in_flight
    assert_metered_once(shop, name, found, orphans, tmp_path / "predictions.db")


def assert_metered_once(
    shop: Tenancy, name: str, found: list[dict[str, Any]], orphans: list[dict[str, Any]], path: Path
) -> None:
    """What the prediction store takes in is each record once, and each orphan with its prompt alone."""
    store = PredictionStore(path, shop.site.folder / "segments", lambda *_: None)
    store.ingest({worker.name for worker in shop.workers})
    rows = [one for one in store.used(0, 10**7) if one.tenant == name]
    store.close()
    assert sum(one.orphans for one in rows) == len(orphans)
    assert sum(one.requests for one in rows) == len(found) + len(orphans)
    assert sum(one.output for one in rows) == sum(r["output_tokens"] for r in found)
    assert sum(one.prompt for one in rows) == sum(one["prompt_tokens"] for one in (*found, *orphans))


def orphans_of(shop: Tenancy) -> list[dict[str, Any]]:
    """Beginnings without an end, by worker, boot and number."""
    begun: dict[tuple[Any, ...], dict[str, Any]] = {}
    ended: set[tuple[Any, ...]] = set()
    for path in (shop.site.folder / "segments").glob("*.jsonl"):
        worker, boot, _ = origin(path.name)
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = msgspec.json.decode(line)
            key = (worker, boot, record.get("n"))
            if record.get("k", "p") == "b":
                assert key not in begun, "a beginning is written once"
                begun[key] = record
            else:
                ended.add(key)
    return [record for key, record in begun.items() if key not in ended]


def test_a_killed_worker_frees_its_places(shop: Tenancy) -> None:
    """All places at once are with a worker that is killed: another lets in as many at its next question."""
    name = shop.tenant("acme", "4 at_once")
    victim, other = shop.workers[:2]

    async def scenario() -> None:
        held = [asyncio.create_task(shop.asking(name, f"fake:tokens=400 {GAP}", at=victim.address)) for _ in range(4)]
        await asyncio.sleep(0.3)
        assert (await shop.asking(name, at=other.address)).status == 429
        await asyncio.to_thread(victim.kill)
        assert all(told.problem for told in await asyncio.gather(*held))
        fresh = [asyncio.create_task(shop.asking(name, f"fake:tokens=20 {GAP}", at=other.address)) for _ in range(4)]
        await asyncio.sleep(0.2)
        assert (await shop.asking(name, at=shop.workers[2].address)).status == 429
        assert all(told.is_done for told in await asyncio.gather(*fresh))

    asyncio.run(scenario())
    assert len(orphans_of(shop)) == 4
    assert {one["tenant"] for one in orphans_of(shop)} == {name}


def test_a_worker_that_ends_in_order_gives_all_back(shop: Tenancy) -> None:
    """After SIGTERM a worker's streams end, and of all limits exactly what was used is counted."""
    name = shop.tenant("acme", "5000 tokens/day", "3 at_once", "1000 requests/day")
    victim = shop.workers[0]

    async def scenario() -> None:
        held = [asyncio.create_task(shop.asking(name, f"fake:tokens=20 {GAP}", at=victim.address, tokens=900))
                for _ in range(3)]  # fmt: skip
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(victim.stop) == 0
        assert all(told.is_done for told in await asyncio.gather(*held))

    asyncio.run(scenario())
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in records(shop, name))
    within(6, lambda: shop.used(account(name), "5000 tokens/day") == used)
    within(6, lambda: shop.used(account(name), "3 at_once") == 0)
    within(6, lambda: shop.used(account(name), "1000 requests/day") == 3)


def test_the_ledger_is_deleted_under_way(shop: Tenancy) -> None:
    """Somebody removes the file: what was used is forgotten, which the log says; limits hold from there, and no
    request fails because of it.
    """
    name = shop.tenant("acme", "40 requests/day", "4000 tokens/day", "4 at_once")
    assert [shop.ask(name, tokens=5).status for _ in range(10)] == [200] * 10
    Path(shop.ledger).unlink()
    found = Counter(shop.ask(name, tokens=5).status for _ in range(60))
    assert set(found) == {200, 429}
    assert 40 - IN_HAND * block(40) <= found[200] <= 40 + IN_HAND * block(40)
    assert "has gone" in shop.workers[0].log.read_text()


def test_a_replica_that_dies_and_retries(shop: Tenancy) -> None:
    """A request that is sent to a second replica counts once, with the tokens of the answer that came."""
    name = shop.tenant("acme", "30 requests/day", "5000 tokens/day")
    victim = shop.fakes[0]

    async def scenario() -> list[Told]:
        asked = [asyncio.create_task(shop.asking(name, "fake:first-ms=600 fake:tokens=7", tokens=9)) for _ in range(8)]
        await asyncio.sleep(0.3)
        assert stats(victim)["running"] == 4
        await asyncio.to_thread(victim.kill)
        return list(await asyncio.gather(*asked))

    shop.route(retry_share=10_000)
    tolds = asyncio.run(scenario())
    assert all(told.is_done for told in tolds), [str(told) for told in tolds]
    found = records(shop, name)
    assert sorted(r["tries"] for r in found) == [1] * 4 + [2] * 4
    assert [r["output_tokens"] for r in found] == [7] * 8
    within(6, lambda: shop.used(account(name), "30 requests/day") == 8)
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in found)
    within(6, lambda: shop.used(account(name), "5000 tokens/day") == used)


def test_limits_are_read_as_they_are_written() -> None:
    """The test's own short form of a limit means what it says."""
    assert (as_limit("$0.5/month").what, as_limit("$0.5/month").amount) == ("dollars", 500_000_000)
    assert (as_limit("7 at_once").what, as_limit("7 at_once").per) == ("at_once", "")
