"""Run the loop's own decisions in the twin until all is quiet: what `plan` shows, and what the tests drive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mainspring.loop.decide import decide
from mainspring.loop.draft import Snapshot
from mainspring.loop.memory import Memory
from mainspring.loop.plan import Event, Plan, Step
from mainspring.loop.snapshot import Desired, Observed
from mainspring.loop.window import wanted
from mainspring.worlds.twin.beliefs import DAY, Beliefs
from mainspring.worlds.twin.source import TwinSource
from mainspring.worlds.twin.world import TwinClock, TwinProcess, TwinWorld

LEAST = 0.05  # seconds of virtual time that a cycle takes when something is waited for
BLIND = 1.0  # seconds until the next look when nothing in the twin is about to change, such as in a backoff
MOST_CYCLES = 100_000


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What would happen: each step with the event time at which it is begun."""

    steps: tuple[tuple[float, Step], ...]
    events: tuple[tuple[float, Event], ...]
    memory: Memory
    observed: Observed
    quiet: bool  # False: the limit of cycles or time came first

    def told(self, now: float) -> dict[str, Any]:
        """For people: each step with the seconds from `now` (event time) at which it would be begun."""
        steps = [
            {"after": round(at - now, 2), "id": s.id, "action": type(s.action).__name__, "because": s.because}
            for at, s in self.steps
        ]
        answering = sorted(p.name for p in self.observed.processes if p.state == "ready" and p.kind != "run")
        rests_on = "assumed start and run times; the decisions are the loop's own"
        return {"steps": steps, "quiet": self.quiet, "answering": answering, "rests_on": rests_on}


def pass_time(world: TwinWorld, plan: Plan, until: float) -> bool:
    """Let the twin's time pass to the next moment at which something can change. False: `until` is reached."""
    if plan.quiet:
        if world.wall >= until:
            return False
        wake = until if plan.wake is None else min(plan.wake, until)
        world.advance(max(LEAST, wake - world.wall))
        return True
    change = world.next_change()
    world.advance(BLIND if change is None else min(max(change, 1e-3), 60.0))
    return True


def fork(observed: Observed, wall: float, mono: float, beliefs: Beliefs, seed: int) -> TwinWorld:
    """Make a twin that stands where the real world stands."""
    world = TwinWorld(beliefs=beliefs, seed=seed, wall=wall, mono=mono)
    world.versions = list(observed.versions)
    world.aliases = {model: dict(names) for model, names in observed.aliases.items()}
    world.trained = {v.artefact: (wall - 60 * DAY, wall) for v in observed.versions}
    world.routes = observed.routes
    if observed.routes is not None:
        world.routed = [(wall, mono - 60.0, observed.routes)]
    for p in observed.processes:
        if p.kind == "run" or p.state in ("exited", "lost"):
            continue
        port = int(p.address.rsplit(":", 1)[1]) if ":" in p.address else 0
        ready = mono - 60.0 if p.state != "starting" else mono + 1.0
        world.processes[p.name] = TwinProcess(p.name, p.kind, p.generation, p.since, ready, port=port)
    world.seen_runs = {r.id: r for r in observed.runs if r.state != "running"}
    return world


def foresee(
    start: Snapshot,
    beliefs: Beliefs | None = None,
    seed: int = 0,
    until: float | None = None,
    watch: Callable[[Plan], None] | None = None,
) -> Trajectory:
    """Fork the twin from a snapshot and cycle it until all is quiet, or until an event time.

    The snapshot's own requests are answered in the first cycle. `control` is taken as `act`: the
    question is what would happen if it were let.
    """
    stack = start.desired.stack
    acting = stack.orchestration.model_copy(update={"control": "act"})
    wanting = Desired(stack.model_copy(update={"orchestration": acting}), start.desired.revision, start.desired.down)
    world = fork(start.observed, start.now.wall, start.now.mono, beliefs or Beliefs(), seed)
    world.expect(stack)
    clock, source = TwinClock(world), TwinSource(world)
    memory, requests = start.memory, start.requests
    steps: list[tuple[float, Step]] = []
    events: list[tuple[float, Event]] = []
    limit = start.now.wall if until is None else until
    for _ in range(MOST_CYCLES):
        now = clock.now(memory.watched, memory.last)
        observed = world.observe()
        readings = source.samples(wanted(wanting, memory, observed, now))
        plan = decide(Snapshot(now, wanting, observed, readings, memory, requests))
        memory, requests = plan.memory, ()
        steps += [(world.wall, step) for step in plan.steps]
        events += [(world.wall, event) for event in plan.events]
        if watch is not None:
            watch(plan)
        for step in plan.steps:
            world.begin(step)
        if not pass_time(world, plan, limit):
            return Trajectory(tuple(steps), tuple(events), memory, observed, quiet=True)
    return Trajectory(tuple(steps), tuple(events), memory, world.observe(), quiet=False)
