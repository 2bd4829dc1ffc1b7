"""Engines that let requests wait show how many they really work on: replicas follow that, and for how long."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mainspring.decide.scale import ROOM, STEP, Load, Rules, Scaling, scale

WALL = 1_700_000_000.0
RULES = Rules(1, 4, 16, down=60.0, forecast=False)


def load(at: float, waiting: int = 0, running: int = 8, room: int = 0, seconds: float = 4.0) -> Load:
    """Eight users who ask again as soon as they are answered."""
    rate = (waiting + running) / seconds
    return Load(at, waiting, running, 0.0, rate, rate, seconds, room)


def decide(memory: Scaling, one: Load, ready: int = 1) -> tuple[int, str, Scaling]:
    """The decision at the moment that the load is of."""
    made = scale(RULES, one, ready, 0, memory, one.at, WALL + one.at)
    return made.want, made.why, made.memory


def test_what_waits_in_an_engine_asks_for_a_replica() -> None:
    """Of 16 slots 8 are busy: enough; but when the engine works on 4 and lets 4 wait, there have to be more."""
    assert decide(Scaling(), load(100.0))[0] == 1
    want, why, memory = decide(Scaling(), load(100.0, waiting=4, running=4, room=4))
    assert want > 1
    assert "a replica works on 4 at once and lets others wait" in why
    assert memory.room == 4


def test_it_is_remembered_while_nobody_waits() -> None:
    """Two replicas that hold four each let nobody wait: that is no sign that one could hold eight."""
    memory = decide(Scaling(), load(100.0, waiting=4, running=4, room=4))[2]
    there = memory.want
    for second in range(101, 400):
        want, _, memory = decide(memory, load(float(second)), there)
        assert want >= 2
        there = want
    want, _, memory = decide(memory, load(100.0 + ROOM + 1.0), there)
    assert memory.room == 0, "after so long it is tried again"


def test_when_users_go_so_do_replicas() -> None:
    """What a replica has room for keeps none that has nothing to do."""
    memory = decide(Scaling(), load(100.0, waiting=4, running=4, room=4))[2]
    there = memory.want
    for second in range(101, 300):
        idle = Load(float(second), 0, 0, 0.0, 0.0, 0.0, math.nan)
        there, _, memory = decide(memory, idle, there)
    assert there == 1


@pytest.mark.parametrize(("room", "kept"), [(4, True), (5, True), (3, True), (6, False), (1, False)])
def test_a_little_more_or_less_is_not_written_down(room: int, kept: bool) -> None:
    """Memory is written to disk at each change: one more or less is none, within a tenth of the time."""
    memory = decide(Scaling(), load(100.0, waiting=4, running=4, room=4))[2]
    again = decide(memory, load(101.0, waiting=4, running=4, room=room))[2]
    assert (again.room, again.pressed) == ((4, 100.0) if kept else (room, 101.0))
    late = decide(replace(memory), load(101.0 + STEP * ROOM, waiting=4, running=4, room=room))[2]
    assert late.pressed > 100.0


def test_an_engine_with_more_room_than_slots_changes_nothing() -> None:
    """A replica is never taken for more than its slots."""
    one = load(100.0, waiting=30, running=16)
    assert decide(Scaling(), one)[0] == decide(Scaling(), replace(one, room=64))[0]
