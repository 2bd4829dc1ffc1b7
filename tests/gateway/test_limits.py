"""Limits through one real gateway: each kind, what a refusal says, what is given back, and what nobody else sees."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from mainspring.artefacts.manifest import Field
from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.serving import Site, call, infer_body
from mainspring.testing.stage import within
from mainspring.testing.streaming import CHAT, Told, ask_now, chat
from mainspring.testing.tenants import OPERATOR, Tenancy, bearer, limited

SLOW = "fake:tokens=200 fake:gap-ms=20"
LIMITS = "x-ratelimit-"


def let_in(shop: Tenancy, key: str, most: int, **more: Any) -> tuple[int, Told]:
    """Ask until it is refused; how many were let in, and the refusal."""
    for count in range(most + 1):
        told = shop.ask(key, **more)
        if told.status != 200:
            return count, told
    raise AssertionError(f"more than {most} are let in")


@pytest.mark.parametrize("whose", ["tenant", "key"])
@pytest.mark.parametrize(
    ("text", "fewest", "most"),
    [("3 requests/s", 3, 9), ("4 requests/day", 4, 4), ("300 tokens/min", 9, 13), ("300 tokens/day", 9, 12)],
)
def test_each_limit(shop: Tenancy, whose: str, text: str, fewest: int, most: int) -> None:
    """So many are let in and no more, of the tenant or of the key; the next one hears which limit, and until when."""
    name = f"{whose}-{text[:4]}-{text[-3:]}".replace(" ", "")
    limits = {"tenant": (text,), "key": ()}[whose]
    shop.tenant(name, *limits, keys={name: () if limits else (text,)})
    count, told = let_in(shop, name, most, prompt="fake:tokens=20", tokens=20)  # 25 with its prompt
    assert fewest <= count <= most
    if text.endswith("day"):
        wait = limited(told, 429, "insufficient_quota")
        assert 0 < wait <= 86_400
    else:
        wait = limited(told, 429, "rate_limit_exceeded")
        assert 1 <= wait <= 20
    amount, _, what = text.partition(" ")
    assert f"this {whose}'s limit is {amount} " in told.json()["error"]["message"]
    if not text.endswith("day"):
        assert told.headers[f"{LIMITS}limit-{what.partition('/')[0]}"] == amount


def test_whoever_waits_as_told_is_let_in(shop: Tenancy) -> None:
    """After `Retry-After` a request of the same size is let in, though several limits have been used up."""
    quick = shop.tenant("quick", "2 requests/s", "6000 tokens/min")
    for _ in range(2):
        _, told = let_in(shop, quick, 60, tokens=90)
        time.sleep(limited(told, 429, "rate_limit_exceeded"))
        assert shop.ask(quick, tokens=90).status == 200


def test_headers_on_every_answer(shop: Tenancy) -> None:
    """Whole answers, streams and refusals carry limit, what remains and when it is full again; others have none."""
    name = shop.tenant("headed", "10 requests/min", "10000 tokens/min", "9 requests/day")
    whole, stream = shop.ask(name, tokens=5), shop.ask(name, tokens=5, stream=True)
    refused = shop.ask(name, tokens=20_000)
    limited(refused, 400, "request_exceeds_limit")
    for told, left in ((whole, 9), (stream, 8), (refused, 8)):
        assert told.headers[f"{LIMITS}limit-requests"] == "10", "of the limit over the shortest time"
        assert told.headers[f"{LIMITS}remaining-requests"] == str(left)
        assert told.headers[f"{LIMITS}limit-tokens"] == "10000"
        assert 9_800 <= int(told.headers[f"{LIMITS}remaining-tokens"]) <= 10_000
        assert told.headers[f"{LIMITS}reset-requests"].endswith("s")
    assert int(whole.headers[f"{LIMITS}reset-requests"][:-1]) == 6
    assert not any(header.startswith(LIMITS) for header in shop.ask("first", tokens=1).headers)


def test_a_request_that_can_never_be_let_in(shop: Tenancy) -> None:
    """More than the limit itself: a 400 that says so and no `Retry-After`, in whatever shape it asks for it."""
    name = shop.tenant("never", "1000 tokens/min")
    shapes: list[dict[str, Any]] = [
        {"max_tokens": 2000},
        {"max_completion_tokens": 2000},
        {"max_tokens": 5, "max_completion_tokens": 2000},
        {"max_tokens": 300, "n": 4},
    ]
    for shape in shapes:
        told = ask_now(shop.address, chat("hello", stream=False) | shape, CHAT, bearer(name))
        assert limited(told, 400, "request_exceeds_limit") == 0
        assert "retry-after" not in told.headers
    hidden = json.dumps(chat("hello", stream=False)).replace("}]", '}], "max_\\u0074okens": 2000', 1).encode()
    limited(ask_now(shop.address, hidden, CHAT, bearer(name)), 400, "request_exceeds_limit")
    prompts = {"model": "chat", "prompt": ["a"] * 30, "max_tokens": 40}
    told = ask_now(shop.address, prompts, "/v1/completions", bearer(name))
    limited(told, 400, "request_exceeds_limit")
    assert shop.ask(name, tokens=5).status == 200
    for shape in ({"max_tokens": None}, {}):  # who does not say gets an answer that the limit has room for
        assert ask_now(shop.address, chat("hello", stream=False) | shape, CHAT, bearer(name)).status == 200


def test_context(shop: Tenancy) -> None:
    """A prompt with its answer may be as long as tenant and key allow, whichever is less; the answer is cut to fit."""
    name = shop.tenant("narrow", context=400, key_context=300)
    limited(shop.ask(name, "x" * 4_000, tokens=1), 400, "context_length_exceeded")
    limited(shop.ask(name, tokens=301), 400, "context_length_exceeded")
    assert shop.ask(name, tokens=250).status == 200
    assert shop.ask(name).status == 200
    most = json.loads(shop.last())["max_tokens"]
    assert 200 < most < 300
    wide = shop.tenant("wide", context=400)
    assert shop.ask(wide, tokens=301).status == 200


def test_what_is_changed_in_a_body(shop: Tenancy) -> None:
    """`max_tokens` is put in only where a limit has to know it; whoever says it is forwarded to the letter."""
    plain = shop.tenant("plain", "100 requests/min")
    counted = shop.tenant("counted", "10000 tokens/min")
    said = json.dumps(chat("hi", stream=False)).encode()
    asks = json.dumps(chat("hi", stream=False, max_tokens=7)).encode()
    for name, body, forwarded in ((plain, said, said), (counted, asks, asks)):
        assert ask_now(shop.address, body, CHAT, bearer(name)).status == 200
        assert shop.last().encode() == forwarded
    assert ask_now(shop.address, said, CHAT, bearer(counted)).status == 200
    assert shop.last().encode() == said[:-1] + b',"max_tokens":2500}', "a quarter of the limit"
    shop.route(context=1000)
    try:
        assert ask_now(shop.address, said, CHAT, bearer(counted)).status == 200
        assert 900 < json.loads(shop.last())["max_tokens"] < 1000, "the endpoint's context holds it"
        null = json.dumps(chat("hi", stream=False, max_tokens=None)).encode()
        assert ask_now(shop.address, null, CHAT, bearer(counted)).status == 200
        assert 900 < json.loads(shop.last())["max_tokens"] < 1000
    finally:
        shop.route(context=0)


def test_what_is_not_used_is_given_back(shop: Tenancy) -> None:
    """Of 5,000 tokens reserved and 6 used, 6 are gone, of a whole answer and of a stream: `remaining` says so."""
    name = shop.tenant("giver", "6000 tokens/day", "6000 tokens/min")
    for stream in (False, True) * 5:
        told = shop.ask(name, "fake:tokens=4", tokens=5000, stream=stream)
        assert told.status == 200, told
    assert int(shop.ask(name, tokens=1).headers[f"{LIMITS}remaining-tokens"]) > 5_800
    used = sum(r["prompt_tokens"] + r["output_tokens"] for r in shop.site.records() if r["tenant"] == name)
    assert used == shop.metric("mainspring_tenant_tokens_total", f'tenant="{name}"')


def test_failures_cost_no_tokens_and_no_money(shop: Tenancy) -> None:
    """Who gets no answer pays nothing: neither of the replica's errors, nor of one that closes or takes too long."""
    shop.route(slot_cores=1.0, core_price=0.01, timeout_s=0.4)
    try:
        name = shop.tenant("failed", "2000 tokens/h", "$5/month", "50 requests/day")
        for fault in ("error-500", "error-503", "vllm-error", "close-before-first", "short-body", "never-answer"):
            for stream in (False, True):
                assert shop.ask("first", tokens=1).status == 200, "so that no breaker opens"
                assert shop.ask(name, f"fake:first-ms=30 fake:{fault}", tokens=900, stream=stream).status >= 400
        told = shop.ask(name, tokens=1)
        assert told.status == 200, told
        assert int(told.headers[f"{LIMITS}remaining-tokens"]) > 1_950
        failed = [r for r in shop.site.records() if r["tenant"] == name and r["status"] != 200]
        assert len(failed) == 12
        [good] = [r["compute"] for r in shop.site.records() if r["tenant"] == name and r["status"] == 200]
        within(5, lambda: shop.used(f"tenant/chat/{name}", "$5/month") <= good * 0.01e9 + 1)
        assert {(r["prompt_tokens"], r["output_tokens"], r["compute"]) for r in failed} == {(0, 0, 0.0)}
    finally:
        shop.route(slot_cores=0.0, core_price=0.0, timeout_s=20.0)


def test_at_once(shop: Tenancy) -> None:
    """Two streams are on their way and a third is refused; when one has ended, or its client has left, it is let in."""
    name = shop.tenant("pair", "2 at_once")

    async def scenario() -> None:
        long = asyncio.create_task(shop.asking(name, "fake:tokens=60 fake:gap-ms=20"))
        leaves = asyncio.create_task(shop.asking(name, SLOW, leave=lambda told: len(told.events) > 15))
        await asyncio.sleep(0.15)
        refused = await shop.asking(name)
        assert limited(refused, 429, "rate_limit_exceeded") == 1
        assert refused.json()["error"]["message"] == "this tenant's limit is 2 requests at once; try again in 1 s"
        await leaves
        until = time.monotonic() + 2.0
        while not (await shop.asking(name)).is_done:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        assert not long.done(), "it was the place of the one that left"
        assert (await long).is_done
        assert [told.status for told in await asyncio.gather(*(shop.asking(name) for _ in range(2)))] == [200, 200]

    asyncio.run(scenario())


def test_at_once_changes_under_way(shop: Tenancy) -> None:
    """More or fewer at once, said while streams are open: afterwards exactly that many are let in."""
    name = shop.tenant("growing", "3 at_once")

    async def open_ones(count: int) -> list[asyncio.Task[Told]]:
        tasks = [asyncio.create_task(shop.asking(name, "fake:tokens=40 fake:gap-ms=20")) for _ in range(count)]
        await asyncio.sleep(0.2)
        return tasks

    async def scenario() -> None:
        for amount, before in ((5, 3), (2, 5)):
            open_ = await open_ones(before)
            await asyncio.to_thread(shop.tenant, name, f"{amount} at_once")
            assert all(told.is_done for told in await asyncio.gather(*open_))
            held = await open_ones(amount)
            assert (await shop.asking(name)).status == 429
            assert all(told.is_done for told in await asyncio.gather(*held))

    asyncio.run(scenario())


def test_a_budget_in_dollars(shop: Tenancy) -> None:
    """Seconds of a slot have a price; the month's budget is held to within one answer, and the records add up to it."""
    shop.route(slot_cores=2.0, core_price=0.5)
    try:
        warm = shop.tenant("warm")
        assert shop.ask(warm, "fake:first-ms=100", tokens=1).status == 200
        name = shop.tenant("frugal", "$0.5/month")
        count, told = let_in(shop, name, 12, prompt="fake:first-ms=100", tokens=1)
        assert 2 <= count <= 5
        wait = limited(told, 429, "insufficient_quota")
        assert 0 < wait <= 31 * 86_400
        assert "this tenant's limit is $0.5 a month" in told.json()["error"]["message"]
        spent = [r["compute"] * 0.5 for r in shop.site.records() if r["tenant"] == name]
        assert len(spent) == count
        assert min(spent) > 0.09
        assert sum(spent) <= 0.5 + max(spent)
    finally:
        shop.route(slot_cores=0.0, core_price=0.0)


def test_embeddings(shop: Tenancy) -> None:
    """They have a prompt and no answer: nothing is put into their bodies, and their tokens are counted."""
    name = shop.tenant("embedder", "1000 tokens/day")
    body = json.dumps({"model": "chat", "input": ["some words to embed"] * 3}).encode()
    told = ask_now(shop.address, body, "/v1/embeddings", bearer(name))
    assert told.status == 200
    prompt = told.json()["usage"]["prompt_tokens"]
    assert prompt > 3
    assert shop.metric("mainspring_tenant_tokens_total", f'tenant="{name}"', 'kind="prompt"') == prompt
    long = json.dumps({"model": "chat", "input": "x" * 9_000}).encode()
    for _ in range(2):
        told = ask_now(shop.address, long, "/v1/embeddings", bearer(name))
    assert told.status in (400, 429)


def test_predictions(shop: Tenancy, tmp_path: Path) -> None:
    """At the other door the same limits hold, in that protocol's words; tokens are not counted there."""
    folder = tmp_path / "artefact"
    tiny_artefact(folder, shop.site.folder / "code", fields=[Field("x0", "FP64")], columns=["x0"])
    replica = shop.site.replica(folder, "delay-1-0")
    row = {"name": "delay-1", "version": "1", "weight": 10_000, "replicas": [replica.wait_ready()]}
    limits = [{"what": "requests", "amount": 3, "per": "min"}, {"what": "tokens", "amount": 1, "per": "min"}]
    shop.beside["delay"] = {"revisions": [row], "auth": True, "tenants": {"oracle": {"limits": limits}}}
    try:
        name = shop.tenant("oracle", keys={"oracle": ("7 requests/day",)})
        shop.tenant("stranger")
        path, body = "/v2/models/delay/infer", infer_body({"x0": 1.0})
        replies = [call(shop.address, "POST", path, body, bearer(name)) for _ in range(4)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert replies[0].headers[f"{LIMITS}remaining-requests"] == "2"
        assert int(replies[3].headers["retry-after"]) <= 20
        assert "this tenant's limit is 3 requests a minute" in replies[3].json()["error"]
        assert call(shop.address, "POST", path, body, bearer("stranger")).status == 403
        assert call(shop.address, "POST", path, body, bearer(OPERATOR)).status == 401
        assert call(shop.address, "POST", path, body).status == 401
        assert [r["key"] for r in shop.site.records() if r["endpoint"] == "delay"] == ["oracle"] * 3
        assert [shop.ask(name, tokens=1).status for _ in range(5)] == [200] * 4 + [429], "the key's day is of both"
    finally:
        shop.beside.clear()
        shop.route()


def test_a_limit_of_zero_in_the_keys_file(shop: Tenancy) -> None:
    """A file that was written by hand: nothing is let in, with a plain refusal; a limit that is none is no file."""
    shop.tenant("zero", keys={"zero": ("0 requests/min",), "zero-2": ("0 tokens/day",), "zero-3": ("-4 at_once",)})
    for id in ("zero", "zero-2", "zero-3"):
        limited(shop.ask(id, tokens=1), 400, "request_exceeds_limit")
    shop.key_of("zero", {"zero-4": ("5 wishes/min",)})
    time.sleep(0.3)
    assert shop.ask("zero-4").status == 401
    assert shop.ask("first", tokens=1).status == 200, "the last good file stays"
    shop.revoke("zero-4")


@pytest.mark.parametrize("broken", ["folder", "file"])
def test_fail_open_and_closed(tmp_path: Path, broken: str) -> None:
    """Where limits can't be counted, `fail` says whether those who have some are let in; others always are."""
    (tmp_path / "file").write_text("")
    ledger = tmp_path / "file" / "ledger" if broken == "folder" else tmp_path / "folder"
    (tmp_path / "folder").mkdir()
    with Site(tmp_path / "site") as site:
        shop = Tenancy(site)
        shop.start_fakes(1)
        shop.worker("gateway-0", "--ledger", str(ledger))
        shop.tenant("held", "1 requests/min", "1000 tokens/day")
        shop.tenant("free")
        told = shop.ask("held", tokens=1)
        assert (told.status, told.json()["error"]["code"]) == (503, "limits_unavailable")
        assert told.headers["retry-after"] == "1"
        assert shop.ask("free").status == 200
        shop.route(fail_open=True)
        assert [shop.ask("held", tokens=1, stream=s).status for s in (True, False)] == [200, 200]
        assert shop.metric("mainspring_limits_uncounted_total") >= 3
        shop.route(fail_open=False)
        assert shop.ask("held", tokens=1).status == 503
        assert shop.workers[0].log.read_text().count("limits cannot be counted") <= 4


def test_a_full_queue_counts_no_request(tmp_path: Path) -> None:
    """Whoever finds no room has not used any of its limits."""
    with Site(tmp_path) as site:
        shop = Tenancy(site, fields={"slots": 1, "queue": 2})
        shop.start_fakes(1, "--slots", "1")
        shop.worker()
        shop.tenant("one", "4 requests/day", "5000 tokens/day")

        async def scenario() -> None:
            streams = [asyncio.create_task(shop.asking("one", SLOW, tokens=25)) for _ in range(2)]
            await asyncio.sleep(0.2)
            for _ in range(10):
                told = await shop.asking("one", tokens=25)
                assert (told.status, told.json()["error"]["code"]) == (429, "rate_limit_exceeded")
                assert "is its `queue`" in told.json()["error"]["message"]
            assert all(told.is_done for told in await asyncio.gather(*streams))
            assert [(await shop.asking("one", tokens=25)).status for _ in range(3)] == [200, 200, 429]

        asyncio.run(scenario())
