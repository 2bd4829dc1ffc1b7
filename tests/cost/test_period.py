"""What some days cost, divided: the parts add up to the node's bill, to the cent, whatever the sizes."""

from __future__ import annotations

import math
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.cost import period
from mainspring.cost.meter import Meter, Uptime, advance
from mainspring.cost.report import rounded, units
from mainspring.decide.price import GROUPS, Charge, Day, Usage, charges, merged, spread
from mainspring.errors import InputError

DAY = 86400.0
TODAY = 20_787  # 2026-11-30
NOW = TODAY * DAY + 5000.0

sizes = st.one_of(st.floats(0, 1e6), st.sampled_from([0.0, 5e-324, 1e-300, 1e-9, 0.005, 0.015, 1 / 3, 1e6, 1e12, 1e15]))
counts = st.integers(0, 10**12)
usages = st.builds(
    Usage,
    endpoint=st.sampled_from(["chat", "delay"]),
    revision=st.sampled_from(["chat-1", "chat-2"]),
    role=st.sampled_from(["live", "live", "mirror"]),
    requests=counts, predictions=counts, errors=counts, compute=sizes,
    tenant=st.sampled_from(["", "acme", "blue"]),
    key=st.sampled_from(["", "k1", "k2"]),
    prompt=counts, cached=counts, output=counts, prefill=sizes, decode=sizes, orphans=counts, lost=counts,
)  # fmt: skip
some_days = st.lists(
    st.builds(
        Day,
        day=st.integers(20_700, 20_790),
        dollars=sizes,
        seconds_up=sizes,
        usage=st.lists(usages, max_size=8).map(tuple),
        training=sizes,
    ),
    max_size=5,
    unique_by=lambda day: day.day,
)
groupings = st.sampled_from(sorted(GROUPS))


def use(tenant: str = "acme", compute: float = 600.0, **over: object) -> Usage:
    """What a tenant used: 1,000 requests of 100 tokens asked and 50 answered."""
    told = {"requests": 1000, "predictions": 1000, "errors": 0, "prompt": 100_000, "output": 50_000, "key": "k1"}
    told |= {"endpoint": "chat", "revision": "chat-1", "role": "live", "day": TODAY}
    return Usage(tenant=tenant, compute=compute, **(told | over))  # type: ignore[arg-type]


class Source:
    """A prediction store of one list."""

    def __init__(self, *used: Usage) -> None:
        self.all = used

    def used(self, first: int, last: int, by: Collection[str]) -> tuple[Usage, ...]:
        """Those of the days."""
        assert set(by) <= {"tenant", "endpoint", "revision", "key"}
        return tuple(u for u in self.all if first <= u.day < last)

    def metered_since(self) -> int | None:
        """The first of the days."""
        return min((u.day for u in self.all), default=None)


@settings(max_examples=300)
@given(some_days, groupings, st.integers(1, 64))
def test_the_parts_add_up(days: list[Day], by: str, cores: int) -> None:
    """By day and over all days, as divided and as rounded: to the cent, and to ten digits in exact decimals."""
    total = math.fsum(day.dollars for day in days)
    for day in days:
        parts = charges(day, by, cores)
        assert math.fsum(part.dollars for part in parts) == pytest.approx(day.dollars, rel=1e-12)
        assert all(part.dollars >= 0.0 for part in parts)
    for digits in (2, 6):
        parts = merged(part for day in days for part in charges(day, by, cores))
        whole = units([part.dollars for part in parts], digits, total)
        if days:
            assert sum(whole) == units([total], digits)[0]
        assert min(whole, default=0) >= 0
    billed = [Decimal(row["billed"]) for row in period.daily(days, by, cores)]
    if days:
        assert sum(billed) == Decimal(units([total], 10)[0]).scaleb(-10)


@given(some_days, st.integers(1, 64))
def test_nothing_is_lost_by_dividing(days: list[Day], cores: int) -> None:
    """Requests, tokens, seconds and dollars are the same by whatever they are divided, and by day."""
    sums = []
    for by in sorted(GROUPS):
        parts = merged(part for day in days for part in charges(day, by, cores))
        assert len({(p.kind, p.tenant, p.endpoint, p.revision, p.key) for p in parts}) == len(parts)
        sums.append([sum(getattr(p, name) for p in parts) for name in ("requests", "prompt", "output", "lost")])
        seconds = math.fsum(p.seconds for p in parts if p.kind == "serving")
        assert seconds == pytest.approx(math.fsum(u.compute for day in days for u in day.usage), rel=1e-9)
    assert all(one == sums[0] for one in sums)


@given(st.lists(sizes, min_size=1, max_size=12), st.integers(2, 10))
def test_rounding_never_moves_a_part_by_more_than_a_unit(dollars: list[float], digits: int) -> None:
    """And what is rounded adds up to the rounded exact sum."""
    whole = units(dollars, digits)
    for unit, amount in zip(whole, dollars, strict=True):
        assert abs(Decimal(unit) - Decimal(amount) * 10**digits) <= 1
    assert rounded([0.005, 0.005], 2) == [0.01, 0.0]


def test_by_hand() -> None:
    """An hour of two cores at $3.60: 7,200 core-seconds, of which 600 + 1,200 were served and 1,800 trained."""
    day = Day(TODAY, 3.6, 3600.0, (use(), use("blue", 900.0), use("blue", 300.0, role="mirror")), 1800.0)
    acme, blue, training, idle = charges(day, "tenant", 2)
    same = Charge(
        "serving", acme.dollars, 600.0, "acme", requests=1000, predictions=1000, prompt=100_000, output=50_000
    )
    assert (acme, acme.dollars) == (same, pytest.approx(0.3))
    assert (blue.dollars, blue.requests, blue.mirrored) == (pytest.approx(0.6), 1000, 1000)
    assert (training.dollars, idle.dollars) == (pytest.approx(0.9), pytest.approx(1.8))
    assert (acme.per_million, acme.per_thousand) == (pytest.approx(6.0), pytest.approx(0.3))
    assert idle.per_million is None


def test_more_used_than_there_was_and_use_without_a_node() -> None:
    """All parts shrink alike; on a day on which the node was not up, use costs nothing."""
    over = charges(Day(TODAY, 3.6, 100.0, (use(compute=300.0),), 100.0), "endpoint")
    assert [round(part.dollars, 9) for part in over] == [2.7, 0.9, 0.0]
    assert [part.dollars for part in charges(Day(TODAY, 0.0, 0.0, (use(),)), "endpoint")] == [0.0, 0.0, 0.0]


def test_each_day_shares_its_own_price(tmp_path: Path) -> None:
    """A busy day pays for itself; the rows of all days add up to the meter's dollars."""
    meter = Meter(tmp_path, 3.6)
    meter.tick((TODAY - 1) * DAY, True, "b")
    meter.tick((TODAY - 1) * DAY + 1000.0, False, "b")
    meter.tick(TODAY * DAY, True, "b")
    meter.tick(TODAY * DAY + 2000.0, False, "b")
    source = Source(use(compute=500.0), use("blue", 1000.0, day=TODAY - 1))
    days = period.days(meter, source, {TODAY: 500.0, 3: 1.0}, period.span("", "", NOW, TODAY - 1), "tenant")
    assert [(day.dollars, day.training) for day in days] == [(pytest.approx(1.0), 0.0), (pytest.approx(2.0), 500.0)]
    rows = period.rows(days, "tenant", meter.cores)
    assert {row["tenant"] or row["kind"]: row["dollars"] for row in rows} == {
        "acme": 0.5, "blue": 1.0, "training": 0.5, "idle": 1.0,
    }  # fmt: skip
    daily = period.daily(days, "tenant", meter.cores)
    assert [(row["day"], row["tenant"], row["kind"], row["billed"]) for row in daily] == [
        ("2026-11-29", "blue", "serving", "1.0000000000"),
        ("2026-11-30", "acme", "serving", "0.5000000000"),
        ("2026-11-30", "", "training", "0.5000000000"),
        ("2026-11-30", "", "idle", "1.0000000000"),
    ]


def test_a_price_that_changes_leaves_old_bills_alone(tmp_path: Path) -> None:
    """Each second has the price of its time; the whole bill is their sum."""
    Meter(tmp_path, 3.6).tick(NOW, True, "b")
    Meter(tmp_path, 3.6).tick(NOW + 1000.0, True, "b")
    dearer = Meter(tmp_path, 36.0)
    dearer.tick(NOW + 2000.0, True, "b")
    assert dearer.days()[TODAY] == (2000.0, pytest.approx(11.0))
    assert dearer.spent(DAY) == pytest.approx(11.0)
    assert dearer.bill(Whole()).dollars == pytest.approx(11.0)
    assert dearer.rate == 0.01


class Whole:
    """A source of the bill up to now in which nothing was used."""

    def usage(self) -> tuple[Usage, ...]:
        """Nothing."""
        return ()


def test_a_meter_of_an_older_version_is_priced_once(tmp_path: Path) -> None:
    """Days without dollars get those of the present price; a half-written file counts from nothing."""
    (tmp_path / "uptime.json").write_text(
        f'{{"seconds": 1000.0, "last": {NOW}, "up": true, "boot": "b", "days": {{"{TODAY}": 1000.0}}}}'
    )
    meter = Meter(tmp_path, 3.6)
    meter.tick(NOW + 1000.0, True, "b", 50.0)
    assert meter.days() == {TODAY: (2000.0, pytest.approx(2.0))}
    (tmp_path / "uptime.json").write_text('{"seconds": 1, "last": 1, "up": true, "boot": "b", "dollars": [1]}')
    assert Meter(tmp_path, 1.0).days() == {}


def test_clocks_that_jump() -> None:
    """A wall clock that is put right bills nothing where the machine's own is known; days share a long gap."""
    begun = Uptime(0.0, NOW, True, "b", mono=10.0)
    assert advance(begun, NOW + 30 * DAY, True, "b", 15.0, 3600.0).dollars == {str(TODAY + 30): 5.0}
    assert advance(begun, NOW - 30 * DAY, True, "b", 15.0).seconds == 5.0
    assert advance(begun, NOW + DAY, True, "b", 5.0).seconds == 0.0
    long = advance(begun, NOW + 2 * DAY, True, "b", 10.0 + 2 * DAY)
    assert long.days == {str(TODAY): DAY - 5000, str(TODAY + 1): DAY, str(TODAY + 2): 5000.0}


@given(st.floats(0, 1e6), st.floats(-1e9, 4e9), st.one_of(st.floats(0, 1e7), st.floats(-1e12, 1e12)))
def test_a_stretch_is_spread_over_its_days(seconds: float, begin: float, length: float) -> None:
    """The parts add up, none is negative, and they lie in the stretch."""
    found = spread(seconds, begin, begin + length)
    assert math.fsum(found.values()) == pytest.approx(seconds, rel=1e-9, abs=1e-9)
    assert min(found.values()) >= 0.0
    assert max(found) == (begin + length) // DAY
    assert len(found) <= 3654


def test_dates_that_people_say() -> None:
    """From the first day that is known until today; months as they are written; a past month with nothing."""
    assert period.span("", "", NOW, TODAY - 9) == period.Span(TODAY - 9, TODAY + 1)
    assert period.span("", "", NOW, None) == period.Span(TODAY, TODAY + 1)
    assert period.span("2026-11-01", "2026-12-01", NOW, TODAY) == period.Span(TODAY - 29, TODAY + 1)
    assert period.span("2026-11-30", "", NOW, None) == period.Span(TODAY, TODAY + 1)
    assert period.span("2025-01-01", "2025-02-01", NOW, TODAY) == period.Span(20_089, 20_120)
    past = period.span("", "2025-02-01", NOW, TODAY)
    assert past.first == past.last
    assert period.days(Meter(Path("/nonexistent"), 1.0), Source(use()), {TODAY: 1.0}, past, "") == []
    assert period.rows([], "tenant", 1) == []


@pytest.mark.parametrize(
    ("since", "until", "code", "hint"),
    [
        ("2026-11-31", "", "bad-date", "2026-11-01"), ("yesterday", "", "bad-date", "--from"),
        ("", "2026-W01-1", "bad-date", "--to"), ("20261101", "", "bad-date", "--from"),
        ("٢٠٢٦-١١-٠١", "", "bad-date", "--from"), ("", "2026-11-01T00:00", "bad-date", "--to"),
        ("2026-12-01", "", "future-date", "--from 2026-11-30"), ("9999-12-31", "", "future-date", "2026-11-30"),
        ("2026-11-02", "2026-11-01", "no-days", "--from 2026-11-01 --to 2026-11-02"),
        ("2026-11-30", "0001-01-01", "no-days", "--from 0001-01-01 --to 2026-11-30"),
        ("2026-11-02", "2026-11-02", "no-days", "--from 2026-11-02 --to 2026-11-03"),
    ],
)  # fmt: skip
def test_dates_that_are_none(since: str, until: str, code: str, hint: str) -> None:
    """Each is refused with its value, and the hint names what would do."""
    with pytest.raises(InputError) as refused:
        period.span(since, until, NOW, TODAY)
    assert refused.value.code == code
    assert (until if code == "bad-date" and not since else since)[:40] in refused.value.message
    assert hint in refused.value.hint


def test_groupings() -> None:
    """Those that there are; "" and any other word is refused."""
    assert [period.grouping(name) for name in ("tenant", "key")] == ["tenant", "key"]
    for word in ("", "role", "x" * 500):
        with pytest.raises(InputError, match="nothing that a bill can be divided by"):
            period.grouping(word)
