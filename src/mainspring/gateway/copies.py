"""Copies of requests to language models, for a version under trial that nobody sees.

What this is: best effort, in the background, a few at a time. Prompts are not written down, so unlike the copies of
predictions (`mirror`) these are no debts, and a gateway that is killed forgets them.
Who calls it: completions, after their answer. What it must never do: delay or fail a live request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

import msgspec

from mainspring.gateway import asking, tail
from mainspring.gateway.hub import Hub
from mainspring.gateway.log import Log, Row, row
from mainspring.gateway.mirror import Errand
from mainspring.gateway.outcome import Outcome

if TYPE_CHECKING:
    from mainspring.gateway.completion import Completion

log = logging.getLogger(__name__)

AT_ONCE = 8
WAITING = 64  # with their prompts in memory; more are left out, and counted


class Copies:
    """Sends copies of live requests to mirror revisions."""

    def __init__(self, hub: Hub, records: Log) -> None:
        self._hub, self._log = hub, records
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[asyncio.Task[None], tuple[str, float]] = {}  # endpoint, and when its request came
        self.left_out = 0

    def came(self, endpoint: str) -> float:
        """When the oldest request came whose copy is on its way; infinity where there is none."""
        return min((at for name, at in self._tasks.values() if name == endpoint), default=math.inf)

    def offer(self, live: Completion) -> None:
        """A request has been answered: copy it if the routes say so and there is room."""
        if not live.route.mirrors:
            return
        id = live.shown.decode()
        revision = live.route.mirror(id, live.revision.name if live.revision is not None else "", live.origin)
        if not revision:
            return
        if len(self._tasks) >= WAITING:
            self.left_out += 1
            return
        seconds = live.route.timeout
        sent = self._send(live.endpoint, id, live.at, revision, live.line, live.headers, live.body, seconds)
        task = asyncio.ensure_future(sent)
        self._tasks[task] = (live.endpoint, live.at)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("a copy was not sent", exc_info=task.exception())

    async def _send(
        self, endpoint: str, id: str, at: float, revision: str, line: bytes, headers: bytes, body: bytes, timeout: float
    ) -> None:
        async with self._room:
            started = time.perf_counter()
            if b"embeddings" not in line:
                body = asking.unstreamed(body)
            outcome = await Errand.run(self._hub, endpoint, revision, line, headers, body, timeout)
            self._record(endpoint, id, at, revision, outcome, time.perf_counter() - started)

    def _record(self, endpoint: str, id: str, at: float, revision: str, outcome: Outcome, seconds: float) -> None:
        counted = tail.Counted()
        if not outcome.is_answer:
            outcome.status = 0
        elif outcome.status == 200:
            try:
                said = tail.whole(outcome.body)
                counted.take(said.usage, said.timings)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                outcome.status, outcome.error = 0, "the replica's answer is not JSON"
        record = Row(
            endpoint=endpoint, id=id, at=at, revision=revision, version=outcome.version, role="mirror",
            status=outcome.status, seconds=seconds, upstream=outcome.upstream, compute=outcome.compute,
            tries=outcome.tries, prompt_tokens=counted.prompt, output_tokens=counted.output,
            cached_tokens=counted.cached, drafted=counted.drafted, accepted=counted.accepted, error=outcome.error,
        )  # fmt: skip
        self._hub.metrics.of(endpoint, revision, "mirror").add(outcome.status, seconds, outcome.compute)
        self._log.append(row(record))

    async def quiet(self, seconds: float) -> bool:
        """Wait until the copies of now are recorded; False when that takes more than `seconds`."""
        if self._tasks:
            _, left = await asyncio.wait(set(self._tasks), timeout=seconds)
            return not left
        return True
