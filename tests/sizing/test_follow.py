"""Following the traffic by the hour, and buying what is used."""

from __future__ import annotations

import pytest

from mainspring.forecast.promise import Promise
from mainspring.sizing.follow import buy, hours, standing
from mainspring.sizing.question import HOURS, Capacity, Survive, Way
from mainspring.sizing.rank import Refused, size
from tests.sizing import cases

DAY = (0.5,) * 12 + (1.0,) * 6 + (2.0,) * 6
EACH = Capacity(1.0)
WAY = Way("h100", "H100")
ALL = frozenset({"on_demand", "reserved", "spot"})


def asked(curve=DAY, peak=2.0, **rest):
    """Ten requests a second on the mean, in one region."""
    return cases.question([cases.pool(nodes=None)], regions=("a",), rate=10.0, peak=peak, curve=curve, **rest)


def test_each_hour_has_what_it_and_the_next_need():
    """Replicas are there an hour before they are needed; the last hour looks to the first."""
    question = asked()
    needed = hours(question, WAY, EACH)
    assert [hour["a"] for hour in needed] == [5] * 11 + [10] * 6 + [20] * 7
    found = buy(question, WAY, needed, frozenset({"on_demand"}))
    assert found.dollars == pytest.approx(sum(found.hourly) / 24 * 4.0 * HOURS)
    assert found.reserved == 0
    assert found.on_demand == pytest.approx(sum(found.hourly) / 24)


def test_what_is_used_enough_is_reserved():
    """Below the break-even of the two prices hours are bought, above it the month: never dearer than either alone."""
    question = asked()
    needed = hours(question, WAY, EACH)
    found = buy(question, WAY, needed, frozenset({"on_demand", "reserved"}))
    assert found.reserved == 5  # always on; the next five run 13 of 24 hours, under the 65 % of break-even
    still = buy(question, WAY, standing(size(question, WAY, EACH, None).sites), frozenset({"on_demand", "reserved"}))
    assert still.dollars == pytest.approx(20 * 2.6 * HOURS)
    assert found.dollars < min(still.dollars, buy(question, WAY, needed, frozenset({"on_demand"})).dollars)
    assert found.dollars == pytest.approx((5 * 2.6 + 5 * 4 * 13 / 24 + 10 * 4 * 7 / 24) * HOURS)


def test_spot_counts_only_for_what_is_there():
    """Spot saves less than its discount, as some of it is bought for what may be missing; more promised saves less."""
    question = asked()
    needed = hours(question, WAY, EACH)
    plain = buy(question, WAY, needed, frozenset({"on_demand"}))
    costs = [
        buy(asked(promise=Promise(p95=3.0, availability=wanted)), WAY, needed, ALL - {"reserved"}).dollars
        for wanted in (0.9, 0.99, 0.9999)
    ]
    assert costs == sorted(costs)
    assert plain.dollars * 0.3 < costs[0] < plain.dollars
    half = [buy(question, WAY, needed, ALL - {"reserved"}, share).dollars for share in (0.0, 0.3, 0.6, 1.0)]
    assert half == sorted(half, reverse=True)
    assert half[0] == plain.dollars


def test_within_an_hour_the_traffic_still_peaks():
    """Where the peak is above the curve's top the difference is kept as reserve in every hour."""
    assert [hour["a"] for hour in hours(asked(peak=4.0), WAY, EACH)] == [10] * 11 + [20] * 6 + [40] * 7


def test_without_a_curve_it_stands_at_the_peak():
    """No curve, nothing to follow: the cost is that of the fleet that stands."""
    question = asked(curve=())
    found = buy(question, WAY, hours(question, WAY, EACH), frozenset({"on_demand"}))
    assert found.dollars == pytest.approx(size(question, WAY, EACH, None).dollars)


def test_what_can_not_be_sized_can_not_follow():
    """An hour that no fleet carries refuses the whole."""
    assert isinstance(hours(asked(survive=Survive(1, 0)), WAY, EACH), Refused)
