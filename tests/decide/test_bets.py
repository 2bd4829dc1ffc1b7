"""Betting on means: expectation under the null, bounds that hold at all looks, and the difference of two means."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.bets import (
    EXACT,
    Beside,
    Sample,
    difference,
    interval,
    lower,
    mean_above,
    mean_below,
    sample,
    upper,
    wealth,
)

VALUES = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300)), min_size=1, max_size=6)


def counted(drawn: np.ndarray) -> Sample:
    """A sample of what was drawn."""
    values, counts = np.unique(drawn, return_counts=True)
    return Sample(values.astype(float), counts.astype(float))


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=3),
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    st.integers(1, 4),
)
def test_a_fair_game_gains_nothing(values: list[float], chances: list[float], n: int) -> None:
    """Exactly, over all sequences: against the true mean, or one above it, expected wealth is at most 1."""
    law = np.array(chances[: len(values)]) / sum(chances[: len(values)])
    mean = float(law @ np.array(values))
    above = below = 0.0
    for drawn in product(range(len(values)), repeat=n):
        chance = float(np.prod(law[list(drawn)]))
        seen = counted(np.array(values)[list(drawn)])
        above += chance * mean_above(seen, max(mean, 1e-6))
        below += chance * mean_below(seen, min(mean, 1 - 1e-6))
    assert above <= 1 + 1e-6
    assert below <= 1 + 1e-6


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_two_arms_of_one_law_gain_nothing(gap: float) -> None:
    """Exactly: the least over the unknown mean has an expectation of at most 1 where the null hypothesis holds."""
    values, law, other = np.array([0.0, 0.4, 1.0]), np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.3, 0.2])
    expected = 0.0
    for mine, theirs in product(product(range(3), repeat=2), repeat=2):
        chance = float(np.prod(law[list(mine)]) * np.prod(other[list(theirs)]))
        arms = Beside(counted(values[list(mine)]), counted(values[list(theirs)]))
        expected += chance * math.exp(arms.log(gap))
    assert expected <= 1 + 1e-9


@given(VALUES, st.floats(0.001, 0.2))
def test_bounds_are_where_the_evidence_turns(pairs: list[tuple[float, int]], alpha: float) -> None:
    """The bound is exact to 1e-6, and the mean lies between the two ends."""
    seen = sample(tuple(pairs))
    low, high = lower(seen, alpha), upper(seen, alpha)
    assert low <= seen.mean + EXACT
    assert high >= seen.mean - EXACT
    enough = -math.log(alpha)
    if low > 0:
        assert wealth(seen, np.array([low]))[0] >= enough
    assert wealth(seen, np.array([low + 2 * EXACT]))[0] < enough
    assert interval(seen, 2 * alpha) == (low, high)


@given(VALUES, st.randoms())
def test_wealth_has_no_order_and_falls_with_the_mean(pairs: list[tuple[float, int]], random: object) -> None:
    """Whatever the order, one wealth; against a higher mean there is less; it is never nan, nor nothing."""
    shuffled = pairs[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    means = np.linspace(1e-6, 1.0, 50)
    here = wealth(sample(tuple(pairs)), means)
    assert wealth(sample(tuple(shuffled)), means) == pytest.approx(here, rel=1e-9, abs=1e-9)
    assert (np.diff(here) <= 1e-9).all()
    assert np.isfinite(here).all()
    assert here.min() >= math.log(0.1) - 1e-9


@settings(max_examples=40)
@given(VALUES, VALUES, st.floats(-0.9, 0.9))
def test_differences_are_gone_through_on_the_safe_side(
    own: list[tuple[float, int]], rest: list[tuple[float, int]], gap: float
) -> None:
    """In cells, the evidence is never more than at any mean of the control; it falls with the difference."""
    mine, theirs = sample(tuple(own)), sample(tuple(rest))
    arms = Beside(mine, theirs)
    told = arms.log(gap)
    means = np.linspace(max(1e-6, 1e-6 - gap), min(1 - 1e-6, 1 - 1e-6 - gap), 60)
    exact = wealth(mine, means + gap) + wealth(theirs.mirrored, 1.0 - means)
    assert told <= exact.min() + 1e-6
    assert arms.log(gap + 0.05) <= told + 1e-9
    low, high = difference(mine, theirs, 0.05)
    assert -1.0 <= low <= mine.mean - theirs.mean + EXACT
    assert 1.0 >= high >= mine.mean - theirs.mean - EXACT


@pytest.mark.parametrize("law", ["rare", "coin", "spread"])
def test_bounds_hold_at_all_looks_together(seed: int, law: str) -> None:
    """A confidence sequence of 90 % misses its mean at any of many looks in 10 % of runs at most, and gets narrow."""
    rng = np.random.default_rng(seed)
    runs, n = 250, 1_200
    drawn, mean = {
        "rare": ((rng.random((runs, n)) < 0.02).astype(float), 0.02),
        "coin": ((rng.random((runs, n)) < 0.6).astype(float), 0.6),
        "spread": (np.round(rng.beta(2, 6, (runs, n)), 1), float(np.mean(np.round(rng.beta(2, 6, 10**6), 1)))),
    }[law]
    looks, missed = [20, 40, 80, 150, 300, 600, 1_200], 0
    for run in drawn:
        seen = [counted(run[:k]) for k in looks]
        out = [max(wealth(s, np.array([mean]))[0], wealth(s.mirrored, np.array([1 - mean]))[0]) for s in seen]
        missed += max(out) >= math.log(2 / 0.1)
    assert missed / runs <= 0.1 + 3 * math.sqrt(0.09 / runs)
    low, high = interval(counted(drawn[0]), 0.1)
    assert high - low < 6.5 * drawn[0].std() / math.sqrt(n) + 0.01


def test_the_difference_is_found_and_its_ends_hold(seed: int) -> None:
    """Equal arms: the interval leaves 0 out at any look in 10 % at most; a lift of 0.1 is found."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(120):
        own, rest = rng.random(800) < 0.3, rng.random(2_400) < 0.3
        for k in (50, 200, 800):
            arms = [counted(part.astype(float)) for part in (own[:k], rest[: 3 * k])]
            out = max(Beside(*arms).log(0.0), Beside(*(a.mirrored for a in arms)).log(0.0))
            if out >= math.log(2 / 0.1):
                wrong += 1
                break
    assert wrong / 120 <= 0.1 + 3 * math.sqrt(0.09 / 120)
    own, rest = (counted((rng.random(3_000) < p).astype(float)) for p in (0.4, 0.3))
    low, high = difference(own, rest, 0.05)
    assert 0.0 < low < 0.1 < high < 0.2


def test_many_values_are_spread_on_the_safe_side(seed: int) -> None:
    """A thousand distinct scores: the mean stays, and there is a little less evidence, never more."""
    rng = np.random.default_rng(seed)
    pairs = tuple(
        (float(v), int(n)) for v, n in zip(np.sort(rng.beta(2, 3, 1_001)), rng.integers(1, 9, 1_001), strict=True)
    )
    spread, exact = sample(pairs), sample(pairs, 2_000)
    assert len(spread.values) < len(exact.values)
    assert spread.mean == pytest.approx(exact.mean, abs=1e-9)
    assert spread.size == pytest.approx(exact.size)
    means = np.linspace(0.2, 0.6, 30)
    assert (wealth(spread, means) <= wealth(exact, means) + 1e-9).all()
    assert lower(spread, 0.05) == pytest.approx(lower(exact, 0.05), abs=2e-4)


def test_nothing_and_very_much_are_numbers() -> None:
    """No values: nothing is known. Ten million values: bounds are close, and no number overflows."""
    nothing = sample(())
    assert (lower(nothing, 0.05), upper(nothing, 0.05)) == (0.0, 1.0)
    assert math.isnan(nothing.mean)
    assert mean_above(nothing, 0.5) == pytest.approx(1.0)
    assert Beside(nothing, nothing).log(0.0) <= 0.0
    assert difference(nothing, nothing, 0.05) == (-1.0, 1.0)
    much = sample(((0.0, 9_000_000), (1.0, 1_000_000)))
    low, high = interval(much, 0.01)
    assert 0.099 < low < 0.1 < high < 0.101
    assert mean_above(much, 0.05) < math.inf
    assert mean_above(sample(((1.0, 10**9),)), 0.5) < math.inf
    with pytest.raises(ValueError, match="`0` is not a mean"):
        mean_above(much, 0)
