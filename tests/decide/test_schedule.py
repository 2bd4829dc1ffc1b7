"""Cron lines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.schedule import next_after, parse


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 3 * * 1", "2013-01-01T00:00", "2013-01-07T03:00"),
        ("0 3 * * 1", "2013-01-07T03:00", "2013-01-14T03:00"),
        ("*/15 * * * *", "2013-01-01T00:14:59", "2013-01-01T00:15"),
        ("59 23 31 12 *", "2013-12-31T23:59", "2014-12-31T23:59"),
        ("0 0 29 feb *", "2013-01-01T00:00", "2016-02-29T00:00"),
        ("0 0 13 * fri", "2013-01-01T00:00", "2013-01-04T00:00"),  # either day field is enough
        ("5,35 8-10/2 * * mon-fri", "2013-01-05T00:00", "2013-01-07T08:05"),
        ("0 12 * * 7", "2013-01-01T00:00", "2013-01-06T12:00"),
        ("@monthly", "2013-01-01T00:00", "2013-02-01T00:00"),
    ],
)
def test_known_moments(cron: str, after: str, expected: str) -> None:
    """Lines fire when their meaning says so, strictly later than `after`."""
    assert next_after(cron, _at(after)) == _at(expected)


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "a * * * *",
             "5-1 * * * *", "*/0 * * * *", "* * * foo *", "0 0 31 feb *", "99999999999999 * * * *", "-1 * * * *"]
)  # fmt: skip
def test_nonsense_is_refused(cron: str) -> None:
    """What is no cron line, or never comes, raises `ValueError` with the value in backticks."""
    with pytest.raises(ValueError, match="`"):
        parse(cron)


_FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "*/7", "1-20", "5,50"]),
    st.sampled_from(["*", "0", "23", "*/5", "8-17"]),
    st.sampled_from(["*", "1", "15", "*/10"]),
    st.sampled_from(["*", "1", "jun-aug", "*/3"]),
    st.sampled_from(["*", "0", "mon", "1-5"]),
)


@given(_FIELDS, st.floats(0, 4e9))
def test_next_fires_and_nothing_between(fields: tuple[str, ...], after: float) -> None:
    """The moment found is a later whole minute that fits, and asking from just before finds it again."""
    cron = " ".join(fields)
    found = next_after(cron, after)
    assert found > after
    assert found % 60 == 0
    moment, parsed = datetime.fromtimestamp(found, UTC), parse(cron)
    assert moment.minute in parsed.minutes
    assert moment.hour in parsed.hours
    assert parsed.on_day(moment)
    assert next_after(cron, found - 1) == found
    middle = after + (found - after) / 2
    assert next_after(cron, middle) == found or middle >= found


def test_hourly_is_every_hour() -> None:
    """Walking a line through a year meets each of its moments once."""
    moment, seen = _at("2013-01-01T00:00"), 0
    end = datetime(2014, 1, 1, tzinfo=UTC) + timedelta(0)
    while moment < end.timestamp():
        moment = next_after("0 */6 * * *", moment)
        seen += 1
    assert seen == 365 * 4
