"""A noisy tenant beside quiet ones, on a real gateway: short, and so only what can't be missed.

`make bench-fairness` measures it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from mainspring.testing.serving import Site
from mainspring.testing.streaming import Told
from mainspring.testing.tenants import Tenancy

ANSWER = "fake:tokens=10 fake:gap-ms=10"  # a tenth of a second of a slot
SECONDS = 3.0


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Tenancy]:
    """A gateway before one fake of four slots: 40 requests a second at the most."""
    with Site(tmp_path) as site:
        made = Tenancy(site, fields={"slots": 4, "queue": 40})
        made.start_fakes(1, "--slots", "4")
        made.worker()
        yield made


async def steadily(shop: Tenancy, key: str, rate: float, seed: int, prompt: str = ANSWER) -> list[Told]:
    """Poisson arrivals for a while."""
    chance, tasks, until = random.Random(f"{key} {seed}"), [], time.monotonic() + SECONDS
    while time.monotonic() < until:
        tasks.append(asyncio.create_task(shop.asking(key, prompt)))
        await asyncio.sleep(chance.expovariate(rate))
    return list(await asyncio.gather(*tasks))


def seconds(tolds: list[Told]) -> float:
    """The median time of those that were answered; nobody may have been turned away."""
    assert all(told.is_done for told in tolds), [str(told) for told in tolds if not told.is_done]
    return median(told.seconds for told in tolds)


def test_a_noisy_tenant_is_held_back(shop: Tenancy, seed: int) -> None:
    """One of three tenants floods the endpoint: the others are all answered, in about an answer's time, while it waits
    behind its own and is turned away; the replica is busy all the while.
    """
    for name in ("a", "b", "noisy"):
        shop.tenant(name)

    async def scenario() -> list[list[Told]]:
        asked = [steadily(shop, name, rate, seed) for name, rate in (("a", 8.0), ("b", 8.0), ("noisy", 90.0))]
        return list(await asyncio.gather(*asked))

    began = time.monotonic()
    a, b, noisy = asyncio.run(scenario())
    took = time.monotonic() - began
    good = [told for told in noisy if told.is_done]
    assert {told.status for told in noisy} == {200, 429}
    waits = median(told.seconds for told in good[len(good) // 2 :])
    assert seconds(a) < waits / 2
    assert seconds(b) < waits / 2
    assert len(a) + len(b) + len(good) > 0.6 * 40 * took, "nothing stands idle"
    assert all("overloaded" not in told.body.decode() for told in noisy)


def test_shares_hold_while_all_want_more(shop: Tenancy, seed: int) -> None:
    """With shares of 1 and 3 and both flooding, answered work is divided so, though one asks for longer answers."""
    shop.tenant("one", share=1.0)
    shop.tenant("three", share=3.0)
    longer = "fake:tokens=20 fake:gap-ms=10"

    async def scenario() -> tuple[list[Told], list[Told]]:
        first = steadily(shop, "one", 50.0, seed)
        return await asyncio.gather(first, steadily(shop, "three", 50.0, seed, longer))  # type: ignore[return-value]

    asyncio.run(scenario())
    ended = [r for r in shop.site.records() if r["end"] == "done"]
    first, last = min(r["at"] for r in ended), min(r["at"] for r in ended) + SECONDS
    within = [r for r in ended if first + 1.0 < r["at"] + r["seconds"] < last]
    work = {name: sum(r["output_tokens"] for r in within if r["tenant"] == name) for name in ("one", "three")}
    assert 1.8 < work["three"] / work["one"] < 4.5, work


def test_high_priority_goes_first(shop: Tenancy, seed: int) -> None:
    """While others flood, a tenant of high priority is answered as if alone; of low, it is turned away first."""
    shop.tenant("high", priority=0)
    shop.tenant("usual")
    shop.tenant("low", priority=2)

    async def scenario() -> list[list[Told]]:
        asked = [steadily(shop, name, rate, seed) for name, rate in (("high", 6.0), ("usual", 60.0), ("low", 60.0))]
        return list(await asyncio.gather(*asked))

    high, usual, low = asyncio.run(scenario())
    done = [sum(told.is_done for told in tolds) / len(tolds) for tolds in (usual, low)]
    assert seconds(high) < median(told.seconds for told in usual if told.is_done) / 2
    assert done[1] < done[0] / 2
