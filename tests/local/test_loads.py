"""What gateway workers say of their load: summed, and unknown as soon as one that may route says nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mainspring.loop.snapshot import ProcessSeen
from mainspring.worlds.local.loads import read


def one(**over: Any) -> dict[str, Any]:
    """What a worker says of an endpoint."""
    return {"waiting": 2, "running": 3, "oldest": 0.5, "rate": 4.0, "slow": 2.0, "seconds": 0.25} | over


def worker(name: str, pid: int, state: str = "ready", kind: str = "gateway") -> ProcessSeen:
    """A process as the world sees it."""
    return ProcessSeen(name=name, kind=kind, generation=1, state=state, pid=pid)


def say(folder: Path, name: str, pid: int, at: float = 1000.0, **endpoints: dict[str, Any]) -> None:
    """Write a worker's file."""
    folder.mkdir(exist_ok=True)
    said = {"at": at, "pid": pid, "boot": "b", "endpoints": endpoints}
    (folder / f"{name}.json").write_text(json.dumps(said))


def test_two_workers_are_summed(tmp_path: Path) -> None:
    """Counts and rates are sums; the oldest is the oldest; the mean is weighted by how many ended where."""
    say(tmp_path, "g0", 1, chat=one())
    say(tmp_path, "g1", 2, at=998.5, chat=one(waiting=5, oldest=0.1, slow=6.0, seconds=0.65))
    load = read(tmp_path, [worker("g0", 1), worker("g1", 2)], 50.0, 1000.0)["chat"]
    assert (load.waiting, load.running, load.oldest, load.rate, load.slow) == (7, 6, 0.5, 8.0, 8.0)
    assert load.seconds == pytest.approx((0.25 * 2 + 0.65 * 6) / 8)
    assert load.at == pytest.approx(48.5), "as old as the oldest word"


@pytest.mark.parametrize(
    "silent",
    [
        lambda folder: (folder / "g1.json").unlink(),
        lambda folder: (folder / "g1.json").write_text("{"),
        lambda folder: (folder / "g1.json").write_text('{"at": 1, "pid": 2}'),
        lambda folder: say(folder, "g1", 99, chat=one()),
    ],
    ids=["no file", "torn", "not all of it", "of an earlier process"],
)
def test_one_that_is_silent_makes_all_unknown(tmp_path: Path, silent: Any) -> None:
    """Half of the load is no load: nothing is known, which is not zero."""
    for name, pid in (("g0", 1), ("g1", 2)):
        say(tmp_path, name, pid, chat=one())
    both = [worker("g0", 1), worker("g1", 2)]
    assert "chat" in read(tmp_path, both, 0.0, 1000.0)
    silent(tmp_path)
    assert read(tmp_path, both, 0.0, 1000.0) == {}


def test_who_counts(tmp_path: Path) -> None:
    """One that starts does not route yet, and one that has ended not any more; one that stops still has requests."""
    say(tmp_path, "g0", 1, chat=one())
    say(tmp_path, "g1", 2, chat=one())
    for state, count in (("starting", 2), ("exited", 2), ("stopping", 4)):
        seen = [worker("g0", 1), worker("g1", 2, state), worker("r", 3, kind="replica")]
        assert read(tmp_path, seen, 0.0, 1000.0)["chat"].waiting == count
    assert read(tmp_path, [], 0.0, 1000.0) == {}
    assert read(tmp_path, [worker("g0", 1, "starting")], 0.0, 1000.0) == {}


def test_endpoints_that_only_one_knows(tmp_path: Path) -> None:
    """A worker that has not read the routes yet says nothing of a new endpoint: that one is unknown, others are not."""
    say(tmp_path, "g0", 1, chat=one(), new=one())
    say(tmp_path, "g1", 2, chat=one())
    assert set(read(tmp_path, [worker("g0", 1), worker("g1", 2)], 0.0, 1000.0)) == {"chat"}


def test_no_answers_yet(tmp_path: Path) -> None:
    """Nobody knows how long a request takes where none has ended; with no rate, means count alike."""
    say(tmp_path, "g0", 1, chat=one(seconds=None))
    assert math.isnan(read(tmp_path, [worker("g0", 1)], 0.0, 1000.0)["chat"].seconds)
    say(tmp_path, "g0", 1, chat=one(slow=0.0, seconds=0.2))
    say(tmp_path, "g1", 2, chat=one(slow=0.0, seconds=0.4))
    found = read(tmp_path, [worker("g0", 1), worker("g1", 2)], 0.0, 1000.0)["chat"]
    assert found.seconds == pytest.approx(0.3)


def test_a_clock_that_differs_is_not_the_future(tmp_path: Path) -> None:
    """A word that seems to come from later than now is of now."""
    say(tmp_path, "g0", 1, at=1005.0, chat=one())
    assert read(tmp_path, [worker("g0", 1)], 50.0, 1000.0)["chat"].at == 50.0


def gauge(folder: Path, name: str, number: int, **more: Any) -> None:
    """Write what the engine of a replica says."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    said = {"at": 1000.0, "pid": number, "endpoint": "chat", "held": 2.0, "most": 4.0, "requests": 7.0} | more
    (folder / name / "gauges.json").write_text(json.dumps(said))


def with_engines(folder: Path, *names: str) -> Any:
    """The load of `chat`, with replicas of the process ids 20, 21, ... that have these names."""
    say(folder / "loads", "g0", 1, chat=one(waiting=1, running=8))
    seen = [worker("g0", 1), *(worker(name, 20 + i, kind="replica") for i, name in enumerate(names))]
    return read(folder / "loads", seen, 50.0, 1000.5, folder)["chat"]


def test_what_waits_in_engines_waits(tmp_path: Path) -> None:
    """The same requests, counted where they are; and how many a replica works on that lets others wait."""
    gauge(tmp_path, "chat-1-0", 20)
    gauge(tmp_path, "chat-1-1", 21, held=1.0, most=2.0)
    gauge(tmp_path, "chat-1-2", 22, held=0.0, most=1.0)
    found = with_engines(tmp_path, "chat-1-0", "chat-1-1", "chat-1-2")
    assert (found.waiting, found.running, found.room) == (4, 5, 3)


def test_engines_never_let_more_wait_than_there_are(tmp_path: Path) -> None:
    """What they say is a second old: it makes no requests."""
    gauge(tmp_path, "chat-1-0", 20, held=100.0)
    found = with_engines(tmp_path, "chat-1-0")
    assert (found.waiting, found.running) == (9, 0)


@pytest.mark.parametrize(
    "said",
    [
        {"at": 990.0},
        {"at": 2000.0},
        {"pid": 99},
        {"endpoint": "other"},
        {"held": 0.0},
        {"held": "many"},
        {"held": None},
    ],
    ids=["old", "of the future", "of an earlier process", "of another endpoint", "no queue", "torn", "null"],
)
def test_an_engine_that_is_not_believed(tmp_path: Path, said: dict[str, Any]) -> None:
    """Then the gateway's own word stands."""
    gauge(tmp_path, "chat-1-0", 20)
    assert with_engines(tmp_path, "chat-1-0").room == 4
    gauge(tmp_path, "chat-1-0", 20, **said)
    found = with_engines(tmp_path, "chat-1-0")
    assert (found.waiting, found.running, found.room) == (1, 8, 0)


def test_engines_alone_are_no_load(tmp_path: Path) -> None:
    """Where the gateway says nothing, nothing is known, whatever engines say."""
    gauge(tmp_path, "chat-1-0", 20)
    assert read(tmp_path / "loads", [worker("chat-1-0", 20, kind="replica")], 50.0, 1000.0, tmp_path) == {}
