"""Prices: the defaults, and every rule that a feed's rows are held against."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts.gpus import own
from mainspring.facts.price_rules import APART, apart, number, spot
from mainspring.facts.prices import BYTES, ROWS, Feed, cheapest, default, defaults, read_feed

HEADER = (
    "provider,instance,gpu,gpu_count,region,on_demand_per_gpu_hour,spot_per_gpu_hour_min,spot_per_gpu_hour_max,"
    "source,date_note"
)
dollars = st.floats(0.01, 1000.0)


def feed(*rows: str, header: str = HEADER) -> Feed:
    """A feed of these rows."""
    return read_feed("\n".join([header, *rows]) + "\n", "prices.csv")


def codes(found: Feed) -> list[str]:
    """The codes of a feed's complaints, in order."""
    return [one.code for one in found.complaints]


def test_the_given_defaults() -> None:
    """T4 0.50, A100 3.00, H100 4.00, B200 8.00; spot 70 % off and reserved 35 % off, both said to be derived."""
    for gpu, price in {"T4": 0.5, "A100-80GB-SXM": 3.0, "H100-SXM": 4.0, "B200-SXM": 8.0}.items():
        one = defaults()[gpu]
        assert (one.on_demand, one.confidence) == (price, "given")
    for one in defaults().values():
        assert one.at("spot") == pytest.approx(0.30 * one.at("on_demand"))
        assert one.at("reserved") == pytest.approx(0.65 * one.at("on_demand"))
        assert one.derived == ("spot", "reserved")
        assert one.source
    assert default("nothing") is None


def test_dearer_types_do_more() -> None:
    """Within a family the defaults rise with what a GPU can do."""
    for family in (
        ["T4", "L4", "A10G", "L40S"], ["A100-40GB-SXM", "A100-80GB-PCIe", "A100-80GB-SXM", "H100-PCIe", "H100-SXM"],
        ["H100-SXM", "H200-SXM", "B200-SXM", "GB200", "B300-SXM", "GB300"],
    ):  # fmt: skip
        assert all(a < b for a, b in pairwise(defaults()[name].at("on_demand") for name in family))


def test_a_good_row_is_taken_as_it_is() -> None:
    """Names become the catalogue's; spot is the dearest zone's; reserved is derived unless it is quoted."""
    found = feed("AWS,p5.48xlarge,H100,8,us-east-2,6.88,1.8825,2.1619,somewhere,note")
    one = found.prices[0]
    assert found.complaints == ()
    assert (one.gpu, one.provider, one.instance, one.count, one.region) == (
        "H100-SXM",
        "AWS",
        "p5.48xlarge",
        8,
        "us-east-2",
    )
    assert (one.on_demand, one.spot, one.reserved) == (6.88, 2.1619, pytest.approx(4.472))
    assert (one.derived, one.line, one.source) == (("reserved",), 2, "somewhere")
    quoted = read_feed("provider,gpu,region,on_demand_per_gpu_hour,reserved_per_gpu_hour\na,T4,x,1,0.5", "f")
    assert (quoted.prices[0].reserved, quoted.prices[0].derived) == (0.5, ())


def test_columns_may_come_in_any_order_and_case() -> None:
    """Only names of columns count; other columns, blank lines, a byte-order mark and CRLF don't."""
    text = "\ufeffRegion, GPU ,weather,On_Demand_Per_Gpu_Hour,Provider\r\n\r\nx,T4,sunny,0.4,p\r\n"
    for said in (text, text.encode()):
        found = read_feed(said, "f.csv")
        assert [(one.gpu, one.on_demand, one.line) for one in found.prices] == [("T4", 0.4, 3)]
        assert found.complaints == ()


@pytest.mark.parametrize(
    ("cells", "code", "value"),
    [
        ("x,i,H100,8,r,6.88,6.88,6.88,,", "spot-equals-on-demand", "6.88"),
        ("x,i,H100,8,r,6.88,0.688,0.688,,", "spot-is-a-tenth", "0.688"),
        ("x,i,H200,8,r,4.58,5.49,5.49,,", "spot-above-on-demand", "5.49"),
        ("x,i,H100,8,r,6.88,-1,-1,,", "negative", "-1"),
        ("x,i,H100,8,r,6.88,0,0,,", "zero", "0"),
        ("x,i,H100,8,r,6.88,nan,,,", "not-finite", "nan"),
        ("x,i,H100,8,r,6.88,$2,,,", "not-a-number", "$2"),
    ],
)
def test_a_bad_spot_price_is_dropped(cells: str, code: str, value: str) -> None:
    """A spot price that can't be one is left out with one complaint; the on-demand price stays."""
    found = feed(cells)
    assert codes(found) == [code]
    assert (found.complaints[0].value, found.complaints[0].line) == (value, 2)
    assert f"`{value}`" in str(found.complaints[0])
    assert (found.prices[0].spot, found.prices[0].suspect) == (None, code == "spot-above-on-demand")
    assert found.prices[0].has("on_demand")


def test_one_bad_zone_leaves_the_other() -> None:
    """Where only the dearest zone has no spot pool, the price of the other stands."""
    found = feed("AWS,p5.48xlarge,H100,8,us-east-1,6.88,1.7808,6.88,,")
    assert codes(found) == ["spot-equals-on-demand"]
    assert found.prices[0].spot == 1.7808


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("six", "not-a-number"), ("$6.88", "not-a-number"), ("6,88", "not-a-number"), ("1_000", "not-a-number"),
        ("-6.88", "negative"), ("0", "zero"), ("0.0", "zero"), ("-0", "zero"), ("nan", "not-finite"),
        ("inf", "not-finite"), ("-Infinity", "not-finite"), ("1e999", "not-finite"), ("55040000", "too-dear"),
        ("٣", "not-a-number"), ("0x10", "not-a-number"),
    ],
)  # fmt: skip
def test_a_bad_on_demand_price_is_a_row_less(cell: str, code: str) -> None:
    """A row whose on-demand price is none is left out; the other rows are used."""
    found = feed(f'x,i,H100,8,r,"{cell}",2,2,,', "x,j,H100,8,r,6.88,2,2,,")
    assert codes(found) == [code]
    assert [one.instance for one in found.prices] == ["j"]


def test_no_on_demand_price() -> None:
    """A blank on-demand cell leaves spot alone on offer; with no spot either, the row is left out."""
    found = feed("AWS,p5e,H200,8,us-east-2,,2.1,2.3,,", "AWS,p5f,H200,8,us-east-2,,,,,")
    assert codes(found) == ["no-on-demand", "no-on-demand", "no-price"]
    assert [(one.spot, one.reserved) for one in found.prices] == [(2.3, None)]
    with pytest.raises(InputError, match="no on-demand price of `H200-SXM` in `us-east-2`") as caught:
        found.prices[0].at("on_demand")
    assert caught.value.code == "no-price"


def test_regions_too_far_apart_are_doubted() -> None:
    """4.20 and 9.80 for one instance are two products: both stay, and are doubted; a third in between is not."""
    found = feed("GCP,a3,H100,8,us-central1,4.20,,,,", "GCP,a3,H100,8,us-east4,9.80,,,,", "GCP,a3,H100,8,eu,6,,,,")
    assert codes(found) == ["regions-apart"]
    assert [one.suspect for one in found.prices] == [True, True, False]
    assert found.complaints[0].line == 2
    assert "us-east4 (line 3)" in str(found.complaints[0])


def test_different_instances_and_providers_may_differ() -> None:
    """Only one and the same instance is compared between regions."""
    found = feed(
        "A,a,H100,8,x,2,,,,", "A,b,H100,8,y,9,,,,", "B,a,H100,8,y,9,,,,", "C,,H100,8,y,9,,,,", "C,,H100,8,z,2,,,,"
    )
    assert found.complaints == ()


def test_doubles() -> None:
    """The same offer again is left out; at another price, the first stands and is doubted."""
    found = feed("A,a,H100,8,x,2,,,,", "a,A,h100,8,X,2,,,,", "A,a,H100,8,x,3,,,,", "A,a,H100,8,y,2,,,,")
    assert codes(found) == ["duplicate", "contradicts"]
    assert [(one.on_demand, one.region, one.suspect) for one in found.prices] == [(2, "x", True), (2, "y", False)]


def test_unknown_types_are_left_out() -> None:
    """A GPU that nobody knows is told with the nearest; one of the user's own is known."""
    rows = f"{HEADER}\nA,a,H101,8,x,2,,,,\nA,b,Mine,8,x,2,,,,\n"
    mine = own("Mine", memory=1e10, bandwidth=1e12, fp16=1e14)
    found = read_feed(rows, "p.csv", (mine,))
    assert codes(found) == ["unknown-gpu"]
    assert "did you mean `H100-SXM`" in str(found.complaints[0])
    assert [one.gpu for one in found.prices] == ["Mine"]


@pytest.mark.parametrize("row", ["A,a,H100,8,x,2", "A,a,H100,8,x,2,,,,,,"])
def test_ragged_rows_are_left_out(row: str) -> None:
    """A row with more or fewer cells than the header can't be trusted to have them in the right columns."""
    assert codes(feed(row)) == ["ragged"]


def test_gpu_counts() -> None:
    """A count that is none becomes one, with a complaint; a blank one is one."""
    found = feed("A,a,H100,eight,x,2,,,,", "A,b,H100,,x,2,,,,", "A,c,H100,0,x,2,,,,", "A,d,H100,99999999999,x,2,,,,")
    assert codes(found) == ["bad-count"] * 3
    assert [one.count for one in found.prices] == [1] * 4


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("provider,gpu,region\na,T4,x\n", "price-feed-columns", "`on_demand_per_gpu_hour`"),
        ("", "price-feed-columns", "`provider`, `gpu`"),
        ("gpu,gpu,provider,region,on_demand_per_gpu_hour\n", "price-feed-columns", "`gpu` twice"),
        (f'{HEADER}\n"A,a,H100\n'.encode(), "price-feed-csv", "p.csv:2"),
        (f"{HEADER}\n".encode() + b"A\xe9,a,H100,8,x,2,,,,", "price-feed-encoding", "`0xe9`"),
        (f"{HEADER}\n".encode("utf-16"), "price-feed-encoding", "UTF-8"),
        (b"x" * (BYTES + 1), "price-feed-size", "5,000,000 bytes"),
        ("provider,gpu,region,on_demand_per_gpu_hour\n" + "a,T4,x,1\n" * (ROWS + 1), "price-feed-size", "50,000 rows"),
    ],
    ids=["column", "empty", "twice", "quote", "latin-1", "utf-16", "bytes", "rows"],
)  # fmt: skip
def test_feeds_that_cannot_be_read(text: str | bytes, code: str, said: str) -> None:
    """A file that is no feed at all is an error of the person's, which says what is wrong with it."""
    with pytest.raises(InputError) as caught:
        read_feed(text, "p.csv")
    assert (caught.value.code, caught.value.exit_status) == (code, 2)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_feed_without_rows_says_so() -> None:
    """A header alone is read, and told of."""
    assert codes(feed()) == ["empty"]


def test_complaints_are_safe_to_print() -> None:
    """No cell brings control characters to a terminal."""
    found = feed("A,a,\x1b[31mH9,8,x,2,,,,", "A,a,H100,8,x,\x1b]0;t\x07,,,,")
    assert len(found.complaints) == 2
    assert all(str(one).isprintable() and one.value.isprintable() for one in found.complaints)


def test_the_cheapest_leaves_out_what_is_doubted() -> None:
    """The cheapest is of that region or of any, in that mode, and no doubted row wins."""
    found = feed(
        "A,a,H100,8,x,2,,,,",
        "A,a,H100,8,y,9,,,,",
        "B,b,H100,8,x,5,1.2,1.2,,",
        "C,c,H100,8,,4,3,3,,",
        "D,d,T4,1,x,0.1,,,,",
    )
    pick = {mode: cheapest(found.prices, "H100-SXM", "x", mode) for mode in ("on_demand", "spot")}  # type: ignore[arg-type]
    assert {mode: one and one.provider for mode, one in pick.items()} == {"on_demand": "C", "spot": "B"}
    assert cheapest(found.prices, "H100-SXM", "nowhere", "reserved").provider == "C"  # type: ignore[union-attr]
    assert cheapest(found.prices, "L4") is None


@given(dollars, dollars)
def test_the_spot_rules_hold_for_any_prices(price: float, on_demand: float) -> None:
    """A spot price stands exactly when it is below on-demand and not a tenth of it."""
    doubt = spot(price, on_demand)
    near = {1.0: "spot-equals-on-demand", 0.1: "spot-is-a-tenth"}
    for share, code in near.items():
        exact = spot(share * on_demand, on_demand)
        assert exact is not None
        assert exact[0] == code
    if price > on_demand * (1 + 1e-8):
        assert doubt is not None
        assert doubt[0] == "spot-above-on-demand"
    elif price < on_demand * (1 - 1e-8) and not math.isclose(price, 0.1 * on_demand, rel_tol=1e-8):
        assert doubt is None
    assert spot(price, None) is None


@given(st.lists(dollars, min_size=1, max_size=12))
def test_the_region_rule_holds_for_any_prices(quoted: list[float]) -> None:
    """A price is doubted exactly when another of the same instance is more than twice or under half of it."""
    for one, flag in zip(quoted, apart(quoted), strict=True):
        assert flag == any(max(one, other) > APART * min(one, other) for other in quoted)


@given(st.one_of(st.text(max_size=60), st.floats().map(repr), st.integers().map(str)))
def test_any_cell_is_a_price_or_a_doubt(text: str) -> None:
    """A cell is blank, or a positive finite number, or doubted; never two of these."""
    value, doubt = number(text, "spot")
    assert (value is None) or (doubt is None and math.isfinite(value) and 0 < value <= 10_000)
    assert (value is None and doubt is None) == (not text.strip())


@given(st.one_of(st.binary(max_size=400), st.lists(st.text(max_size=12), max_size=30).map(
    lambda cells: (HEADER + "\n" + ",".join(cells)).encode(errors="replace"))))  # fmt: skip
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Whatever a file holds, its reading ends in a feed or an `InputError`."""
    try:
        found = read_feed(data, "p.csv")
    except InputError as error:
        assert error.code.startswith("price-feed-")
    else:
        assert all(one.on_demand is None or one.on_demand > 0 for one in found.prices)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["H100", "T4"]), st.sampled_from("xyz"), dollars, dollars),
        max_size=12,
    )
)
def test_prices_that_stand_are_those_that_were_written(rows: list[tuple[str, str, str, float, float]]) -> None:
    """No rule changes a price: each one that stands is in the file, at its line, and spot is below on-demand."""
    text = [f"p,{instance},{gpu},8,{region},{price!r},{low!r},," for instance, gpu, region, price, low in rows]
    found = feed(*[f"{one}," for one in text])
    for one in found.prices:
        instance, _, region, price, low = rows[one.line - 2]
        assert (one.instance, one.region, one.on_demand) == (instance, region, price)
        assert one.spot in (None, low)
        assert one.spot is None or one.spot < one.at("on_demand")
    if not found.complaints:
        assert len(found.prices) == len(rows)
