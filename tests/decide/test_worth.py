"""Whether a conversion was worth it: what counts as smaller, faster and slower, and what noise does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.gate import judge
from mainspring.decide.worth import FASTER, SLOWER, worth
from mainspring.loop.snapshot import Footprint, GateNumbers
from mainspring.stack.pipelines import Gates

MODEL = Footprint(size=10_000_000, memory=50e6, latency_p95=0.010, throughput=1000.0)

sizes = st.integers(1, 10**12)
amounts = st.one_of(st.floats(1e-6, 1e12), st.just(math.nan))
speeds = st.floats(1e-6, 1e6)
spreads = st.floats(0.0, 1.0)
footprints = st.builds(Footprint, sizes, amounts, speeds, speeds, spreads, spreads)


def test_half_the_size_at_the_same_speed_is_worth_it() -> None:
    """Half the bytes, all else equal: passed, and the sentence has the numbers."""
    item = worth("int8", replace(MODEL, size=5_000_000), MODEL)
    assert item.passed
    assert item.message == "INT8 against the champion: size −50%, memory +0%, p95 +0%, throughput +0%: passed"
    assert item.numbers["size"] == 0.5


def test_nothing_gained_is_refused() -> None:
    """The same size and speed, or a few per cent less of either, is no reason for a new version."""
    for own in (MODEL, replace(MODEL, size=9_500_000, latency_p95=0.0098, memory=48e6)):
        item = worth("fp16", own, MODEL)
        assert not item.passed
        assert "neither 10% smaller nor 5% faster beyond the spread: refused" in item.message


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({"memory": 40e6}, True),
        ({"memory": 40e6, "size": 30_000_000}, True),
        ({"latency_p95": 0.009}, True),
        ({"throughput": 1100.0}, True),
        ({"throughput": 1100.0, "throughput_spread": 0.08}, False),
        ({"latency_p95": 0.009, "latency_spread": 0.08}, False),
        ({"size": 5_000_000, "latency_p95": 0.0115}, False),
        ({"size": 5_000_000, "latency_p95": 0.0115, "latency_spread": 0.10}, True),
        ({"size": 5_000_000, "throughput": 850.0}, False),
        ({"throughput": 1100.0, "throughput_spread": math.nan}, False),
        ({"size": 5_000_000, "throughput": 500.0, "throughput_spread": math.inf}, True),
        ({"memory": math.nan, "latency_p95": math.nan, "throughput": math.nan}, False),
        ({"memory": math.nan, "latency_p95": math.nan, "throughput": math.nan, "size": 5_000_000}, False),
        ({"memory": math.nan, "latency_p95": math.nan, "size": 5_000_000}, True),
    ],
)
def test_bounds(changed: dict[str, float], passed: bool) -> None:
    """A tenth of the bytes or 5 % of the speed beyond the spread; a speed that is lost by a tenth outweighs it."""
    assert worth("int8", replace(MODEL, **changed), MODEL).passed == passed  # type: ignore[arg-type]


def test_memory_below_a_process_own_noise_does_not_count() -> None:
    """A tenth less of half a megabyte is what any process's pages move by."""
    small = replace(MODEL, memory=500e3)
    assert not worth("int8", replace(small, memory=100e3), small).passed


def test_microseconds_do_not_count() -> None:
    """Twice 20 microseconds is neither a loss nor, the other way round, a gain: a request takes far more on its way."""
    fast, slow = replace(MODEL, latency_p95=20e-6), replace(MODEL, latency_p95=40e-6)
    assert worth("int8", replace(slow, size=5_000_000), fast).passed
    assert not worth("int8", fast, slow).passed


def test_without_a_champion_and_without_a_measurement() -> None:
    """Nothing to be smaller than: passed. Nothing measured: refused."""
    assert worth("int8", MODEL, None).passed
    assert not worth("int8", None, MODEL).passed


def test_the_gate_asks_it_of_converted_candidates_only() -> None:
    """`judge` has an item `worth` exactly when the candidate's weights were converted."""
    numbers = GateNumbers(0, (), math.nan, math.nan, 0.01, champion="1", own=MODEL, other=MODEL)
    assert judge(Gates(), numbers).items == ()
    verdict = judge(Gates(), replace(numbers, converted="int8"))
    assert [item.name for item in verdict.items] == ["worth"]
    assert not verdict.passed


@given(footprints, footprints, st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.floats(1.0, 100.0))
def test_better_never_turns_a_pass_into_a_refusal(
    own: Footprint, other: Footprint, size: float, latency: float, throughput: float
) -> None:
    """Fewer bytes, a shorter p95 or more rows/s than a candidate that passes also passes."""
    if not worth("int8", own, other).passed:
        return
    better = replace(
        own,
        size=int(own.size * size),
        latency_p95=own.latency_p95 * latency,
        throughput=own.throughput * throughput,
    )
    assert worth("int8", better, other).passed


@given(footprints, spreads, spreads)
def test_the_same_is_never_worth_it(one: Footprint, latency: float, throughput: float) -> None:
    """A version against itself is refused, however noisy the measurement."""
    assert not worth("int8", replace(one, latency_spread=latency, throughput_spread=throughput), one).passed


@given(footprints, footprints)
def test_noise_alone_decides_nothing(own: Footprint, other: Footprint) -> None:
    """What differs by less than bound and spread is neither a gain nor a loss: only the bytes decide then."""
    spread = math.hypot(own.latency_spread, other.latency_spread)
    near = replace(other, latency_p95=other.latency_p95 * (1 + 0.9 * (FASTER + spread)) if spread < 0.9 else 0.0)
    if not near.latency_p95 or near.latency_p95 > other.latency_p95 * (1 + SLOWER + spread):
        return
    item = worth("int8", replace(near, size=own.size, latency_spread=own.latency_spread), other)
    assert item.passed == (own.size / other.size <= 0.9)


@given(footprints, footprints)
def test_total(own: Footprint, other: Footprint) -> None:
    """Whatever was measured, there is a verdict in one sentence."""
    item = worth("q4_0", own, other)
    assert item.message.startswith("Q4_0 against the champion: size ")
    assert item.message.endswith((": passed", ": refused"))
