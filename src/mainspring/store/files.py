"""The file `state.db` as a file: opened and checked, put aside when damaged, backed up, restored.

What this is: all of the store that is about files and SQLite's own errors. Who calls it: `SqliteStore`, and the CLI's
`restore` (the store need not open for that).
What it must never do: delete a person's data; what is in the way is renamed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

from mainspring.errors import EnvironmentError_, InputError, MainspringError
from mainspring.facts.changes import Change
from mainspring.store import changelog
from mainspring.store.schema import APPLICATION, MIGRATIONS, migrate

SIDECARS = ("", "-wal", "-shm")
RESTORE = "`mainspring restore FILE` brings a backup back; `mainspring up` begins with an empty memory"


def open_checked(path: Path) -> sqlite3.Connection:
    """Open the file and look it through; raises `EnvironmentError_` after putting a damaged one aside."""
    try:
        db = _connect(path)
    except sqlite3.OperationalError as error:
        raise translated(path, error) from error
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        found = db.execute("PRAGMA quick_check(3)").fetchall()
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    except sqlite3.OperationalError as error:
        db.close()
        raise translated(path, error) from error
    except sqlite3.DatabaseError as error:
        db.close()
        raise set_aside(path, str(error)) from error
    if found != [("ok",)]:
        db.close()
        raise set_aside(path, "; ".join(str(row[0]) for row in found))
    if application != APPLICATION and tables:
        db.close()
        raise set_aside(path, "it is not a state.db of Mainspring")
    os.chmod(path, 0o600)
    return db


def _connect(path: Path) -> sqlite3.Connection:
    # One connection for all threads, each use under the store's own lock; transactions are begun by hand.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)


def set_aside(path: Path, why: str) -> EnvironmentError_:
    """Rename a damaged file (and its log), and give the error that says so."""
    aside = _free_name(path, "damaged")
    for suffix in SIDECARS:
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return EnvironmentError_(
        "state-damaged", f"`{path}` is damaged ({why[:300]}); it was put aside as `{aside}`", RESTORE
    )


def _free_name(path: Path, word: str) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.{word}-{number}")).exists():
        number += 1
    return name


def backup(db: sqlite3.Connection, to: Path) -> None:
    """Write a whole copy to a new file: it appears complete, or not at all."""
    to = Path(os.path.abspath(to))
    if to.exists():
        raise InputError("file-exists", f"`{to}` is there already", "choose another name for the backup")
    temporary = to.with_name(f"{to.name}.tmp-{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(temporary)) as copy:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, whole in itself
        os.chmod(temporary, 0o600)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, to)
    except (sqlite3.Error, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise EnvironmentError_(
            "backup-failed", f"cannot write `{to}`: {error}", "choose a folder with space"
        ) from error


def check_backup(source: Path) -> None:
    """See that a file is a whole backup that this Mainspring can read; raises `InputError` or `MainspringError`."""
    if not Path(source).is_file():
        raise InputError("no-such-file", f"there is no backup `{source}`", "make one with `mainspring backup FILE`")
    try:
        with contextlib.closing(sqlite3.connect(f"{Path(source).absolute().as_uri()}?mode=ro", uri=True)) as db:
            whole = db.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
            ours = int(db.execute("PRAGMA application_id").fetchone()[0]) == APPLICATION
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise InputError("backup-damaged", f"`{source}` cannot be read: {error}", "try an older backup") from error
    if not (whole and ours):
        raise InputError("backup-damaged", f"`{source}` is not a whole backup of Mainspring", "try an older backup")
    if version > len(MIGRATIONS):
        raise MainspringError(
            "state-newer", f"`{source}` was written by a newer Mainspring", "upgrade Mainspring first"
        )


def restore(path: Path, source: Path, restored: Change | None = None) -> Path | None:
    """Put a backup in the place of the file, which nobody may have open; gives the name under which it was kept.

    The change log alone does not go back: it keeps what the present file has, and `restored`, the entry of this.
    """
    check_backup(source)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with contextlib.closing(sqlite3.connect(f"{Path(source).absolute().as_uri()}?mode=ro", uri=True)) as db:
            temporary.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(temporary)) as copy:
                db.backup(copy)
                _carry_changes(copy, path, restored)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
    except (sqlite3.Error, OSError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise EnvironmentError_("restore-failed", f"cannot write `{path}`: {error}", "`mainspring doctor`") from error
    kept = _free_name(path, "before") if path.exists() else None
    if kept is not None:
        for suffix in SIDECARS:
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{suffix}", f"{kept}{suffix}")
    os.replace(temporary, path)
    return kept


def _carry_changes(copy: sqlite3.Connection, path: Path, restored: Change | None) -> None:
    migrate(copy, path)  # a backup may be older than the change log
    if path.exists():
        changelog.carry(copy, path)
    if restored is not None:
        changelog.add(copy, (replace(restored, outcome="accepted"),))
    copy.execute("PRAGMA journal_mode = DELETE")


def translated(path: Path, error: sqlite3.Error) -> EnvironmentError_:
    """Say in a person's words what stands in SQLite's way."""
    text = str(error)
    if "full" in text:
        return EnvironmentError_(
            "disk-full",
            f"no space is left to write `{path}`; nothing was changed",
            f"free some space (`du -sh {path.parent}/*`); it goes on by itself",
        )
    if "readonly" in text or "unable to open" in text:
        return EnvironmentError_(
            "folder-read-only", f"`{path}` cannot be written: {text}", f"make `{path.parent}` writable, then try again"
        )
    if "locked" in text:
        return EnvironmentError_("state-locked", f"another program is writing `{path}`", "`mainspring status`")
    if "malformed" in text or "not a database" in text:
        return EnvironmentError_("state-damaged", f"`{path}` is damaged: {text}", RESTORE)
    return EnvironmentError_("state-unwritable", f"`{path}` cannot be used: {text}", "`mainspring doctor`")
