"""Slots for a demand: Erlang's tables, more demand never takes fewer, and what is left of a queue."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.staffing import growth, left_over, slots_for


@pytest.mark.parametrize(("busy", "slots"), [(1.0, 3), (5.0, 8), (10.0, 13), (50.0, 60)])
def test_erlang_c(busy: float, slots: int) -> None:
    """With no wait allowed it is Erlang C, as the textbook writes it with factorials: just under, and just over."""
    many = busy**slots / math.factorial(slots) * slots / (slots - busy)
    share = many / (sum(busy**k / math.factorial(k) for k in range(slots)) + many)
    assert slots_for(busy, 1.0, 0.0, 1000, share * 1.0001) == slots
    assert slots_for(busy, 1.0, 0.0, 1000, share * 0.9999) == slots + 1


@given(st.floats(0, 100), st.floats(0, 10), st.floats(0.01, 20), st.floats(0, 60), st.integers(1, 200))
def test_more_demand_never_fewer(busy: float, more: float, seconds: float, wait: float, most: int) -> None:
    """Monotone in the demand, enough to be stable, and never over the most."""
    few, many = (slots_for(one, seconds, wait, most) for one in (busy, busy + more))
    assert few <= many <= most
    assert few > busy or few == most or busy == 0.0


def test_large_fleets_need_less_spare() -> None:
    """Twenty times the demand takes less than twenty times the slots."""
    assert slots_for(100.0, 1.0, 0.5, 10_000) < 20 * slots_for(5.0, 1.0, 0.5, 10_000) * 0.75


def test_left_over() -> None:
    """What waits, plus what comes, less what is served meanwhile; never less than nothing."""
    assert left_over(40, 2.0, 2.0, 8, 10.0) == 20.0
    assert left_over(40, 2.0, 2.0, 8, 60.0) == 0.0


def test_growth() -> None:
    """A ramp goes on; a rare jump is not foreseen; nothing is made of little; less than a step is its part of one."""
    ramp = tuple(float(at) for at in range(20))
    assert growth(ramp, 300.0, 60.0, 0.8) == 5.0
    assert growth(ramp, 30.0, 60.0, 0.8) == 0.5
    assert growth(tuple(reversed(ramp)), 300.0, 60.0, 0.8) == 0.0
    assert growth((1.0,) * 10 + (9.0,) * 10, 60.0, 60.0, 0.8) == 0.0
    assert growth(ramp[:5], 60.0, 60.0, 0.8) == 0.0
