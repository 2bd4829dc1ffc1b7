"""The loop in a page: look, decide, keep, begin. Read this first.

Level-triggered: each cycle starts from what is there, so it converges from any state. What is decided
is committed before it is begun; beginning is idempotent, and what was committed but not begun (a crash
in between) is not seen in the world, so the next cycle decides it again under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mainspring.loop.decide import decide
from mainspring.loop.draft import Snapshot
from mainspring.loop.plan import Plan, Step
from mainspring.loop.ports import Clock, MetricSource, Refused, Store, World
from mainspring.loop.snapshot import Desired
from mainspring.loop.window import wanted


@dataclass(slots=True)
class Cycle:
    """The parts that one cycle works with."""

    clock: Clock
    world: World
    source: MetricSource
    store: Store
    desired: Callable[[], Desired]
    report: Callable[[Step, str], None] = lambda *_: None

    def once(self) -> Plan:
        """Look once, decide once, keep it, begin it. Raises `Conflict` when another writer was there."""
        revision, memory = self.store.load()
        now = self.clock.now(memory.watched, memory.last)
        desired = self.desired()
        observed = self.world.observe()
        readings = self.source.samples(wanted(desired, memory, observed, now))
        plan = decide(Snapshot(now, desired, observed, readings, memory, tuple(self.store.requests())))
        self.store.commit(revision, plan, now)
        for step in plan.steps:
            outcome = self.world.begin(step)
            self.report(step, outcome.why if isinstance(outcome, Refused) else "begun")
        return plan
