"""The rules of other autoscalers, each from its documentation: HPA (utilisation), KEDA (queue length), Knative's KPA.

What this is: three `Scaler`s for the twin. They hear what ours hears: the same delayed seconds. Who calls it:
`benchmarks/scaling.py`, its tests. What it must never do: be given a handicap: where a document leaves a choice, the
kinder one is taken, and says so.

Sources: kubernetes.io, "Horizontal Pod Autoscaling" (algorithm details, configurable scaling behaviour, defaults of
autoscaling/v2) and the controller's own flags (15 s, tolerance 0.1); keda.sh, "Scaling Deployments" and "ScaledObject
specification" (polling 30 s, cooldown 300 s, 0 to 1 by KEDA, from 1 on by an HPA on the external metric) and "AWS SQS
Queue" (a queue's length counts those in flight, 5 a replica); knative.dev, "Supported autoscaler types", "Configuring
targets", "Scale bounds", and serving/pkg/autoscaler/scaling/README.md (stable 60 s, panic 6 s at 200 %, 70 % of the
container's concurrency, rates 1000 up and 2 down, grace 30 s, a tick each 2 s).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from mainspring.decide.scale import Load

Words = tuple[int, str]


@dataclass(slots=True)
class Behaviour:
    """How an HPA walks to what it wants: 100 % or 4 pods more each 15 s; the most of 5 minutes on the way down."""

    least: int
    most: int
    window: float = 300.0
    period: float = 15.0
    percent: float = 1.0
    pods: int = 4
    wished: deque[tuple[float, int]] = field(default_factory=deque)

    def step(self, now: float, current: int, desired: int) -> int:
        """The replicas to have now. Asked once a period, so what a period allows is told by `current`."""
        self.wished.append((now, desired))
        while self.wished[0][0] <= now - self.window:
            self.wished.popleft()
        if desired > current:
            desired = min(desired, max(current + self.pods, math.ceil(current * (1.0 + self.percent))))
        else:
            desired = min(current, max(wish for _, wish in self.wished))
        return min(max(desired, self.least), self.most)


@dataclass(slots=True)
class Hpa:
    """Busy slots over all slots against a target, as `Pods` or `Resource` metrics are.

    The metric is the mean of the last 15 s, which is steadier than one scrape.
    """

    target: float  # share of slots
    slots: int
    least: int
    most: int
    tolerance: float = 0.1
    want: int = -1
    next_: float = 0.0
    heard: deque[float] = field(default_factory=lambda: deque(maxlen=15))
    behaviour: Behaviour = field(init=False)

    def __post_init__(self) -> None:
        self.behaviour = Behaviour(self.least, self.most)

    def loaded(self, seconds: float) -> None:
        """An HPA knows nothing of it."""

    def decide(self, load: Load | None, ready: int, starting: int, mono: float, wall: float) -> Words:
        """Each 15 s; without metrics nothing is done."""
        del wall
        if load is not None:
            self.heard.append(load.running)
        if self.want < 0:
            self.want = ready + starting
        if load is None or mono < self.next_:
            return self.want, ""
        self.next_ = mono + self.behaviour.period
        used = sum(self.heard) / len(self.heard) / self.slots
        self.want = self.behaviour.step(mono, self.want, self.desired(used, ready, starting))
        return self.want, f"{used / max(1, ready):.0%} of slots busy"

    def desired(self, used: float, ready: int, starting: int) -> int:
        """ceil(ready x metric / target). On the way up pods that are not ready count as pods that use nothing."""
        current = ready + starting
        if not ready:
            return current
        ratio = used / ready / self.target
        if starting and ratio > 1.0:
            whole = used / current / self.target
            if abs(whole - 1.0) <= self.tolerance or whole < 1.0:
                return current
            return max(current, math.ceil(whole * current))
        if abs(ratio - 1.0) <= self.tolerance:
            return current
        return math.ceil(ratio * ready)


@dataclass(slots=True)
class Keda:
    """An HPA on the queue's length over a target a replica; to and from nought by KEDA itself."""

    target: float  # requests a replica
    least: int
    most: int
    in_flight: bool = True  # whether requests with replicas count, as those of SQS do
    polling: float = 30.0
    cooldown: float = 300.0
    tolerance: float = 0.1
    want: int = -1
    next_: float = 0.0
    polled: float = -math.inf
    active: float = 0.0
    behaviour: Behaviour = field(init=False)

    def __post_init__(self) -> None:
        self.behaviour = Behaviour(max(1, self.least), self.most)

    def loaded(self, seconds: float) -> None:
        """KEDA knows nothing of it."""

    def decide(self, load: Load | None, ready: int, starting: int, mono: float, wall: float) -> Words:
        """From 1 on each 15 s; to and from 0 each 30 s."""
        del wall
        if self.want < 0:
            self.want = ready + starting
        if load is None:
            return self.want, ""
        length = load.waiting + (load.running if self.in_flight else 0)
        if mono >= self.polled + self.polling:
            self.polled = mono
            self.active = mono if length > 0 else self.active
            if self.want == 0 and length > 0:
                self.want = 1
            elif self.least == 0 and self.want > 0 and mono - self.active >= self.cooldown:
                self.want = 0
        if self.want > 0 and mono >= self.next_:
            self.next_ = mono + self.behaviour.period
            ratio = length / (self.target * self.want)
            wish = self.want if abs(ratio - 1.0) <= self.tolerance else math.ceil(length / self.target)
            self.want = self.behaviour.step(mono, self.want, wish)
        return self.want, f"queue length {length}"


@dataclass(slots=True)
class Kpa:
    """Knative's: concurrency (what waits counts) over a target, in a stable and a panic window."""

    target: float  # requests a replica
    least: int
    most: int
    stable: int = 60  # s
    panic: int = 6  # s
    threshold: float = 2.0
    up: float = 1000.0
    down: float = 2.0
    grace: float = 30.0
    tick: float = 2.0
    want: int = -1
    next_: float = 0.0
    since: float = -1.0  # of the panic
    most_in_panic: int = 0
    empty: float = -1.0
    heard: deque[int] = field(default_factory=lambda: deque(maxlen=60))

    def loaded(self, seconds: float) -> None:
        """Knative knows nothing of it."""

    def decide(self, load: Load | None, ready: int, starting: int, mono: float, wall: float) -> Words:
        """Each 2 s."""
        del wall
        if self.want < 0:
            self.want = ready + starting
        if load is None:
            return self.want, ""
        self.heard.append(load.waiting + load.running)
        if mono < self.next_:
            return self.want, ""
        self.next_ = mono + self.tick
        self.want = min(max(self._bounded(mono, self._desired(ready, mono)), self.least), self.most)
        return self.want, "panic" if self.since >= 0 else "stable"

    def _desired(self, ready: int, mono: float) -> int:
        late = list(self.heard)[-self.panic :]
        pods = max(1, ready)
        low, high = math.floor(pods / self.down), math.ceil(pods * self.up)
        stable = min(max(math.ceil(sum(self.heard) / len(self.heard) / self.target), low), high)
        panicked = math.ceil(sum(late) / len(late) / self.target)
        over = panicked / pods >= self.threshold
        panicked = min(max(panicked, low), high)
        if over:
            if self.since < 0:
                self.most_in_panic = 0
            self.since = mono
        elif self.since >= 0 and self.since + self.stable < mono:
            self.since = -1.0
        if self.since < 0:
            return stable
        self.most_in_panic = max(self.most_in_panic, panicked, stable)  # no scale-down in a panic
        return self.most_in_panic

    def _bounded(self, mono: float, desired: int) -> int:
        """The last one goes after the grace period."""
        if desired > 0 or self.least > 0:
            self.empty = -1.0
            return desired
        self.empty = self.empty if self.empty >= 0 else mono
        return 0 if mono - self.empty >= self.grace else min(1, self.want)
