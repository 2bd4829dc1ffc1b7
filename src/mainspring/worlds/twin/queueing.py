"""A day of one endpoint in virtual time: arrivals, the gateway's queue, replicas with slots that load and drain.

What this is: a simulation of events, pure; the same seed gives the same day. Who calls it: `mainspring simulate`, the
scaling benchmark, tests. What it must never do: tell the scaler what is true. It hears what gateways would have
written, some time ago, with samples missing, and its replicas take their time.

Each second the scaler is asked, as the loop would ask. A request goes to the replica with the fewest; without a free
slot it waits at the gateway, in a bounded queue, up to a deadline. How long it is with a replica is told when it begins
(`service.py`), from those that are there then: those that come later do not slow it any more.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mainspring.decide.admit import admit
from mainspring.decide.scale import Decision, Load, Rules, Scaling, loaded, scale
from mainspring.worlds.twin.arrivals import Arrivals, Floats
from mainspring.worlds.twin.beliefs import noise
from mainspring.worlds.twin.line import Line, Plain, Shared
from mainspring.worlds.twin.service import Service

TICK = 1.0
LATEST = 3600.0
"""Seconds after the end in which those that still wait may be served."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What serves, and what is believed of it. Times in seconds."""

    slots: int = 8  # requests that a replica works on at once
    load: float = 60.0  # from a replica's start to ready
    queue: int = 512  # requests that may be inside the gateway
    hold: float = 60.0  # that a request waits while no replica is ready
    timeout: float = 600.0  # that it waits in all
    begin: int = 1  # replicas that are ready at the beginning
    wall: float = 0.0  # POSIX seconds at the beginning
    delay: float = 1.0  # after which the scaler hears of a second
    gaps: float = 0.0  # share of the seconds of which it never hears
    blind: tuple[tuple[float, float], ...] = ()  # from and until: stretches of which it hears nothing
    price: float = 0.0  # dollars an hour of a replica


class Scaler(Protocol):
    """What decides how many replicas there are."""

    def decide(self, load: Load | None, ready: int, starting: int, mono: float, wall: float) -> tuple[int, str]:
        """How many there are to be, and why. Asked each second."""

    def loaded(self, seconds: float) -> None:
        """A replica took so long to load."""


@dataclass(slots=True)
class Ours:
    """Mainspring's own decision, with the memory that the loop would keep."""

    rules: Rules
    memory: Scaling = field(default_factory=Scaling)

    def decide(self, load: Load | None, ready: int, starting: int, mono: float, wall: float) -> tuple[int, str]:
        """As `decide/scale.py` says."""
        found: Decision = scale(self.rules, load, ready, starting, self.memory, mono, wall)
        self.memory = found.memory
        return found.want, found.why

    def loaded(self, seconds: float) -> None:
        """Remembered."""
        self.memory = loaded(self.memory, seconds)


@dataclass(frozen=True, slots=True)
class Change:
    """The scaler changed its mind."""

    at: float  # s from the beginning
    want: int
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened. The series have one value a second; the times one a request, nan for those that got no slot."""

    seconds: float
    want: Floats
    ready: Floats
    waiting: Floats
    running: Floats
    rate: Floats  # requests that came in that second
    wait: Floats  # s until a slot
    latency: Floats  # s until the answer
    refused: int  # the queue was full
    expired: int  # waited too long
    replica_hours: float  # from a replica's start to its end, loading and draining included
    dollars: float
    changes: tuple[Change, ...]

    def attainment(self, limit: float) -> float:
        """The share of all requests that had a slot within `limit` seconds; refused and expired ones had none."""
        return float((self.wait <= limit).mean()) if len(self.wait) else 1.0

    def quantile(self, share: float, of: str = "wait") -> float:
        """Of the requests that were served, in seconds; nan where none was. `of`: "wait" or "latency"."""
        times = self.wait if of == "wait" else self.latency
        served = times[np.isfinite(times)]
        return float(np.quantile(served, share)) if len(served) else math.nan


def simulate(
    arrivals: Arrivals,
    fleet: Fleet,
    service: Service,
    scaler: Scaler,
    seed: int = 0,
    watch: Callable[[float], None] | None = None,
) -> Outcome:
    """Let the requests come, and the scaler decide. `watch` hears the seconds that have passed, each ten minutes."""
    return _Run(arrivals, fleet, service, scaler, seed).through(watch)


class _Run:
    """One simulation. Replicas are numbers; their state lies in lists, for speed."""

    def __init__(self, arrivals: Arrivals, fleet: Fleet, service: Service, scaler: Scaler, seed: int) -> None:
        self.arrivals, self.fleet, self.scaler, self.seed = arrivals, fleet, scaler, seed
        base = service.fixed + arrivals.prompt * service.prefill + arrivals.output * (service.decode - service.crowd)
        self.base, self.per = base.tolist(), (arrivals.output * service.crowd).tolist()
        self.at: list[float] = [*arrivals.at.tolist(), math.inf]
        self.wait, self.took = [math.nan] * len(arrivals), [math.nan] * len(arrivals)
        self.line: Line = Plain()
        if arrivals.tenant is not None:
            self.line = Shared(arrivals.tenant.tolist(), base.tolist(), len(arrivals.tenants))
        # replicas
        self.began: list[float] = []
        self.running: list[int] = []
        self.open: list[bool] = []  # takes requests
        self.starting: deque[tuple[float, int]] = deque()  # when it is ready, and which
        self.free: list[tuple[int, int]] = []  # heap of requests and replica; stale entries are passed over
        self.ends: list[tuple[float, int, float]] = [(math.inf, -1, 0.0)]  # heap: when, where, how long it took
        self.ready = self.inside = self.busy = self.refused = self.expired = 0
        self.spent = 0.0
        # what is told, and the series
        self.came, self.ended, self.worked = 0, 0, 0.0
        self.minute: deque[tuple[int, int, float]] = deque(maxlen=60)
        self.told: deque[Load] = deque()
        self.series: list[tuple[int, int, int, int, int]] = []
        self.changes: list[Change] = []
        self.unheard = np.random.default_rng([seed, 6])

    def through(self, watch: Callable[[float], None] | None) -> Outcome:
        """From the first second until all is served."""
        for _ in range(self.fleet.begin):
            self._open(self._new(0.0))
        self._scale(0.0, None)
        last = math.ceil(self.arrivals.seconds / TICK)
        tick, next_ = 0, 0
        while tick < last or (self.inside and tick < last + LATEST):
            tick += 1
            next_ = self._second(tick * TICK, next_)
            self._tick(tick * TICK, tick <= last)
            if watch is not None and tick % 600 == 0:
                watch(tick * TICK)
            if tick == last:
                self.spent += sum(last - began for began in self._alive())
        return self._outcome(last)

    def _alive(self) -> list[float]:
        """When each replica that still costs began."""
        loading = {which for _, which in self.starting}
        there = (self.open[which] or self.running[which] > 0 or which in loading for which in range(len(self.began)))
        return [began for began, is_there in zip(self.began, there, strict=True) if is_there]

    # -- requests -------------------------------------------------------------------------------

    def _second(self, until: float, next_: int) -> int:
        """All that happens up to a moment; returns the next request."""
        at, ends = self.at, self.ends
        while True:
            came, done = at[next_], ends[0][0]
            if came <= done:
                if came > until:
                    return next_
                self._arrive(came, next_)
                next_ += 1
            else:
                if done > until:
                    return next_
                self._end(*heapq.heappop(ends))

    def _arrive(self, now: float, request: int) -> None:
        self.came += 1
        if admit(self.inside, self.fleet.queue, 0 if self.ready else -1):
            self.refused += 1
            if not len(self.line) or self.line.yields(request) == request:
                return
            self.inside -= 1
        self.inside += 1
        if self.free and not len(self.line):
            where = self._least()
            if where >= 0:
                self._start(now, request, where)
                return
        self.line.push(request)

    def _least(self) -> int:
        """The open replica with the fewest requests and a free slot; -1: none."""
        free = self.free
        while free:
            count, where = free[0]
            if self.running[where] == count and self.open[where]:
                return where
            heapq.heappop(free)
        return -1

    def _start(self, now: float, request: int, where: int) -> None:
        """Begin one, on the replica on top of `free`."""
        count = self.running[where] = self.running[where] + 1
        if count < self.fleet.slots:
            heapq.heapreplace(self.free, (count, where))
        else:
            heapq.heappop(self.free)
        self.busy += 1
        seconds = self.base[request] + self.per[request] * count
        self.wait[request] = now - self.at[request]
        self.took[request] = seconds
        heapq.heappush(self.ends, (now + seconds, where, seconds))

    def _end(self, now: float, where: int, seconds: float) -> None:
        self.inside -= 1
        self.busy -= 1
        self.ended += 1
        self.worked += seconds
        count = self.running[where] = self.running[where] - 1
        if self.open[where]:
            heapq.heappush(self.free, (count, where))
            if len(self.line):
                self._serve(now)
        elif count == 0 and now <= self.arrivals.seconds:
            self.spent += now - self.began[where]

    def _serve(self, now: float) -> None:
        """Give free slots to those that wait."""
        while len(self.line):
            where = self._least()
            if where < 0:
                return
            self._start(now, self.line.pop(), where)

    # -- replicas -------------------------------------------------------------------------------

    def _new(self, now: float) -> int:
        self.began.append(now)
        self.running.append(0)
        self.open.append(False)
        return len(self.began) - 1

    def _open(self, which: int) -> None:
        self.open[which] = True
        self.ready += 1
        heapq.heappush(self.free, (0, which))

    def _to(self, want: int, now: float) -> None:
        """Start or stop until so many are there; those that load go first, then those with the fewest requests."""
        for _ in range(want - self.ready - len(self.starting)):
            which = self._new(now)
            took = self.fleet.load * (0.9 + 0.2 * noise(self.seed, "load", which).random())
            self.starting.append((now + took, which))
        for _ in range(self.ready + len(self.starting) - want):
            if self.starting:
                _, which = self.starting.pop()
                self.spent += now - self.began[which]
                continue
            which = min((w for w in range(len(self.open)) if self.open[w]), key=lambda w: (self.running[w], -w))
            self.open[which] = False
            self.ready -= 1
            if not self.running[which]:
                self.spent += now - self.began[which]

    def _loaded(self, now: float) -> None:
        due = [one for one in self.starting if one[0] <= now]
        for one in due:
            self.starting.remove(one)
            self._open(one[1])
            self.scaler.loaded(one[0] - self.began[one[1]])

    # -- the loop -------------------------------------------------------------------------------

    def _tick(self, now: float, counts: bool) -> None:
        self._loaded(now)
        if len(self.free) > 64 + 4 * self.ready:  # stale entries
            self.free = [(n, w) for w, n in enumerate(self.running) if self.open[w] and n < self.fleet.slots]
            heapq.heapify(self.free)
        self._serve(now)
        limit = self.fleet.timeout if self.ready else min(self.fleet.hold, self.fleet.timeout)
        while len(self.line) and now - self.at[self.line.oldest()] > limit:
            self.line.drop()
            self.inside -= 1
            self.expired += 1
        self.minute.append((self.came, self.ended, self.worked))
        came, self.came, self.ended, self.worked = self.came, 0, 0, 0.0
        self.told.append(self._seen(now))
        while len(self.told) > 1 and self.told[1].at <= now - self.fleet.delay:
            self.told.popleft()
        heard = self.told[0] if self.told[0].at <= now - self.fleet.delay else None
        want = self._scale(now, heard)
        if counts:
            self.series.append((want, self.ready, len(self.line), self.busy, came))

    def _seen(self, now: float) -> Load:
        """What gateways write; what was lost is the last that wasn't."""
        lost = self.fleet.gaps > 0 and self.unheard.random() < self.fleet.gaps
        if self.told and (lost or any(since <= now < until for since, until in self.fleet.blind)):
            return self.told[-1]
        minute = self.minute
        span, ended = max(1, len(minute)), sum(one[1] for one in minute)
        fast = min(10, span)
        oldest = now - self.at[self.line.oldest()] if len(self.line) else 0.0
        recent = sum(minute[-at][0] for at in range(1, fast + 1))
        seconds = sum(one[2] for one in minute) / ended if ended else math.nan
        whole = sum(one[0] for one in minute)
        return Load(now, len(self.line), self.busy, oldest, recent / fast, whole / span, seconds)

    def _scale(self, now: float, heard: Load | None) -> int:
        want, why = self.scaler.decide(heard, self.ready, len(self.starting), now, self.fleet.wall + now)
        if not self.changes or want != self.changes[-1].want:
            self.changes.append(Change(now, want, why))
        self._to(want, now)
        return want

    def _outcome(self, last: int) -> Outcome:
        want, ready, waiting, running, rate = np.array(self.series, dtype=np.float64).reshape(-1, 5).T
        wait = np.array(self.wait)
        hours = self.spent / 3600.0
        return Outcome(
            last * TICK, want, ready, waiting, running, rate, wait, wait + np.array(self.took), self.refused,
            self.expired, hours, hours * self.fleet.price, tuple(self.changes),
        )  # fmt: skip
