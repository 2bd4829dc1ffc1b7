"""What all exchanges of a worker share: the table, those who wait, one clock, and word of how replicas ended.

Who calls it: `__main__` makes it and lets it watch the clock; exchanges use it. What it must never do: keep a request
past its deadline, or end one because this process itself was held up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

from mainspring.decide import admit, retry
from mainspring.gateway import health
from mainspring.gateway.exchange import HELD, OVER, Exchange
from mainspring.gateway.line import Line
from mainspring.gateway.metrics import Metrics
from mainspring.gateway.routing import Endpoint
from mainspring.gateway.table import Table
from mainspring.gateway.upstream import Upstream

log = logging.getLogger(__name__)

TICK = 0.05  # seconds between looks at the clock: how much later than its deadline a request may end
_HELD_UP = 0.25
_POST_MORTEM = 0.2  # seconds to wait for word of how a replica ended
_LOOK = 0.01
_STALE = 0.02  # seconds within which a connection that was closed while idle says so


class Hub:
    """What all exchanges of a worker share: the table, those who wait, and one clock."""

    def __init__(self, table: Table, metrics: Metrics, processes: Path | None = None) -> None:
        self.table, self.metrics = table, metrics
        self.upstream_key = b""  # the lines of a header that servers of others are asked with
        self._processes = processes
        self.active: set[Exchange] = set()
        self._held: dict[tuple[str, str], Line] = {}
        self._waking = False
        self._last_eject = 0.0
        table.on_change = self.wake_all

    # --- those who wait

    def waits(self, one: Exchange) -> bool:
        """Whether others wait already for what this one wants: it is not to overtake them."""
        return bool(self._held) and _key(one) in self._held

    def hold(self, one: Exchange, *, first: bool) -> None:
        """Keep it until something changes."""
        key = _key(one)
        line = self._held.get(key)
        if line is None:
            line = self._held[key] = Line()
        if first and one.turned:
            one.turned = False
            line.put_back(one)
        else:
            line.append(one)

    def let_go(self, one: Exchange) -> None:
        """It waits no longer: its client has left, or its time is up."""
        key = _key(one)
        line = self._held.get(key)
        if line is not None and line.remove(one) and not line.size:
            self._held.pop(key, None)

    def displaced(self, route: Endpoint, tenant: str) -> Exchange | None:
        """Who of those that wait at an endpoint gives way to a new request of a tenant; None: nobody does."""
        lines = [line for key, line in self._held.items() if key[0] == route.name]
        number, rows = {tenant: 0}, [[0.0, *route.standing(tenant)]]
        for line in lines:
            for whose, waiting, share, priority in line.standings():
                at = number.setdefault(whose, len(rows))
                if at == len(rows):
                    rows.append([0.0, share, priority])
                rows[at][0] += waiting
        waiting_of, share_of, priority_of = ([row[i] for row in rows] for i in range(3))
        at = admit.displaced([int(n) for n in waiting_of], share_of, [int(p) for p in priority_of], 0)
        if at == 0:
            return None
        whose = list(number)[at]
        found = [one for line in lines if (one := line.latest(whose)) is not None]
        return max(found, key=lambda one: one.since, default=None)

    def correct(self, one: Exchange, work: float) -> None:
        """A request is over that took so much `work`: what its turn was reckoned at is put right."""
        if one.turned and self._held:
            line = self._held.get(_key(one))
            if line is not None:
                line.correct(one.tenant, work - one.work)

    def freed(self, one: Exchange) -> None:
        """A replica that `one` was with has room."""
        if self._held and _key(one) in self._held:
            asyncio.get_running_loop().call_soon(self.wake, _key(one))

    def wake(self, key: tuple[str, str]) -> None:
        """Send those who wait, as their turns come, until one has to wait on."""
        line = self._held.get(key)
        while line is not None:
            one = line.next()
            if one is None:
                if self._held.get(key) is line:
                    del self._held[key]
                return
            if one.state != HELD:
                continue
            one.turned = True
            one.dispatch(woken=True)
            if one.state == HELD and _key(one) == key:
                return

    def wake_all(self) -> None:
        """Something has changed for all."""
        if self._waking:
            return
        self._waking = True
        try:
            for key in list(self._held):
                self.wake(key)
        finally:
            self._waking = False

    def waiting(self, endpoint: str) -> int:
        """How many wait at an endpoint."""
        return sum(line.size for key, line in self._held.items() if key[0] == endpoint)

    def oldest(self, endpoint: str, now: float) -> float:
        """Seconds that the one that waits longest at an endpoint has waited."""
        first = [line.oldest() for key, line in self._held.items() if key[0] == endpoint]
        return max((now - one.since for one in first if one is not None), default=0.0)

    # --- the clock

    async def watch(self) -> None:
        """Look at the clock every so often, for as long as it runs."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            before, last = last, time.monotonic()
            if last - before > _HELD_UP:
                continue  # this process stood still: what has come in meanwhile is read first, then judged
            try:
                self.tick(last)
            except Exception:  # a fault of ours costs one request, not the gateway
                log.exception("a deadline was not kept")

    def tick(self, now: float) -> None:
        """End what is over its time; try again for those who wait; look at replicas that are worse than others."""
        for one in [one for one in self.active if one.due <= now]:
            if one.state != OVER and one.due <= now:
                one.late(now)
        if self._held:
            self.wake_all()
        if now - self._last_eject >= 1.0:
            self._last_eject = now
            for traffic in self.table.traffic.values():
                traffic.roll(now)
                traffic.lately.roll()
            for endpoint in self.table.endpoints.values():
                for revision in endpoint.revisions.values():
                    if len(revision.upstreams) > 1:
                        health.eject([upstream.health for upstream in revision.upstreams], now)

    def stop(self) -> None:
        """Give up all that is still on its way; each gets its end."""
        for one in list(self.active):
            if one.state != OVER:
                one.stop()

    # --- how replicas end

    def post_mortem(self, one: Exchange, upstream: Upstream, failure: int, message: str, alone: bool) -> None:
        """Find out how the replica's process ended, then have the exchange judge by it."""
        path = self._processes / upstream.name / "exit.json" if self._processes is not None and upstream.name else None
        at = time.time()
        until = at + (_STALE if failure == retry.STALE else _POST_MORTEM)

        def look() -> None:
            status = _exit_status(path, at) if path is not None else None
            if status is None and path is not None and time.time() < until:
                asyncio.get_running_loop().call_later(_LOOK, look)
                return
            if status is None:
                known = path is not None and path.parent.is_dir()
                status = retry.RUNNING if known else retry.UNKNOWN
            else:
                self.table.beliefs.prefixes.forget(upstream.address)
            one.judge(failure, message, alone, status)

        # At the end of this turn: then all connections of a process that died have said so.
        asyncio.get_running_loop().call_soon(look)


def _key(one: Exchange) -> tuple[str, str]:
    return (one.endpoint, one.revision.name if one.revision is not None else "")


def _exit_status(path: Path, at: float) -> int | None:
    """The exit status that a process left about when its connection ended; None while there is none."""
    try:
        if path.stat().st_mtime < at - 1.0:
            return None
        status = json.loads(path.read_bytes())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return status if isinstance(status, int) else None
