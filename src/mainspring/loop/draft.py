"""The plan while it is being made. Each part of `decide` adds to one draft; nobody reads a clock or the world.

`do` is the one way to a step, so that `control: watch | suggest | act` is held in one place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mainspring.decide.scale import Scaling
from mainspring.loop.memory import (
    EndpointMemory,
    Memory,
    ModelMemory,
    PipelineMemory,
    ProcessMemory,
    RolloutMemory,
    RunMemory,
)
from mainspring.loop.plan import Action, Answer, Condition, Event, Fence, Plan, Record, Step, Waiting, step_id
from mainspring.loop.readings import Query, Reading, Readings, Unknown
from mainspring.loop.snapshot import Desired, Now, Observed, ProcessSeen, Request, VersionSeen

R = TypeVar("R", bound=Reading)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision may know."""

    now: Now
    desired: Desired
    observed: Observed
    readings: Readings
    memory: Memory
    requests: tuple[Request, ...] = ()


@dataclass(slots=True)
class Draft:
    """A plan in the making."""

    s: Snapshot
    models: dict[str, ModelMemory]
    processes: dict[str, ProcessMemory]
    rollouts: dict[str, RolloutMemory]
    runs: dict[str, RunMemory]
    pipelines: dict[str, PipelineMemory]
    scales: dict[str, Scaling]
    endpoints: dict[str, EndpointMemory]
    aborted: list[str]
    alone: list[str]
    epoch: int
    looked: float | None
    steps: list[Step] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    judged: dict[str, dict[str, Any]] = field(default_factory=dict)  # by endpoint: what was judged in this cycle
    approved: frozenset[str] = frozenset()
    begun: set[str] = field(default_factory=set)  # approvals that were used up by what is no step

    @classmethod
    def of(cls, s: Snapshot) -> Draft:
        """Begin from what is remembered."""
        m = s.memory
        return cls(
            s=s,
            models=dict(m.models),
            processes=dict(m.processes),
            rollouts=dict(m.rollouts),
            runs=dict(m.runs),
            pipelines=dict(m.pipelines),
            scales=dict(m.scales),
            endpoints=dict(m.endpoints),
            aborted=list(m.aborted),
            alone=list(m.alone),
            epoch=m.epoch,
            looked=m.looked,
            approved=frozenset(r.target for r in s.requests if r.verb == "approve"),
        )

    @property
    def now(self) -> Now:
        return self.s.now

    def champion(self, model: str) -> str:
        """The number of a model's champion; "" while there is none."""
        return self.models[model].champion if model in self.models else ""

    def do(self, action: Action, because: str, *, cause: str = "", keeps: bool = False) -> bool:
        """Add a step, and say whether it may be counted on. False: it waits for a person, so remember nothing of it.

        `keeps` marks what restores or records something that was decided before.
        """
        control = self.s.desired.stack.orchestration.control
        step = Step(step_id(action, cause), action, Fence(self.s.desired.revision), because, keeps)
        allowed = control == "act" or (control == "suggest" and (keeps or step.id in self.approved))
        if not allowed and not self.s.desired.down:
            hint = "`control: watch` begins nothing" if control == "watch" else f"`mainspring approve {step.id}`"
            self.wait(f"approval/{step.id}", f"{because} ({type(action).__name__}); {hint}")
            return False
        self.steps.append(step)
        return True

    def may(self, name: str, because: str) -> bool:
        """Say whether a decision that is no step may be taken; False: it waits for a person, as a step would."""
        ident = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        control = self.s.desired.stack.orchestration.control
        if control == "act" or (control == "suggest" and ident in self.approved):
            self.begun.add(ident)
            return True
        hint = "`control: watch` begins nothing" if control == "watch" else f"`mainspring approve {ident}`"
        self.wait(f"approval/{ident}", f"{because}; {hint}")
        return False

    def wait(self, what: str, why: str, *, self_ending: bool = False) -> None:
        """Say what is waited for."""
        self.waiting.append(Waiting(what, why, self_ending))

    def tell(
        self, reason: str, about: str, message: str, *, key: str = "", level: str = "info", kind: str = ""
    ) -> None:
        """Add an event; events of the same key are one, counted."""
        self.events.append(Event(key or f"{about}/{reason}/{message}", reason, about, message, level, kind))

    def condition(self, about: str, kind: str, *, ok: bool | None, reason: str, message: str) -> None:
        """Set a condition of a resource."""
        status = "unknown" if ok is None else "true" if ok else "false"
        self.conditions.append(Condition(about, kind, status, reason, message))

    def record(self, kind: str, key: str, at: float, value: dict[str, Any]) -> None:
        """Keep something judged, for reports."""
        self.records.append(Record(kind, key, at, value))

    def answer(self, request: Request, message: str, *, accepted: bool) -> None:
        """Answer a person's request; it is not seen again."""
        self.answers.append(Answer(request.id, accepted, message))

    def reading(self, query: Query, kind: type[R]) -> R | Unknown:
        """The answer to a query, or Unknown; never an error."""
        reading = self.s.readings.get(query, Unknown("nobody asked"))
        return reading if isinstance(reading, kind | Unknown) else Unknown(f"{type(reading).__name__} came instead")

    def version(self, model: str, number: str) -> VersionSeen | None:
        """A version as the registry shows it."""
        return next((v for v in self.s.observed.versions if v.model == model and v.number == number), None)

    def process(self, name: str) -> ProcessSeen | None:
        """A process as it is seen."""
        return next((p for p in self.s.observed.processes if p.name == name), None)

    def finish(self) -> Plan:
        """Close the draft."""
        memory = replace(
            self.s.memory,
            began=self.now.wall if self.s.memory.began is None else self.s.memory.began,
            last=self.now,
            watched=self.now.watched,
            desired=self.s.desired.revision,
            epoch=self.epoch,
            looked=self.looked,
            models=self.models,
            processes=self.processes,
            rollouts=self.rollouts,
            runs=self.runs,
            pipelines=self.pipelines,
            scales=self.scales,
            endpoints=self.endpoints,
            aborted=tuple(self.aborted),
            alone=tuple(self.alone[-256:]),
        )
        return Plan(
            steps=tuple(self.steps),
            memory=memory,
            waiting=tuple(self.waiting),
            events=tuple(self.events),
            conditions=tuple(self.conditions),
            records=tuple(self.records),
            answers=tuple(self.answers),
            judged=self.judged,
            wake=min(self.wakes, default=None),
        )
