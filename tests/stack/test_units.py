"""Human units: what each accepts, and that nothing else gets through."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.stack import units

PARSERS = [
    units.seconds, units.share, units.size, units.number, units.dollars, units.rate, units.price, units.budget,
    units.span, units.moment, units.count_back, units.cron,
]  # fmt: skip


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.seconds, "2ms", 0.002),
        (units.seconds, "1d 12h", 129600.0),
        (units.share, "99.9%", pytest.approx(0.999)),
        (units.share, 0.5, 0.5),
        (units.size, "80GiB", 80 * 2**30),
        (units.number, "500k", 500_000.0),
        (units.dollars, "$300k", 300_000.0),
        (units.price, "$0.10/h", pytest.approx(0.1)),
        (units.rate, "5 per 10m", units.Rate(5, 600)),
        (units.rate, "500k/day", units.Rate(500_000, 86400)),
        (units.budget, "$100/month", units.Rate(100, 2629746)),
        (units.span, "1..4", units.Range(1, 4)),
        (units.span, 2, units.Range(2, 2)),
        (units.moment, "2013-01-31", date(2013, 1, 31)),
        (units.moment, "2013-01-31T12:00", datetime(2013, 1, 31, 12, tzinfo=timezone.utc)),
        (units.count_back, "last 14d", 14 * 86400.0),
        (units.cron, "*/5 0-6,22 * jan-mar mon", "*/5 0-6,22 * jan-mar mon"),
        (units.cron, "@daily", "@daily"),
    ],
)
def test_units_are_plain_numbers(parse, text, value) -> None:
    """Each unit is parsed to its plain value."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (units.seconds, "2"),
        (units.seconds, 2),
        (units.seconds, "2x"),
        (units.share, "101%"),
        (units.share, "nan%"),
        (units.share, True),
        (units.price, "$1/0s"),
        (units.rate, "2 per 0d"),
        (units.number, 10**400),
        (units.number, float("nan")),
        (units.span, "4..1"),
        (units.span, -1),
        (units.moment, 2013),
        (units.moment, "2013-02-30"),
        (units.count_back, "last 0d"),
        (units.cron, "60 * * * *"),
        (units.cron, "* * * * * *"),
    ],
)
def test_slips_are_refused(parse, text) -> None:
    """What is not the unit raises `ValueError` with a sentence."""
    with pytest.raises(ValueError, match="`"):
        parse(text)


@given(
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.from_regex(r"[$]?[0-9.]{1,80}[ ]{0,9}[a-zA-Z%/.]{0,5}[0-9]{0,3}[a-z]{0,3}", fullmatch=True)
    | st.lists(st.integers(), max_size=2),
)  # fmt: skip
@pytest.mark.parametrize("parse", PARSERS)
def test_nothing_else_is_raised(parse, value) -> None:
    """No value raises anything but `ValueError`."""
    try:
        parse(value)
    except ValueError as error:
        assert str(error)
