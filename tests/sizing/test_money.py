"""Bills add up, and quotes are held against them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.errors import InputError
from mainspring.forecast.setup import Lengths
from mainspring.sizing import words
from mainspring.sizing.audit import audit, counted
from mainspring.sizing.bill import SECONDS, bill, unit
from mainspring.sizing.question import HOURS, Demand, Mix, Tariff
from tests.sizing import cases


def test_a_bill_is_the_sum_of_its_lines_by_mode_and_region():
    """Devices by region and mode, at each one's price for 730 hours, and fixed costs beside."""
    mix = Mix("60/40", (("reserved", 0.6), ("on_demand", 0.4)))
    pool = cases.pool(price={"a": 4.0, "b": 5.0}, regions=("a", "b"), mix=mix)
    made = bill(pool, {"a": 10, "b": 2}, fixed={"networking": 30_000})
    assert [(line.kind, line.what, line.quantity) for line in made.lines[:2]] == [
        ("reserved", "H100 in a", 6.0),
        ("on_demand", "H100 in a", 4.0),
    ]
    assert made.devices == pytest.approx((10 * 4.0 + 2 * 5.0) * (0.6 * 0.65 + 0.4) * HOURS)
    assert made.total == made.devices + 30_000
    assert sum(line.dollars for line in made.lines) == pytest.approx(made.total)
    assert pool.price("a") == pytest.approx(4.0 * (0.6 * 0.65 + 0.4))


def test_a_token_costs_its_part_of_the_month():
    """Dollars over the month's tokens and requests; other models have no tokens."""
    demand = Demand("chat", 5.0, lengths=Lengths((1000.0,), (100.0,), (1.0,)))
    each = unit(100_000, demand)
    assert each.per_thousand_requests == pytest.approx(100_000 / (5 * SECONDS) * 1000)
    assert each.per_million_tokens * 1100 * 5 * SECONDS / 1e6 == pytest.approx(100_000)
    assert each.per_million_output == pytest.approx(each.per_million_tokens * 11)
    assert unit(1.0, Demand("ranker", 5.0)).per_million_tokens is None
    assert unit(1.0, Demand("idle", 0.0)).per_thousand_requests is None


def by_code(found):
    """Findings by their code."""
    return {finding.code: finding for finding in found.findings}


def test_a_quote_that_is_half_of_what_the_devices_cost():
    """The mean discount and a mix that gives it, what it buys on demand, and what there is just so many of."""
    counts = counted(12, 4, 8, 192)
    found = audit(280_000, Tariff(4.0, 2.6, 1.2), counts, 192 * 4.0 * HOURS, "H100-SXM", 8)
    codes = by_code(found)
    assert not found.holds
    assert codes["on-demand"].value == pytest.approx(192 * 4 * 730)
    assert codes["reserved"].value == pytest.approx(192 * 4 * 730 * 0.65)
    assert codes["discount"].value == pytest.approx(1 - 280_000 / (192 * 4 * 730))
    part = (0.7 - codes["discount"].value) / (0.7 - 0.35)
    assert f"{words.share(part)} reserved at 35 % off with" in codes["mix"].says
    assert codes["count"].value == pytest.approx(280_000 / (4 * 730))
    assert codes["explains"].value == 96
    assert codes["explains"].says.endswith("12 replicas on whole nodes of 8 of its own each")


def test_other_figures_lead_to_other_findings():
    """Nothing is known beforehand: other prices, counts and quotes are reckoned anew."""
    exact = audit(24 * 2.0 * HOURS, Tariff(2.0), counted(6, 2, 8, 24), 24 * 2.0 * HOURS, "A100", 8)
    assert exact.holds
    assert by_code(exact)["explains"].value == 24
    assert by_code(exact)["discount"].value == pytest.approx(0.0)
    dear = audit(100_000, Tariff(2.0), counted(6, 2, 8, 24), 24 * 2.0 * HOURS, "A100", 8)
    assert "above the $2.00 on demand" in by_code(dear)["discount"].says
    nodes = audit(16 * 2.0 * HOURS, Tariff(2.0), counted(5, 1, 8, 24), 0.0, "A100", 8)
    assert by_code(nodes)["explains"].says.endswith("2 nodes of 8")
    assert "explains" not in by_code(audit(15 * 2.0 * HOURS, Tariff(2.0), counted(5, 1, 8, 24), 0.0, "A100", 8))
    assert audit(0.0, Tariff(2.0), counted(5, 1, 8, 24), 1.0, "A100", 8).findings == ()
    low = audit(1_000, Tariff(2.0, 1.3, 0.6), counted(6, 2, 8, 24), 24 * 2.0 * HOURS, "A100", 8)
    assert "nothing that is sold goes that low" in by_code(low)["mix"].says
    only = audit(24 * 1.6 * HOURS, Tariff(2.0, 1.3), counted(6, 2, 8, 24), 0.0, "A100", 8)
    assert by_code(only)["mix"].says == "that takes 57.1 % reserved at 35 % off, the rest on demand"


def test_prices_of_a_mix_need_every_mode_of_it():
    """A mix with a mode that isn't sold has no price, and no fleet is bought so."""
    assert Tariff(4.0).of(Mix("half", (("on_demand", 0.5), ("spot", 0.5)))) is None
    assert Tariff(4.0, None, 1.0).of(Mix("half", (("on_demand", 0.5), ("spot", 0.5)))) == 2.5
    assert Tariff(4.0, 2.0).times(1.5) == Tariff(6.0, 3.0)
    question = cases.question([replace(cases.pool(), tariffs={"a": Tariff(1.0)})], regions=("a", "b"))
    assert question.pool("h100").price("b") is None


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (words.dollars(280_320.4), "$280,320"),
        (words.dollars(4.0), "$4.00"),
        (words.dollars(0.00421), "$0.00421"),
        (words.seconds(0.0149), "14.9 ms"),
        (words.seconds(3.0), "3 s"),
        (words.share(0.999), "99.9 %"),
        (words.share(0.99999), "99.999 %"),
        (words.share(0.995), "99.5 %"),
        (words.share(0.35), "35 %"),
        (words.share(1.0), "100 %"),
        (words.share(0.9999999), "over 99.999 %"),
        (words.count(1, "GPU"), "1 GPU"),
        (words.count(1920, "GPU"), "1,920 GPUs"),
        (words.count(12 / 7, "GPU"), "1.71 GPUs"),
        (words.rate(17.37), "17.4/s"),
    ],
)
def test_numbers_are_written_with_the_digits_that_matter(said, value):
    """Dollars, times, shares, counts and rates in sentences."""
    assert said == value


def test_what_has_no_price_is_not_free():
    """A region or a way to buy without a price is refused, and not left out of the bill; unless none is bought."""
    mix = Mix("half", (("spot", 0.5), ("on_demand", 0.5)))
    pool = replace(cases.pool(regions=("a", "b"), mix=mix), tariffs={"a": Tariff(4.0)})
    with pytest.raises(InputError, match="in `a` spot"):
        bill(pool, {"a": 1})
    with pytest.raises(InputError, match="in `b`"):
        bill(pool, {"b": 1})
    assert bill(replace(pool, mix=Mix("", (("on_demand", 1.0),))), {"a": 1, "b": 0}).total == 4.0 * HOURS
