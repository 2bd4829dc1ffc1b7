"""The whole answer is one value, and plain data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mainspring.facts import gpus
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Interval, Lengths, Response, Rests
from mainspring.sizing.answer import Asks, Forecasts, answer
from mainspring.sizing.plain import plain, rounded
from mainspring.sizing.question import HOURS, Capacity, Mix, Pool, Survive, Tariff, Way, Written
from tests.sizing import cases

REGIONS = ("a", "b", "c")
LENGTHS = Lengths((1000.0,), (100.0,), (1.0,))
FITTED = Rests("decode bandwidth", 0.8, "fitted", "41 points")


def real(name, price, nodes=8, **rest):
    """A pool of a type from the catalogue."""
    tariff = Tariff(price, price * 0.65, price * 0.3)
    return Pool(name, gpus.find(name), 8, dict.fromkeys(REGIONS, nodes), dict.fromkeys(REGIONS, tariff), **rest)


def seen(value):
    """A response with everything in proportion."""
    each = Interval(value, value * 0.9, value * 1.2)
    return Response(each, each, each, each, each, 2.0, 0.0, 0.5, True, (FITTED,))


def capacity(way, demand, promise):
    """An H100 at four is fast enough; whatever has less isn't."""
    speed = {"H100-SXM": 1.0, "T4": 0.05}[way.device] * way.gpus / way.slots * (1.8 if way.precision == "fp8" else 1.0)
    if speed < 2:
        return Capacity(0.0, None, "p95", f"p95 is {9 / speed:.1f} s at the least")
    return Capacity(0.8 * speed, seen(2.9), "p95")


def response(way, demand, rate):
    """Slower under load."""
    return seen(1.0 + rate)


FORECASTS = Forecasts(capacity, response, lambda way, sites, total, alone: 0.9995, lambda *_: {1: 190.0, 16: 150.0})


def asked(**rest):
    """A 70B-like question: twelve replicas of four H100 on 192 of them."""
    own = Way("H100", "H100-SXM", 4)
    fleet = Written(own, dict.fromkeys(REGIONS, (3, 4)), dict.fromkeys(REGIONS, 8))
    return cases.question(
        [real("H100", 4.0), real("T4", 0.5)],
        REGIONS,
        rate=5.79,
        promise=Promise(p95=3.0, availability=0.999),
        survive=Survive(1, 1),
        lengths=LENGTHS,
        precisions=("fp8",),
        written=fleet,
        **rest,
    )


def made(**rest):
    """Its answer, with fixed costs and a quote."""
    asks = Asks(fixed={"networking": 30_000.0, "storage": 15_000.0}, quoted=280_000.0, **rest)
    return answer(asked(), FORECASTS, asks)


def test_the_written_fleet_the_cheapest_and_the_next():
    """The fleet of the file is priced with all that it buys; the cheapest one is cheaper, the next ones say why."""
    found = made()
    assert found.met
    assert found.written.paid.bill.devices == pytest.approx(192 * 4.0 * HOURS)
    assert found.written.paid.bill.total == pytest.approx(192 * 4.0 * HOURS + 45_000)
    assert found.written.peak.p95.value == pytest.approx(1.0 + 17.37 / 12)
    assert found.written.longest == {1: 190.0, 16: 150.0}
    assert found.best.fleet.dollars < found.written.paid.bill.devices
    assert found.best.paid.bill.devices == pytest.approx(found.best.fleet.dollars)
    assert found.best.fleet.way.accept == ()  # nothing is asked of the user that need not be
    assert ("quality at fp8",) in [each.fleet.way.accept for each in found.options]
    assert [each.fleet.dollars for each in found.options] == sorted(each.fleet.dollars for each in found.options)
    assert len({(each.fleet.way.gpus, each.fleet.way.precision) for each in found.next_best}) == len(found.next_best)
    assert all("dearer" in each.why or "the same" in each.why for each in found.next_best)
    assert found.rests == (FITTED,)
    assert any("730" in one for one in found.assumed)


def test_the_quote_is_held_against_the_fleet():
    """The audit uses the file's price and counts."""
    codes = {finding.code: finding for finding in made().audits[0].findings}
    assert codes["on-demand"].value == pytest.approx(192 * 4.0 * HOURS)
    assert codes["explains"].value == 96
    assert answer(asked(), FORECASTS).audits == ()


def test_it_is_all_plain_data():
    """What is told survives JSON unchanged, and holds no infinity."""
    told = made().told()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["best"]["dollars"] == made().best.fleet.dollars
    assert told["written"]["checks"][0]["name"] == "promise"
    assert told["written"]["longest_output"] == {"1": 190.0, "16": 150.0}
    assert {row["factor"] for row in told["sensitivity"]} == {"peak", "output", "precision", "price"}


def test_nothing_will_do():
    """An impossible promise has no best, says so, and is not met."""
    never = Forecasts(lambda *_: Capacity(0.0, None, "p95", "p95 is 9 s at the least"))
    found = answer(asked(), never)
    assert not found.met
    assert found.best is None
    assert found.next_best == ()
    assert found.impossible.why.startswith("no fleet keeps p95 3 s")
    assert found.told()["impossible"]["causes"][0]["cause"] == "promise"
    json.dumps(found.told(), allow_nan=False)


def test_a_file_without_a_fleet_gets_one():
    """Without a written fleet the answer is the cheapest, and met when there is one."""
    found = answer(replace(asked(), written=None), FORECASTS)
    assert found.met
    assert found.written is None
    assert found.told()["written"] is None


def test_what_is_bought_differently_is_billed_differently():
    """A mix of the pool shows in the bill's lines and in what the fleet costs."""
    mix = Mix("60 % reserved", (("reserved", 0.6), ("on_demand", 0.4)))
    question = replace(asked(), pools=(real("H100", 4.0, mix=mix),), written=None)
    best = answer(question, FORECASTS).best
    assert {line.kind for line in best.paid.bill.lines} == {"reserved", "on_demand"}
    assert best.paid.bill.devices == pytest.approx(best.fleet.dollars)


def test_numbers_are_told_with_the_digits_that_they_have():
    """Six digits, dollars to the cent, None for what isn't finite."""
    assert rounded(0.123456789) == 0.123457
    assert rounded(560_640.123) == 560_640.12
    assert rounded(float("inf")) is None
    assert plain({"a": (1, Interval(1.0, 2.0, float("nan")))}) == {"a": [1, {"value": 1.0, "low": 2.0, "high": None}]}
