"""The bill: its parts add up, real seconds only."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.cost.meter import Meter, Uptime, advance
from mainspring.cost.report import rounded, rows
from mainspring.decide.price import Usage, bill

amounts = st.floats(min_value=0, max_value=1e6)
usages = st.lists(
    st.builds(
        Usage,
        endpoint=st.sampled_from(["delay", "risk"]),
        revision=st.sampled_from(["delay-1", "delay-2"]),
        role=st.sampled_from(["live", "mirror"]),
        requests=st.integers(0, 10**6),
        predictions=st.integers(0, 10**6),
        errors=st.just(0),
        compute=amounts,
    ),
    max_size=6,
)


@given(usages, st.floats(0, 1000), amounts, amounts, st.integers(1, 64))
def test_parts_add_up(usage: list[Usage], price: float, up: float, training: float, cores: int) -> None:
    """The lines add up to the node's price for its time, to far less than a cent, and none is negative."""
    found = bill(usage, price, up, training, cores)
    assert found.dollars == price / 3600 * up
    assert math.fsum(line.dollars for line in found.lines) == pytest.approx(found.dollars, rel=1e-9, abs=1e-9)
    assert all(line.dollars >= 0 for line in found.lines)


def test_by_hand() -> None:
    """An hour at $3.60 with 600 s of serving and 900 s of training: $0.60, $0.90, and $2.10 idle."""
    use = Usage("delay", "delay-1", "live", 1000, 1000, 0, 600.0)
    found = bill([use], 3.6, 3600.0, 900.0)
    assert [round(line.dollars, 9) for line in found.lines] == [0.6, 0.9, 2.1]
    assert found.per_thousand == pytest.approx(3.6)
    assert found.lines[0].per_prediction == pytest.approx(0.0006)


def test_more_used_than_there_was() -> None:
    """With more compute than capacity all parts shrink alike, and nothing is idle."""
    found = bill([Usage("delay", "delay-1", "live", 1, 1, 0, 300.0)], 3.6, 100.0, 100.0)
    assert [round(line.dollars, 9) for line in found.lines] == [0.075, 0.025, 0.0]


@given(st.lists(st.floats(0, 1000), max_size=12), st.integers(2, 6))
def test_shown_rows_add_up(dollars: list[float], digits: int) -> None:
    """Rounded rows add up to the rounded sum, and none is off by a whole unit."""
    shown = rounded(dollars, digits)
    unit = 10**-digits
    assert abs(sum(shown) - sum(dollars)) <= 0.5000001 * unit
    assert all(abs(a - b) <= unit * 1.000001 for a, b in zip(shown, dollars, strict=True))


def test_report_rows() -> None:
    """The table has a row for each line and the total last."""
    use = [
        Usage("delay", "delay-2", "mirror", 5, 5, 0, 3.0),
        Usage("delay", "delay-1", "live", 10, 20, 1, 7.0),
    ]
    table = rows(bill(use, 0.1, 360.0, 30.0))
    assert [(r.what, r.revision) for r in table] == [
        ("delay", "delay-1"), ("delay", "delay-2"), ("training", ""), ("idle", ""), ("total", ""),
    ]  # fmt: skip
    assert (table[-1].dollars, table[-1].predictions, table[-1].requests) == (0.01, 20, 10)
    assert table[-1].per_thousand == pytest.approx(0.5)


def test_meter_outlives_its_process(tmp_path: Path) -> None:
    """Time counts over a restart of the controller, not while all is down, and not over a reboot."""
    meter = Meter(tmp_path / "meter", 1.0)
    meter.tick(100.0, True, "b1")
    meter.tick(110.0, True, "b1")
    meter = Meter(tmp_path / "meter", 1.0)  # the controller was killed; the gateway was not
    assert meter.tick(150.0, False, "b1") == 50.0
    assert meter.tick(500.0, True, "b1") == 50.0
    assert meter.tick(900.0, True, "b2") == 50.0
    assert meter.tick(901.0, True, "b2") == 51.0


def test_clock_that_goes_back() -> None:
    """A clock that goes back never takes from the bill."""
    assert advance(Uptime(10.0, 100.0, True, "b"), 50.0, True, "b").seconds == 10.0


def test_damaged_meter_file(tmp_path: Path) -> None:
    """A file that is no meter counts from nothing again instead of stopping the controller."""
    (tmp_path / "uptime.json").write_text('{"seconds": "x"')
    assert Meter(tmp_path, 1.0).seconds_up == 0.0


def test_spent_in_the_present_period(tmp_path: Path) -> None:
    """The budget's period counts the time of its own days only, also of a gap in which the controller was dead."""
    meter = Meter(tmp_path, 3.6)
    meter.tick(0.0, True, "b")
    meter.tick(1000.0, True, "b")
    meter.tick(86400.0 * 10, False, "b")
    meter.tick(86400.0 * 10 + 1, True, "b")
    meter.tick(86400.0 * 10 + 101, True, "b")
    assert meter.spent(86400.0 * 10 + 50) == pytest.approx(0.1)
    assert meter.spent(86400.0) == pytest.approx(0.1)
    assert meter.spent(86400.0 * 5.5) == pytest.approx(86400.0 * 5 / 1000 + 0.1)
    assert meter.spent(1e9) == pytest.approx(864.0 + 0.1)
