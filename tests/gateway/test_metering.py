"""What is metered is what replicas sent: whole answers, streams, and streams that break off at every point."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainspring.monitoring.predictions import PredictionStore
from mainspring.testing.serving import Site
from mainspring.testing.stage import within
from mainspring.testing.streaming import CHAT, Told, ask_now, chat
from mainspring.testing.tenants import Tenancy, bearer

GAP = "fake:gap-ms=25"
IN_SOCKETS = 2
"""Events of a stream that a replica had sent when its client left, and that the gateway had not passed on: with 25 ms
between them there is one on its way at the most, unless the machine holds one of the three processes up.
"""
CUTS = ("close-mid-stream", "reset-mid-stream", "truncated-chunk", "garbage-mid-stream", "error-mid-stream",
        "stall-mid-stream")  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenancy]:
    """A gateway before two fakes; each test has tenants of its own."""
    with Site(tmp_path_factory.mktemp("metering")) as site:
        made = Tenancy(site, fields={"idle_s": 0.5, "slot_cores": 0.5, "core_price": 0.001})
        made.start_fakes(2)
        made.worker()
        yield made
        assert "Traceback" not in made.workers[0].log.read_text()


def records(shop: Tenancy, tenant: str, count: int) -> list[dict[str, Any]]:
    """All records of a tenant, of whom there are so many requests."""
    within(5, lambda: len([r for r in shop.site.records() if r["tenant"] == tenant]) >= count)
    found = [r for r in shop.site.records() if r["tenant"] == tenant]
    assert len(found) == count
    return found


def prompt_of(prompt: str) -> int:
    """The tokens that the fake counts in a chat of one message."""
    return -(-len(f"<user>{prompt}") // 4)


def spread(chance: random.Random, count: int) -> list[str]:
    """Prompts for answers of random lengths, alike to the gateway and to the fake."""
    return [f"fake:tokens={chance.randint(1, 30)} {'word ' * chance.randint(0, 200)}" for _ in range(count)]


def test_what_ended_is_exact(shop: Tenancy, seed: int) -> None:
    """Whole answers and streams in any shape: prompt, cached and output tokens are the replicas' own, to the token."""
    name = shop.tenant("exact", "1000000 tokens/day", "1000 requests/day", "50 at_once", "$9/month")
    chance = random.Random(seed)
    before = {what: shop.counted(what) for what in ("prompt_tokens", "cached_tokens", "output_tokens")}
    shapes = ["", "", GAP, "fake:split", "fake:joined", "fake:comments", "fake:crlf", "fake:early-head"]
    prompts = [f"{one} {chance.choice(shapes)}" for one in spread(chance, 60)]

    async def scenario() -> list[Told]:
        room = asyncio.Semaphore(12)

        async def one(number: int) -> Told:
            async with room:
                usage = {"stream_options": {"include_usage": True}} if number % 3 == 0 else {}
                return await shop.asking(name, prompts[number], id=f"exact-{number}", stream=number % 4 > 0,
                                         tokens=300, **(usage if number % 4 else {}))  # fmt: skip

        return list(await asyncio.gather(*(one(number) for number in range(len(prompts)))))

    tolds = asyncio.run(scenario())
    assert all(told.is_done or (told.status == 200 and not told.events) for told in tolds), [str(t) for t in tolds]
    found = {r["id"]: r for r in records(shop, name, len(prompts))}
    for what, earlier in before.items():
        assert sum(r[what] for r in found.values()) == shop.counted(what) - earlier, what
    for number, prompt in enumerate(prompts):
        record = found[f"exact-{number}"]
        assert record["prompt_tokens"] == prompt_of(prompt)
        assert record["end"] == ("done" if number % 4 else "")
        assert not record["estimated"]
        assert record["compute"] == pytest.approx(0.5 * (record["prefill"] + record["decode"]))
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in found.values())
    account = f"tenant/chat/{name}"
    within(6, lambda: shop.used(account, "1000000 tokens/day") == used)
    within(6, lambda: shop.used(account, "1000 requests/day") == len(prompts))
    within(6, lambda: shop.used(account, "50 at_once") == 0)
    spent = sum(int(r["compute"] / 0.5 * 0.5 * 0.001 * 1e9) for r in found.values())
    within(6, lambda: shop.used(account, "$9/month") == pytest.approx(spent, abs=len(prompts)))


def test_cut_at_every_point(shop: Tenancy) -> None:
    """A stream that its replica cuts after k tokens, in whatever way, is metered with those k, and with its prompt as
    such prompts have on average; a reset may take the last one with it from the socket.
    """
    name = shop.tenant("cut", "100000 tokens/day")
    assert shop.ask(name, "word " * 20, tokens=5).status == 200  # so that such prompts are known
    points = [(fault, k) for fault in CUTS for k in (0, 1, 2, 5, 9)]
    prompts = [f"fake:tokens=12 {GAP} fake:{fault}={k} " + "word " * 15 for fault, k in points]

    async def scenario() -> list[Told]:
        asked = [
            shop.asking(name, prompt, tokens=30, id=f"{fault}-{k}")
            for prompt, (fault, k) in zip(prompts, points, strict=True)
        ]
        return list(await asyncio.gather(*asked))

    tolds = asyncio.run(scenario())
    found = {r["id"]: r for r in records(shop, name, len(points) + 1)}
    for prompt, (fault, k), told in zip(prompts, points, tolds, strict=True):
        assert told.is_cut, (fault, k, str(told))
        record = found[f"{fault}-{k}"]
        assert record["end"] == ("late" if fault == "stall-mid-stream" else "cut")
        assert record["estimated"]
        assert k - (fault == "reset-mid-stream") <= record["output_tokens"] <= k, (fault, k)
        assert record["output_tokens"] == max(len(told.chunks) - 1, 0), "as many as were passed on"
        assert prompt_of(prompt) / 2 <= record["prompt_tokens"] <= prompt_of(prompt) * 2
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in found.values())
    within(6, lambda: shop.used(f"tenant/chat/{name}", "100000 tokens/day") == used)


def test_clients_that_leave_at_every_point(shop: Tenancy) -> None:
    """What was passed on to a client that left is metered: never more than the replicas sent, and less only by what
    was in the sockets. Before the first event it is the prompt alone; while it waited for a replica, nothing.
    """
    name = shop.tenant("left", "100000 tokens/day", "9 at_once")
    assert shop.ask(name, "word " * 20, tokens=5).status == 200
    before = shop.counted("output_tokens")
    points = [1, 2, 3, 6, 10, 15]

    async def scenario() -> list[Told]:
        return list(
            await asyncio.gather(
                *(
                    shop.asking(name, f"fake:tokens=400 {GAP} " + "word " * 15, tokens=500, id=f"left-{k}",
                                leave=lambda told, k=k: len(told.events) >= k)
                    for k in points
                )
            )
        )  # fmt: skip

    tolds = asyncio.run(scenario())
    within(2, lambda: shop.counted("running") == 0)
    sent = shop.counted("output_tokens") - before
    found = {r["id"]: r for r in records(shop, name, len(points) + 1) if r["id"].startswith("left-")}
    metered = sum(r["output_tokens"] for r in found.values())
    assert sent - IN_SOCKETS * len(points) <= metered <= sent
    for k, told in zip(points, tolds, strict=True):
        record = found[f"left-{k}"]
        assert (record["end"], record["status"], record["estimated"]) == ("gone", 200, True)
        assert record["output_tokens"] >= len(told.events) - 1, "the first event of a chat has no token"
        assert record["prompt_tokens"] > 0
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in shop.site.records() if r["tenant"] == name)
    within(6, lambda: shop.used(f"tenant/chat/{name}", "100000 tokens/day") == used)
    within(6, lambda: shop.used(f"tenant/chat/{name}", "9 at_once") == 0)


def test_leaving_before_the_first_event(shop: Tenancy) -> None:
    """Streamed or not, the prompt is charged once it is with a replica, and no output."""
    name = shop.tenant("early", "100000 tokens/day")
    assert shop.ask(name, "word " * 20, tokens=5).status == 200
    for stream in (True, False):
        told = ask_now(shop.address, chat("fake:first-ms=5000 " + "word " * 15, stream=stream, max_tokens=50),
                       CHAT, bearer(name) | {"x-request-id": f"early-{stream}"}, timeout=0.3)  # fmt: skip
        assert told.problem == "hangs"
    found = {r["id"]: r for r in records(shop, name, 3)}
    for stream in (True, False):
        record = found[f"early-{stream}"]
        assert (record["end"], record["output_tokens"], record["estimated"]) == ("gone", 0, True)
        assert record["prompt_tokens"] > 0
    within(2, lambda: shop.counted("running") == 0)


def test_leaving_the_queue_costs_nothing(tmp_path: Path) -> None:
    """Who leaves while waiting for a replica, or is sent away from the queue, pays nothing but the request."""
    with Site(tmp_path) as site:
        shop = Tenancy(site, fields={"slots": 1, "timeout_s": 0.8})
        shop.start_fakes(1, "--slots", "2")
        shop.worker()
        name = shop.tenant("queued", "100000 tokens/day", "100 requests/day")

        async def scenario() -> None:
            busy = [asyncio.create_task(shop.asking(name, f"fake:tokens=20 {GAP}", tokens=30)) for _ in range(2)]
            await asyncio.sleep(0.15)
            body = chat("never sent", max_tokens=50)
            left = await asyncio.to_thread(ask_now, shop.address, body, CHAT, bearer(name), timeout=0.15)
            assert left.problem == "hangs"
            assert all(told.is_done for told in await asyncio.gather(*busy))

        asyncio.run(scenario())
        found = records(shop, name, 3)
        [left] = [r for r in found if r["end"] == "gone"]
        assert (left["prompt_tokens"], left["output_tokens"], left["compute"], left["status"]) == (0, 0, 0.0, 499)
        used = sum(r["prompt_tokens"] + r["output_tokens"] for r in found)
        within(6, lambda: shop.used(f"tenant/chat/{name}", "100000 tokens/day") == used)
        assert shop.used(f"tenant/chat/{name}", "100 requests/day") == 3


def test_begun_is_written_of_what_lasts(shop: Tenancy) -> None:
    """A stream older than a tenth of a second is written down before its end; a quick answer only at its end."""
    name = shop.tenant("begun", keys={"begun-key": ()})

    async def scenario() -> None:
        stream = asyncio.create_task(shop.asking("begun-key", f"fake:tokens=60 {GAP}", id="long"))
        await asyncio.sleep(0.1)
        await asyncio.gather(*(shop.asking("begun-key", "quick", id=f"quick-{i}") for i in range(10)))
        await asyncio.to_thread(within, 1.0, lambda: bool(begun()))
        assert not stream.done()
        assert (await stream).is_done

    def begun() -> list[dict[str, Any]]:
        return [b for b in shop.site.records("b") if b["tenant"] == name]

    asyncio.run(scenario())
    found = {r["n"]: r for r in records(shop, name, 11)}
    assert len(found) == 11, "numbers are unique"
    long = next(n for n, r in found.items() if r["id"] == "long")
    assert long in [b["n"] for b in begun()]
    [of_long] = [b for b in begun() if b["n"] == long]
    assert (of_long["key"], of_long["revision"], of_long["endpoint"]) == ("begun-key", "chat-1", "chat")
    assert of_long["prompt_tokens"] > 0
    assert len(begun()) < 6, "quick ones are written once"


def test_the_meter_takes_in_what_was_written(shop: Tenancy, tmp_path: Path) -> None:
    """The prediction store's sums by tenant and key are those of the records."""
    name = shop.tenant("summed", keys={"sum-a": (), "sum-b": ()})
    for i in range(8):
        assert shop.ask(f"sum-{'ab'[i % 2]}", f"fake:tokens={i + 1}", stream=i % 3 > 0).status == 200
    found = records(shop, name, 8)
    store = PredictionStore(tmp_path / "predictions.db", shop.site.folder / "segments", lambda *_: None)
    store.ingest({"gateway-0"})
    store.ingest({"gateway-0"})
    rows = [one for one in store.used(0, 10**7) if one.tenant == name]
    store.close()
    assert {one.key for one in rows} == {"sum-a", "sum-b"}
    for one in rows:
        mine = [r for r in found if r["key"] == one.key]
        assert (one.requests, one.prompt, one.output) == (
            len(mine), sum(r["prompt_tokens"] for r in mine), sum(r["output_tokens"] for r in mine),
        )  # fmt: skip
        assert one.compute == pytest.approx(sum(r["compute"] for r in mine), abs=1e-5)
        assert one.orphans == 0
