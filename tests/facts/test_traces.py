"""Traces: what is read is what was asked, rates are of covered time, and bad lines are told with number and value."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts.traces import BLOCK, parse

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"


def plain(arrivals, prompt=100, output=10):
    """Lines of the plain form."""
    return [f"{when:.6f},{prompt},{output}" for when in arrivals]


def test_the_azure_form_is_read_with_its_seven_digits():
    """Dates with seven digits of a second, and zones, become seconds after the first."""
    trace = parse([AZURE, "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:50.9951695,396,109"])
    assert trace.form == "azure"
    assert trace.arrival.tolist() == pytest.approx([0.0, 4.3145795], abs=1e-6)
    assert (trace.prompt.tolist(), trace.output.tolist()) == ([374, 396], [44, 109])
    zoned = parse([AZURE, "2024-05-10 00:00:00.009930+00:00,2162,5", "2024-05-10T00:00:01+00:00,2399,6"])
    assert zoned.arrival[1] == pytest.approx(0.99007, abs=1e-6)


def test_the_mooncake_form_is_read_in_milliseconds():
    """Milliseconds become seconds, and blocks are kept."""
    lines = [
        json.dumps({"timestamp": t, "input_length": 1000, "output_length": 5, "hash_ids": [0, t], "more": 1})
        for t in (27, 1027)
    ]
    trace = parse(lines)
    assert trace.arrival.tolist() == pytest.approx([0.0, 1.0])
    assert (trace.form, trace.blocks) == ("mooncake", ((0, 27), (0, 1027)))


def test_the_plain_form_needs_no_header():
    """Seconds, prompt and output, with or without the header, blank lines and a byte order mark."""
    with_header = parse(["\ufeffarrival,prompt,output\n", "5,10,20\n", "\n", "6.5,30,40\n"])
    without = parse(["5,10,20", "6.5,30,40"])
    assert with_header.arrival.tolist() == without.arrival.tolist() == [0.0, 1.5]
    assert with_header.output.tolist() == [20, 40]


def test_statistics_of_generated_arrivals(seed):
    """Rate, variability, dispersion and peak of a Poisson process are what they should be; of bursts, larger."""
    rng = np.random.default_rng(seed)
    poisson = parse(plain(np.cumsum(rng.exponential(0.2, 20_000))))
    assert poisson.rate == pytest.approx(5.0, rel=0.03)
    assert poisson.variability == pytest.approx(1.0, rel=0.05)
    assert poisson.dispersion(2.0) == pytest.approx(1.0, rel=0.15)
    assert 1.0 < poisson.peak < 1.3
    starts = np.cumsum(rng.exponential(2.0, 2_000))
    bursts = parse(plain(np.sort((starts[:, None] + rng.uniform(0, 0.01, (2_000, 10))).ravel())))
    assert bursts.rate == pytest.approx(5.0, rel=0.05)
    assert bursts.variability > 10
    assert bursts.dispersion(2.0) == pytest.approx(10.0, rel=0.25)


@given(st.floats(400, 1e5), st.integers(60, 300))
def test_a_hole_is_told_and_does_not_lower_the_rate(length, count):
    """A stretch without requests is a hole, whatever its length, and the rate is of the time around it."""
    arrivals = [*range(count), *(count - 1 + length + i for i in range(count))]
    trace = parse(plain(arrivals))
    assert [hole.length for hole in trace.holes] == [pytest.approx(length)]
    assert trace.rate == pytest.approx(1.0)
    assert trace.variability == pytest.approx(0.0, abs=1e-9)
    assert any("hole" in one for one in trace.complaints)
    if not math.isnan(trace.peak):
        assert trace.peak == pytest.approx(1.0, abs=0.05)


def test_rare_requests_are_no_holes():
    """One request in ten minutes, throughout, is a slow trace without holes."""
    assert parse(plain([600.0 * i for i in range(50)])).holes == ()


def test_prefix_hits_depend_on_the_pool():
    """A cache of no block hits nothing, one that holds both conversations hits all but their first turns."""
    turns = [(0, 1), (10, 11), (0, 1, 2), (10, 11, 12)]
    lines = [
        json.dumps({"timestamp": i, "input_length": BLOCK * len(b), "output_length": 1, "hash_ids": b})
        for i, b in enumerate(turns)
    ]
    trace = parse(lines)
    assert trace.hit_share(0) == 0.0
    assert trace.hit_share(2 * BLOCK) == 0.0  # the other conversation has pushed it out
    assert trace.hit_share(1e12) == pytest.approx(4 / 10)
    assert parse(plain([0, 1])).hit_share(1e9) is None


@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5, unique=True), min_size=2, max_size=30))
def test_a_larger_pool_never_hits_less(asked):
    """Least recently used is a stack algorithm: more room, no fewer hits. The prompt may end within a block."""
    lines = [
        json.dumps({"timestamp": i, "input_length": BLOCK * len(b) - 7, "output_length": 1, "hash_ids": b})
        for i, b in enumerate(asked)
    ]
    shares = [parse(lines).hit_share(BLOCK * room) for room in (0, 2, 5, 100)]
    assert all(0 <= share <= 1 for share in shares)
    assert shares[0] == 0
    assert shares[-1] >= max(shares) - 1e-12


def test_requests_without_output_are_counted_and_left_out():
    """A failed request is no length; it is told how many there were."""
    trace = parse(["0,10,5", "1,10,0", "2,10,5"])
    assert (len(trace), trace.empty) == (2, 1)
    assert "1 rows without output" in trace.complaints[0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "0 request(s)"),
        (["arrival,prompt,output"], "0 request(s)"),
        (["0,10,5"], "1 request(s)"),
        (["3,10,5", "3,10,5"], "same moment"),
        (["0,10,5", "2,10,5", "1,10,5"], "t:3: `1,10,5` comes before"),
        (["-1,10,5", "2,10,5"], "t:1: arrival `-1` is negative"),
        (["0,10,5", "nan,10,5"], "t:2: `nan`"),
        (["0,10,5", "inf,10,5"], "t:2: `inf`"),
        (["0,10,5", "1e300,10,5"], "t:2: arrival `1e300` is too large"),
        (["0,0,5", "1,10,5"], "t:1: prompt of `0` tokens"),
        (["0,10,-5", "1,10,5"], "t:1: output of `-5` tokens"),
        (["0,10,5", "1,10,99999999999"], "t:2: output of `99999999999` tokens"),
        (["0,10,5", "1,ten,5"], "t:2: `ten`"),
        (["0,10,5", "1,10"], "t:2: `1,10` has 2 columns"),
        (["0,10,5", "1,10,5,7"], "t:2: `1,10,5,7` has 4 columns"),
        (["0,10,5", '{"timestamp": 1, "input_length": 4, "output_length": 2}'], "t:2: `{"),
        (['{"timestamp": 1, "input_length": 4, "output_length": 2}', "2,10,5"], "t:2: `2,10,5` is not a request"),
        (['{"timestamp": 1, "input_length": 4}'], "t:1: `{"),
        (['{"timestamp": 1, "input_length": 4, "output_length": 2, "hash_ids": ["a"]}'], "hash_ids"),
        (["[" * 100_000], "is no known first line"),
        (["a,b,c"], "t:1: `a,b,c` is no known first line"),
        ([AZURE, "yesterday,1,2"], "t:2: `yesterday` is not a date"),
        ([AZURE, "2023-11-16 18:15:46,1,2", "5,10,20"], "t:3: `5` is not a date"),
    ],
)
def test_bad_traces_are_told_with_line_and_value(lines, said):
    """Each thing that can't be right is an error that names the line, the value and a way out."""
    with pytest.raises(InputError) as caught:
        parse(lines, "t")
    assert said in caught.value.message
    assert caught.value.hint


@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_text_is_a_trace_or_an_error_for_people(lines):
    """No text makes anything but a trace or an InputError."""
    try:
        assert len(parse(lines)) >= 2
    except InputError as error:
        assert error.hint
