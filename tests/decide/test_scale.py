"""How many replicas: bounds, unknown is not zero, no flapping, to and from zero, and a reason for each change."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mainspring.decide import scale as scaling
from mainspring.decide.hours import Hours
from mainspring.decide.scale import Decision, Load, Period, Rules, Scaling, loaded, may_wait, rules_of, scale
from mainspring.stack.serving import Endpoint, Objective

WALL = 1_700_000_000.0
NUMBERS = st.floats(0, 1e6) | st.just(0.0)
LOADS = st.builds(
    Load,
    at=st.floats(0, 2000),
    waiting=st.integers(0, 5000),
    running=st.integers(0, 5000),
    oldest=st.floats(0, 1e4),
    rate=st.floats(0, 500),
    slow=st.floats(0, 500),
    seconds=st.floats(0, 100) | st.just(math.nan),
    room=st.integers(0, 64),
)
ANY = st.floats()
ODD = st.builds(
    Load, at=ANY, waiting=st.integers(), running=st.integers(), oldest=ANY, rate=ANY, slow=ANY, seconds=ANY,
    room=st.integers(),
)  # fmt: skip


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    """Any rules that a stack file can say."""
    least = draw(st.integers(0, 6))
    return Rules(
        least,
        least + draw(st.integers(0, 10)),
        draw(st.sampled_from([0, 1, 4, 32])),
        draw(st.floats(0.1, 100)),
        draw(st.floats(0, 1000)),
        draw(st.floats(0, 1000)),
        draw(st.none() | st.floats(0, 600)),
        draw(st.none() | st.floats(0.001, 100)),
        draw(st.booleans()),
        tuple(draw(st.lists(st.builds(
            Period, st.sampled_from([(0, 1, 2, 3, 4), (5, 6)]), st.floats(0, 86399), st.floats(0, 86399),
            st.integers(0, 30)), max_size=2))),
        draw(st.none() | st.integers(-1, 20)),
    )  # fmt: skip


MEMORIES = st.builds(
    Scaling,
    want=st.integers(-1, 20),
    since=st.floats(0, 1000),
    blind=st.booleans(),
    seconds=st.floats(0, 50),
    loads=st.lists(st.floats(0.1, 600), max_size=5).map(tuple),
    asked=st.floats(-1, 2000),
    calm=st.just(-1.0) | st.floats(0, 2000),
    minute=st.integers(-1, 40),
    recent=st.lists(st.floats(0, 200), max_size=30).map(tuple),
    room=st.integers(0, 64),
    pressed=st.floats(-1, 2000),
)


def load(at: float, **more: float) -> Load:
    """A load of nothing, but for what is said."""
    known = {"waiting": 0, "running": 0, "oldest": 0.0, "rate": 0.0, "slow": 0.0, "seconds": math.nan} | more
    return Load(at=at, **known)  # type: ignore[arg-type]


def steady(at: float, rate: float, seconds: float = 2.0) -> Load:
    """A load that is the same all along."""
    return load(at, running=round(rate * seconds), rate=rate, slow=rate, seconds=seconds)


def run(rules: Rules, loads: list[Load | None], memory: Scaling | None = None) -> list[Decision]:
    """Decide once a second; replicas are ready at once."""
    memory, there, found = memory or Scaling(), max(rules.least, 0 if memory is None else memory.want), []
    for second, one in enumerate(loads):
        decision = scale(rules, one, there, 0, memory, float(second), WALL + second)
        memory, there = decision.memory, decision.want
        found.append(decision)
    return found


@given(rules(), LOADS | ODD | st.none(), st.integers(0, 20), st.integers(0, 9), MEMORIES, st.floats(0, 3000),
       st.floats(0, 4e9))  # fmt: skip
def test_within_bounds(asked, one, ready, starting, memory, mono, wall) -> None:
    """Whatever is said: within the range, over its lower end never over the budget; the memory is kept as JSON."""
    decision = scale(asked, one, ready, starting, memory, mono, wall)
    ceiling = math.inf if asked.ceiling is None else max(asked.least, asked.ceiling)
    assert min(asked.least, ceiling) <= decision.want <= min(asked.most, ceiling)
    assert decision.memory.want == decision.want
    kept = TypeAdapter(Scaling)
    assert kept.validate_json(kept.dump_json(decision.memory)) == decision.memory
    assert decision == scale(asked, one, ready, starting, memory, mono, wall)


@given(rules(), LOADS, st.integers(0, 20), MEMORIES, st.integers(0, 2000), st.floats(0, 300))
def test_more_load_never_fewer(asked, one, ready, memory, more_waiting, more_rate) -> None:
    """More that waits, or more that comes, never makes it fewer replicas."""
    mono = one.at + 1.0
    base = scale(asked, one, ready, 0, memory, mono, WALL).want
    assert scale(asked, replace(one, waiting=one.waiting + more_waiting), ready, 0, memory, mono, WALL).want >= base
    assert scale(asked, replace(one, rate=one.rate + more_rate), ready, 0, memory, mono, WALL).want >= base


@given(rules(), st.none() | LOADS, MEMORIES, st.floats(10.1, 1000))
def test_unknown_is_not_zero(asked, one, memory, old) -> None:
    """What is not known, or is old, stops nothing that the budget pays for, and starts nothing but by the schedule."""
    mono = 0.0 if one is None else one.at + old
    decision = scale(asked, one, 3, 0, memory, mono, WALL)
    before = memory.want if memory.want >= 0 else 3
    most = asked.most if asked.ceiling is None else min(asked.most, max(asked.least, asked.ceiling))
    assert decision.want >= min(before, most)
    if asked.least <= before <= most and not asked.schedule:
        assert decision.want == before
    assert "known" in decision.why


@given(st.lists(st.integers(0, 40), min_size=60, max_size=120), st.sampled_from([10.0, 25.0]))
def test_no_flapping(needs, down) -> None:
    """One is stopped only when so many were enough for `down` seconds, all along; more are there at once."""
    asked = Rules(1, 20, 4, down=down, ahead=0.0, objective=1.0, forecast=False)
    loads = [steady(float(at), needs[at // 2]) for at in range(2 * len(needs))]
    found = run(asked, [*loads])
    alone = [scale(asked, one, 1, 0, Scaling(want=1, asked=0.0), one.at, WALL).want for one in loads]
    for at, (before, after) in enumerate(pairwise(found), start=1):
        if after.want < before.want:
            assert at >= down
            assert max(alone[at - int(down) + 1 : at + 1]) <= after.want
        assert after.want >= alone[at]


def test_steady_changes_no_memory() -> None:
    """With nothing going on, and with a steady load between minutes, nothing is written."""
    asked = Rules(0, 4, 4, down=30.0, idle=60.0)
    idle = run(asked, [load(float(at)) for at in range(600)], Scaling(want=1))
    assert idle[-1].want == 0
    changes = [a.memory is not b.memory for a, b in pairwise(idle[200:])]
    assert not any(changes)
    asked = replace(asked, idle=600.0)
    busy = run(asked, [steady(float(at), 3.0) for at in range(600)], Scaling(want=2))
    assert sum(a.memory is not b.memory for a, b in pairwise(busy[200:])) <= 2 * 400 / 60


def test_at_night_changes_no_memory() -> None:
    """A range that holds more than are needed writes nothing, however long."""
    found = run(Rules(2, 4, 4, down=30.0), [load(float(at)) for at in range(3000)])
    assert len({id(one.memory) for one in found[200:]}) <= 2  # an hour of the week may end meanwhile
    assert {one.want for one in found} == {2}


def test_to_zero_only_when_idle() -> None:
    """The last replica goes after `idle` seconds without a request, and not with a least of one."""
    loads = [load(float(at), rate=0.1 if at < 20 else 0.0, slow=0.1 if at < 70 else 0.0) for at in range(400)]
    found = run(Rules(0, 2, 4, down=30.0, idle=100.0), loads, Scaling(want=1))
    gone = next(at for at, one in enumerate(found) if one.want == 0)
    assert 119 <= gone <= 135
    assert "1 → 0" in found[gone].why
    assert run(Rules(1, 2, 4, down=30.0, idle=100.0), loads)[-1].want == 1


@pytest.mark.parametrize("before", [1, 2])
def test_to_zero_though_demand_had_grown(before: int) -> None:
    """Traffic that grew before everybody left holds no replica up beyond `idle`; the reason says how long it is."""
    grew = Scaling(want=before, asked=0.0, seconds=2.0, loads=(2.0,), minute=0, recent=(0.1, 0.4, 0.9, 1.6, 2.5, 3.6))
    asked = Rules(0, 2, 4, down=20.0, idle=20.0, objective=1.0)
    loads = [load(float(at), slow=1.8 if at < 60 else 0.0) for at in range(120)]
    found = run(asked, loads, grew)
    gone = next(at for at, one in enumerate(found) if one.want == 0)
    assert 20 <= gone <= 30
    assert "→ 0: nobody has asked for" in found[gone].why
    assert {one.want for one in found[gone:]} == {0}


def test_from_zero_at_once() -> None:
    """The first held request starts a replica in the same cycle, and says so; many start more."""
    asked = Rules(0, 8, 4, idle=10.0, down=10.0)
    quiet = run(asked, [load(float(at)) for at in range(40)], Scaling(want=1, loads=(1.1,), seconds=0.3))[-1].memory
    assert quiet.want == 0
    first = scale(asked, load(40.0, waiting=1, oldest=0.1, rate=0.1, slow=0.016), 0, 0, quiet, 40.0, WALL)
    assert first.want == 1
    assert first.why.startswith("0 → 1: 1 waiting, 0.3 s of work")
    assert "load takes 1.1 s" in first.why
    many = scale(asked, load(40.0, waiting=200, rate=20.0, slow=3.3), 0, 0, quiet, 40.0, WALL)
    assert many.want > 1


def test_a_burst_that_is_gone_by_then() -> None:
    """What is served before a new replica is there asks for none; where loading is quick it does."""
    burst = load(100.0, waiting=40, running=8, oldest=9.0, rate=0.8, slow=1.2, seconds=2.0)
    kept = Scaling(want=2, asked=99.0, seconds=2.0)
    asked = Rules(1, 9, 4, ahead=120.0, objective=30.0)
    assert scale(asked, burst, 2, 0, kept, 100.0, WALL).want == 2
    assert scale(replace(asked, ahead=1.0, objective=1.0), burst, 2, 0, kept, 100.0, WALL).want > 2


@pytest.mark.parametrize(("loads", "kept"), [((4.0,), 30.0), ((60.0,), 120.0), ((), 120.0), ((900.0,), 300.0)])
def test_kept_by_what_it_costs_to_have_again(loads, kept) -> None:
    """Where nobody says, one that isn't needed is kept for two times to load, within bounds."""
    found = run(Rules(1, 9, 4), [load(float(at)) for at in range(330)], Scaling(want=3, asked=0.0, loads=loads))
    assert kept <= next(at for at, one in enumerate(found) if one.want == 1) <= 1.1 * kept + 1


def test_demand_is_judged_ahead() -> None:
    """On a ramp, a long time to load has more replicas ready than a short one."""
    loads = [steady(float(at), 1.0 + at / 100.0) for at in range(900)]
    slow, quick = (run(Rules(1, 40, 4, ahead=ahead), loads)[-1].want for ahead in (300.0, 2.0))
    assert slow >= quick + 1


def test_those_that_start_count() -> None:
    """What starts already is not asked for again."""
    asked = Rules(1, 20, 4, ahead=60.0)
    one = load(50.0, waiting=30, running=8, oldest=4.0, rate=6.0, slow=6.0, seconds=2.0)
    first = scale(asked, one, 2, 0, Scaling(want=2, asked=50.0), 50.0, WALL)
    again = scale(asked, replace(one, at=51.0), 2, first.want - 2, first.memory, 51.0, WALL)
    assert again.want == first.want


def test_schedule_and_budget() -> None:
    """A schedule holds more ready in its hours; the budget's ceiling is over everything but the range's lower end."""
    nine = 1_700_000_000.0 // 86400 * 86400 + 9 * 3600  # a Tuesday
    asked = Rules(1, 8, 4, schedule=(Period((0, 1, 2, 3, 4), 8 * 3600.0, 18 * 3600.0, 5),))
    held = scale(asked, load(5.0), 1, 0, Scaling(want=1), 5.0, nine)
    assert held.want == 5
    assert "the schedule asks for 5" in held.why
    assert scale(asked, load(5.0), 1, 0, Scaling(want=1), 5.0, nine - 2 * 3600).want == 1
    poor = scale(replace(asked, ceiling=2), load(5.0), 5, 0, Scaling(want=5), 5.0, nine)
    assert poor.want == 2
    assert "the budget allows no more than 2" in poor.why
    assert scale(replace(asked, ceiling=0), None, 5, 0, Scaling(want=5), 5.0, nine).want == 1
    assert scale(replace(asked, least=0, ceiling=0), None, 5, 0, Scaling(want=5), 5.0, nine).want == 0


def test_room_is_a_ceiling_too() -> None:
    """No more than fits beside others and their rollouts, and it says so; the lower of both ceilings holds."""
    asked = Rules(1, 8, 4, room=2)
    many = load(5.0, waiting=90, running=8, rate=9.0, slow=9.0, seconds=4.0)
    crowded = scale(asked, many, 2, 0, Scaling(want=2), 5.0, 0.0)
    assert crowded.want == 2
    assert "the room allows no more than 2" in crowded.why
    poor = scale(replace(asked, ceiling=1, room=3), load(5.0, waiting=90), 2, 0, Scaling(want=2), 5.0, 0.0)
    assert (poor.want, "the budget allows no more than 1" in poor.why) == (1, True)
    assert scale(replace(asked, room=0), None, 2, 0, Scaling(want=2), 5.0, 0.0).want == 1


def test_the_hour_of_the_week_is_held_ready() -> None:
    """What the same hour of an earlier week asked for is there before the hour begins; not without `forecast`."""
    hour = WALL // 3600 * 3600
    profile = [0.5] * 168
    profile[(int(hour // 3600) + 73) % 168] = 12.0
    kept = Scaling(want=1, loads=(120.0,), hours=Hours(tuple(profile)), asked=0.0)
    now = load(100.0, rate=0.25, slow=0.25, running=1, seconds=2.0)
    asked = Rules(1, 8, 4)
    ready = scale(asked, now, 1, 0, kept, 100.0, hour + 3600 - 60)
    assert ready.want >= 4
    assert "earlier weeks" in ready.why
    assert scale(asked, now, 1, 0, kept, 100.0, hour + 600).want == 1
    assert scale(replace(asked, forecast=False), now, 1, 0, kept, 100.0, hour + 3540).want == 1
    holiday = replace(now, rate=0.0, slow=0.0, running=0)
    assert scale(asked, holiday, 1, 0, kept, 100.0, hour + 3540).want == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=40))
def test_clock_jumps(jumps) -> None:
    """Wherever the wall clock jumps, a steady load has the number of replicas that it needs."""
    asked, memory, there = Rules(1, 8, 4), Scaling(), 1
    for second, jump in enumerate(jumps):
        wall = max(0.0, WALL + jump)
        decision = scale(asked, steady(float(second), 4.0), there, 0, memory, float(second), wall)
        memory, there = decision.memory, decision.want
    assert there == scale(asked, steady(0.0, 4.0), 1, 0, Scaling(), 0.0, WALL).want


def test_load_times_are_remembered() -> None:
    """The median of the last few is believed: one that took long moves it little; nonsense is not taken."""
    memory = Scaling()
    for seconds in (5.0, 6.0, 7.0, 500.0, 6.0, math.nan, -1.0, math.inf):
        memory = loaded(memory, seconds)
    assert memory.load_seconds == 6.0
    assert Scaling().load_seconds == 0.0


def test_nobody_knows_how_long() -> None:
    """Before the first request has ended, what is there is counted instead."""
    first = scale(Rules(0, 8, 4), load(1.0, waiting=20), 0, 0, Scaling(want=0), 1.0, WALL)
    assert first.want == 3
    assert "none has ended yet" in first.why


def test_from_the_stack_file() -> None:
    """The file's words become rules; half of what the first token may take is for waiting."""
    said = Endpoint.model_validate(
        {"model": "m@champion", "runtime": "llamacpp", "replicas": "0..3", "objective": {"ttft": "500ms"},
         "scale": {"queue": 8, "ahead": "20s",
                   "schedule": [{"on": "mon-fri", "from": "08:00", "until": "18:00", "least": 2}]}}
    )  # fmt: skip
    found = rules_of(said, 2)
    assert (found.least, found.most, found.slots, found.queue, found.ahead, found.ceiling) == (0, 3, 4, 8.0, 20.0, 2)
    assert found.objective == 0.25
    assert found.schedule == (Period((0, 1, 2, 3, 4), 28800.0, 64800.0, 2),)
    assert rules_of(Endpoint.model_validate({"model": "m@champion"})) == Rules(1, 1)


@pytest.mark.parametrize(("said", "wait"), [({"p95": "2s"}, 0.5), ({"p99": "4s"}, 1.0), ({}, None)])
def test_may_wait(said, wait) -> None:
    """A quarter of the whole may be spent waiting; nothing is made up where nothing is promised."""
    assert may_wait(Objective.model_validate(said)) == wait


def test_constants_make_sense() -> None:
    """A margin is a margin."""
    assert scaling.DOUBT >= 1
    assert scaling.APART >= 1


def test_one_that_is_wanted_back_soon_is_stopped_later_the_next_time() -> None:
    """A crowd every two minutes: stops become fewer, where nobody says `down`; with one that is said they do not."""

    def stops(down: float | None) -> list[int]:
        loads = [steady(float(at), 12.0 if at % 120 < 30 else 1.0) for at in range(3600)]
        found = run(Rules(1, 8, 4, down=down, forecast=False), loads, Scaling(want=1, loads=(2.0,)))
        fewer = [at for at, (a, b) in enumerate(pairwise(found)) if b.want < a.want]
        return [sum(at < 1800 for at in fewer), sum(at >= 1800 for at in fewer)]

    early, late = stops(None)
    said = stops(30.0)
    assert said[1] >= 10
    assert late < said[1]
    assert early + late < sum(said) / 2
