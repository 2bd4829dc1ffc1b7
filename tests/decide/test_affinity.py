"""Routing of prompts: the load cap always wins, then the session, then work and what is cached."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import affinity, pick

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "affinity_simulated.py"


class State(NamedTuple):
    """Arguments of `choose`."""

    outstanding: list[int]
    slots: int
    hit: list[int]
    total: int
    sticky: int
    start: int
    one: int


@st.composite
def states(draw: st.DrawFn) -> State:
    """States of two to eight replicas, in requests or in blocks."""
    n = draw(st.integers(2, 8))
    total = draw(st.integers(1, 40))
    return State(
        draw(st.lists(st.integers(0, draw(st.sampled_from([2, 30]))), min_size=n, max_size=n)),
        draw(st.integers(0, 6)),
        draw(st.lists(st.integers(0, total), min_size=n, max_size=n)),
        total,
        draw(st.integers(-1, n - 1)),
        draw(st.integers(0, 100)),
        draw(st.sampled_from([0, total])),
    )


def is_over(state: State, at: int) -> bool:
    """Whether a replica is over the cap, from the words that describe it."""
    mean = sum(state.outstanding) / len(state.outstanding)
    over = state.outstanding[at] > math.ceil(round(1.25 * mean + max(state.one, 1), 9))
    queued = state.one == 0 and 0 < state.slots <= state.outstanding[at] and min(state.outstanding) < state.slots
    return over or queued


@given(states())
def test_the_load_cap_always_wins(state: State) -> None:
    """A replica over the cap is never chosen, whatever it has cached and whose session it is."""
    assert not is_over(state, affinity.choose(*state))


@given(states(), st.integers(0, 40))
def test_without_a_difference_it_is_the_least_loaded(state: State, hit: int) -> None:
    """With no overlap, or the same everywhere, and no session, it is exactly what `pick.replica` says."""
    even = state._replace(hit=[min(hit, state.total)] * len(state.hit), sticky=-1)
    assert affinity.choose(*even) == pick.replica(state.outstanding, state.start)


@given(st.lists(st.integers(0, 3), max_size=6))
def test_caches_differ_when_any_two_do(hit: list[int]) -> None:
    """Where all have the same of a prompt, requests are counted; the first of the list is not special."""
    assert affinity.differ(hit) == (len(set(hit)) > 1) == affinity.differ(hit[::-1])


@given(states())
def test_a_session_stays_unless_over_the_cap(state: State) -> None:
    """The sticky replica is kept while it isn't over the cap; otherwise there might as well be no session."""
    chosen = affinity.choose(*state)
    if state.sticky >= 0 and not is_over(state, state.sticky):
        assert chosen == state.sticky
    else:
        assert chosen == affinity.choose(*state._replace(sticky=-1))


@given(states(), st.integers(1, 40))
def test_more_hits_never_make_a_replica_less_likely(state: State, more: int) -> None:
    """What is chosen is chosen too when it has more of the prompt."""
    chosen = affinity.choose(*state)
    hit = [min(one + more, state.total) if at == chosen else one for at, one in enumerate(state.hit)]
    assert affinity.choose(*state._replace(hit=hit)) == chosen


@given(states())
def test_less_work_never_makes_a_replica_less_likely(state: State) -> None:
    """What is chosen is chosen too when it is idle."""
    free = state._replace(sticky=-1, slots=0)
    chosen = affinity.choose(*free)
    idle = [0 if at == chosen else one for at, one in enumerate(free.outstanding)]
    assert affinity.choose(*free._replace(outstanding=idle)) == chosen


@given(states())
def test_the_same_state_gives_the_same_choice(state: State) -> None:
    """It remembers nothing, and turning `start` round once changes nothing."""
    again = state._replace(start=state.start + len(state.outstanding))
    assert affinity.choose(*state) == affinity.choose(*state) == affinity.choose(*again)


def test_edges() -> None:
    """No replica is -1, one is that one, a prompt without blocks goes by load, a wrong belief does no harm."""
    assert affinity.choose([], 0, [], 5) == -1
    assert affinity.choose([900], 1, [0], 5) == 0
    assert affinity.choose([2, 1], 0, [0, 0], 0) == 1
    assert affinity.choose([1, 1], 0, [999, 3], 10) == 0
    assert affinity.choose([1, 1], 0, [-3, 0], 10) == 0
    assert affinity.choose([5, 5], 0, [0, 0], 3, 7) == 0  # a session with a replica that is gone


def test_the_cap_to_the_request() -> None:
    """With 4 and 0 outstanding the cap is ceil(1.25 * 2 + 1) = 4, with 6 and 0 it is 5."""
    assert affinity.choose([4, 0], 0, [0, 0], 10, sticky=0) == 0
    assert affinity.choose([6, 0], 0, [0, 0], 10, sticky=0) == 1


def test_examples_in_blocks() -> None:
    """A cached prompt is worth its length in other work, and no more."""
    assert affinity.choose([15, 0], 0, [16, 0], 20, one=20) == 0  # 15 + 4 against 20
    assert affinity.choose([17, 0], 0, [16, 0], 20, one=20) == 1  # 17 + 4 against 20


def test_examples_in_requests() -> None:
    """A free slot beats a cached prompt behind a queue; among free ones the cache decides."""
    assert affinity.choose([1, 0], 4, [10, 0], 10) == 0
    assert affinity.choose([4, 3], 4, [10, 0], 10) == 1
    assert affinity.choose([5, 4], 4, [10, 0], 10) == 0  # both queue


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    """The simulator of the benchmark."""
    sys.path.insert(0, str(BENCHMARK.parent))
    try:
        spec = importlib.util.spec_from_file_location("affinity_simulated", BENCHMARK)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARK.parent))
    return module


def means(simulated: ModuleType, name: str, policies: list[str], machine: int) -> list[float]:
    """Mean time to first token over three small traces, by policy, against least outstanding."""
    kind = simulated.MACHINES[machine]

    def wait(policy: str) -> list[float]:
        runs = (simulated.trace(name, kind, 250, 0.7, seed) for seed in range(3))
        return [simulated.run(kind, one, simulated.POLICIES[policy]()).mean for one in runs]

    base = wait("least outstanding")
    return [simulated.ratio(wait(policy), base)[0] for policy in policies]


@pytest.mark.parametrize("machine", [0, 1])
def test_nothing_is_lost_where_prompts_share_nothing(simulated: ModuleType, machine: int) -> None:
    """On simulated replicas it is no more than 2 % worse than least outstanding."""
    affine, requests = means(simulated, "no overlap", ["prefix-affine", "affine, requests"], machine)
    assert affine <= 1.02
    assert requests <= 1.02


@pytest.mark.parametrize("name", ["shared system prompt", "multi-turn"])
@pytest.mark.parametrize("machine", [0, 1])
def test_much_is_won_where_prompts_begin_alike(simulated: ModuleType, machine: int, name: str) -> None:
    """On simulated replicas first tokens come at least a tenth sooner."""
    assert means(simulated, name, ["prefix-affine"], machine)[0] <= 0.9
