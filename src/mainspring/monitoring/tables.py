"""The prediction store's tables: how they are made, brought along from an older version, and put into.

Who calls it: `predictions.py`. What it must never do: give up a row, or write what an earlier line said over what is
known better.
"""

from __future__ import annotations

import sqlite3

from mainspring.monitoring import metered
from mainspring.monitoring.segments import FATE, SPOKEN, Batch

SCHEMA = 2

_TABLES = """
CREATE TABLE IF NOT EXISTS predictions (
  endpoint TEXT NOT NULL, id TEXT NOT NULL, role INTEGER NOT NULL, revision TEXT NOT NULL, version TEXT NOT NULL,
  row INTEGER NOT NULL, at REAL NOT NULL, rank INTEGER NOT NULL, status INTEGER NOT NULL, seconds REAL NOT NULL,
  upstream REAL NOT NULL, compute REAL NOT NULL, tries INTEGER NOT NULL, score REAL, layout INTEGER, inputs BLOB,
  error TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS predictions_key ON predictions (endpoint, id, role, revision);
CREATE INDEX IF NOT EXISTS predictions_at ON predictions (endpoint, at, id);
CREATE TABLE IF NOT EXISTS truths (
  endpoint TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (endpoint, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feedback (
  endpoint TEXT NOT NULL, field TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (endpoint, field, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feedback_at ON feedback (endpoint, field, at);
CREATE TABLE IF NOT EXISTS written (
  worker TEXT NOT NULL, endpoint TEXT NOT NULL, boot TEXT NOT NULL, at REAL NOT NULL, copies REAL,
  PRIMARY KEY (worker, endpoint)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layouts (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS segments (
  name TEXT PRIMARY KEY, offset INTEGER NOT NULL, records INTEGER NOT NULL, bad INTEGER NOT NULL,
  gone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS owed (
  segment TEXT NOT NULL, endpoint TEXT NOT NULL, id TEXT NOT NULL, revision TEXT NOT NULL,
  PRIMARY KEY (segment, endpoint, id, revision)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tallies (
  endpoint TEXT NOT NULL, revision TEXT NOT NULL, role INTEGER NOT NULL, day INTEGER NOT NULL,
  records INTEGER NOT NULL, compute INTEGER NOT NULL,
  PRIMARY KEY (endpoint, revision, role, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spoken (
  endpoint TEXT NOT NULL, revision TEXT NOT NULL, role INTEGER NOT NULL, day INTEGER NOT NULL,
  answers INTEGER NOT NULL, prompt INTEGER NOT NULL, output INTEGER NOT NULL, cached INTEGER NOT NULL,
  drafted INTEGER NOT NULL, accepted INTEGER NOT NULL, cut INTEGER NOT NULL,
  PRIMARY KEY (endpoint, revision, role, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS firsts (
  endpoint TEXT NOT NULL, revision TEXT NOT NULL, role INTEGER NOT NULL, day INTEGER NOT NULL, bucket INTEGER NOT NULL,
  streams INTEGER NOT NULL, PRIMARY KEY (endpoint, revision, role, day, bucket)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten (
  endpoint TEXT NOT NULL, revision TEXT NOT NULL, role INTEGER NOT NULL,
  requests INTEGER NOT NULL, predictions INTEGER NOT NULL, errors INTEGER NOT NULL, refused INTEGER NOT NULL,
  PRIMARY KEY (endpoint, revision, role)) WITHOUT ROWID;
"""
_EVIDENCE = {
    "came": "REAL",
    "fate": "INTEGER",
    "first": "REAL NOT NULL DEFAULT 0",
    "asked": "INTEGER NOT NULL DEFAULT 0",
    "output": "INTEGER NOT NULL DEFAULT 0",
    "whole": "INTEGER NOT NULL DEFAULT 1",
    "replica": "TEXT NOT NULL DEFAULT ''",
    "region": "TEXT NOT NULL DEFAULT ''",
    "unit": "TEXT NOT NULL DEFAULT ''",
}
"""Columns of `predictions` since the second schema; NULL, 0 and '' are unknown."""
_COLUMNS = ("endpoint", "id", "role", "revision", "version", "row", "at", "rank", "status", "seconds", "upstream",
            "compute", "tries", "score", "layout", "inputs", "error", *_EVIDENCE)  # fmt: skip
_BETTER = (
    ", ".join(f"{{0}}.{column}" for column in ("rank", "at", "seconds", "upstream", "compute", "tries", "status"))
    + ", ifnull({0}.score, -1), ifnull({0}.inputs, x''), {0}.version, {0}.first, {0}.output, {0}.whole, {0}.replica"
)
_EARLIER = f"ifnull({{0}}.came, {{0}}.at), {FATE}, {{0}}.asked, {{0}}.region, {{0}}.unit"
_IS_BETTER, _IS_EARLIER = (f"({of.format('excluded')}) < ({of.format('predictions')})" for of in (_BETTER, _EARLIER))
_BY_FIRST = ("came", "fate", "asked", "region", "unit")
"""What is kept of the record that came first; the rest is of the best one."""
_KNOWN = {"came": "ifnull(came, at)", "fate": FATE.format("predictions")}
PUT = (
    f"INSERT INTO predictions ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (endpoint, id, role, revision) DO UPDATE SET "
    + ", ".join(
        f"{name} = iif({_IS_EARLIER if name in _BY_FIRST else _IS_BETTER}, excluded.{name}, {_KNOWN.get(name, name)})"
        for name in _COLUMNS[4:]
    )
    + f" WHERE {_IS_BETTER} OR {_IS_EARLIER}"
)
_PUT_FEEDBACK = (
    "INSERT INTO feedback VALUES (?, ?, ?, ?, ?) ON CONFLICT (endpoint, field, id) DO UPDATE SET at = excluded.at, "
    "value = excluded.value WHERE (excluded.at, excluded.value) > (feedback.at, feedback.value)"
)
_PUT_WRITTEN = (
    "INSERT INTO written VALUES (?, ?, ?, ?, ?) ON CONFLICT (worker, endpoint) DO UPDATE SET boot = excluded.boot, "
    "at = excluded.at, copies = excluded.copies "
    "WHERE (excluded.boot, excluded.at, ifnull(excluded.copies, 0)) > "
    "(written.boot, written.at, ifnull(written.copies, 0))"
)
_PUT_TRUTH = (
    "INSERT INTO truths VALUES (?, ?, ?, ?) ON CONFLICT (endpoint, id) DO UPDATE SET at = excluded.at, "
    "value = excluded.value WHERE (excluded.at, excluded.value) > (truths.at, truths.value)"
)
_PUT_TALLY = (
    "INSERT INTO tallies VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, revision, role, day) DO UPDATE SET "
    "records = records + excluded.records, compute = compute + excluded.compute"
)
_PUT_SPOKEN = (
    f"INSERT INTO spoken VALUES ({', '.join('?' * 11)}) ON CONFLICT (endpoint, revision, role, day) DO UPDATE SET "
    + ", ".join(f"{column} = {column} + excluded.{column}" for column in SPOKEN)
)
_PUT_FIRST = (
    "INSERT INTO firsts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, revision, role, day, bucket) DO UPDATE SET "
    "streams = streams + excluded.streams"
)
PUT_SEGMENT = (
    "INSERT INTO segments (name, offset, records, bad) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
    "offset = excluded.offset, records = records + excluded.records, bad = bad + excluded.bad"
)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring along those of an older version; in one transaction. Raises `sqlite3.Error`."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise sqlite3.DatabaseError(f"its schema is `{version}`, this version knows `{SCHEMA}`")
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in (_TABLES + metered.TABLES).split(";"):
            db.execute(statement)
        there = {name for _, name, *_ in db.execute("PRAGMA table_info(predictions)")}
        for name, kind in _EVIDENCE.items():
            if name not in there:
                db.execute(f"ALTER TABLE predictions ADD COLUMN {name} {kind}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def put(db: sqlite3.Connection, boot: metered.Boot, batch: Batch) -> None:
    """Put what the lines of a piece of a segment say into all tables but `predictions` and `segments`."""
    db.executemany(_PUT_TRUTH, batch.truths)
    db.executemany(_PUT_FEEDBACK, batch.feedback)
    db.executemany(_PUT_WRITTEN, [(boot[0], endpoint, boot[1], *word) for endpoint, word in batch.written.items()])
    db.executemany(_PUT_TALLY, [(*key, *value) for key, value in batch.tallies.items()])
    db.executemany(_PUT_SPOKEN, [(*key, *value) for key, value in batch.spoken.items()])
    db.executemany(_PUT_FIRST, [(*key, value) for key, value in batch.firsts.items()])
    metered.take(db, boot, batch)
