"""The arithmetic of limits: buckets never give more than they hold and gain, windows are the calendar's."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.limits import (
    MOST,
    NANO,
    Limit,
    Period,
    allowed,
    block,
    counted,
    grant,
    is_bucket,
    refilled,
    shortfall,
    wait_for_level,
    wait_for_window,
    window_end,
    window_of,
)

SECONDS = {"s": 1, "min": 60, "h": 3600}
BUCKETS = st.sampled_from(["s", "min", "h"])
AMOUNTS = st.one_of(st.integers(1, 100), st.integers(1, MOST))
WALLS = st.floats(0, 4e9)


def test_which_are_buckets() -> None:
    """Seconds, minutes and hours are buckets; days, months and no period are none."""
    assert [per for per in get_args(Period) if is_bucket(per)] == ["s", "min", "h"]


def test_grant_examples() -> None:
    """All that is wanted, what there is, or nothing when that is less than the least that is of use."""
    assert grant(100, 1, 10) == 10
    assert grant(7, 1, 10) == 7
    assert grant(7, 8, 10) == 0
    assert grant(-5, 0, 10) == 0
    assert grant(5, 0, 0) == 0


def test_refill_examples() -> None:
    """Sixty a minute are one a second; a part of one is kept for later; a full bucket stays full."""
    assert refilled(0, 0, NANO, 60, "min") == (1, NANO)
    assert refilled(0, 0, NANO - 1, 60, "min") == (0, 0)
    assert refilled(0, 0, NANO * 5 // 2, 60, "min") == (2, 2 * NANO)
    assert refilled(59, 0, 90 * NANO, 60, "min") == (60, 90 * NANO)
    assert refilled(10, 50, 20, 60, "min") == (10, 50), "a clock that differs fills nothing"
    assert refilled(1000, 0, 0, 60, "min") == (60, 0), "the amount was lowered"
    assert refilled(-1000, 0, 0, 60, "min") == (-60, 0), "a debt is one amount at most"


@given(AMOUNTS, BUCKETS, st.data())
def test_refill_against_exact_fractions(amount: int, per: Period, data: st.DataObject) -> None:
    """However often it is looked at, a bucket never holds more than the exact one, and hardly ever less."""
    start = data.draw(st.integers(-amount, amount))
    steps = data.draw(st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
    level, at, now, exact = start, 0, 0, Fraction(start)
    for step in steps:
        now += step
        level, at = refilled(level, at, now, amount, per)
        assert at <= now
        exact = min(exact + Fraction(step * amount, SECONDS[per] * NANO), Fraction(amount))
        assert level <= exact
    # Lost: the part of a unit that is not whole yet, and what fills in a nanosecond, each time.
    assert level >= exact - 1 - len(steps) * Fraction(amount, SECONDS[per] * NANO)


@given(AMOUNTS, BUCKETS, st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, MOST)), max_size=30))
def test_no_stretch_gives_more_than_allowed(amount: int, per: Period, takes: list[tuple[int, int]]) -> None:
    """In any stretch of time at most `amount * (1 + t / period)` are taken."""
    level, at, now = amount, 0, 0
    taken: list[tuple[int, int]] = []
    for step, want in takes:
        now += step
        level, at = refilled(level, at, now, amount, per)
        got = grant(level, 0, want)
        level -= got
        taken.append((now, got))
    for first in range(len(taken)):
        total = 0
        for moment, got in taken[first:]:
            total += got
            assert total <= amount * (1 + Fraction(moment - taken[first][0], SECONDS[per] * NANO))


@given(AMOUNTS, BUCKETS, st.data())
def test_wait_is_neither_too_short_nor_too_long(amount: int, per: Period, data: st.DataObject) -> None:
    """At the end of the wait there is enough; two nanoseconds sooner there is not."""
    level = data.draw(st.integers(-amount, amount))
    least = data.draw(st.integers(-5, amount))
    now = data.draw(st.integers(0, 10**12))
    level, at = refilled(level, 0, now, amount, per)
    wait = wait_for_level(level, at, now, least, amount, per)
    assert 0 <= wait <= 2 * SECONDS[per] + 1e-6
    slack = 2 + int(wait * NANO * 1e-15)  # a float's
    then = now + int(wait * NANO)
    assert refilled(level, at, then + slack, amount, per)[0] >= least
    if wait > 0:
        assert refilled(level, at, max(then - slack, now), amount, per)[0] < least or amount > NANO


def test_wait_for_what_never_comes() -> None:
    """More than the amount is never there: not in a bucket, not in a day."""
    assert wait_for_level(60, 0, 0, 61, 60, "min") == math.inf
    assert wait_for_window("day", 20000, 20000 * 86400.0, 61, 60) == math.inf
    assert wait_for_window("day", 20000, 20000 * 86400.0 + 400, 60, 60) == 86000
    assert wait_for_window("day", 20000, 20002 * 86400.0, 60, 60) == 0
    assert wait_for_window("day", 20001, 20000 * 86400.0, 60, 60) == 2 * 86400, "the clock was put back"


@given(WALLS)
def test_windows_are_the_calendars(wall: float) -> None:
    """The month's and the day's number are those of `datetime` in UTC; a moment lies in its window."""
    then = datetime.fromtimestamp(wall, UTC)
    assert window_of("month", wall) == (then.year - 1970) * 12 + then.month - 1
    assert window_of("day", wall) == (then.date() - datetime(1970, 1, 1, tzinfo=UTC).date()).days
    for per in ("day", "month"):
        number = window_of(per, wall)
        assert wall < window_end(per, number)
        assert window_of(per, window_end(per, number)) == number + 1, "the next begins where it ends"
        assert window_of(per, window_end(per, number) - 1e-3) == number


def test_window_examples() -> None:
    """The end of February in a leap year, the end of a year, and clocks that are far off."""
    leap = datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()
    assert window_end("month", window_of("month", leap)) == datetime(2028, 3, 1, tzinfo=UTC).timestamp()
    year = datetime(2026, 12, 31, tzinfo=UTC).timestamp()
    assert window_end("month", window_of("month", year)) == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    for per in ("day", "month"):
        assert window_of(per, -5.0) == 0
        assert window_of(per, 1e18) == window_of(per, 1e15)
        assert window_end(per, window_of(per, 1e18)) > 2e11
    with pytest.raises(ValueError, match="`min`"):
        window_of("min", 0.0)
    with pytest.raises(ValueError, match="`min`"):
        window_end("min", 0)


@given(st.integers(0, MOST), st.integers(1, 64))
def test_all_blocks_are_a_sixteenth(amount: int, workers: int) -> None:
    """What all workers hold together is at most a sixteenth of the limit, or one each."""
    each = block(amount, workers)
    assert each >= 1
    assert each * workers <= max(amount / 16, workers)
    assert block(amount) == max(1, amount // 64)


def test_bounds() -> None:
    """What is promised: of buckets in a stretch, of quotas in a window; less what blocks keep."""
    assert allowed(Limit("tokens", 600, "min"), 30) == 900
    assert allowed(Limit("tokens", 600, "day"), 30) == 600
    assert allowed(Limit("at_once", 6), 30) == 6
    assert shortfall(Limit("tokens", 6400, "min"), 4) == 400
    assert shortfall(Limit("tokens", 6400, "min"), 4, died=2) == 600
    assert shortfall(Limit("tokens", 6400, "day"), 64) == 64 * 6
    assert shortfall(Limit("at_once", 6), 4) == 0
    assert counted(10**30) == MOST
    assert counted(-1) == 0
