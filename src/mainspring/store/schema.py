"""The tables of `state.db`, and how an older file becomes a newer one.

What this is: a list of migrations; the number of those done is the file's `user_version`. Who calls it: `SqliteStore`.
What it must never do: change a migration that was released; a new one is added at the end.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mainspring.errors import MainspringError

APPLICATION = 0x4D53_5247  # "MSRG": says that a SQLite file is ours

FIRST = """
CREATE TABLE things (key TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE memory (one INTEGER PRIMARY KEY CHECK (one = 1), schema INTEGER NOT NULL, json TEXT NOT NULL);
CREATE TABLE steps (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, action TEXT NOT NULL,
    detail TEXT NOT NULL, because TEXT NOT NULL, at REAL NOT NULL, last REAL NOT NULL, times INTEGER NOT NULL,
    outcome TEXT NOT NULL);
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, reason TEXT NOT NULL,
    about TEXT NOT NULL, message TEXT NOT NULL, level TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL,
    first REAL NOT NULL, last REAL NOT NULL);
CREATE TABLE records (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL,
    json TEXT NOT NULL, UNIQUE (kind, key));
CREATE TABLE requests (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, verb TEXT NOT NULL,
    target TEXT NOT NULL, at REAL NOT NULL, who TEXT NOT NULL, args TEXT NOT NULL);
CREATE TABLE answers (seq INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT NOT NULL UNIQUE, accepted INTEGER NOT NULL,
    message TEXT NOT NULL, at REAL NOT NULL);
"""

CHANGES = """
CREATE TABLE changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at REAL NOT NULL,
    who TEXT NOT NULL, what TEXT NOT NULL, target TEXT NOT NULL, detail TEXT NOT NULL, remark TEXT NOT NULL);
CREATE INDEX changes_at ON changes (at);
CREATE TABLE change_outcomes (change TEXT PRIMARY KEY, outcome TEXT NOT NULL, message TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER changes_stay BEFORE UPDATE ON changes BEGIN SELECT RAISE(ABORT, 'changes are only added'); END;
CREATE TRIGGER changes_last BEFORE DELETE ON changes BEGIN SELECT RAISE(ABORT, 'changes are only added'); END;
CREATE TRIGGER outcomes_stay BEFORE UPDATE ON change_outcomes BEGIN SELECT RAISE(ABORT, 'changes are only added'); END;
CREATE TRIGGER outcomes_last BEFORE DELETE ON change_outcomes BEGIN SELECT RAISE(ABORT, 'changes are only added'); END;
"""
"""Who changed what: kept for ever, so nothing in them can be changed or deleted, by a slip of ours either."""

MIGRATIONS: tuple[str, ...] = (FIRST, CHANGES)


def migrate(db: sqlite3.Connection, path: Path, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring the file to the latest version, one transaction a version, so that a crash leaves a whole version."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise MainspringError(
            "state-newer",
            f"`{path}` was written by a newer Mainspring (version `{version}`, this one knows `{len(migrations)}`)",
            "upgrade Mainspring, or restore an older backup with `mainspring restore FILE`",
        )
    for number in range(version, len(migrations)):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(migrations[number]):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {number + 1}")
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; a trigger has semicolons of its own."""
    statement = ""
    for piece in script.split(";"):
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):
            if statement.strip(" \n;"):
                yield statement
            statement = ""
