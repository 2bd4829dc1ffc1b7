"""Buying: equal to trying every mix on small curves, monotone, and never dearer than all on demand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.purchase import (
    HOURS,
    Prices,
    SpotRules,
    _beta_binomial,
    blended,
    break_even,
    mix,
    week,
)
from mainspring.errors import InputError

NEEDS = st.lists(st.integers(0, 5), min_size=1, max_size=6)
PRICES = st.builds(Prices, st.floats(1, 10), st.floats(0.5, 10) | st.none(), st.floats(0.2, 10) | st.none())
RULES = st.builds(
    SpotRules,
    zones=st.integers(1, 3),
    there=st.floats(0.5, 1.0),
    together=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    interruptions=st.floats(0, 0.2),
    restart=st.floats(0, 1),
    wanted=st.sampled_from([0.5, 0.9, 0.99, 0.999]),
)


def live_odds(spot, rules, wanted):
    """Probability that at least `wanted` of `spot` are live, going through what each zone may have."""
    held = [spot // rules.zones + (zone < spot % rules.zones) for zone in range(rules.zones)]
    odds = [_beta_binomial(count, rules.there, rules.together) for count in held]
    total = 0.0
    for live in product(*(range(count + 1) for count in held)):
        if sum(live) >= wanted:
            total += math.prod(float(odds[zone][n]) for zone, n in enumerate(live))
    return total


def cheapest(needs, prices, rules):
    """The same by trying every number of reserved, and in each hour every number of spot and on demand."""
    best = math.inf
    each = prices.spot and prices.spot * rules.there * (1 + rules.interruptions * rules.restart)
    for reserved in range(max(needs) + 1 if prices.reserved is not None else 1):
        total = 0.0
        for need in needs:
            hour = math.inf
            for spot in range(2 * max(needs) + 2 * rules.zones + 1 if prices.spot is not None else 1):
                for rest in range(need + 1):
                    if live_odds(spot, rules, need - reserved - rest) >= rules.wanted - 1e-12:
                        hour = min(hour, spot * (each or 0) + rest * prices.on_demand)
                        break
            total += hour + reserved * (prices.reserved or 0)
        best = min(best, total)
    return best * HOURS / len(needs)


@settings(max_examples=40)
@given(NEEDS, PRICES, RULES)
def test_it_is_what_trying_everything_gives(needs, prices, rules):
    """The bill equals that of an exhaustive search."""
    assert mix(needs, prices, rules).dollars == pytest.approx(cheapest(needs, prices, rules))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=48), PRICES, RULES)
def test_it_is_never_dearer_than_all_on_demand_and_keeps_its_word(needs, prices, rules):
    """No mix costs more than buying each hour's need on demand, and each hour's need is live as often as wanted."""
    found = mix(needs, prices, rules)
    assert found.dollars <= found.all_on_demand + 1e-6
    assert found.live >= rules.wanted - 1e-9
    assert found.all_on_demand == pytest.approx(sum(needs) / len(needs) * prices.on_demand * HOURS)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=24), PRICES, RULES, st.floats(1.0, 2.0), st.integers(0, 23))
def test_more_need_and_dearer_prices_never_cost_less(needs, prices, rules, dearer, hour):
    """One more machine in one hour, a dearer price, or a stricter promise: the bill does not fall."""
    base = mix(needs, prices, rules).dollars
    more = list(needs)
    more[hour % len(more)] += 1
    assert mix(more, prices, rules).dollars >= base - 1e-6
    for name in ("on_demand", "reserved", "spot"):
        changed = {one: getattr(prices, one) for one in ("on_demand", "reserved", "spot")}
        if changed[name] is not None:
            changed[name] *= dearer
            assert mix(needs, Prices(**changed), rules).dollars >= base - 1e-6
    stricter = SpotRules(rules.zones, rules.there, rules.together, rules.interruptions, rules.restart, 0.9999)
    assert mix(needs, prices, stricter).dollars >= base - 1e-6


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.3, 0.95))
def test_reserved_is_the_newsvendors_quantile(needs, ratio):
    """Machine r is reserved while the share of hours that need it is above reserved / on demand."""
    found = mix(needs, Prices(1.0, ratio))
    above = [np.mean(np.array(needs) >= r) for r in range(1, max(needs) + 1)]
    assert found.reserved == sum(share > ratio + 1e-12 for share in above)
    assert break_even(Prices(4.0, 2.6)) == pytest.approx(0.65)
    assert break_even(Prices(4.0, 4.0)) is None


def test_machines_that_go_together_are_counted_for_less():
    """Correlated within a zone, the same spot machines carry less; a single zone that goes at once carries nothing."""
    needs, prices = [6] * 24, Prices(4.0, None, 1.2)
    bills = [mix(needs, prices, SpotRules(together=r, wanted=0.99)).dollars for r in (0.0, 0.2, 0.6)]
    assert bills == sorted(bills)
    assert bills[0] < bills[-1]
    assert mix(needs, prices, SpotRules(zones=1, together=1.0, wanted=0.99)).spot == 0


@given(st.integers(0, 30), st.floats(0.05, 0.95), st.floats(0.01, 0.9))
def test_beta_binomial_has_its_mean_and_its_correlation(count, share, together):
    """Probabilities sum to one, with mean n p and variance n p (1 - p) (1 + (n - 1) rho)."""
    odds = _beta_binomial(count, share, together)
    numbers = np.arange(count + 1)
    mean = float(odds @ numbers)
    assert odds.sum() == pytest.approx(1.0)
    assert mean == pytest.approx(count * share)
    spread = count * share * (1 - share) * (1 + (count - 1) * together) if count else 0.0
    assert float(odds @ (numbers - mean) ** 2) == pytest.approx(spread, abs=1e-9)


@given(st.floats(0.1, 1000), st.floats(1.0, 8.0), st.floats(0.2, 1.0))
def test_a_week_has_its_mean_and_its_peak(mean, peak, weekend):
    """168 hours with the mean and the peak factor that were asked for."""
    hours = week(mean, peak, weekend)
    assert len(hours) == 168
    assert np.mean(hours) == pytest.approx(mean)
    assert max(hours) == pytest.approx(mean * peak, rel=1e-6)
    assert min(hours) >= 0


def test_following_the_traffic_saves_what_the_curve_has_to_give():
    """At peak 3 a fleet sized for the peak all week costs three times what following the curve does, or nearly."""
    needs = [math.ceil(load) for load in week(10.0, 3.0)]
    follows = mix(needs, Prices(4.0))
    always = mix([max(needs)] * 168, Prices(4.0))
    assert 2.5 < always.dollars / follows.dollars < 3.0
    assert mix(needs, Prices(4.0, 2.6)).reserved > 0


def test_a_blend_is_its_parts():
    """60 % reserved at 35 % off, the rest on demand, is 21 % off; impossible blends are refused."""
    assert blended(4.0, [(0.6, 0.35)]) == pytest.approx(4.0 * 0.79)
    assert blended(4.0, [(0.57, 0.35), (0.43, 0.70)]) == pytest.approx(4.0 * (1 - 0.57 * 0.35 - 0.43 * 0.7))
    for parts in ([(0.7, 0.3), (0.4, 0.2)], [(0.5, 1.0)], [(-0.1, 0.2)]):
        with pytest.raises(InputError) as caught:
            blended(4.0, parts)
        assert "`" in caught.value.message


@pytest.mark.parametrize(
    ("needs", "prices", "rules"),
    [
        ([-1], Prices(1.0), None),
        ([1], Prices(-1.0), None),
        ([1], Prices(math.nan), None),
        ([1], Prices(1.0, spot=0.3), SpotRules(there=1.2)),
        ([1], Prices(1.0, spot=0.3), SpotRules(zones=0)),
    ],
)
def test_what_cannot_be_is_refused(needs, prices, rules):
    """Negative needs and prices and shares above one are errors for people."""
    with pytest.raises(InputError):
        mix(needs, prices, rules)


def test_no_need_costs_nothing():
    """No hours, or hours without need."""
    assert mix([], Prices(4.0, 2.0)).dollars == 0
    assert mix([0, 0], Prices(4.0, 2.0), SpotRules()).dollars == 0
