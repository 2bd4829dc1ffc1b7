"""Run a load: an open loop, whose requests leave when they are due, or a closed one, for comparison.

What this is: `run` and `closed`, synchronous; each runs an event loop of its own in the calling thread. Who calls it:
`mainspring bench`, the latency gate. What it must never do: send a request later because an answer is late (in the
open loop), or leave a connection open.

An open loop is free of coordinated omission: arrivals are drawn beforehand, and each latency is counted from the moment
at which the request should have been sent, whoever was late.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from mainspring.bench.alarm import Alarm
from mainspring.bench.own import Watch as Own
from mainspring.bench.plan import Plan
from mainspring.bench.pool import Pool
from mainspring.bench.requests import maker
from mainspring.bench.samples import Log, Samples
from mainspring.bench.summary import Result, Run, summarise
from mainspring.bench.target import Target
from mainspring.errors import InputError

TELL = 0.25  # seconds between two calls of the watcher
AT_ONCE = 64  # requests that are begun before answers are read again


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    elapsed: float  # seconds
    seconds: float  # planned, without the time that the last answers take
    sent: int
    planned: int  # 0 in a closed loop
    done: int
    failed: int
    outstanding: int


Watch = Callable[[Progress], bool | None]
"""Told of the progress four times a second, on the loop, so it must be quick; True ends the run with what there is."""


def run(target: Target, plan: Plan, watch: Watch | None = None) -> Result:
    """The open loop: each request leaves when it is due.

    Raises `InputError` for a plan that has no arrivals, `EnvironmentError_` when nothing answers at the target.
    """
    if not len(plan.arrivals):
        raise InputError("no-requests", "the plan has no request in it", "a higher `--rate`, or a longer `--for`")
    return _run(_Load(target, plan, watch, 0))


def closed(target: Target, plan: Plan, concurrency: int, watch: Watch | None = None) -> Result:
    """The closed loop: so many clients, each of which sends its next request when its last has ended.

    It asks less of a server that is slow, so its percentiles are no users' (coordinated omission). Arrivals of the plan
    are not looked at. Raises as `run` does.
    """
    if not 1 <= concurrency <= target.connections:
        message = f"`{concurrency}` clients at once on {target.connections} connections"
        raise InputError("bad-concurrency", message, "--concurrency 8")
    return _run(_Load(target, plan, watch, concurrency))


def _run(load: _Load) -> Result:
    try:
        import uvloop
    except ImportError:  # not on Windows
        factory = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with _quiet(), asyncio.Runner(loop_factory=factory) as runner:
        done = runner.run(load.main())
    return summarise(done)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the collector from pausing the loop: what is there stays, and new cycles are few."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _files() -> int:
    """Connections that the limit of open files leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - 64) if soft != resource.RLIM_INFINITY else 1 << 20


class _Load:
    """One run."""

    def __init__(self, target: Target, plan: Plan, watch: Watch | None, concurrency: int) -> None:
        self._target = target
        self._plan = plan
        self._watch = watch
        self._concurrency = concurrency
        self._log = Log()
        self._make = maker(target, plan)
        self._own = Own()
        self._arrivals = plan.arrivals[: plan.most].tolist()
        self._start = 0.0
        self._next = 0
        self._sending = True
        self._ends = 0
        self._stopped = False

    async def main(self) -> Run:
        """Send everything, wait for the last answer, close."""
        if _files() < self._target.connections:
            message = f"`{self._target.connections}` connections are more than the {_files()} open files allowed"
            raise InputError("too-many-connections", message, f"--connections {_files()}, or raise `ulimit -n`")
        self._pool = Pool(self._target, self._make, self._log, self._plan.timeout, self._ended)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._alarm = Alarm(asyncio.get_running_loop(), self._due)
        asyncio.get_running_loop().set_exception_handler(self._broke)
        beats: asyncio.Task[None] | None = None
        try:
            await self._pool.find()
            self._begin()
            beats = asyncio.create_task(self._beats())
            beats.add_done_callback(self._beaten)
            await self._over
        finally:
            elapsed = perf_counter() - self._start
            self._alarm.close()
            if beats is not None:
                beats.cancel()
                await asyncio.wait([beats])
            await self._pool.close()
        return self._done(elapsed)

    def _begin(self) -> None:
        self._start = perf_counter()
        self._pool.counts_from = self._start + self._plan.warmup
        self._own.start()
        if self._concurrency:
            for _ in range(self._concurrency):
                self._follow()
        else:
            self._alarm.set(self._arrivals[0])

    def _done(self, elapsed: float) -> Run:
        pool, log, open_loop = self._pool, self._log, not self._concurrency
        samples = Samples.of(log, self._start)
        if self._sending:
            self._own.mark()
        late = samples.begun - samples.due if open_loop else None
        return Run(
            target=self._target,
            plan=self._plan,
            concurrency=self._concurrency,
            samples=samples,
            generator=self._own.generator(late, pool.peak, pool.crowded),
            elapsed=elapsed,
            stopped=self._stopped,
            said=log.said,
            resent=log.resent,
            uncounted=log.uncounted,
        )

    # --- the open loop

    def _due(self) -> None:
        """Begin what is due, a handful at most, and ask to be called for the next."""
        arrivals, start, begin, number = self._arrivals, self._start, self._pool.begin, self._next
        until = min(number + AT_ONCE, len(arrivals))
        while number < until:
            due, now = start + arrivals[number], perf_counter()
            if due > now:
                break
            begin(due, now)
            number += 1
        self._next = number
        if number < len(arrivals):
            self._alarm.set(start + arrivals[number] - perf_counter())
        elif self._sending:
            self._all_sent()

    # --- the closed loop

    def _follow(self) -> None:
        """Send the next request, unless the time is over."""
        now = perf_counter()
        if now - self._start < self._plan.seconds and self._next < self._plan.most:
            self._next += 1
            self._pool.begin(now, now)
        elif self._sending:
            self._all_sent()

    # --- both

    def _all_sent(self) -> None:
        self._sending = False
        self._own.mark()
        self._look()

    def _ended(self) -> None:
        """A request has ended, one way or the other."""
        self._ends += 1
        if self._concurrency and self._sending:
            # not at once: a server that refuses would have us call ourselves without end
            asyncio.get_running_loop().call_soon(self._follow)
        self._look()

    def _look(self) -> None:
        if not self._sending and not self._pool.outstanding and not self._over.done():
            self._over.set_result(None)

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback raised: the run ends with that, and does not hang."""
        error = context.get("exception")
        if not isinstance(error, BaseException):
            loop.default_exception_handler(context)
        elif not self._over.done():
            self._over.set_exception(error)

    def _beaten(self, beats: asyncio.Task[None]) -> None:
        error = None if beats.cancelled() else beats.exception()
        if error is not None and not self._over.done():
            self._over.set_exception(error)

    async def _beats(self) -> None:
        """Deadlines, and news for whoever watches."""
        told = 0.0
        while True:
            now = await self._own.beat()
            self._pool.expire(now)
            if self._watch is not None and now - told >= TELL:
                told = now
                if self._watch(self._progress(now)):
                    self._stopped = True
                    if not self._over.done():
                        self._over.set_result(None)
                    return

    def _progress(self, now: float) -> Progress:
        planned, well = (0 if self._concurrency else len(self._arrivals)), self._log.well
        failed, waits = self._ends - well, self._pool.outstanding
        return Progress(now - self._start, self._plan.seconds, self._next, planned, well, failed, waits)
