"""Batches of rankers, vision and tabular models, on GPUs and CPUs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts import cpus, gpus, models
from mainspring.facts.shapes import GraphShape
from mainspring.forecast.graph import _alone, _Costs, _p95, _served, batch_seconds, capacity, p95
from mainspring.forecast.memory import graph_bytes

T4, L4, A100, H100 = (gpus.find(name) for name in ("T4", "L4", "A100-80GB", "H100"))
SERVER = cpus.server(16)
RESNET = models.find_graph("resnet-50")
NAMES = sorted(models.graphs())


@pytest.mark.parametrize(
    ("gpu", "precision", "published"),
    [(T4, "int8", 5_700), (L4, "int8", 12_800), (A100, "int8", 38_000), (H100, "int8", 88_000)],
)
def test_resnet_in_large_batches_is_near_mlperf(gpu, precision, published):
    """Images/s of one GPU in MLPerf Inference, offline (from memory): within a factor of two."""
    found = 256 / batch_seconds(RESNET, gpu, precision, 256).seconds
    assert published / 2 < found < published * 2


def test_a_single_row_is_bound_by_starting_operators():
    """ResNet-50 at batch 1 takes about a millisecond on a T4, and hardly less on a GPU of fifteen times its speed."""
    small, large = batch_seconds(RESNET, T4, "fp16", 1), batch_seconds(RESNET, H100, "fp16", 1)
    assert 0.5e-3 < small.seconds < 2e-3
    assert large.binds == "overhead"
    assert small.seconds / large.seconds < 3
    assert small.basis == "assumed"
    assert small.rests


def test_what_was_measured_on_this_kind_of_core():
    """One Sapphire Rapids core, onnxruntime 1.32, seconds as measured: within a factor of two."""
    core = cpus.Cpu("spr", 1, 8e9, 10e9, 147e9, 590e9, 0.05)
    measured = {
        ("resnet-50", 1): 83e-3,
        ("squeezenet", 1): 8.9e-3,
        ("minilm-l6", 1): 37e-3,
        ("minilm-l6", 8): 300e-3,
        ("tabular-mlp", 1): 40e-6,
        ("tabular-mlp", 32): 190e-6,
        ("logistic", 1): 7.4e-6,
        ("logistic", 32): 10.2e-6,
    }
    for (name, batch), seconds in measured.items():
        found = batch_seconds(models.find_graph(name), core, "fp32", batch).seconds
        assert seconds / 2 < found < seconds * 2, name
    forest = GraphShape("forest", 27_244, 1.09e6, 1288.0, 280.0, 1, visits=644.0)
    for batch, seconds in ((1, 8.3e-6), (8, 15.4e-6), (32, 61.7e-6)):
        assert seconds / 2 < batch_seconds(forest, core, "fp32", batch).seconds < seconds * 2


def test_small_models_answer_side_by_side_on_a_server():
    """A tabular row uses one core, and 16 of them answer 16 requests; an image uses all of them."""
    rows, images = (
        batch_seconds(models.find_graph("xgboost-500"), SERVER, "fp32", 1),
        batch_seconds(RESNET, SERVER, "fp32", 1),
    )
    assert (rows.cores, rows.servers) == (1, 16)
    assert (images.cores, images.servers) == (16, 1)
    one = capacity(models.find_graph("xgboost-500"), SERVER, "fp32", 0.01, share=1 / 16).requests
    assert capacity(models.find_graph("xgboost-500"), SERVER, "fp32", 0.01).requests == pytest.approx(16 * one)


def test_a_table_of_embeddings_is_not_read_as_a_whole():
    """A ranker of 4 GB answers a row in far less than it takes to read 4 GB."""
    ranker = models.find_graph("ranker-dlrm")
    assert batch_seconds(ranker, T4, "fp16", 1).seconds < 1e-3 < ranker.weight_bytes / T4.bandwidth
    assert graph_bytes(ranker, T4, "fp16", 1) > 2e9
    assert graph_bytes(ranker, T4, "fp32", 1) > 4e9


@given(
    st.sampled_from(NAMES),
    st.sampled_from([T4, H100, SERVER]),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.integers(1, 500),
)
def test_larger_batches_take_longer_and_a_row_less(name, device, precision, batch):
    """Time grows with the batch, time a row falls, and a smaller share of the device is never quicker."""
    shape = models.find_graph(name)
    one, more = batch_seconds(shape, device, precision, batch), batch_seconds(shape, device, precision, batch + 1)
    assert 0 < one.seconds <= more.seconds
    assert more.seconds / (batch + 1) <= one.seconds / batch * (1 + 1e-12)
    assert batch_seconds(shape, device, precision, batch, 0.25).seconds >= one.seconds
    assert graph_bytes(shape, device, precision, batch + 1) >= graph_bytes(shape, device, precision, batch) > 0


@given(
    st.sampled_from(NAMES),
    st.sampled_from([T4, H100, SERVER]),
    st.floats(1e-4, 10.0),
    st.floats(1.0, 3.0),
    st.integers(1, 200),
)
@settings(max_examples=60)
def test_a_looser_limit_or_a_larger_batch_never_gives_less(name, device, limit, looser, most):
    """Capacity is monotone in the limit and in the largest batch, and its p95 meets the limit."""
    shape = models.find_graph(name)
    found = capacity(shape, device, "fp16", limit, most)
    assert capacity(shape, device, "fp16", limit * looser, most).requests >= found.requests * (1 - 1e-9)
    assert capacity(shape, device, "fp16", limit, 2 * most).requests >= found.requests * (1 - 1e-9)
    if not found.requests:
        assert found.p95 > limit
        return
    assert found.p95 <= limit
    assert 1 <= found.batch <= found.largest <= most
    assert 0 < found.utilisation < 0.86
    assert p95(shape, device, "fp16", found.requests, found.largest) == pytest.approx(found.p95, rel=1e-6)


def gaps(rate: float, variability: float, count: int):
    """Gaps between arrivals: exponential, or a mixture of two exponentials with balanced means."""
    random = np.random.default_rng(7)
    if variability == 1.0:
        return random.exponential(1 / rate, count)
    often = 0.5 * (1 + ((variability - 1) / (variability + 1)) ** 0.5)
    short = random.random(count) < often
    return np.where(
        short, random.exponential(0.5 / often / rate, count), random.exponential(0.5 / (1 - often) / rate, count)
    )


def simulated(costs: _Costs, rate: float, size: int, rows: int = 1, variability: float = 1.0) -> float:
    """95th percentile of latency of requests to a server that takes the rows that wait, up to `size`."""
    count = 40_000 if rows == 1 else 15_000
    arrivals = np.cumsum(gaps(rate, variability, count)).tolist()
    ends, now, come, waiting, left = [], 0.0, 0, 0, rows
    while len(ends) < count:
        now = max(now, arrivals[len(ends)])
        while come < count and arrivals[come] <= now:
            come, waiting = come + 1, waiting + rows
        taken = min(waiting, size)
        now, waiting = now + costs.seconds(taken), waiting - taken
        while taken >= left:
            taken, left = taken - left, rows
            ends.append(now)
        left -= taken
    return float(np.quantile((np.array(ends) - np.array(arrivals))[4_000:], 0.95))


@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize("row", [0.001, 0.1, 1.0])
def test_the_queue_is_near_a_simulation(size, row):
    """The approximation of p95 is within a quarter below and half above, from light to heavy load."""
    costs = _Costs(1.0, row, 0.0, 0.0, 0.0, 0.0, 1)
    for load in (0.1, 0.4, 0.7, 0.9):
        rate = load * size / costs.seconds(size)
        assert 0.75 < _p95(costs, rate, size) / simulated(costs, rate, size) < 1.5


@pytest.mark.parametrize(("size", "rows"), [(1, 5), (4, 2), (32, 20), (32, 40), (64, 100), (64, 200)])
@pytest.mark.parametrize("row", [0.001, 0.1, 1.0])
def test_requests_of_many_rows_are_near_a_simulation(size, rows, row):
    """With arrivals in bulk p95 is within a quarter below and a third above, whether a batch holds one or not."""
    costs = _Costs(1.0, row, 0.0, 0.0, 0.0, 0.0, 1)
    for load in (0.1, 0.5, 0.85):
        rate = load * size / costs.seconds(size) / rows
        assert 0.75 < _p95(costs, rate, size, rows) / simulated(costs, rate, size, rows) < 1.35


@pytest.mark.parametrize(("size", "rows"), [(1, 1), (32, 1), (32, 5), (32, 40)])
def test_more_variable_arrivals_wait_longer_and_are_not_underrated(size, rows):
    """With a variability of 4 p95 is a tenth below to a half above a simulation, and above that of Poisson."""
    costs = _Costs(1.0, 0.1, 0.0, 0.0, 0.0, 0.0, 1)
    for load in (0.1, 0.5, 0.85):
        rate = load * size / costs.seconds(size) / rows
        found = _p95(costs, rate, size, rows, 4.0)
        assert 0.9 < found / simulated(costs, rate, size, rows, 4.0) < 1.5
        assert found >= _p95(costs, rate, size, rows) >= _p95(costs, rate, size, rows, 0.2)


@given(
    st.sampled_from(NAMES),
    st.sampled_from([T4, H100, SERVER]),
    st.floats(1.0, 1e5),
    st.floats(1.0, 4.0),
    st.integers(1, 200),
    st.floats(0.0, 1.2),
)
def test_more_rows_take_longer_never_less_than_their_batches(name, device, rows, more, size, load):
    """A request of n rows takes as long as its batches at least, more the more rows; of one row what it always took."""
    costs = _served(models.find_graph(name), device, "fp16", 1.0)
    rate = load * size / costs.seconds(size) / rows
    found = _p95(costs, rate, size, rows)
    assert found >= _alone(costs, rows, size) >= costs.seconds(rows) * (1 - 1e-9)
    assert _p95(costs, rate, size, rows * more) >= found * (1 - 1e-9)
    assert _p95(costs, 0.0, size, rows) == pytest.approx(_alone(costs, rows, size))


@given(st.sampled_from(NAMES), st.sampled_from([T4, SERVER]), st.floats(1.0, 2e3), st.floats(1.0, 4.0))
@settings(max_examples=40)
def test_capacity_counts_the_rows(name, device, rows, more):
    """More rows, a smaller batch or less memory never carry more; what is carried keeps the limit with its rows."""
    shape = models.find_graph(name)
    alone = capacity(shape, device, "fp16", 1e-9, rows=rows).p95
    found = capacity(shape, device, "fp16", 3 * alone, rows=rows)
    assert 0 < found.requests < found.full
    assert alone <= found.p95 <= 3 * alone
    assert found.p95 == pytest.approx(p95(shape, device, "fp16", found.requests, found.largest, rows=rows))
    assert capacity(shape, device, "fp16", 3 * alone, rows=rows * more).requests <= found.requests * (1 + 1e-9)
    assert not capacity(shape, device, "fp16", 0.99 * alone, rows=rows).requests
    there = graph_bytes(shape, device, "fp16", 4)
    small = capacity(shape, device, "fp16", 3 * alone, rows=rows, memory=there)
    assert graph_bytes(shape, device, "fp16", small.largest) <= there
    assert small.requests <= found.requests
    loose = capacity(shape, device, "fp16", float("inf"), rows=rows)
    assert loose.requests >= capacity(shape, device, "fp16", 1e6, rows=rows).requests


def test_a_hundred_thousand_rows_are_not_one():
    """bert-base on a T4 answers one row in milliseconds and 100,000 in minutes: a limit of 100 ms is out of reach."""
    bert = models.find_graph("bert-base")
    assert capacity(bert, T4, "fp16", 0.1).requests > 0
    found = capacity(bert, T4, "fp16", 0.1, rows=100_000)
    assert found.requests == 0
    assert found.p95 > 60
    assert found.p95 >= batch_seconds(bert, T4, "fp16", 64).seconds * 100_000 / 64


def test_too_much_load_has_no_percentile():
    """At the rate of full batches the queue grows without end."""
    rate = 32 / batch_seconds(RESNET, T4, "int8", 32).seconds
    assert p95(RESNET, T4, "int8", rate, 32) == float("inf")
    assert p95(RESNET, T4, "int8", 0.0, 32) == pytest.approx(batch_seconds(RESNET, T4, "int8", 1).seconds)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: batch_seconds(RESNET, T4, "fp16", 0), "`0`"),
        (lambda: batch_seconds(RESNET, T4, "fp16", 1, 0.0), "share of `0`"),
        (lambda: batch_seconds(RESNET, T4, "fp16", 1, 1.5), "share of `1.5`"),
        (lambda: batch_seconds(RESNET, T4, "fp12", 1), "fp12"),
        (lambda: capacity(RESNET, T4, "fp16", 0.0), "limit of `0`"),
        (lambda: capacity(RESNET, T4, "fp16", float("nan")), "limit of `nan`"),
        (lambda: capacity(RESNET, T4, "fp16", 1.0, 0), "`0` rows"),
        (lambda: capacity(RESNET, T4, "fp16", 1.0, rows=0.0), "`0` rows"),
    ],
)
def test_what_cannot_be_is_refused(call, told):
    """No rows, no share, no such precision, no limit."""
    with pytest.raises(InputError, match=told):
        call()


@given(
    st.floats(1e3, 1e13),
    st.floats(0, 1e11),
    st.integers(0, 10**10),
    st.floats(0, 1e6),
    st.sampled_from([T4, SERVER]),
    st.floats(1e-5, 1),
)
def test_any_shape_has_a_finite_time(flops, activations, parameters, visits, device, share):
    """Whatever a reader found, there is a positive, finite time."""
    assume(parameters or not visits)
    shape = GraphShape("any", parameters, 4.0 * parameters, flops, activations, 1, visits=visits)
    assert 0 < batch_seconds(shape, device, "fp16", 8, share).seconds < float("inf")
