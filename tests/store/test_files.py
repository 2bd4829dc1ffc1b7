"""The store's file: killed in mid-commit, full, damaged, newer, read-only, backed up, restored."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.errors import Conflict, EnvironmentError_, InputError, MainspringError, Problem, StackError
from mainspring.facts.changes import Caller, Change, change
from mainspring.loop.memory import Memory
from mainspring.store import changelog, files
from mainspring.store.schema import FIRST, MIGRATIONS, migrate
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


def a_change(id: str = "c", at: float = 5.0) -> Change:
    """An entry of the change log."""
    return change(id, at, Caller("k3 (anna)"), "apply", "the stack")


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
        migrate(db, path, (*MIGRATIONS, "ALTER TABLE steps ADD COLUMN cost REAL; SELECT nonsense FROM nowhere"))
    assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    for _ in range(2):
        migrate(db, path, (*MIGRATIONS, "ALTER TABLE steps ADD COLUMN cost REAL"))
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
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


def test_kill_9_loses_no_change_that_was_made(tmp_path: Path) -> None:
    """A change is on the disk before it is made: killed at any moment, the log has each that was begun."""
    code = """
import pathlib, sys
from mainspring.facts.changes import Caller, change
from mainspring.store.changelog import recorded
from mainspring.store.sqlite import SqliteStore
store = SqliteStore(pathlib.Path(sys.argv[1]))
for n in range(10**6):
    with recorded(store, change(f"{sys.argv[2]}-{n}", float(n), Caller("uid 7 (socket)"), "apply", f"s{n}")):
        print("made", flush=True)
    print("said", flush=True)
"""
    chance = random.Random(8)
    path = tmp_path / "state.db"
    for life in range(4):
        command = [sys.executable, "-c", code, str(path), str(life)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=faults.same_mainspring())
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "made\n"
            time.sleep(chance.uniform(0.02, 0.15))
        finally:
            child.kill()
            said = child.communicate()[0].split()
        store = SqliteStore(path)
        found = {kept.id: kept for kept in store.changes(limit=10**6)}
        store.close()
        made, ended = 1 + said.count("made"), said.count("said")
        assert all(f"{life}-{n}" in found for n in range(made))
        assert all(found[f"{life}-{n}"].outcome == "accepted" for n in range(ended))
        assert {kept.outcome for kept in found.values()} <= {"", "accepted"}
    assert len(found) > 5


def test_a_full_disk_refuses_a_change(tmp_path: Path) -> None:
    """What can't be written down is not made, but for what is let through without; what was written stays."""
    try:
        with faults.tiny_disk(tmp_path / "disk", "512k") as disk:
            store = SqliteStore(disk / "state.db")
            filler = faults.fill(disk)
            made: list[str] = []
            with pytest.raises(EnvironmentError_) as caught:
                for number in range(1000):
                    with changelog.recorded(store, a_change(f"c{number}")):
                        made.append(f"c{number}")
            assert caught.value.code == "disk-full"
            with changelog.recorded(store, a_change("down"), needed=False):
                made.append("down")
            assert {kept.id for kept in store.changes(limit=2000)} == set(made) - {"down"}
            filler.unlink()
            with changelog.recorded(store, a_change("later")):
                pass
            assert store.changes(limit=1)[0].outcome == "accepted"
            store.close()
    except faults.CannotFault as error:
        pytest.skip(f"NOT TESTED: {error}")


@pytest.mark.parametrize(
    ("raised", "outcome", "message"),
    [
        (Conflict("stack-moved", "it moved", ""), "refused", "it moved"),
        (EnvironmentError_("loop-busy", "busy", ""), "failed", "busy"),
        (ValueError("its own words"), "failed", "ValueError"),
        (StackError((Problem("unknown-field", "`s3cret`", "a", "f", 1, 1),)), "refused", "1 problems"),
    ],
)
def test_how_a_change_ended(tmp_path: Path, raised: Exception, outcome: str, message: str) -> None:
    """Refused and failed are told apart; a stack file's own words are not repeated."""
    store = SqliteStore(tmp_path / "state.db")
    with pytest.raises(type(raised)), changelog.recorded(store, a_change()):
        raise raised
    [kept] = store.changes()
    assert kept.outcome == outcome
    assert kept.message.startswith(message)
    assert "s3cret" not in kept.message
    store.close()


def test_the_change_log_is_only_added_to(tmp_path: Path) -> None:
    """No statement changes or deletes a row of it."""
    store = SqliteStore(tmp_path / "state.db")
    store.note(a_change())
    store.end("c", "accepted")
    store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        for statement in ("UPDATE changes SET who = 'x'", "DELETE FROM changes", "DELETE FROM change_outcomes",
                          "UPDATE change_outcomes SET outcome = 'failed'"):  # fmt: skip
            with pytest.raises(sqlite3.IntegrityError, match="only added"):
                db.execute(statement)


def test_a_file_from_before_the_change_log(tmp_path: Path) -> None:
    """It is migrated, and what was in it is there."""
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        migrate(db, path, (FIRST,))
        db.execute("INSERT INTO things VALUES ('revision', '5')")
    assert changelog.read_file(path, 0.0, 10, "") == ()
    store = SqliteStore(path)
    assert store.load()[0] == 5
    assert store.changes() == ()
    store.note(a_change())
    store.close()
    assert [kept.id for kept in changelog.read_file(path, 0.0, 10, "")] == ["c"]
    assert changelog.read_file(tmp_path / "none.db", 0.0, 10, "") == ()


def test_going_back_to_a_backup_forgets_no_change(tmp_path: Path) -> None:
    """The restored file has its own entries, the later ones, and that of the restoring; also when it is older."""
    path, saved = tmp_path / "state.db", tmp_path / "saved.db"
    store = SqliteStore(path)
    with changelog.recorded(store, a_change("first", 1.0)):
        pass
    store.backup(saved)
    with changelog.recorded(store, a_change("second", 2.0)):
        pass
    store.close()
    files.restore(path, saved, a_change("back", 3.0))
    old = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as db:
        migrate(db, old, (FIRST,))
    for source, known in ((saved, ["back", "second", "first"]), (old, ["older", "back", "second", "first"])):
        if source is old:
            files.restore(path, source, a_change("older", 4.0))
        store = SqliteStore(path)
        assert [kept.id for kept in store.changes()] == known
        assert {kept.outcome for kept in store.changes()} == {"accepted"}
        store.close()
