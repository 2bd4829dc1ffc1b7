"""Dynamic batching: requests that are there together are scored together.

What this is: a queue in front of one model thread. Who calls it: the replica's server.
What it must never do: let a bad request fail its neighbours, or hold a request longer than `wait`
while the model is idle.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

Score = Callable[[Mapping[str, list[Any]]], npt.NDArray[np.float64]]


class Job:
    """One request: its columns of `rows` values each, and what is told when it is done."""

    __slots__ = ("columns", "done", "rows")

    def __init__(self, columns: dict[str, list[Any]], rows: int, done: Callable[[Result], None]) -> None:
        self.columns = columns
        self.rows = rows
        self.done = done


Result = tuple[list[float] | Exception, float]
"""A request's scores, or why there are none; and the seconds of compute that it is charged."""


class Batcher:
    """Collects jobs while the model is busy; when it is idle, for at most `wait` seconds.

    It waits only if the last batch had company: a lone client never waits for others that do not come.
    """

    def __init__(self, score: Score, size: int, wait: float) -> None:
        self._score = score
        self._size = size  # rows
        self._wait = wait
        self._queue: deque[Job] = deque()
        self._rows = 0
        self._busy = False
        self._company = False
        self.running = 0  # requests that are being scored
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.batches = 0
        self.compute = 0.0  # seconds

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def add(self, job: Job) -> None:
        """Take a job in; `job.done` is called on the event loop."""
        self._queue.append(job)
        self._rows += job.rows
        if self._busy:
            return
        if self._rows >= self._size or not self._company:
            self._launch()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._wait, self._launch)

    def _launch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = [self._queue.popleft()]
        rows = batch[0].rows
        while self._queue and rows + self._queue[0].rows <= self._size:
            batch.append(self._queue.popleft())
            rows += batch[-1].rows
        self._rows -= rows
        self._busy = True
        self.running = len(batch)
        self._company = len(batch) > 1
        self._loop.run_in_executor(self._thread, self._work, batch)

    def _work(self, batch: list[Job]) -> None:
        """Score a batch on the model thread; if it fails as a whole, each request alone."""
        results = self._together(batch)
        if len(batch) > 1 and isinstance(results[0][0], Exception):
            results = [self._together([job])[0] for job in batch]
        self._loop.call_soon_threadsafe(self._finish, batch, results)

    def _together(self, batch: list[Job]) -> list[Result]:
        started = time.perf_counter()
        scores: list[float] | Exception
        rows = sum(job.rows for job in batch)
        try:
            if len(batch) == 1:
                columns = batch[0].columns
            else:
                columns = {name: [value for job in batch for value in job.columns[name]] for name in batch[0].columns}
            scores = self._score(columns).tolist()
        except Exception as error:  # the user's function may raise anything
            scores = error
        except BaseException as error:  # `sys.exit()` in it must not end the model thread
            scores = RuntimeError(f"{type(error).__name__}: {error}")
        each = (time.perf_counter() - started) / rows
        results: list[Result] = []
        at = 0
        for job in batch:
            part = scores if isinstance(scores, Exception) else scores[at : at + job.rows]
            results.append((part, each * job.rows))
            at += job.rows
        return results

    def _finish(self, batch: list[Job], results: list[Result]) -> None:
        self.batches += 1
        self._busy = False
        self.running = 0
        if self._queue:
            self._company = True
            self._launch()  # the model thread starts before the answers are written
        for job, result in zip(batch, results, strict=True):
            self.compute += result[1]
            job.done(result)

    async def drain(self) -> None:
        """Wait until nothing is queued or being scored."""
        while self._busy or self._queue:
            await asyncio.sleep(0.005)
        self._thread.shutdown(wait=False)
