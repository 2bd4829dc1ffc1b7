"""The ports of the loop. A world that passes `mainspring.testing.conformance` may stand behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mainspring.loop.memory import Memory
from mainspring.loop.plan import Plan, Step
from mainspring.loop.readings import Query, Readings
from mainspring.loop.snapshot import Now, Observed, Request


@dataclass(frozen=True, slots=True)
class Accepted:
    """The step is begun, or had been begun before; its end is seen by `observe`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The step is not begun; the next cycle decides anew."""

    why: str


class World(Protocol):
    """Where things run."""

    def observe(self) -> Observed:
        """Look at everything once. Never raises for one bad part: that part is shown as lost or unknown."""

    def begin(self, step: Step) -> Accepted | Refused:
        """Begin a step: idempotent by `step.id` and by the action's own name and generation; never waits."""


class MetricSource(Protocol):
    """Where samples come from."""

    def samples(self, wanted: Iterable[Query]) -> Readings:
        """Answer each query, or say why it is unknown."""


class Clock(Protocol):
    """What time it is; the only place that may ask the machine."""

    def now(self, watched: float, last: Now | None) -> Now:
        """The moment; `watched` seconds had been watched at `last`."""


class Store(Protocol):
    """The controller's memory. One writer."""

    def load(self) -> tuple[int, Memory]:
        """The last committed revision and memory."""

    def commit(self, expected: int, plan: Plan, now: Now) -> int:
        """Keep memory, steps, events, records and answers in one transaction; raise `Conflict` on another revision."""

    def requests(self) -> Sequence[Request]:
        """Requests not yet answered, oldest first."""
