"""The ledger among real processes that are killed -9 at random moments, and others that take their places.

Run as a program, this file is one of the workers: it takes whatever it can get and notes each unit that it used.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mainspring.decide.limits import Limit, allowed, block, shortfall
from mainspring.gateway.ledger import Ledger

WORKERS = 4
LASTS = 6.0
BUCKET = Limit("tokens", 12_000, "min")
QUOTA = Limit("tokens", 30_000, "day")
JUMPY = Limit("requests", 100, "day")
ROOM = Limit("at_once", 3)
DAYS = 100_000.0  # how fast the jumpy clock goes: not quite a second a day
NOTE = struct.Struct("<qd")


# -- the worker


class Worker:
    """One process: it uses all limits at once, until it is killed or told to end."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        # Opened before the ledger: whoever dies frees its slots before or with its column.
        self.slots = [os.open(folder / f"slot-{n}", os.O_RDWR | os.O_CREAT) for n in range(ROOM.amount)]
        self.notes = {
            name: os.open(folder / f"{name}-{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for name in ("bucket", "quota", "jumpy", "over", "held")
        }
        self.ledger = Ledger(folder / "ledger")
        self.jump = 0.0
        self.jumpy = Ledger(folder / "jumpy", wall=lambda: time.monotonic() * DAYS + self.jump)
        self.held: list[tuple[float, int]] = []
        self.blocks: dict[str, tuple[int, int]] = {}

    def note(self, name: str, window: int = 0) -> None:
        """Say that a unit was used; what was written is kept whatever happens to this process."""
        os.write(self.notes[name], NOTE.pack(window, time.monotonic()))

    def spend(self, ledger: Ledger, name: str, limit: Limit) -> None:
        """Use a part of the block that is held, if need be of a new one; now and then give some of it back."""
        left, window = self.blocks.pop(name, (0, 0))
        if not left:
            left, _, window, _ = ledger.lease(name, limit, 1, block(limit.amount, ledger.workers))
        for _ in range(min(left, 40)):
            self.note(name, window)
        left = max(left - 40, 0)
        if left and self.random.random() < 0.1:
            ledger.give_back(name, limit, left // 2, window)
            left -= left // 2
        if left:
            self.blocks[name] = (left, window)

    def visit(self) -> None:
        """Hold one of the places for a while: there must be a slot for everybody who was let in."""
        now = time.monotonic()
        for end, slot in [one for one in self.held if one[0] < now]:
            self.held.remove((end, slot))
            fcntl.flock(slot, fcntl.LOCK_UN)
            self.ledger.give_back("room", ROOM, 1)
        if not self.ledger.lease("room", ROOM, 1, 1).granted:
            return
        self.note("held")
        mine = [slot for _, slot in self.held]
        for slot in self.slots:
            if slot not in mine:
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                self.held.append((now + self.random.uniform(0.005, 0.03), slot))
                return
        self.note("over")
        self.ledger.give_back("room", ROOM, 1)

    def work(self) -> None:
        """Until it is killed."""
        while True:
            self.spend(self.ledger, "bucket", BUCKET)
            self.spend(self.ledger, "quota", QUOTA)
            if self.random.random() < 0.1:
                self.jump = self.random.choice((-3.0, -1.0, 0.0, 0.0, 0.0, 1.0)) * 86_400
            self.spend(self.jumpy, "jumpy", JUMPY)
            self.visit()
            time.sleep(self.random.uniform(0, 0.002))


# -- the tests


@dataclass
class Run:
    """What became of one run."""

    folder: Path
    killed: list[float] = field(default_factory=list)
    seconds: float = 0.0  # from before the first worker to after the last
    busy: float = 0.0  # from when the bucket was in use to the end
    left: dict[str, int] = field(default_factory=dict)

    def notes(self, name: str) -> list[tuple[int, float]]:
        """What all workers, living and dead, have noted."""
        return [
            note
            for path in self.folder.glob(f"{name}-*")
            for note in NOTE.iter_unpack(path.read_bytes()[: path.stat().st_size // NOTE.size * NOTE.size])
        ]


def start(folder: Path, seed: int) -> subprocess.Popen[bytes]:
    """A worker; what it says on stderr is in `stderr`."""
    with (folder / "stderr").open("ab") as told:
        return subprocess.Popen([sys.executable, __file__, str(folder), str(seed)], stderr=told)


def run(folder: Path, seed: int) -> Run:
    """Four workers for some seconds; one after the other is killed, and another takes its place."""
    made, chance = Run(folder), random.Random(seed)
    print(f"chaos seed: {seed}")
    watcher = Ledger(folder / "ledger")
    begin = time.monotonic()
    workers = [start(folder, chance.randrange(10**9)) for _ in range(WORKERS)]
    while not watcher.used("bucket", BUCKET)[0]:
        time.sleep(0.002)
        assert time.monotonic() - begin < 30, (folder / "stderr").read_text()
    busy = time.monotonic()
    try:
        while time.monotonic() - busy < LASTS:
            time.sleep(chance.uniform(0.05, 0.5))
            which = chance.randrange(WORKERS)
            workers[which].send_signal(signal.SIGKILL)
            made.killed.append(time.monotonic())
            assert workers[which].wait() == -signal.SIGKILL, "it ended by itself: " + (folder / "stderr").read_text()
            workers[which] = start(folder, chance.randrange(10**9))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    end = time.monotonic()
    made.left["bucket"] = BUCKET.amount - watcher.used("bucket", BUCKET)[0]
    made.busy, made.seconds = time.monotonic() - busy, end - begin
    made.left["quota"] = QUOTA.amount - watcher.used("quota", QUOTA)[0]
    made.left["room"] = ROOM.amount - watcher.used("room", ROOM)[0]
    watcher.close()
    return made


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that all tests here look at."""
    return run(tmp_path_factory.mktemp("chaos"), int(os.environ.get("MAINSPRING_SEED", "2013")))


def test_workers_were_killed(chaos: Run) -> None:
    """There was something to survive, and nothing was said on the way."""
    assert len(chaos.killed) >= 8
    assert (chaos.folder / "stderr").read_text() == ""
    assert not list(chaos.folder.glob("*.bad-*"))


def test_bucket_is_neither_over_nor_under(chaos: Run) -> None:
    """Used in all: at most what a bucket allows, and what was filled in less what blocks and the dead kept."""
    used = len(chaos.notes("bucket"))
    assert used <= allowed(BUCKET, chaos.seconds)
    lost = shortfall(BUCKET, WORKERS, len(chaos.killed))
    assert used >= allowed(BUCKET, chaos.busy) - chaos.left["bucket"] - lost


def test_quota_is_neither_over_nor_under(chaos: Run) -> None:
    """Used of each day: never more than there is; of today all that was taken, but for blocks of the dead."""
    days = Counter(window for window, _ in chaos.notes("quota"))
    assert max(days.values()) <= QUOTA.amount
    if len(days) == 1:  # at midnight in UTC there are two
        assert days.total() >= QUOTA.amount - chaos.left["quota"] - shortfall(QUOTA, WORKERS, len(chaos.killed))


def test_days_stay_within_their_quota_while_clocks_jump(chaos: Run) -> None:
    """Days that pass in seconds, on clocks that jump to and fro: no day is ever used twice."""
    days = Counter(window for window, _ in chaos.notes("jumpy"))
    assert len(days) >= 2
    assert max(days.values()) <= JUMPY.amount
    assert max(days.values()) >= JUMPY.amount // 2, "there was demand"


def test_never_more_at_once_than_there_is_room(chaos: Run) -> None:
    """Everybody who was let in found a place, but where a worker was dying just then; nothing stays held."""
    assert len(chaos.notes("held")) > 20
    overs = [at for _, at in chaos.notes("over")]
    assert [at for at in overs if not any(0 <= at - killed < 0.1 for killed in chaos.killed)] == []
    assert chaos.left["room"] == ROOM.amount


if __name__ == "__main__":
    Worker(Path(sys.argv[1]), int(sys.argv[2])).work()
