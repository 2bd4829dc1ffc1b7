"""Whether the server elsewhere is well: asked again and again, and told when that changes.

Who calls it: `__main__`. What it must never do: call one lost answer an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mainspring.replicas.external.upstream import Answer, Failed, Upstream

FAILS = 2
"""Failures in a row that make it unwell."""
AGAIN = 1.0
"""Seconds until it is asked again after a failure."""


async def watch(upstream: Upstream, path: str, headers: bytes, every: float, told: Callable[[bool, str], None]) -> None:
    """Ask every `every` seconds while it runs; `told` gets (well, why not) at the first look and at each change."""
    well: bool | None = None
    fails = 0
    while True:
        why = await _why_not(upstream, path, headers)
        fails = fails + 1 if why else 0
        now = not why if not why or fails >= FAILS or well is None else well
        if now != well:
            told(now, why)
        well = now
        await asyncio.sleep(min(every, AGAIN) if why else every)


async def _why_not(upstream: Upstream, path: str, headers: bytes) -> str:
    """Why it is not well; "" when it is."""
    answer: Answer | None = None
    try:
        answer = await upstream.ask("GET", path, headers)
        await answer.whole()
    except Failed as failure:
        if answer is not None:
            answer.abort()
        return str(failure)
    return "" if 200 <= answer.status < 300 else f"`{path}` answers with {answer.status}"
