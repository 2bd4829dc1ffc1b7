"""A store in memory: for tests, for the twin, and for trying a plan without keeping it.

What this is: a `Book` behind the `Store` port. Who calls it: tests, `plan`, the twin; `SqliteStore` builds on it.
What it must never do: behave otherwise than `SqliteStore` does, but for what a crash leaves.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from mainspring.facts.changes import Change, Outcome, said
from mainspring.loop.memory import Memory
from mainspring.loop.plan import Answer, Condition, Plan, Record, Waiting
from mainspring.loop.ports import Store
from mainspring.loop.snapshot import Now, Request
from mainspring.store.book import Book, Changes, DesiredKept, EventKept, StepKept


class MemoryStore(Store):
    """All that the controller remembers, until the process ends. Safe to use from several threads."""

    def __init__(self) -> None:
        self._book = Book()
        self._guard = threading.RLock()

    # -- the loop's side -----------------------------------------------------------------------------------------

    def load(self) -> tuple[int, Memory]:
        """The last committed revision and memory."""
        with self._guard:
            return self._book.revision, self._book.memory

    def commit(self, expected: int, plan: Plan, now: Now) -> int:
        """Keep what the plan says, at once or not at all; raises `Conflict` when `expected` is not the revision.

        The revision grows only when something new was kept.
        """
        with self._guard:
            changes = self._book.weigh(expected, plan, now)
            self._keep(changes, now)
            return self._book.revision

    def requests(self) -> Sequence[Request]:
        """Requests not yet answered, oldest first."""
        with self._guard:
            return tuple(request for id_, request in self._book.requests.items() if id_ not in self._book.answers)

    def outcome(self, step: str, text: str) -> None:
        """Say what became of a step: "accepted", or why it was refused."""
        with self._guard:
            kept = self._book.steps.get(step)
            if kept is not None and kept.outcome != text:
                self._keep_outcome(replace(kept, outcome=text))

    def set_desired(self, text: str, revision: str, path: str, *, down: bool = False) -> None:
        """Keep the stack that was applied last."""
        with self._guard:
            desired = DesiredKept(text, revision, path, down)
            if desired != self._book.desired:
                self._keep_desired(desired)

    # -- people's side -------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> None:
        """Add a person's request; the same id again changes nothing."""
        with self._guard:
            if request.id not in self._book.requests and request.id not in self._book.answers:
                self._keep_request(request)

    def note(self, change: Change) -> None:
        """Add an entry to the change log, before what it tells of is done; the same id again changes nothing."""
        with self._guard:
            self._book.changelog.setdefault(change.id, change)

    def end(self, change: str, outcome: Outcome, message: str = "") -> None:
        """Say how a change ended, once: what is said later changes nothing. Nothing for one that is not there."""
        with self._guard:
            noted = self._book.changelog.get(change)
            if noted is not None and not noted.outcome:
                self._book.changelog[change] = replace(noted, outcome=outcome, message=said(message))

    def changes(self, since: float = float("-inf"), limit: int = 100, who: str = "") -> Sequence[Change]:
        """The change log from `since` on (real time), newest first; `who`: a part of who it was."""
        with self._guard:
            noted = list(self._book.changelog.values())[::-1]
        found = [change for change in noted if change.at >= since and who in change.who]
        return tuple(sorted(found, key=lambda change: change.at, reverse=True)[:limit])

    def answers(self, request: str) -> Answer | None:
        """What became of a request; None while it waits."""
        with self._guard:
            kept = self._book.answers.get(request)
            return kept.answer if kept is not None else None

    def steps(self, limit: int = 100) -> Sequence[StepKept]:
        """The latest steps, newest first."""
        with self._guard:
            return tuple(list(self._book.steps.values())[: -limit - 1 : -1])

    def events(self, since: float = float("-inf"), limit: int = 100) -> Sequence[EventKept]:
        """Events last seen at `since` or later (event time), newest first."""
        with self._guard:
            found = [kept for kept in self._book.events.values() if kept.last >= since]
        found.sort(key=lambda kept: (kept.last, kept.first, kept.event.key), reverse=True)
        return tuple(found[:limit])

    def conditions(self) -> Sequence[Condition]:
        """The conditions of the last cycle."""
        with self._guard:
            return self._book.conditions

    def waiting(self) -> Sequence[Waiting]:
        """What the last cycle waited for."""
        with self._guard:
            return self._book.waiting

    def records(self, kind: str, since: float = float("-inf")) -> Sequence[Record]:
        """Records of a kind with event time `since` or later, oldest first."""
        with self._guard:
            found = [record for record in self._book.records.values() if record.kind == kind and record.at >= since]
        return tuple(sorted(found, key=lambda record: (record.at, record.key)))

    def desired(self) -> DesiredKept | None:
        """The stack that was applied last; None when there was none."""
        with self._guard:
            return self._book.desired

    def close(self) -> None:
        """Let go of the store."""

    # -- what a durable store does before it believes ---------------------------------------------------------------

    def _keep(self, changes: Changes, now: Now) -> None:  # noqa: ARG002  the durable one needs it
        self._book.take(changes)
        self._book.trim()

    def _keep_request(self, request: Request) -> None:
        self._book.requests[request.id] = request

    def _keep_outcome(self, step: StepKept) -> None:
        self._book.steps[step.id] = step

    def _keep_desired(self, desired: DesiredKept) -> None:
        self._book.desired = desired
