"""The controller's memory in SQLite: one file, one writer, one transaction a commit.

What this is: `MemoryStore` with every change written down before it is believed. Who calls it: `app`.
What it must never do: acknowledge what a power cut could lose, or leave a commit half-done.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mainspring.errors import EnvironmentError_, MainspringError
from mainspring.facts.changes import Change, Outcome, said
from mainspring.loop.memory import SCHEMA as MEMORY_SCHEMA
from mainspring.loop.memory import Memory, from_json, to_json
from mainspring.loop.plan import Answer, Condition, Event, Record, Waiting
from mainspring.loop.snapshot import Now, Request
from mainspring.store import changelog, files
from mainspring.store.book import (
    AnswerKept,
    Book,
    Changes,
    DesiredKept,
    EventKept,
    StepKept,
    dumps,
    ending,
)
from mainspring.store.memory import MemoryStore
from mainspring.store.schema import migrate

EVERY = 1.0  # seconds of `Now.mono` between two writes of what does not matter


class SqliteStore(MemoryStore):
    """The controller's memory in a file. The caller holds the state folder's lock: there is one writer."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; raises `EnvironmentError_` (damaged, full, read-only), `MainspringError` (newer)."""
        super().__init__()
        self._path = Path(os.path.abspath(path))
        self._dirty = _Dirty()
        self._flushed = float("-inf")
        self._open()

    def _open(self) -> None:
        self._db = files.open_checked(self._path)
        try:
            migrate(self._db, self._path)
            self._book = _read(self._db, self._path)
        except MainspringError:
            self._db.close()
            raise
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            self._db.close()
            if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
                raise files.translated(self._path, error) from error
            raise files.set_aside(self._path, str(error)) from error

    def close(self) -> None:
        """Write what was put off, and close the file."""
        with self._guard:
            with contextlib.suppress(MainspringError, sqlite3.Error):
                self._write(self._book.memory, None)
            self._db.close()

    def backup(self, to: Path) -> None:
        """Write a whole copy to a new file; raises `EnvironmentError_`. Goes on while the controller works."""
        with self._guard:
            files.backup(self._db, to)

    def restore(self, source: Path) -> None:
        """Go back to a backup; the present file is kept beside as `state.db.before-<n>`."""
        with self._guard:
            files.check_backup(source)
            self._db.close()
            try:
                files.restore(self._path, source)
            finally:
                self._dirty = _Dirty()
                self._open()

    # -- writing -------------------------------------------------------------------------------------------------

    def _keep(self, changes: Changes, now: Now) -> None:
        due = now.mono - self._flushed >= EVERY or now.mono < self._flushed
        dirty = self._dirty.plus(changes)
        if changes.matters:
            self._write(changes.memory, changes, dirty)
            self._flushed = now.mono
        elif due:
            try:
                self._write(changes.memory, changes, dirty)
                dirty = _Dirty()
            except EnvironmentError_:
                pass  # nothing that matters is lost; a commit that matters will say that the disk is full
            self._flushed = now.mono
        self._dirty = _Dirty() if changes.matters else dirty
        self._book.take(changes)
        self._trim()

    def _write(self, memory: Memory, changes: Changes | None, dirty: _Dirty | None = None) -> None:
        dirty = dirty or self._dirty
        with self._transaction():
            revision = changes.revision if changes is not None else self._book.revision
            self._put("revision", revision)
            self._db.execute(
                "INSERT INTO memory (one, schema, json) VALUES (1, ?, ?)"
                " ON CONFLICT (one) DO UPDATE SET schema = excluded.schema, json = excluded.json",
                (memory.schema, to_json(memory).decode()),
            )
            for step in dirty.steps.values():
                self._write_step(step)
            for event in dirty.events.values():
                self._write_event(event)
            if dirty.conditions is not None:
                self._put("conditions", [asdict(condition) for condition in dirty.conditions])
            if dirty.waiting is not None:
                self._put("waiting", [asdict(waiting) for waiting in dirty.waiting])
            if changes is not None:
                self._db.executemany(
                    "INSERT OR IGNORE INTO records (kind, key, at, json) VALUES (?, ?, ?, ?)",
                    [(row.kind, row.key, row.at, dumps(row.value)) for row in changes.records],
                )
                self._db.executemany(
                    "INSERT OR IGNORE INTO answers (request, accepted, message, at) VALUES (?, ?, ?, ?)",
                    [(r.answer.request, r.answer.accepted, r.answer.message, r.at) for r in changes.answers],
                )
                for kept in changes.answers:  # a request is in the change log under its own id
                    self._db.execute(changelog.END, (kept.answer.request, *ending(kept.answer)))

    def _write_step(self, step: StepKept) -> None:
        self._db.execute(
            "INSERT INTO steps (id, action, detail, because, at, last, times, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET last = excluded.last, times = excluded.times, outcome = excluded.outcome",
            (step.id, step.action, step.detail, step.because, step.at, step.last, step.times, step.outcome),
        )

    def _write_event(self, kept: EventKept) -> None:
        e = kept.event
        self._db.execute(
            "INSERT INTO events (key, reason, about, message, level, kind, count, first, last)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " reason = excluded.reason, about = excluded.about, message = excluded.message, level = excluded.level,"
            " kind = excluded.kind, count = excluded.count, first = excluded.first, last = excluded.last",
            (e.key, e.reason, e.about, e.message, e.level, e.kind, kept.count, kept.first, kept.last),
        )

    def _keep_request(self, request: Request) -> None:
        row = (request.id, request.verb, request.target, request.at, request.who, dumps(request.args))
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO requests (id, verb, target, at, who, args) VALUES (?, ?, ?, ?, ?, ?)", row
            )
        self._book.requests[request.id] = request

    def note(self, change: Change) -> None:
        """Write an entry of the change log; raises `EnvironmentError_`, and then what it tells of must not be done."""
        with self._guard, self._transaction():
            self._db.execute(changelog.NOTE, changelog.row(change))

    def end(self, change: str, outcome: Outcome, message: str = "") -> None:
        """Write how a change ended; raises `EnvironmentError_`."""
        with self._guard, self._transaction():
            self._db.execute(changelog.END, (change, outcome, said(message)))

    def changes(self, since: float = float("-inf"), limit: int = 100, who: str = "") -> Sequence[Change]:
        """The change log, asked of the file: it may be long, and is seldom looked at."""
        with self._guard, self._full():
            return changelog.read(self._db, since, limit, who)

    def _keep_outcome(self, step: StepKept) -> None:
        """Put it off to the next write: a step whose outcome is not known is begun again, which is harmless."""
        self._dirty.steps[step.id] = step
        self._book.steps[step.id] = step

    def _keep_desired(self, desired: DesiredKept) -> None:
        with self._transaction():
            self._put("desired", asdict(desired))
        self._book.desired = desired

    def _trim(self) -> None:
        steps, events, answered = self._book.trim()
        if not (steps or events or answered):
            return
        for key in events:
            self._dirty.events.pop(key, None)
        for key in steps:
            self._dirty.steps.pop(key, None)
        with contextlib.suppress(EnvironmentError_), self._transaction():
            self._db.executemany("DELETE FROM steps WHERE id = ?", [(key,) for key in steps])
            self._db.executemany("DELETE FROM events WHERE key = ?", [(key,) for key in events])
            self._db.executemany("DELETE FROM answers WHERE request = ?", [(key,) for key in answered])
            self._db.executemany("DELETE FROM requests WHERE id = ?", [(key,) for key in answered])

    def _put(self, key: str, value: object) -> None:
        self._db.execute(
            "INSERT INTO things (key, json) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET json = excluded.json",
            (key, dumps(value)),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; a full or broken disk is an `EnvironmentError_`, and the file is as it was."""
        with self._full():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise files.translated(self._path, error) from error


class _Dirty:
    """Rows that differ from the file, put off to the next write."""

    def __init__(self) -> None:
        self.steps: dict[str, StepKept] = {}
        self.events: dict[str, EventKept] = {}
        self.conditions: tuple[Condition, ...] | None = None
        self.waiting: tuple[Waiting, ...] | None = None

    def plus(self, changes: Changes) -> _Dirty:
        """These, and what a commit changes."""
        dirty = _Dirty()
        dirty.steps = {**self.steps, **{step.id: step for step in changes.steps}}
        dirty.events = {**self.events, **{event.event.key: event for event in changes.events}}
        dirty.conditions = self.conditions if changes.conditions is None else changes.conditions
        dirty.waiting = self.waiting if changes.waiting is None else changes.waiting
        return dirty


def _read(db: sqlite3.Connection, path: Path) -> Book:
    """Read everything; columns that a newer version added are not asked for."""
    things = {key: json.loads(text) for key, text in db.execute("SELECT key, json FROM things")}
    book = Book(revision=things.get("revision", 0), memory=_read_memory(db, path))
    for row in db.execute("SELECT id, action, detail, because, at, last, times, outcome FROM steps ORDER BY seq"):
        book.steps[row[0]] = StepKept(*row)
    for row in db.execute(
        "SELECT key, reason, about, message, level, kind, count, first, last FROM events ORDER BY seq"
    ):
        book.events[row[0]] = EventKept(Event(*row[:6]), *row[6:])
    for kind, key, at, text in db.execute("SELECT kind, key, at, json FROM records ORDER BY seq"):
        book.records[kind, key] = Record(kind, key, at, json.loads(text))
    for id_, verb, target, at, who, text in db.execute(
        "SELECT id, verb, target, at, who, args FROM requests ORDER BY seq"
    ):
        book.requests[id_] = Request(id_, verb, target, at, who, json.loads(text))
    for request, accepted, message, at in db.execute("SELECT request, accepted, message, at FROM answers ORDER BY seq"):
        book.answers[request] = AnswerKept(Answer(request, bool(accepted), message), at)
    book.conditions = tuple(Condition(**_known(Condition, row)) for row in things.get("conditions", ()))
    book.waiting = tuple(Waiting(**_known(Waiting, row)) for row in things.get("waiting", ()))
    desired = things.get("desired")
    book.desired = DesiredKept(**_known(DesiredKept, desired)) if desired else None
    return book


def _known(kind: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in row.items() if name in names}


def _read_memory(db: sqlite3.Connection, path: Path) -> Memory:
    row = db.execute("SELECT schema, json FROM memory").fetchone()
    if row is None:
        return Memory()
    schema, text = row
    if schema > MEMORY_SCHEMA:
        raise MainspringError(
            "state-newer",
            f"`{path}` was written by a newer Mainspring (memory version `{schema}`, this one knows `{MEMORY_SCHEMA}`)",
            "upgrade Mainspring, or restore an older backup with `mainspring restore FILE`",
        )
    return from_json(text.encode())
