"""What the node cost, and who used it: a bill whose parts add up to the whole.

What this is: pure arithmetic on seconds and dollars. Who calls it: `cost/meter.py`, `cost/period.py`,
`loop/decide.py` (budgets), reports. What it must never do: bill event time. A replay of ten months that took six
minutes is billed six minutes: `seconds_up`, `training_seconds` and the compute of `Usage` are all real seconds of the
machine.

The rule: the node costs `price_per_hour` while it is up, used or not. A second of compute costs what a second of
one of its `cores` costs; what nobody used is the idle line. When more was used than there was (more threads than
`cores` says) all parts shrink alike, and idle is nothing. So the lines always add up to the bill.

A bill of some days is the sum of the bills of each day: what was used on a day shares that day's price.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

DAY = 86400.0
Kind = Literal["serving", "training", "idle"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one revision did in one role, since it began or on one day; compute counts every answer, repeats included.

    From `tenant` on, and with every line counted (a request that was sent again counts again), it is what was metered
    on a day.
    """

    endpoint: str
    revision: str
    role: str  # "live" | "mirror"
    requests: int  # distinct, unless metered; those without an end included
    predictions: int  # distinct rows, unless metered
    errors: int  # requests without an answer
    compute: float  # core-seconds
    day: int = 0  # since 1970, UTC, by the real clock
    tenant: str = ""
    key: str = ""  # the id of the key
    refused: int = 0  # requests that were the client's own fault
    prompt: int = 0  # tokens, those of requests without an end included
    cached: int = 0
    output: int = 0
    prefill: float = 0.0  # seconds
    decode: float = 0.0
    estimated: int = 0  # requests whose tokens the gateway counted itself
    orphans: int = 0  # of the requests, those that died with their gateway worker
    lost: int = 0  # of the prompt tokens, theirs


@dataclass(frozen=True, slots=True)
class Line:
    """One part of a bill."""

    kind: Kind
    dollars: float
    seconds: float  # of compute; for idle, of a core that nobody used
    endpoint: str = ""
    revision: str = ""
    role: str = ""
    requests: int = 0
    predictions: int = 0

    @property
    def per_prediction(self) -> float | None:
        """Dollars of compute for one prediction, idle time left out; None without predictions."""
        return self.dollars / self.predictions if self.predictions else None


@dataclass(frozen=True, slots=True)
class Bill:
    """All parts; their dollars add up to `dollars`."""

    lines: tuple[Line, ...]
    dollars: float  # price of the node for the time that it was up
    seconds_up: float
    predictions: int  # live ones: what the users got

    @property
    def per_prediction(self) -> float | None:
        """Everything (training, mirrors and idle time included) over the live predictions; None without any."""
        return self.dollars / self.predictions if self.predictions else None

    @property
    def per_thousand(self) -> float | None:
        """The same for 1,000 predictions."""
        return self.dollars / self.predictions * 1000 if self.predictions else None

    def of(self, kind: str) -> float:
        """Dollars of all lines of a kind."""
        return math.fsum(line.dollars for line in self.lines if line.kind == kind)


def bill(
    usage: Iterable[Usage], price_per_hour: float, seconds_up: float, training_seconds: float, cores: int = 1
) -> Bill:
    """Divide the node's price for `seconds_up` among revisions, training and idle time.

    Lines: one for each usage, in the order of endpoint, revision and role; then training, then idle.
    """
    used = sorted(usage, key=lambda u: (u.endpoint, u.revision, u.role))
    up, training = max(0.0, seconds_up), max(0.0, training_seconds)
    total = max(0.0, price_per_hour) / 3600.0 * up
    divide, idle = _division(total, up * max(1, cores), [*(u.compute for u in used), training])
    lines = [
        Line("serving", divide(u.compute), u.compute, u.endpoint, u.revision, u.role, u.requests, u.predictions)
        for u in used
    ]
    lines.append(Line("training", divide(training), training))
    rest = max(0.0, total - math.fsum(line.dollars for line in lines))
    lines.append(Line("idle", rest, idle))
    return Bill(tuple(lines), total, up, sum(u.predictions for u in used if u.role == "live"))


def _division(total: float, capacity: float, parts: list[float]) -> tuple[Callable[[float], float], float]:
    """Dollars of a part, by its core-seconds; and the core-seconds that nobody used."""
    busy = math.fsum(parts)
    whole = max(capacity, busy)
    return lambda part: total * (part / whole) if whole > 0.0 else 0.0, max(0.0, capacity - busy)


GROUPS: dict[str, tuple[str, ...]] = {
    "tenant": ("tenant",),
    "endpoint": ("endpoint",),
    "revision": ("endpoint", "revision"),
    "key": ("tenant", "key"),
    "": ("tenant", "endpoint", "revision", "key"),
}
"""What a bill of some days may be divided by, and which names each part then has; "" is all of them."""


@dataclass(frozen=True, slots=True)
class Day:
    """What one day cost, and who used it."""

    day: int  # since 1970, UTC
    dollars: float  # price of the node for the time that it was up
    seconds_up: float
    usage: tuple[Usage, ...] = ()
    training: float = 0.0  # core-seconds


@dataclass(frozen=True, slots=True)
class Charge:
    """A part of what some days cost: a group's, the training's, or what nobody used."""

    kind: Kind
    dollars: float
    seconds: float  # core-seconds; for idle, those that nobody used
    tenant: str = ""
    endpoint: str = ""
    revision: str = ""
    key: str = ""
    requests: int = 0  # live ones, from here on but for `mirrored`
    predictions: int = 0
    errors: int = 0
    refused: int = 0
    prompt: int = 0
    cached: int = 0
    output: int = 0
    prefill: float = 0.0  # seconds
    decode: float = 0.0
    estimated: int = 0
    orphans: int = 0
    lost: int = 0
    mirrored: int = 0  # copies that nobody saw the answers of; their compute is in `seconds`

    @property
    def per_million(self) -> float | None:
        """Dollars for a million output tokens, idle time left out; None without any."""
        return self.dollars / self.output * 1e6 if self.output else None

    @property
    def per_thousand(self) -> float | None:
        """Dollars for 1,000 predictions, idle time left out; None without any."""
        return self.dollars / self.predictions * 1e3 if self.predictions else None


_NAMES = ("tenant", "endpoint", "revision", "key")
_COUNTS = ("requests", "predictions", "errors", "refused", "prompt", "cached", "output", "estimated", "orphans",
           "lost", "prefill", "decode")  # fmt: skip
_SUMMED = tuple(f.name for f in fields(Charge) if f.name not in ("kind", *_NAMES))
_LAST = {"serving": 0, "training": 1, "idle": 2}


def charges(day: Day, by: str, cores: int = 1) -> tuple[Charge, ...]:
    """Divide one day's dollars among the groups of `by` (a key of `GROUPS`), training and idle time.

    In the order of the groups' names, then training, then idle; they add up to `day.dollars`. Use on a day on which
    the node was never up costs nothing.
    """
    total, training = max(0.0, day.dollars), max(0.0, day.training)
    capacity = max(0.0, day.seconds_up) * max(1, cores)
    divide, idle = _division(total, capacity, [*(u.compute for u in day.usage), training])
    kept = GROUPS[by]
    parts = []
    for use in day.usage:
        names = {name: getattr(use, name) for name in kept}
        counts = {name: getattr(use, name) for name in _COUNTS} if use.role == "live" else {"mirrored": use.requests}
        parts.append(Charge("serving", divide(use.compute), use.compute, **names, **counts))
    used = [*merged(parts), Charge("training", divide(training), training)]
    rest = max(0.0, total - math.fsum(part.dollars for part in used))
    return (*used, Charge("idle", rest, idle))


def merged(parts: Iterable[Charge]) -> tuple[Charge, ...]:
    """Add up the charges of the same kind and names; in the order of names, training and idle last."""
    alike: dict[tuple[str, ...], list[Charge]] = {}
    for part in parts:
        alike.setdefault((part.kind, *(getattr(part, name) for name in _NAMES)), []).append(part)
    order = sorted(alike, key=lambda names: (_LAST[names[0]], names[1:]))
    return tuple(_sum(alike[names]) for names in order)


def _sum(same: list[Charge]) -> Charge:
    """One charge for several of the same names; seconds and dollars are summed exactly, in whatever order."""
    if len(same) == 1:
        return same[0]
    columns: dict[str, list[Any]] = {name: [getattr(one, name) for one in same] for name in _SUMMED}
    sums: dict[str, Any] = {k: math.fsum(v) if isinstance(v[0], float) else sum(v) for k, v in columns.items()}
    return replace(same[0], **sums)


def spread(seconds: float, begin: float, end: float) -> dict[int, float]:
    """Lay `seconds` evenly over the days (since 1970, UTC) between two POSIX times; they add up to `seconds`.

    A stretch of no length, backwards, or of more than ten years is a clock that jumped: all is the last day's.
    """
    last, length = int(end // DAY), end - begin
    first = int(begin // DAY)
    if not 0.0 < length < 3653 * DAY or first == last:
        return {last: seconds}
    found = {day: seconds * ((day + 1) * DAY - max(begin, day * DAY)) / length for day in range(first, last)}
    return {**found, last: max(0.0, seconds - math.fsum(found.values()))}
