"""A plan is a value: the steps to begin, what to remember, what is waited for, when to look again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from mainspring.decide.routes import RouteTable
from mainspring.loop.memory import Memory


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Start a model server for one version of an endpoint's model."""

    name: str  # "delay-3-0"
    generation: int
    endpoint: str
    model: str
    version: str
    artefact: str  # folder
    runtime: str = "onnx"
    threads: int = 1
    batch_size: int = 32
    batch_wait: float = 0.002  # seconds
    options: tuple[str, ...] = ()  # more words of the replica's own command line
    region: str = ""
    digest: str = ""  # of the artefact


@dataclass(frozen=True, slots=True)
class StartGateway:
    """Start one worker of the gateway."""

    name: str  # "gateway-0"
    generation: int
    port: int
    workers: int = 1
    features: int = 2  # grows when a gateway of an earlier version lacks what the loop now counts on


@dataclass(frozen=True, slots=True)
class StopProcess:
    """Stop a replica, a gateway worker or a run: ask, then kill after `grace` seconds."""

    name: str
    generation: int
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class SetRoutes:
    """Replace the gateway's route table."""

    table: RouteTable


@dataclass(frozen=True, slots=True)
class StartRun:
    """Start (or, with a higher attempt, resume) a run of a pipeline."""

    run: str  # "delay-7"
    attempt: int
    pipeline: str
    cause: str  # "first version", "weather-drift at 2013-05-01", "asked by anna"
    since: float | None  # event time of the first row, POSIX seconds; None: open
    until: float  # event time after the last row
    champion: str  # artefact folder to compare with; "" for none
    champion_version: str = ""
    candidate: str = ""  # artefact folder: only judge this one, train nothing
    first: bool = False  # no champion yet: refit on all rows after the gates
    convert: str = ""  # a precision: the version made is `source` with its weights in it, nothing is trained
    source: str = ""  # artefact folder that is converted


@dataclass(frozen=True, slots=True)
class RegisterVersion:
    """Make the artefact of a run a version in the registry."""

    model: str
    run: str


@dataclass(frozen=True, slots=True)
class RecordVerdict:
    """Write a gate's verdict beside the version in the registry."""

    model: str
    number: str
    verdict: str  # "passed" | "refused"
    note: str
    numbers: str  # JSON


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Point an alias at a version; number "" takes the alias away."""

    model: str
    alias: str
    number: str


Action = StartReplica | StartGateway | StopProcess | SetRoutes | StartRun | RegisterVersion | RecordVerdict | SetAlias


@dataclass(frozen=True, slots=True)
class Fence:
    """What must still hold when the step is begun, or it is refused."""

    desired: str  # Desired.revision


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and why."""

    id: str
    action: Action
    fence: Fence
    because: str  # one sentence
    keeps: bool = False  # restores what was approved before (a restart), so `suggest` does it unasked


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that is waited for, and the nearest remedy."""

    what: str
    why: str
    self_ending: bool = False  # ends without the clock moving: a process starts, a run works


@dataclass(frozen=True, slots=True)
class Event:
    """A fact in the past tense; the same key is one event that is counted."""

    key: str
    reason: str  # "ReplicaReady", "DriftDetected"
    about: str  # "endpoint/delay"
    message: str
    level: str = "info"  # "info" | "warning" | "error"
    kind: str = ""  # what alerts select: "drift", "retrain", "rollout", "gate", "budget", ...


@dataclass(frozen=True, slots=True)
class Condition:
    """The state of a resource, for people."""

    about: str  # "endpoint/delay"
    type: str  # "Ready", "Progressing", "Fresh"
    status: str  # "true" | "false" | "unknown"
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """Something judged that is kept for reports: a drift look, a verdict, a rollout's end."""

    kind: str  # "drift" | "quality" | "gate" | "rollout" | "cost"
    key: str  # unique within the kind: recording it again changes nothing
    at: float  # event time
    value: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a person's request."""

    request: str
    accepted: bool
    message: str


def step_id(action: Action, cause: str) -> str:
    """Give the same id to the same thing for the same cause, so that beginning it twice is once."""
    # A run is the same whenever it is begun: its window moves with the clock while it waits for an approval.
    what = f"{action.run}|{action.attempt}" if isinstance(action, StartRun) else repr(action)
    text = f"{type(action).__name__}|{what}|{cause}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one cycle decided."""

    steps: tuple[Step, ...]
    memory: Memory
    waiting: tuple[Waiting, ...] = ()
    events: tuple[Event, ...] = ()
    conditions: tuple[Condition, ...] = ()
    records: tuple[Record, ...] = ()
    answers: tuple[Answer, ...] = ()
    judged: dict[str, dict[str, Any]] = field(default_factory=dict)  # by endpoint: how its rollout gets on; not kept
    wake: float | None = None  # Now.wall at which to look again at the latest

    @property
    def quiet(self) -> bool:
        """Nothing to begin, and nothing that ends by itself is waited for: only the clock or data can change it."""
        return not self.steps and not any(w.self_ending for w in self.waiting)
