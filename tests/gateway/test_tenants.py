"""Tenants and keys that come and go under way, and what one tenant has to do with another, on a real gateway."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from mainspring.testing.serving import Site, call
from mainspring.testing.stage import within
from mainspring.testing.streaming import CHAT, Told, ask_now, chat
from mainspring.testing.tenants import OPERATOR, Tenancy, bearer, limited, token_of

# --- tenants and keys that come and go


def test_a_tenant_is_removed_in_mid_stream(shop: Tenancy) -> None:
    """Its stream goes on to its end, is settled and written down as its own; its next request is a 403."""
    name = shop.tenant("leaver", "5000 tokens/day", "2 at_once")

    async def scenario() -> Told:
        stream = asyncio.create_task(shop.asking(name, "fake:tokens=50 fake:gap-ms=20", id="removed-1"))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(shop.remove, name)
        refused = await shop.asking(name)
        assert refused.status == 403
        assert refused.json()["error"]["code"] == "no_tenant"
        assert not stream.done()
        return await stream

    told = asyncio.run(scenario())
    assert told.is_done, told
    [record] = [r for r in shop.site.records() if r["id"] == "removed-1"]
    assert (record["end"], record["output_tokens"], record["tenant"], record["key"]) == ("done", 50, name, name)
    shop.tenant(name, "5000 tokens/day", "2 at_once")
    assert shop.ask(name, tokens=4_900).status == 200, "but what it used is still counted"


def test_a_key_is_revoked_in_mid_stream(shop: Tenancy) -> None:
    """Its stream goes on to its end; within a second the key is refused, also when it is used all the while."""
    name = shop.tenant("revoked", "9000 tokens/day", "9 at_once", keys={"rev-1": (), "rev-2": ()})

    async def scenario() -> Told:
        stream = asyncio.create_task(shop.asking("rev-1", "fake:tokens=60 fake:gap-ms=20", tokens=60, id="revoked-1"))
        await asyncio.sleep(0.1)
        shop.revoke("rev-1")
        until = time.monotonic() + 1.0
        while (told := await shop.asking("rev-1", tokens=1)).status == 200:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        assert told.status == 401
        assert told.json()["error"]["code"] == "invalid_api_key"
        for _ in range(5):
            assert (await shop.asking("rev-1")).status == 401
        assert (await shop.asking("rev-2", tokens=1)).is_done
        assert not stream.done()
        return await stream

    assert asyncio.run(scenario()).is_done
    [record] = [r for r in shop.site.records() if r["id"] == "revoked-1"]
    assert (record["end"], record["output_tokens"], record["tenant"]) == ("done", 60, name)


def test_a_key_of_no_tenant(shop: Tenancy) -> None:
    """Where an endpoint has tenants, a key of none, or of one that is not there, may not use it: 403."""
    shop.key_of("", {"nobody": ()})
    shop.key_of("elsewhere", {"foreign": ()})
    shop.wait_for_keys("nobody", "foreign")
    for id in ("nobody", "foreign"):
        told = shop.ask(id)
        assert (told.status, told.json()["error"]["code"]) == (403, "no_tenant")
    assert shop.ask(OPERATOR).status == 404
    assert shop.ask("").status == 401


# --- what one tenant has to do with another


def test_nobody_sees_another(shop: Tenancy) -> None:
    """Of all bytes that one tenant can get, none says another's name, key, limits or use."""
    other = shop.tenant("secret-other", "918273 tokens/day", "71717 requests/min", keys={"secret-key": ()}, share=3.25)
    mine = shop.tenant("nosy", "3 requests/s", "2000 tokens/min")
    for stream in (False, True):
        assert shop.ask("secret-key", "fake:tokens=37", stream=stream, tokens=77).status == 200
    tolds = [shop.ask(mine, stream=bool(i % 2), tokens=5) for i in range(8)]
    tolds += [shop.ask(mine, tokens=9_000), shop.ask("wrong"), shop.ask(mine, "fake:error-500")]
    paths = ("/v1/models", "/v1/models/chat", "/v1/models/secret-other", "/metrics", "/openapi.json", "/v2",
             "/v2/models/chat", "/v2/models/secret-other", "/internal/quiesce?timeout=0.1", "/nothing")  # fmt: skip
    for path in paths:
        for headers in (bearer(mine), {}):
            tolds.append(ask_now(shop.address, b"", path, headers, method="GET"))
    tolds += [ask_now(shop.address, chat("x", model=other), CHAT, bearer(mine))]
    seen = json.dumps([[told.headers, told.body.decode("latin-1"), told.events] for told in tolds])
    asked = seen.replace("the model `secret-other`", "").replace("endpoint `secret-other`", "")  # its own words
    for word in ("secret-other", "secret-key", "918273", "71717", "3.25", token_of("secret-key")):
        assert word not in asked, word
    assert 'tenant="' not in asked
    assert (
        f'mainspring_tenant_requests_total{{endpoint="chat",tenant="{other}"}} 2'
        in call(shop.address, "GET", "/metrics", headers=bearer(OPERATOR)).body.decode()
    )


def test_salts(shop: Tenancy) -> None:
    """Each tenant's prompts have a salt of their own, the same for all its keys and always, which says nothing."""
    one = shop.tenant("salty", "9000 tokens/day", keys={"salty-1": (), "salty-2": ()})
    shop.tenant("pepper")
    shop.route(salt="cache_salt")
    try:
        found = {}
        for id in ("salty-1", "salty-2", "pepper", "salty-1"):
            assert shop.ask(id, stream=id == "salty-2").status == 200
            salt = json.loads(shop.last())["cache_salt"]
            assert found.setdefault(id, salt) == salt
            assert len(salt) == 32
            assert int(salt, 16)
            assert one not in salt
        assert found["salty-1"] == found["salty-2"] != found["pepper"]
        told = shop.ask("pepper", cache_salt=found["salty-1"])
        assert (told.status, told.json()["error"]["param"]) == (400, "cache_salt")
        seen = str(shop.ask("salty-1", stream=True))
        assert found["salty-1"] not in seen
    finally:
        shop.route(salt="")


def test_ones_tools_do_not_swell_anothers_estimate(shop: Tenancy) -> None:
    """Long tools beside a short message count by their own length: who sends the same message without any is let in."""
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 4_000}}]
    # The fake counts messages only, so the tools' tokens stand in a message of a fault's kind: one that is long.
    heavy = shop.tenant("heavy")
    for _ in range(3):
        body = chat("z" * 20_000, stream=False, max_tokens=1) | {"tools": tools}
        assert ask_now(shop.address, body, CHAT, bearer(heavy)).status == 200
    light = shop.tenant("light", "200 tokens/min")
    told = shop.ask(light, "hello", tokens=20)
    assert told.status == 200, told
    body = chat("hello", stream=False, max_tokens=20) | {"tools": tools}
    told = ask_now(shop.address, body, CHAT, bearer(light))
    limited(told, 400, "request_exceeds_limit")


def test_a_refused_request_displaces_nobody(tmp_path: Path) -> None:
    """In a full queue, one that its own limits refuse takes nobody's place."""
    with Site(tmp_path) as site:
        shop = Tenancy(site, fields={"slots": 1, "queue": 6})
        shop.start_fakes(1, "--slots", "1")
        shop.worker()
        shop.tenant("busy")
        shop.tenant("over", "1 requests/day")
        assert shop.ask("over", tokens=1).status == 200

        async def scenario() -> list[Told]:
            waits = [asyncio.create_task(shop.asking("busy", "fake:tokens=5 fake:gap-ms=30")) for _ in range(6)]
            await asyncio.sleep(0.15)
            for _ in range(10):
                limited(await shop.asking("over"), 429, "insufficient_quota")
            return list(await asyncio.gather(*waits))

        assert all(told.is_done for told in asyncio.run(scenario()))
        assert shop.metric("mainspring_rejected_total", 'reason="displaced"') == 0


def test_records_and_metrics_say_whose(shop: Tenancy) -> None:
    """Tenant and key stand in each record and in the operator's metrics, and refusals by the limit."""
    name = shop.tenant("noted", "2 requests/min", keys={"noted-a": (), "noted-b": ()})
    for id in ("noted-a", "noted-b"):
        assert shop.ask(id, tokens=3, stream=id == "noted-b").status == 200
    assert shop.ask("noted-a").status == 429
    within(2, lambda: len([r for r in shop.site.records() if r["tenant"] == name]) == 2)
    found = [(r["key"], r["output_tokens"]) for r in shop.site.records() if r["tenant"] == name]
    assert found == [("noted-a", 3), ("noted-b", 3)]
    label = f'tenant="{name}"'
    assert shop.metric("mainspring_tenant_requests_total", label) == 2
    assert shop.metric("mainspring_tenant_tokens_total", label, 'kind="output"') == 6
    assert shop.metric("mainspring_tenant_refused_total", label, 'limit="requests"') == 1
