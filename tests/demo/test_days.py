"""The day loop, with a controller that is a clock and may be away, and a real socket as the gateway."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mainspring.cli.demo.flights import BEGIN, DAY, Flights, Replay, days_kept
from mainspring.cli.demo.progress import progress
from mainspring.errors import EnvironmentError_


def _table(days: int, each: int = 5) -> pd.DataFrame:
    count = days * each
    seconds = BEGIN + np.repeat(np.arange(days), each) * DAY + np.tile(np.arange(each), days) * 3600
    return pd.DataFrame(
        {
            "time": pd.to_datetime(seconds, unit="s", utc=True),
            "id": [f"f{i}" for i in range(count)],
            "late": np.arange(count) % 2,
            "carrier": "UA",
            "temp": 30.5,
        }
    )


@contextmanager
def _open(door: Any) -> Iterator[str]:
    """Run a door in a thread of its own."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), [""]

    async def begin() -> None:
        address[0] = await door.start()
        ready.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(begin()), loop.run_forever()))
    thread.start()
    ready.wait(10)
    try:
        yield address[0]
    finally:
        asyncio.run_coroutine_threadsafe(door.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class _Control:
    """A clock with a memory of what was known at each move of it."""

    def __init__(self, door: Any, address: str) -> None:
        self.door, self.address = door, address
        self.now = BEGIN
        self.moves: list[tuple[float, int, int]] = []  # to, requests seen, truths seen
        self.away = 0  # calls that still fail
        self.started = 0

    def _there(self) -> None:
        if self.away:
            self.away -= 1
            raise EnvironmentError_("controller-away", "the controller does not answer", "mainspring up")

    def clock(self) -> float:
        self._there()
        return self.now

    def advance(self, to: float) -> None:
        self._there()
        self.now = max(self.now, to)
        self.moves.append((to, len(self.door.seen), len(self.door.truths)))

    def gateway(self) -> str:
        self._there()
        return self.address

    def ensure_up(self) -> None:
        self.started += 1

    def status(self) -> dict[str, Any]:
        return {"live": "1", "event": "nothing"}


NewDoor = Callable[[], Any]


def test_truths_come_the_day_after(new_door: NewDoor, tmp_path: Path) -> None:
    """At each midnight the day's requests are in, and the outcomes of the days before, not the day's own."""
    door = new_door()
    with _open(door) as address:
        control = _Control(door, address)
        days = Replay(control, Flights(_table(3)), tmp_path, until=BEGIN + 3 * DAY).run()
    assert control.moves == [
        (BEGIN + DAY, 5, 0),
        (BEGIN + 2 * DAY, 10, 5),
        (BEGIN + 3 * DAY, 15, 10),
        (BEGIN + 3 * DAY, 15, 15),
    ]
    assert [d.day for d in days] == ["2013-03-01", "2013-03-02", "2013-03-03"]
    assert door.truths["f1"] == {"late": 1.0}


def test_it_goes_on_where_the_clock_stands(new_door: NewDoor, tmp_path: Path) -> None:
    """A replay that was killed on its second day sends that day again and goes on; each day is kept once."""
    door = new_door()
    with _open(door) as address:
        control = _Control(door, address)
        flights = Flights(_table(3))
        Replay(control, flights, tmp_path, until=BEGIN + DAY).run()
        control.now = BEGIN + DAY  # as it was when the second day began
        with (tmp_path / "replay.jsonl").open("ab") as file:
            file.write(b'\n{"day": "2013-03-0')  # killed while it wrote
        Replay(control, flights, tmp_path, until=BEGIN + 3 * DAY).run()
    kept, seconds = days_kept(tmp_path)
    assert len(door.seen) == 15
    assert [d.day for d in kept] == ["2013-03-01", "2013-03-02", "2013-03-03"]
    assert seconds > 0


def test_a_controller_that_is_away_is_started_again(new_door: NewDoor, tmp_path: Path) -> None:
    """Calls that fail start the controller and are made again; nothing is lost."""
    door = new_door()
    with _open(door) as address:
        control = _Control(door, address)
        control.away = 3
        Replay(control, Flights(_table(2)), tmp_path, until=BEGIN + 2 * DAY).run()
    assert control.started >= 3
    assert len(door.seen) == 10


def test_a_finished_replay_has_nothing_to_do(new_door: NewDoor, tmp_path: Path) -> None:
    """When the clock stands behind the end, nothing is sent."""
    door = new_door()
    with _open(door) as address:
        control = _Control(door, address)
        control.now = BEGIN + 9 * DAY
        assert Replay(control, Flights(_table(2)), tmp_path, until=BEGIN + 2 * DAY).run() == []
    assert not door.seen


def test_plain_progress_is_a_line_a_week(new_door: NewDoor, tmp_path: Path) -> None:
    """Without a terminal fifteen days are three lines: each week's end, and the end."""
    door, out = new_door(), StringIO()
    with _open(door) as address, progress(out) as tell:
        control = _Control(door, address)
        Replay(control, Flights(_table(15, 1)), tmp_path, until=BEGIN + 15 * DAY, tell=tell).run()
    lines = out.getvalue().splitlines()
    assert [line[:10] for line in lines] == ["2013-03-07", "2013-03-14", "2013-03-15"]
    assert "version 1" in lines[0]
    assert "nothing" in lines[0]
