"""Metering in any order, cut anywhere, killed at any moment: each line once, each orphan once, never both."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import mainspring
from mainspring.monitoring.predictions import PredictionStore
from tests.monitoring.test_metered import ALL, append, begun, count, lines, said, store_of

SOURCE = str(Path(mainspring.__file__).parents[1])


@dataclass(frozen=True)
class Life:
    """One boot of a worker: its lines in the order written, and where its file is cut by the kill."""

    worker: int
    boot: int
    written: tuple[bytes, ...]
    requests: tuple[tuple[bool, bool], ...]  # each: has its beginning, has its end in whole lines


def lives(rnd: random.Random, workers: int, boots: int, requests: int) -> list[Life]:
    """Random lives: some requests have no beginning (short ones), some no end; a last line may be torn."""
    found = []
    for worker in range(workers):
        for boot in range(boots):
            events, state = [], {}
            for n in range(1, rnd.randint(1, requests) + 1):
                begins, ends = rnd.random() < 0.7, rnd.random() < 0.8
                start = rnd.random()
                if begins:
                    events.append((start, "b", n))
                if ends:
                    events.append((start + rnd.random(), "p", n))
                state[n] = [False, False]
            events.sort()
            torn = bool(events) and rnd.random() < 0.5
            written = [lines([begun(n) if kind == "b" else said(n, id=f"{n % 3}")]) for _, kind, n in events]
            for place, (_, kind, n) in enumerate(events):
                if not (torn and place == len(events) - 1):
                    state[n][kind == "p"] = True
            if torn:
                written[-1] = written[-1][: rnd.randrange(len(written[-1]))]
            found.append(Life(worker, boot, tuple(written), tuple((b, e) for b, e in state.values())))
    return found


def expected(found: Sequence[Life], last: int) -> tuple[int, int, int, int]:
    """Requests with an end, orphans, prompt tokens and output tokens; boots before `last` are over."""
    ends = sum(e for life in found for _, e in life.requests)
    orphans = sum(b and not e for life in found if life.boot < last for b, e in life.requests)
    return ends, orphans, ends * 100 + orphans * 90, ends * 30


def metered_in(store: PredictionStore) -> tuple[int, int, int, int]:
    """The same of a store."""
    used = store.used(*ALL)
    orphans = sum(u.orphans for u in used)
    return (sum(u.requests for u in used) - orphans, orphans, sum(u.prompt for u in used),
            sum(u.output for u in used))  # fmt: skip


def segment(life: Life, number: int) -> str:
    """A segment's name."""
    return f"gateway-{life.worker}-0{life.boot}-{number}.jsonl"


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 3))
def test_each_end_once_and_each_orphan_once(rnd: random.Random, workers: int, boots: int) -> None:
    """Lines arrive piece by piece, over several segments, with the store read again and opened anew in between."""
    found = lives(rnd, workers, boots, 12)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "segments").mkdir()
        store = store_of(folder)
        for boot in range(boots):  # boots of one number live at one time
            pieces = [(life, i, line) for life in found if life.boot == boot for i, line in enumerate(life.written)]
            for life in found:
                if life.boot == boot:
                    append(folder, segment(life, 0), b"")
            for life, i, line in _shuffled(rnd, pieces):
                append(folder, segment(life, i // 4), line)
                if rnd.random() < 0.3:
                    store.ingest(_any(rnd, workers))
                if rnd.random() < 0.1:
                    store.close()
                    store = store_of(folder)
        store.ingest()
        store.ingest()
        ends, orphans, *_ = metered_in(store)
        ended, least, *_ = expected(found, boots - 1)
        assert ends == ended
        assert orphans >= least  # more where a worker was told to be gone
        store.ingest([])
        assert metered_in(store) == expected(found, boots)
        assert count(store, "begun") == 0
        store.close()


def _shuffled(rnd: random.Random, pieces: list[tuple[Life, int, bytes]]) -> Iterable[tuple[Life, int, bytes]]:
    """The pieces in a random order that keeps each life's own."""
    waiting: dict[int, list[tuple[Life, int, bytes]]] = {}
    for piece in pieces:
        waiting.setdefault(piece[0].worker, []).append(piece)
    while waiting:
        worker = rnd.choice(sorted(waiting))
        yield waiting[worker].pop(0)
        if not waiting[worker]:
            del waiting[worker]


def _any(rnd: random.Random, workers: int) -> list[str] | None:
    """Who is said to be alive: mostly not known, sometimes wrongly nobody."""
    return None if rnd.random() < 0.8 else [f"gateway-{w}" for w in range(workers) if rnd.random() < 0.5]


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_segments_may_turn_up_in_any_order(rnd: random.Random) -> None:
    """Segments of a boot that could not be read at first, and are read in any order."""
    found = lives(rnd, 2, 2, 10)
    pieces = [(segment(life, i // 3), life, i // 3) for life in found for i in range(0, len(life.written), 3)]
    rnd.shuffle(pieces)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "segments").mkdir()
        store = store_of(folder)
        for file, life, number in pieces:
            append(folder, file, b"".join(life.written[number * 3 : number * 3 + 3]))
            store.ingest()
        store.ingest([])
        assert metered_in(store) == expected(found, 2)
        store.close()


KILLED = """
import sys
from pathlib import Path
from mainspring.monitoring import predictions
predictions.PIECE = 700
folder = Path(sys.argv[1])
store = predictions.PredictionStore(folder / "predictions.db", folder / "segments", lambda *_: None)
print("open", flush=True)
while True:
    store.ingest([])
    print("done", flush=True)
"""


def test_killed_in_a_loop_while_taking_in(tmp_path: Path) -> None:
    """SIGKILL at random moments of taking in and of charging orphans, a dozen times: the sums are exact."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown when it fails
    rnd = random.Random(seed)
    found = lives(rnd, 3, 3, 400)
    (tmp_path / "segments").mkdir()
    for life in found:
        for i, line in enumerate(life.written):
            append(tmp_path, segment(life, i // 100), line)
    kills = 0
    for _ in range(12):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": SOURCE})
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(rnd.random() * 0.08)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    store = store_of(tmp_path)
    store.ingest([])
    assert kills == 12
    assert metered_in(store) == expected(found, 3)
    store.close()
