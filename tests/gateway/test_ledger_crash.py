"""The ledger's file when things go wrong: killed at any store, damaged, deleted, cut, on a full disk, by many."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.limits import Limit
from mainspring.gateway import ledger_file
from mainspring.gateway.ledger import Ledger, LedgerError
from mainspring.gateway.ledger_cell import Cell
from mainspring.gateway.ledger_file import FIRST

DAY = Limit("tokens", 1000, "day")
MINUTE = Limit("tokens", 1000, "min")
ROOM = Limit("at_once", 5)
TODAY = 20_800
WALL = TODAY * 86_400.0
NUMBERS = st.integers(0, 2**64 - 1)


class KilledError(BaseException):
    """The process ends here."""


class Stores:
    """Counts the stores into maps, and kills at one of them, when the first `cut` bytes of it are done."""

    def __init__(self) -> None:
        self.seen, self.at, self.cut = 0, -1, 0
        self.maps: list[mmap.mmap] = []

    def map_class(self) -> type[mmap.mmap]:
        """A map whose stores are counted."""
        stores = self

        class Counted(mmap.mmap):
            def __init__(self, *_: int) -> None:
                stores.maps.append(self)

            def __setitem__(self, place: slice, data: bytes) -> None:  # type: ignore[override]
                stores.seen += 1
                if stores.seen == stores.at:
                    done = min(stores.cut, len(data))
                    super().__setitem__(slice(place.start, place.start + done), data[:done])
                    raise KilledError
                super().__setitem__(place, data)

        return Counted

    def close(self, path: Path) -> None:
        """Close all maps, and the file, as the kernel does for a process that was killed."""
        for one in self.maps:
            one.close()
        self.maps.clear()
        for fd in Path("/proc/self/fd").iterdir():
            if fd.is_symlink() and os.readlink(fd) == str(path):
                os.close(int(fd.name))


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    """All maps that ledgers make from now on are counted."""
    made = Stores()
    monkeypatch.setattr(ledger_file.mmap, "mmap", made.map_class())
    return made


def opened(path: Path, wall: float = WALL, reuse_bytes: int = 2**26) -> Ledger:
    """A worker at a moment that stands still."""
    return Ledger(path, mono=lambda: 100.0, wall=lambda: wall, boot="boot", reuse_bytes=reuse_bytes)


@given(st.lists(NUMBERS, min_size=4, max_size=4), st.lists(NUMBERS, min_size=4, max_size=4), st.integers(0, 60))
def test_a_cell_is_old_or_new(old: list[int], new: list[int], cut: int) -> None:
    """However much of a write was done, what is read is what was there before, or all of the new."""
    cell = Cell("QQQQ")
    with mmap.mmap(-1, 4096) as mapped:
        assert cell.read(mapped, 64) is None
        cell.write(mapped, 64, 0, *old)
        cell.write(mapped, 64, 1, *old)
        before = mapped[:]
        cell.write(mapped, 64, 2, *new)
        after = mapped[:]
        place = 64 + cell.step
        mapped[:] = before
        mapped[place : place + cut] = after[place : place + cut]
        assert cell.read(mapped, 64) in ((2, *old), (3, *new))
        assert before[:place] == after[:place], "the copy in force is not touched"
        found = cell.read(mapped, 64)
        assert found is not None
        cell.write(mapped, 64, found[0], *new)
        assert cell.read(mapped, 64) == (found[0] + 1, *new)


Step = Callable[[], object]


def steps(path: Path, reuse_bytes: int) -> Iterator[Step]:
    """A life of a worker that does each kind of store: opening, records, growing or reuse, all kinds of change."""
    made: list[Ledger] = []
    yield lambda: made.append(opened(path, reuse_bytes=reuse_bytes))
    for account in ("a", "b", "c", "d", "e"):
        yield lambda account=account: made[-1].lease(account, DAY, 7, 7)  # type: ignore[misc]
    yield lambda: made[-1].lease("a", ROOM, 2, 2)
    yield lambda: made[-1].give_back("a", ROOM, 1)
    yield lambda: made[-1].lease("a", MINUTE, 10, 10)
    yield lambda: made[-1].give_back("a", MINUTE, -2)
    yield lambda: made[-1].give_back("a", DAY, 3, TODAY)
    yield lambda: made[-1].seed("b", DAY, 500, TODAY)
    yield lambda: made[-1].lease("b", DAY, 400, 700)


def live(path: Path, reuse_bytes: int, after: Callable[[], None]) -> bool:
    """Go through the steps; says whether they were all done."""
    try:
        for step in steps(path, reuse_bytes):
            step()
            after()
    except KilledError:
        return False
    return True


def counted(path: Path) -> list[int]:
    """What a new worker finds used."""
    late = opened(path)
    found = [late.used(account, DAY)[0] for account in ("a", "b", "c", "d", "e", "old-1")]
    found.append(late.used("a", MINUTE)[0])
    late.close()
    return found


@pytest.mark.parametrize("cut", [0, 9, 43, 10_000])
@pytest.mark.parametrize("reuse_bytes", [2**26, 2**14], ids=["grows", "reuses"])
def test_killed_at_any_store(tmp_path: Path, stores: Stores, reuse_bytes: int, cut: int) -> None:
    """Killed at each store in turn: the next worker finds each change made or not made, and goes on."""
    full = filled(tmp_path / "full")
    path, states = tmp_path / "whole", []
    path.write_bytes(full)
    live(path, reuse_bytes, lambda: states.append(counted(path)))
    states = [[0] * len(states[0]), *states, states[-1]]
    stores.close(path)
    for at in range(1, 200):
        path, done = tmp_path / f"ledger-{at}", [0]
        path.write_bytes(full)
        stores.seen, stores.at, stores.cut = 0, at, cut
        whole = live(path, reuse_bytes, lambda done=done: done.append(0))  # type: ignore[misc]
        stores.at = -1
        stores.close(path)
        assert counted(path) in states[len(done) - 1 : len(done) + 1]
        goes_on(path, reuse_bytes)
        stores.close(path)
        if whole:
            break
    assert at > 30, "each of the stores was one to die at"
    assert not list(tmp_path.glob("*.bad-*"))


def filled(path: Path) -> bytes:
    """A file that is nearly full, of stale records: what comes next grows it or reuses."""
    first = opened(path, WALL - 100 * 86_400)
    for number in range(498):
        first.lease(f"old-{number}", DAY, 1, 1)
    first.lease("old-wide", ROOM, 0, 0)
    first.close()
    return path.read_bytes()


def goes_on(path: Path, reuse_bytes: int) -> None:
    """Two new workers see the same, and what was held at once is free."""
    late, two = opened(path, reuse_bytes=reuse_bytes), opened(path, reuse_bytes=reuse_bytes)
    assert late.used("a", ROOM) == (0, 5), "its holder is dead"
    for number in range(20):
        assert late.lease(f"f{number}", DAY, 1, number + 1).granted == number + 1
        assert two.lease(f"g{number}", DAY, 1, number + 1).granted == number + 1
    assert two.lease("f", ROOM, 1, 1).granted == 1
    for number in range(20):
        assert late.used(f"g{number}", DAY) == two.used(f"f{number}", DAY) == (number + 1, 1000)
    assert late.used("f", ROOM) == (1, 5)
    assert late.used("a", DAY) == two.used("a", DAY)


@pytest.mark.parametrize(
    "garbage",
    [b"x", b"not a ledger" * 1000, bytes(200_000), b"MSLEDG01" + bytes(100_000), b"MSLEDG00" + bytes(100_000)],
    ids=["short", "text", "zeros", "no-header", "older"],
)
def test_garbage_is_moved_aside(tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is no ledger is kept under another name, told once, and begun anew by one worker only."""
    path = tmp_path / "ledger"
    for number in (1, 2):
        path.write_bytes(garbage)
        with caplog.at_level(logging.WARNING):
            one, two = opened(path), opened(path)
        assert (tmp_path / f"ledger.bad-{number}").read_bytes() == garbage
        assert (one.began, two.began) == (True, False)
        one.lease("a", DAY, 1, 10)
        assert two.used("a", DAY) == (10, 1000)
        one.close()
        two.close()
        assert len(caplog.records) == number


def test_a_begun_file_is_finished(tmp_path: Path) -> None:
    """A file whose maker was killed, or stopped by a full disk, is of zeros: it is taken, not moved aside."""
    for size in (0, 1, 5000, FIRST + 512 * 128):
        path = tmp_path / f"ledger-{size}"
        path.write_bytes(bytes(size))
        ledger = opened(path)
        assert ledger.lease("a", DAY, 1, 10).granted == 10
        ledger.close()
    assert not list(tmp_path.glob("*.bad-*"))


def test_a_file_that_is_deleted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Workers whose file has gone, or is another one, meet again in the new one, and tell it by the epoch."""
    path = tmp_path / "meter" / "ledger"
    one, two = opened(path), opened(path)
    one.lease("a", DAY, 1, 900)
    path.unlink()
    path.parent.rmdir()
    assert one.lease("a", DAY, 1, 300).granted == 300
    assert two.lease("a", DAY, 1, 300).left == 400
    assert one.column != two.column
    assert (one.epoch, two.epoch, one.began, two.began) == (2, 2, True, False)
    path.rename(tmp_path / "elsewhere")
    third = opened(path)
    assert one.lease("a", DAY, 1, 1).left == two.lease("a", DAY, 1, 1).left + 1 == 999
    assert (one.epoch, third.began) == (3, True)
    assert "has gone" in caplog.text
    assert "another file" in caplog.text
    for ledger in (one, two, third):
        ledger.close()


@pytest.mark.parametrize("size", [0, 100, FIRST, FIRST + 3 * 128])
def test_a_file_that_is_cut_short(tmp_path: Path, size: int) -> None:
    """It is an error once, never a signal; then workers meet in a new file, and what was left is kept aside."""
    path = tmp_path / "ledger"
    one, two = opened(path), opened(path)
    for number in range(100):
        one.lease(f"a{number}", DAY, 1, 1)
    assert two.used("a99", DAY) == (1, 1000)
    os.truncate(path, size)
    with pytest.raises(LedgerError, match="cut short"):
        one.lease("a5", DAY, 1, 1)
    assert two.lease("a5", DAY, 1, 1).left == one.lease("a5", DAY, 1, 1).left + 1 == 999
    assert (tmp_path / "ledger.bad-1").stat().st_size == size
    one.close()
    two.close()


@pytest.mark.parametrize("place", [64, FIRST + 16, FIRST + 32])
def test_bytes_that_are_overwritten(tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture) -> None:
    """Zeros in the header or a record are noticed and told; the ledger goes on, if need be with another file."""
    path = tmp_path / "ledger"
    one, two = opened(path), opened(path)
    one.lease("a", DAY, 1, 10)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(96 if place > FIRST + 16 else 112))
    for ledger in (one, two):
        try:
            ledger.lease("a", DAY, 1, 1)
            ledger.lease("b", DAY, 1, 1)
        except LedgerError as error:
            assert "damaged" in str(error)
    assert "anew" in caplog.text
    one.lease("c", DAY, 1, 5)
    assert two.used("c", DAY) == (5, 1000)
    assert one.lease("a", DAY, 1, 1).left == two.lease("a", DAY, 1, 1).left + 1
    one.close()
    two.close()


FULL = """
import resource, signal, sys
from pathlib import Path
from mainspring.decide.limits import Limit
from mainspring.gateway.ledger import Ledger, LedgerError
path, limit, day = Path(sys.argv[1]), int(sys.argv[2]), Limit("tokens", 1000, "day")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
made = 0
try:
    ledger = Ledger(path)
    for made in range(100_000):
        ledger.lease(f"a{made}", day, 1, 1)
except LedgerError as error:
    print("full", made, str(error).split(": ")[-1])
if made:
    print("still", ledger.lease("a0", day, 1, 1).granted, ledger.used("a1", day)[0], ledger.lease("a1", day, 1, 1).left)
    try:
        ledger.lease("one more", Limit("at_once", 5), 1, 1)
    except LedgerError:
        print("again")
"""


def full(path: Path, limit: int, *before: str) -> list[str]:
    """What a worker says that fills the disk, or that may write files of `limit` bytes only."""
    done = subprocess.run(
        [*before, sys.executable, "-c", FULL, str(path), str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


def test_a_full_disk(tmp_path: Path) -> None:
    """A file that may not grow is an error and no signal; accounts that it has are counted on."""
    assert full(tmp_path / "a", 4096) == ["full 0 File too large"]
    assert full(tmp_path / "b", 100_000) == ["full 512 File too large", "still 1 1 998", "again"]
    ledger = Ledger(tmp_path / "a")  # when there is room again
    assert ledger.lease("a", DAY, 1, 1).granted == 1
    ledger.close()
    assert not list(tmp_path.glob("*.bad-*"))


def test_a_full_file_system(tmp_path: Path) -> None:
    """The same on a tmpfs that is full, in a mount namespace of its own: no SIGBUS, not even for mapped pages."""
    script = 'mount -t tmpfs -o size="$1" none "$2" || exit 99; shift 2; exec "$@"'
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this machine allows no mount namespaces")
    for size, expected in (("4k", 1), ("100k", 3), ("1m", 3)):
        said = full(tmp_path / "ledger", 0, "unshare", "-rm", "sh", "-c", script, "sh", size, str(tmp_path))
        assert said[0].startswith("full")
        assert said[0].endswith("No space left on device")
        assert len(said) == expected
        assert said[1:] == ["still 1 1 998", "again"][: expected - 1]


def test_holes_are_filled_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the file with holes gets its pages before it is touched, or there is an error."""
    path = tmp_path / "ledger"
    opened(path).close()
    monkeypatch.setattr(ledger_file.os, "posix_fallocate", no_space)
    with pytest.raises(LedgerError, match="No space left"):
        opened(path)


def no_space(fd: int, start: int, length: int) -> None:
    """A full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_does_not_allow_it(tmp_path: Path) -> None:
    """What is in the way is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"limits cannot be counted in `.*ledger`: "):
        opened(tmp_path / "file" / "ledger")
    with pytest.raises(LedgerError, match="directory"):
        opened(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(LedgerError, match="limits cannot be counted"):
        opened(tmp_path / "fifo")


def test_many_open_at_once(tmp_path: Path) -> None:
    """Openers of one file that is not there yet, or is garbage, all end in the same one, in columns of their own."""
    for garbage in (None, b"garbage" * 9999):
        path = tmp_path / f"ledger-{garbage is None}"
        if garbage:
            path.write_bytes(garbage)
        made: list[Ledger] = []
        gate = threading.Barrier(8)

        def one(path: Path = path, made: list[Ledger] = made, gate: threading.Barrier = gate) -> None:
            gate.wait()
            made.append(opened(path))

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ledger.column for ledger in made) == list(range(8))
        assert sum(ledger.began for ledger in made) == 1
        for ledger in made:
            assert ledger.lease("a", DAY, 1, 10).granted == 10
        assert made[0].used("a", DAY) == (80, 1000)
        for ledger in made:
            ledger.close()
    assert len(list(tmp_path.glob("*.bad-*"))) == 1


def test_few_files_are_left_open(tmp_path: Path) -> None:
    """Opening that fails, or is done again and again, leaks no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    all_ = [opened(tmp_path / "ledger") for _ in range(64)]
    for _ in range(20):
        with pytest.raises(LedgerError):
            opened(tmp_path / "ledger")
        with pytest.raises(LedgerError):
            opened(tmp_path)
    for ledger in all_:
        ledger.close()
    for _ in range(20):
        (tmp_path / "ledger").write_bytes(b"garbage")
        opened(tmp_path / "ledger").close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > before
