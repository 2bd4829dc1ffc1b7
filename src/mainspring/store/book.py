"""Everything that a store keeps, as one value in memory, and what a commit would change in it.

What this is: the meaning of a commit, once, for every store. `Book.weigh` says what a plan changes; `Book.take`
makes it so. Who calls it: `MemoryStore`, and `SqliteStore`, which writes the changes down in between.
What it must never do: touch a file or a clock.

A commit matters when it has something new: memory other than the time of the last look, a step, an event, a record,
an answer, or a condition of another status. Repeats only count (a step begun again, an event seen again, a message in
new words): a crash may lose the last second of those, and of watched time, and nothing else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mainspring.errors import Conflict
from mainspring.facts.changes import Change, Outcome, said
from mainspring.loop.memory import Memory
from mainspring.loop.plan import Answer, Condition, Event, Plan, Record, Waiting
from mainspring.loop.snapshot import Now, Request

KEEP_STEPS = 5_000  # history; the oldest are dropped
KEEP_EVENTS = 5_000
KEEP_ANSWERS = 5_000


@dataclass(frozen=True, slots=True)
class StepKept:
    """A step that was begun."""

    id: str
    action: str  # "StartReplica"
    detail: str  # its fields, as JSON
    because: str
    at: float  # event time of the first time
    last: float  # event time of the latest time
    times: int = 1
    outcome: str = ""  # "" when nobody has said


@dataclass(frozen=True, slots=True)
class EventKept:
    """An event, counted by its key."""

    event: Event  # with the latest message
    count: int
    first: float  # event time
    last: float


@dataclass(frozen=True, slots=True)
class AnswerKept:
    """What became of a request, and when."""

    answer: Answer
    at: float


@dataclass(frozen=True, slots=True)
class DesiredKept:
    """The last stack that was applied."""

    text: str
    revision: str
    path: str
    down: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit changes; rows are whole, so that writing them twice is writing them once."""

    revision: int
    memory: Memory
    matters: bool
    steps: tuple[StepKept, ...] = ()
    events: tuple[EventKept, ...] = ()
    records: tuple[Record, ...] = ()
    answers: tuple[AnswerKept, ...] = ()
    conditions: tuple[Condition, ...] | None = None  # None: as they were
    waiting: tuple[Waiting, ...] | None = None


@dataclass(slots=True)
class Book:
    """All that is kept. Dicts are in the order in which their entries came."""

    revision: int = 0
    memory: Memory = field(default_factory=Memory)
    steps: dict[str, StepKept] = field(default_factory=dict)
    events: dict[str, EventKept] = field(default_factory=dict)
    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    answers: dict[str, AnswerKept] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    desired: DesiredKept | None = None
    changelog: dict[str, Change] = field(default_factory=dict)  # of a store in memory; a file is asked when people ask

    def weigh(self, expected: int, plan: Plan, now: Now) -> Changes:
        """Say what a commit changes; raises `Conflict` when it was made from another revision."""
        if expected != self.revision:
            raise Conflict(
                "store-moved",
                f"the plan was made from revision `{expected}`, and the store is at `{self.revision}`",
                "nothing was begun; the next cycle decides anew",
            )
        steps, new_step = self._steps(plan, now)
        events, new_event = self._events(plan.events, now)
        records = self._records(plan.records)
        answers = self._answers(plan.answers, now)
        status_changed = _statuses(plan.conditions) != _statuses(self.conditions)
        memory_changed = _lasting(plan.memory) != _lasting(self.memory)
        matters = bool(new_step or new_event or records or answers or status_changed or memory_changed)
        return Changes(
            revision=self.revision + matters,
            memory=plan.memory,
            matters=matters,
            steps=steps,
            events=events,
            records=records,
            answers=answers,
            conditions=None if plan.conditions == self.conditions else plan.conditions,
            waiting=None if plan.waiting == self.waiting else plan.waiting,
        )

    def take(self, changes: Changes) -> None:
        """Make the changes."""
        self.revision = changes.revision
        self.memory = changes.memory
        for step in changes.steps:
            self.steps[step.id] = step
        for event in changes.events:
            self.events[event.event.key] = event
        for record in changes.records:
            self.records[record.kind, record.key] = record
        for answer in changes.answers:
            self.answers[answer.answer.request] = answer
            self.end(answer.answer)
        if changes.conditions is not None:
            self.conditions = changes.conditions
        if changes.waiting is not None:
            self.waiting = changes.waiting

    def end(self, answer: Answer) -> None:
        """Say in the change log what became of a request, if it is there and nobody has said."""
        noted = self.changelog.get(answer.request)
        if noted is not None and not noted.outcome:
            outcome, message = ending(answer)
            self.changelog[answer.request] = replace(noted, outcome=outcome, message=message)

    def trim(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Drop the oldest history beyond what is kept: ids of steps, keys of events, ids of requests."""
        by_age = sorted(self.events, key=lambda key: self.events[key].last)
        steps, events = _over(tuple(self.steps), KEEP_STEPS), _over(by_age, KEEP_EVENTS)
        answered = _over(tuple(self.answers), KEEP_ANSWERS)
        for step in steps:
            del self.steps[step]
        for event in events:
            del self.events[event]
        for request in answered:
            del self.answers[request]
            self.requests.pop(request, None)
        return steps, events, answered

    def _steps(self, plan: Plan, now: Now) -> tuple[tuple[StepKept, ...], bool]:
        rows: dict[str, StepKept] = {}
        new = False
        for step in plan.steps:
            seen = rows.get(step.id) or self.steps.get(step.id)
            if seen is None:
                new = True
                action, detail = type(step.action).__name__, _detail(step.action)
                rows[step.id] = StepKept(step.id, action, detail, step.because, now.wall, now.wall)
            else:
                rows[step.id] = replace(seen, times=seen.times + 1, last=max(seen.last, now.wall))
        return tuple(rows.values()), new

    def _events(self, events: Iterable[Event], now: Now) -> tuple[tuple[EventKept, ...], bool]:
        rows: dict[str, EventKept] = {}
        new = False
        for event in events:
            seen = rows.get(event.key) or self.events.get(event.key)
            if seen is None:
                new = True
                rows[event.key] = EventKept(event, 1, now.wall, now.wall)
            else:
                new = new or event.level != seen.event.level
                rows[event.key] = EventKept(event, seen.count + 1, seen.first, max(seen.last, now.wall))
        return tuple(rows.values()), new

    def _records(self, records: Iterable[Record]) -> tuple[Record, ...]:
        rows: dict[tuple[str, str], Record] = {}
        for record in records:
            key = (record.kind, record.key)
            if key not in self.records and key not in rows:
                rows[key] = replace(record, value=json.loads(dumps(record.value)))
        return tuple(rows.values())

    def _answers(self, answers: Iterable[Answer], now: Now) -> tuple[AnswerKept, ...]:
        rows: dict[str, AnswerKept] = {}
        for answer in answers:
            if answer.request not in self.answers and answer.request not in rows:
                rows[answer.request] = AnswerKept(answer, now.wall)
        return tuple(rows.values())


def ending(answer: Answer) -> tuple[Outcome, str]:
    """How the change log says what the loop answered."""
    return "accepted" if answer.accepted else "refused", said(answer.message)


def dumps(value: object) -> str:
    """Write a value as JSON; NaN and infinities are kept, NumPy scalars become plain numbers."""
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _detail(action: Any) -> str:
    """Write an action's fields as JSON, without the bulk of a route table or of a gate's numbers."""
    fields = {name.name: getattr(action, name.name) for name in dataclasses.fields(action)}
    fields.pop("numbers", None)
    return dumps(fields)


def _lasting(memory: Memory) -> Memory:
    return replace(memory, last=None, watched=0.0)


def _statuses(conditions: Iterable[Condition]) -> set[tuple[str, str, str, str]]:
    return {(c.about, c.type, c.status, c.reason) for c in conditions}


def _over(keys: Sequence[str], limit: int) -> tuple[str, ...]:
    """Give the keys to drop: none until a tenth too many are there, so that it is done seldom."""
    return tuple(keys[: len(keys) - limit]) if len(keys) > limit + limit // 10 else ()
