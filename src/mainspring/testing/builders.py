"""Values for tests, with everything filled in that a test does not care about.

Who calls it: tests. What it must never do: decide what a test is about.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable
from mainspring.loop.memory import Memory
from mainspring.loop.plan import Action, Event, Fence, Plan, Record, StartReplica, StartRun, Step, step_id
from mainspring.loop.snapshot import Now, Request

DAY = 86_400.0
EPOCH = 1_362_096_000.0  # 2013-03-01T00:00:00Z


def a_now(wall: float = EPOCH, mono: float = 0.0, watched: float = 0.0) -> Now:
    """A moment."""
    return Now(wall=wall, mono=mono, watched=watched)


def a_step(action: Action, cause: str = "test", because: str = "a test wants it") -> Step:
    """A step for an action."""
    return Step(step_id(action, cause), action, Fence("test"), because)


def a_replica(artefact: str = "/nowhere", **changed: Any) -> StartReplica:
    """`delay-1-0`, generation 1, of version 1 of `delay`."""
    whole = StartReplica("delay-1-0", 1, "delay", "delay", "1", artefact)
    return dataclasses.replace(whole, **changed)


def a_run(pipeline: str = "delay", number: int = 1, attempt: int = 1, **changed: Any) -> StartRun:
    """The first run of a pipeline, on January and February 2013."""
    whole = StartRun(
        f"{pipeline}-{number}", attempt, pipeline, "first version", EPOCH - 59 * DAY, EPOCH, "", first=True
    )
    return dataclasses.replace(whole, **changed)


def some_routes(epoch: int, *replicas: str) -> RouteTable:
    """A table with one endpoint and one revision."""
    revision = RevisionRoute(name="delay-1", version="1", weight=10_000, replicas=replicas)
    return RouteTable(epoch=epoch, endpoints={"delay": EndpointRoutes(revisions=(revision,))})


def a_plan(memory: Memory | None = None, *actions: Action, **parts: Any) -> Plan:
    """A plan that begins the actions."""
    return Plan(tuple(a_step(action) for action in actions), memory or Memory(), **parts)


def an_event(key: str = "ready", **changed: Any) -> Event:
    """Something that happened."""
    return dataclasses.replace(Event(key, "ReplicaReady", "endpoint/delay", "`delay-1-0` answers"), **changed)


def a_record(key: str = "2013-03-08", at: float = EPOCH, **value: Any) -> Record:
    """A look by monitoring."""
    return Record("drift", key, at, value)


def a_request(id_: str = "r1", verb: str = "run", target: str = "delay", **changed: Any) -> Request:
    """What a person asked for."""
    return dataclasses.replace(Request(id_, verb, target, EPOCH, "anna"), **changed)
