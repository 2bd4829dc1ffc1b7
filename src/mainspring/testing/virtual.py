"""The whole loop in virtual time: the twin, a store, the real decisions, and crashes wherever one is wanted.

Who calls it: our tests and others'. The controller is killed by raising `Killed` at a numbered point; a
new one is then built on what the store and the world still hold, as after `kill -9` of the real process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mainspring.loop.cycle import Cycle
from mainspring.loop.memory import Memory
from mainspring.loop.plan import Plan, Step
from mainspring.loop.ports import Accepted, Refused
from mainspring.loop.snapshot import Desired, Now, Observed, Request
from mainspring.stack.model import Stack
from mainspring.store.memory import MemoryStore
from mainspring.worlds.twin.beliefs import DAY, Beliefs
from mainspring.worlds.twin.foresee import pass_time
from mainspring.worlds.twin.source import TwinSource
from mainspring.worlds.twin.world import TwinClock, TwinWorld


class Killed(BaseException):
    """The controller died here; a `BaseException`, so that nothing on the way catches it."""


@dataclass(slots=True)
class Points:
    """Counts the places at which a controller may die, and dies at the chosen ones."""

    chosen: frozenset[int] = frozenset()
    passed: int = 0

    def here(self) -> None:
        """Pass a point, or die at it."""
        self.passed += 1
        if self.passed in self.chosen:
            raise Killed


@dataclass(slots=True)
class MortalWorld:
    """A world before and after whose every effect the controller may die."""

    world: TwinWorld
    points: Points

    def observe(self) -> Observed:
        return self.world.observe()

    def begin(self, step: Step) -> Accepted | Refused:
        self.points.here()
        outcome = self.world.begin(step)
        self.points.here()
        return outcome


@dataclass(slots=True)
class MortalStore:
    """A store before and after whose every changing commit the controller may die."""

    store: MemoryStore
    points: Points

    def load(self) -> tuple[int, Memory]:
        return self.store.load()

    def commit(self, expected: int, plan: Plan, now: Now) -> int:
        counts = bool(plan.steps or plan.events or plan.answers)
        if counts:
            self.points.here()
        revision = self.store.commit(expected, plan, now)
        if counts:
            self.points.here()
        return revision

    def requests(self) -> Sequence[Request]:
        return self.store.requests()


@dataclass(slots=True)
class VirtualLoop:
    """A stack, lived through in virtual time."""

    stack: Stack
    began: float  # event time, POSIX seconds
    seed: int = 0
    beliefs: Beliefs = field(default_factory=Beliefs)
    die_at: frozenset[int] = frozenset()
    each: Callable[[VirtualLoop, Plan], None] = lambda *_: None
    world: TwinWorld = field(init=False)
    store: MemoryStore = field(init=False)
    points: Points = field(init=False)
    down: bool = False
    deaths: int = 0
    cycles: int = 0

    def __post_init__(self) -> None:
        self.world = TwinWorld(beliefs=self.beliefs, seed=self.seed, wall=self.began)
        self.store = MemoryStore()
        self.points = Points(self.die_at)

    def _cycle(self) -> Cycle:
        return Cycle(
            clock=TwinClock(self.world),
            world=MortalWorld(self.world, self.points),
            source=TwinSource(self.world),
            store=MortalStore(self.store, self.points),
            desired=lambda: Desired(self.stack, "r1", down=self.down),
        )

    def run(self, *, days: float = 0.0, most: int = 8_000) -> VirtualLoop:
        """Live for so many days of event time, and then until all is quiet."""
        until = self.world.wall + days * DAY
        self.world.expect(self.stack)
        cycle = self._cycle()
        for _ in range(most):
            self.cycles += 1
            try:
                plan = cycle.once()
            except Killed:
                self.deaths += 1
                cycle = self._cycle()
                continue
            self.each(self, plan)
            if not pass_time(self.world, plan, until):
                return self
        raise AssertionError(f"not quiet after {most} cycles: {plan.waiting}")

    def ask(self, verb: str, target: str, **args: Any) -> None:
        """Ask as a person would."""
        number = f"{verb}-{target}-{self.cycles}"
        self.store.ask(Request(number, verb, target, self.world.wall, "tester", args))

    def story(self) -> dict[str, Any]:
        """What must not depend on crashes: versions, verdicts, aliases, rollouts' ends, what answers."""
        table = self.world.routes
        routes = (
            {}
            if table is None
            else {n: [(r.version, r.weight) for r in e.revisions] for n, e in table.endpoints.items()}
        )
        return {
            "versions": [(v.model, v.number, v.run, v.verdict, v.note) for v in self.world.versions],
            "aliases": self.world.aliases,
            "rollouts": sorted(
                (r.key.rsplit("/", 1)[0], r.value["kind"])
                for r in self.store.records("rollout")
                if r.value["kind"] != "look"  # how it got on at some moments: those differ
            ),
            "gates": sorted(r.key for r in self.store.records("gate")),
            "looks": sorted(r.key for r in self.store.records("drift")),
            "runs": sorted(r.key for r in self.store.records("run")),
            "routes": routes,
            "answering": sorted(p.name for p in self.world.observe().processes if p.state == "ready"),
        }
