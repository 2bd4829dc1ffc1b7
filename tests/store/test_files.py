"""The store's file: killed in mid-commit, full, damaged, newer, read-only, backed up, restored."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.errors import EnvironmentError_, InputError, MainspringError
from mainspring.loop.memory import Memory
from mainspring.store import files
from mainspring.store.schema import FIRST, migrate
from mainspring.store.sqlite import SqliteStore
from mainspring.testing import faults
from mainspring.testing.builders import EPOCH, a_now, a_plan, a_record, a_replica, a_request, an_event

COMMITTER = """
import pathlib, sys
from mainspring.loop.memory import Memory
from mainspring.store.sqlite import SqliteStore
from mainspring.testing.builders import a_now, a_plan, a_record, a_replica, an_event
store = SqliteStore(pathlib.Path(sys.argv[1]))
revision, memory = store.load()
print("open", flush=True)
while True:
    n = revision + 1
    plan = a_plan(Memory(epoch=n), a_replica(generation=n), events=(an_event(f"e{n}"), an_event("again")),
                  records=(a_record(str(n), float(n), text="x" * 3000),))
    revision = store.commit(revision, plan, a_now(mono=float(n)))
    print(revision, flush=True)
"""


def test_kill_9_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    """Killed in mid-commit again and again: the file opens, holds all that was acknowledged, and nothing half-done."""
    chance = random.Random(7)
    path = tmp_path / "state.db"
    for _ in range(4):
        command = [sys.executable, "-c", COMMITTER, str(path)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=faults.same_mainspring())
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            time.sleep(chance.uniform(0.02, 0.15))
        finally:
            child.kill()
            said = child.communicate()[0].split()
        acknowledged = int(said[-1]) if said else 0
        store = SqliteStore(path)
        revision, memory = store.load()
        assert revision >= acknowledged
        assert memory.epoch == revision
        assert len(store.records("drift")) == revision
        assert {kept.event.key for kept in store.events(limit=10**6)} >= {f"e{n}" for n in range(1, revision + 1)}
        assert len(store.steps(10**6)) == revision
        store.close()
    assert revision > 5


def test_a_full_disk_leaves_nothing_half_done(tmp_path: Path) -> None:
    """The commit raises, nothing of it is seen, and it goes through when there is space again."""
    try:
        with faults.tiny_disk(tmp_path / "disk", "512k") as disk:
            store = SqliteStore(disk / "state.db")
            revision = store.commit(0, a_plan(Memory(epoch=1)), a_now())
            filler = faults.fill(disk)
            big = a_plan(Memory(epoch=2), a_replica(), records=(a_record(text="x" * 50_000),), events=(an_event(),))
            with pytest.raises(EnvironmentError_) as caught:
                store.commit(revision, big, a_now(mono=1.0))
            assert caught.value.code == "disk-full"
            with pytest.raises(EnvironmentError_):
                store.ask(a_request(args={"x": "y" * 50_000}))
            assert (store.load(), store.steps(), store.events(), store.requests()) == ((1, Memory(epoch=1)), (), (), ())
            watched = Memory(epoch=1, watched=5.0)
            assert store.commit(revision, a_plan(watched), a_now(mono=9.0)) == revision  # no news: no need of space
            filler.unlink()
            assert store.commit(revision, big, a_now(mono=10.0)) == 2
            store.close()
            again = SqliteStore(disk / "state.db")
            assert again.load() == (2, Memory(epoch=2))
            assert len(again.records("drift")) == 1
            again.close()
    except faults.CannotFault as error:
        pytest.skip(f"NOT TESTED: {error}")


def test_a_file_that_may_not_grow_leaves_nothing_half_done(tmp_path: Path) -> None:
    """With a limit on the size of files (RLIMIT_FSIZE) the commit is an error, and the file is whole."""
    code = """
import pathlib, resource, sys
from mainspring.errors import EnvironmentError_
from mainspring.loop.memory import Memory
from mainspring.store.sqlite import SqliteStore
from mainspring.testing.builders import a_now, a_plan, a_record
store = SqliteStore(pathlib.Path(sys.argv[1]))
revision = store.commit(0, a_plan(Memory(epoch=1)), a_now())
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    store.commit(revision, a_plan(Memory(epoch=2), records=(a_record(text="x" * 300_000),)), a_now(mono=1.0))
except EnvironmentError_ as error:
    print(error.code, store.load()[0])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "state.db")]
    env = faults.same_mainspring()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.stdout.split() in (["disk-full", "1"], ["state-unwritable", "1"]), done
    store = SqliteStore(tmp_path / "state.db")
    assert store.load() == (1, Memory(epoch=1))
    store.close()


def made(path: Path) -> None:
    """A store with something in it."""
    store = SqliteStore(path)
    records = tuple(a_record(str(n), float(n), text="x" * 500) for n in range(100))
    store.commit(0, a_plan(Memory(epoch=7), a_replica(), records=records, events=(an_event(),)), a_now())
    store.close()


@pytest.mark.parametrize("damage", ["junk", "torn", "flipped", "emptied table", "bad memory", "not ours"])
def test_a_damaged_file_is_put_aside(tmp_path: Path, damage: str) -> None:
    """The error names where it was put and the way back; the next opening is a fresh one."""
    path = tmp_path / "state.db"
    made(path)
    data = bytearray(path.read_bytes())
    if damage == "junk":
        path.write_bytes(b"not a database at all" * 1000)
    elif damage == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[4096 * 3 : 4096 * 3 + 64] = b"\xff" * 64
        path.write_bytes(data)
    else:
        with sqlite3.connect(path) as db:
            if damage == "emptied table":
                db.execute("DROP TABLE records")
            elif damage == "bad memory":
                db.execute('UPDATE memory SET json = \'{"epoch": "x"}\'')
            else:
                db.execute("PRAGMA application_id = 5")
        db.close()
    with pytest.raises(EnvironmentError_) as caught:
        SqliteStore(path)
    assert caught.value.code == "state-damaged"
    assert f"{path}.damaged-1" in caught.value.message
    assert "mainspring restore" in caught.value.hint
    assert Path(f"{path}.damaged-1").exists()
    store = SqliteStore(path)
    assert store.load() == (0, Memory())
    store.close()


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    """A later version of the tables or of the memory is an error that says so, and changes nothing."""
    path = tmp_path / "state.db"
    for statement in (
        'UPDATE memory SET schema = 99, json = \'{"schema": 99, "new": [1]}\'',
        "PRAGMA user_version = 99",
    ):
        path.unlink(missing_ok=True)
        made(path)
        with sqlite3.connect(path) as db:
            db.execute(statement)
        db.close()
        with pytest.raises(MainspringError) as caught:
            SqliteStore(path)
        assert caught.value.code == "state-newer"
        assert path.exists()


def test_a_migration_happens_once_and_whole(tmp_path: Path) -> None:
    """A failing migration leaves the last whole version; the data lives on."""
    path = tmp_path / "state.db"
    made(path)
    db = files.open_checked(path)
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, path, (FIRST, "ALTER TABLE steps ADD COLUMN cost REAL; SELECT nonsense FROM nowhere"))
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    for _ in range(2):
        migrate(db, path, (FIRST, "ALTER TABLE steps ADD COLUMN cost REAL"))
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert db.execute("SELECT count(*) FROM steps WHERE cost IS NULL").fetchone() == (1,)
    db.close()


def test_a_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    """It names the file and the remedy, be the file there or not."""
    try:
        for there in (False, True):
            folder = tmp_path / str(there)
            folder.mkdir()
            if there:
                made(folder / "state.db")
            with faults.read_only(folder), pytest.raises(EnvironmentError_) as caught:
                SqliteStore(folder / "state.db")
            assert caught.value.code == "folder-read-only"
            assert "writable" in caught.value.hint
    except faults.CannotFault as error:
        pytest.skip(f"NOT TESTED: {error}")


def test_a_backup_can_be_restored(tmp_path: Path) -> None:
    """A backup of a live store is one whole file; going back keeps the present beside it."""
    store = SqliteStore(tmp_path / "state.db")
    revision = store.commit(0, a_plan(Memory(epoch=1), a_replica()), a_now())
    store.backup(tmp_path / "copy.db")
    with pytest.raises(InputError):
        store.backup(tmp_path / "copy.db")
    store.commit(revision, a_plan(Memory(epoch=2)), a_now(EPOCH, 5.0))
    store.restore(tmp_path / "copy.db")
    assert store.load() == (1, Memory(epoch=1))
    assert len(store.steps()) == 1
    assert store.commit(1, a_plan(Memory(epoch=3)), a_now(EPOCH, 6.0)) == 2
    store.close()
    kept = SqliteStore(tmp_path / "state.db.before-1")
    assert kept.load() == (2, Memory(epoch=2))
    kept.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "state.db", "state.db.before-1"]


def test_a_bad_backup_changes_nothing(tmp_path: Path) -> None:
    """A missing, foreign or torn backup is refused before anything is moved."""
    store = SqliteStore(tmp_path / "state.db")
    store.commit(0, a_plan(Memory(epoch=1)), a_now())
    (tmp_path / "junk").write_bytes(b"x" * 5000)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    for name in ("nothing", "junk", "other.db"):
        with pytest.raises(InputError):
            store.restore(tmp_path / name)
        assert store.load() == (1, Memory(epoch=1))
    with pytest.raises(EnvironmentError_) as caught:
        store.backup(tmp_path / "no such folder" / "copy.db")
    assert caught.value.code == "backup-failed"
    store.close()
