"""The change log in `state.db`: who changed what, when, and how it ended. Rows are only added.

What this is: the log's SQL, in one place, and `recorded`, which writes a change down before it is made. Who calls it:
`SqliteStore`; the controller and `app` around each change; `mainspring changes` and `restore` while no controller is
up. What it must never do: let a change be made that is not written down, or let the log get shorter.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mainspring.errors import Conflict, EnvironmentError_, InputError, MainspringError, StackError
from mainspring.facts.changes import Change, Outcome
from mainspring.store.memory import MemoryStore

LOG = logging.getLogger("mainspring.store")

NOTE = "INSERT OR IGNORE INTO changes (id, at, who, what, target, detail, remark) VALUES (?, ?, ?, ?, ?, ?, ?)"
END = (
    "INSERT OR IGNORE INTO change_outcomes (change, outcome, message)"
    " SELECT id, ?2, ?3 FROM changes WHERE id = ?1"  # nothing for what is not a change
)
_READ = (
    "SELECT id, at, who, what, target, detail, remark, coalesce(outcome, ''), coalesce(message, '')"
    " FROM changes LEFT JOIN change_outcomes ON change = id"
    " WHERE at >= ?1 AND (?3 = '' OR instr(who, ?3)) ORDER BY at DESC, seq DESC LIMIT ?2"
)


@dataclass(slots=True)
class Ending:
    """What is to be said of a change that ended well."""

    message: str = ""


@contextlib.contextmanager
def recorded(store: MemoryStore, change: Change, *, answered: bool = False, needed: bool = True) -> Iterator[Ending]:
    """Write a change down, have it made, and write down how that ended.

    `answered`: the loop will say how it ended, under the same id. `needed` False: it is made even if it can't be
    written down (a full disk must not keep anybody from stopping everything). Raises `EnvironmentError_` before
    anything was done, and whatever the change itself raises.
    """
    try:
        store.note(change)
    except EnvironmentError_ as error:
        if needed:
            raise
        LOG.warning("%s by %s could not be written down: %s", change.what, change.who, error.message)
    ending = Ending()
    try:
        yield ending
    except BaseException as error:
        _end(store, change, "refused" if _refuses(error) else "failed", _why(error))
        raise
    if not answered:
        _end(store, change, "accepted", ending.message)


def _end(store: MemoryStore, change: Change, outcome: Outcome, message: str) -> None:
    """Write down how it ended; without space that stays unsaid, since the change itself can't be taken back."""
    try:
        store.end(change.id, outcome, message)
    except EnvironmentError_ as error:
        LOG.warning("how %s by %s ended (%s) could not be written down: %s", change.what, change.who, outcome, error)


def _refuses(error: BaseException) -> bool:
    return isinstance(error, StackError | InputError | Conflict)


def _why(error: BaseException) -> str:
    if isinstance(error, StackError):  # its own words quote the file, where anything may stand
        return f"{len(error.problems)} problems, the first: {error.problems[0].code}"
    return error.message if isinstance(error, MainspringError) else type(error).__name__


def row(change: Change) -> tuple[str, float, str, str, str, str, str]:
    """What `NOTE` takes."""
    return (change.id, change.at, change.who, change.what, change.target, change.detail, change.remark)


def read(db: sqlite3.Connection, since: float = float("-inf"), limit: int = -1, who: str = "") -> tuple[Change, ...]:
    """The log from `since` on, newest first; raises `sqlite3.Error`."""
    return tuple(Change(*found) for found in db.execute(_READ, (since, limit, who)))


def read_file(path: Path, since: float, limit: int, who: str) -> tuple[Change, ...]:
    """The log of a `state.db` that no controller has open. None for a file that is not there, or is older.

    Raises `EnvironmentError_` for one that can't be read.
    """
    if not path.exists():
        return ()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return read(db, since, limit, who) if _has(db) else ()
    except sqlite3.Error as error:
        raise EnvironmentError_("state-unreadable", f"`{path}` can't be read: {error}", "mainspring doctor") from error


def carry(db: sqlite3.Connection, other: Path) -> None:
    """Add what another `state.db` has in its log and this one has not: going back to a backup forgets nobody's change.

    A file that can't be read brings nothing; it is kept beside.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{other.absolute().as_uri()}?mode=ro", uri=True)) as there:
            found = read(there) if _has(there) else ()
    except sqlite3.Error as error:
        LOG.warning("the change log of `%s` can't be read: %s", other, error)
        return
    add(db, found[::-1])


def add(db: sqlite3.Connection, changes: Iterable[Change]) -> None:
    """Add entries to a file that is being made; those that it has stay as they are."""
    with db:
        for change in changes:
            db.execute(NOTE, row(change))
            if change.outcome:
                db.execute(END, (change.id, change.outcome, change.message))


def _has(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'changes'").fetchone())
