"""The hours of the week: means by hour, weeks averaged, clocks that jump, and stretches of the week."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.hours import UNSEEN, Hours, expected, hour_of_week, noted, within

MONDAY = datetime(2026, 1, 5, tzinfo=UTC).timestamp()


def fed(hours: Hours, since: float, demands: dict[float, float], until: float, step: float = 10.0) -> Hours:
    """Noted every `step` seconds: the demand that was given last."""
    at, level = since, 0.0
    while at < until:
        level = next((demands[key] for key in sorted(demands, reverse=True) if since + key <= at), level)
        hours = noted(hours, level, at)
        at += step
    return hours


def test_hour_of_week() -> None:
    """Monday 00:00 UTC is 0; Sunday's last hour is 167."""
    assert hour_of_week(MONDAY) == 0
    assert hour_of_week(MONDAY - 1) == 167


def test_mean_of_an_hour() -> None:
    """Half an hour of 2 and half an hour of 6 busy slots are 4; other hours stay unknown."""
    hours = fed(Hours(), MONDAY, {0: 2.0, 1800: 6.0}, MONDAY + 3700)
    assert expected(hours, MONDAY + 7 * 86400) == 4.0
    assert expected(hours, MONDAY + 3600) is None
    assert expected(Hours(), MONDAY) is None


def test_weeks_are_averaged() -> None:
    """A week later the hour moves halfway to what it had."""
    hours = fed(Hours(), MONDAY, {0: 4.0}, MONDAY + 3700)
    hours = fed(hours, MONDAY + 7 * 86400, {0: 8.0}, MONDAY + 7 * 86400 + 3700)
    assert expected(hours, MONDAY) == 6.0


def test_unknown_is_not_zero() -> None:
    """Minutes that were not seen don't count, and an hour of which most was not seen has no mean."""
    hours = fed(Hours(), MONDAY, {0: 4.0, 1900: UNSEEN}, MONDAY + 3700)
    assert expected(hours, MONDAY) == 4.0
    hours = fed(Hours(), MONDAY, {0: 4.0, 900: UNSEEN}, MONDAY + 3700)
    assert expected(hours, MONDAY) is None


def test_nothing_new_is_the_same_value() -> None:
    """A steady demand is written once an hour, whatever it is."""
    for level in (0.0, 5.0):
        first = noted(Hours(), level, MONDAY)
        assert fed(first, MONDAY, {0: level}, MONDAY + 3600) is first
        assert fed(first, MONDAY, {0: level}, MONDAY + 3700) is not first


@given(st.lists(st.tuples(st.floats(0, 4e9), st.just(UNSEEN) | st.floats(0, 1e6)), max_size=60))
def test_any_clock(words: list[tuple[float, float]]) -> None:
    """Wherever the clock goes: no hour is longer than an hour, and means lie within what was said."""
    hours, most = Hours(), 0.0
    for wall, busy in words:
        hours, most = noted(hours, busy, wall), max(most, busy)
        assert -1e-6 <= hours.seen <= 3600.001
        assert all(one == UNSEEN or -0.01 <= one <= most + 0.01 for one in hours.profile)


def test_stretches_of_the_week() -> None:
    """From and until on the days it begins; over midnight it belongs to the day before; the end is outside."""
    office = ((0, 1, 2, 3, 4), 8 * 3600.0, 18 * 3600.0)
    assert within(*office, MONDAY + 8 * 3600)
    assert not within(*office, MONDAY + 18 * 3600)
    assert not within(*office, MONDAY - 86400 + 9 * 3600)
    night = ((4,), 22 * 3600.0, 6 * 3600.0)
    friday = MONDAY + 4 * 86400
    assert within(*night, friday + 23 * 3600)
    assert within(*night, friday + 29 * 3600)
    assert not within(*night, friday + 5 * 3600)
    assert within((0,), 8 * 3600.0, 8 * 3600.0, MONDAY + 86400 + 3600)
