"""What the node cost, and who used it: a bill whose parts add up to the whole.

What this is: pure arithmetic on seconds and dollars. Who calls it: `cost/meter.py`, `loop/decide.py` (budgets),
reports. What it must never do: bill event time. A replay of ten months that took six minutes is billed six minutes:
`seconds_up`, `training_seconds` and the compute of `Usage` are all real seconds of the machine.

The rule: the node costs `price_per_hour` while it is up, used or not. A second of compute costs what a second of
one of its `cores` costs; what nobody used is the idle line. When more was used than there was (more threads than
`cores` says) all parts shrink alike, and idle is nothing. So the lines always add up to the bill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Usage:
    """What one revision did in one role since it began; compute counts every answer, repeats included."""

    endpoint: str
    revision: str
    role: str  # "live" | "mirror"
    requests: int  # distinct
    predictions: int  # distinct rows
    errors: int  # distinct requests without an answer
    compute: float  # seconds


@dataclass(frozen=True, slots=True)
class Line:
    """One part of a bill."""

    kind: Literal["serving", "training", "idle"]
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
    capacity = up * max(1, cores)
    busy = math.fsum([*(u.compute for u in used), training])
    total = max(0.0, price_per_hour) / 3600.0 * up
    whole = max(capacity, busy)
    rate = total / whole if whole > 0.0 else 0.0
    lines = [
        Line("serving", rate * u.compute, u.compute, u.endpoint, u.revision, u.role, u.requests, u.predictions)
        for u in used
    ]
    lines.append(Line("training", rate * training, training))
    rest = max(0.0, total - math.fsum(line.dollars for line in lines))
    lines.append(Line("idle", rest, max(0.0, capacity - busy)))
    return Bill(tuple(lines), total, up, sum(u.predictions for u in used if u.role == "live"))
