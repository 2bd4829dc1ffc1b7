"""The real forecasts behind sizing: other models here, language models with the built-in coefficients."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.fit import FitsGraph, fit_graph
from mainspring.facts import cpus, gpus, mig, models
from mainspring.facts.shapes import GraphShape
from mainspring.forecast import graph, lengths
from mainspring.forecast.coefficients import builtin
from mainspring.forecast.promise import Promise
from mainspring.sizing.answer import Asks, answer
from mainspring.sizing.forecasts import forecasts, graph_limit
from mainspring.sizing.question import Demand, Pool, Question, Site, Survive, Tariff, Way
from mainspring.sizing.thinning import shared, thinned

REGIONS = ("a",)


def pool(name, price, per_node=8):
    """A pool of one type: a GPU of the catalogue, or `cpu-8`."""
    device = cpus.server(int(name[4:])) if name.startswith("cpu-") else gpus.find(name)
    return Pool(name, device, per_node, {"a": None}, {"a": Tariff(price, price * 0.65, price * 0.3)})


POOLS = (pool("T4", 0.5), pool("A100-80GB", 3.0), pool("H100", 4.0), pool("cpu-8", 0.4, 1))


def asked(shape, p95=0.05, rate=200.0, **rest):
    """A question about one other model."""
    return Question(Demand("rank", rate, 3.0), Promise(p95=p95), shape, POOLS, REGIONS, **rest)


def test_a_small_ranker_gets_a_cpu_and_a_large_vision_model_a_gpu():
    """CPU servers win where they are enough; where one row is too slow on them they are refused, with the time."""
    small = asked(models.graphs()["xgboost-500"])
    best = answer(small, forecasts(small, None)).best.fleet
    assert (best.way.device, best.way.precision, best.way.unit) == ("cpu-8", "fp32", "server")
    large = asked(models.graphs()["bert-large"])
    found = answer(large, forecasts(large, None))
    assert found.best.fleet.way.unit == "GPU"
    refused = next(each for each in found.ranking.refused if each.way.device == "cpu-8")
    alone = graph.batch_seconds(large.model, cpus.server(8), "fp32", 1.0).seconds
    assert f"takes {alone * 1000:.3g} ms for one row" in refused.why


def test_a_slice_that_nobody_shares_is_paid_as_a_whole_gpu():
    """By itself a slice costs its GPU; where others share the GPU it costs its part."""
    way = Way("A100-80GB", "A100-80GB-SXM", slice="1g.10gb", slots=7)
    costs = {}
    for paid in (False, True):
        question = asked(models.graphs()["resnet-50"], shared=paid)
        found = answer(question, forecasts(question, None))
        costs[paid] = next(
            each for each in found.ranking.fleets if each.way.slice == way.slice and each.way.pool == way.pool
        )
    assert costs[False].devices == 1
    assert costs[True].dollars == pytest.approx(3.0 * 730 / 7, abs=0.01)


def test_the_rate_that_is_promised_is_kept_and_little_more_is_not():
    """At a replica's rate the 95th percentile is within the limit; a response in units of it grows with the load."""
    question = asked(models.graphs()["vit-b-16"], p95=0.03)
    known = forecasts(question, None)
    way = Way("H100", "H100-SXM")
    capacity = known.capacity(way, question.demand, question.promise)
    seen = [
        known.response(way, question.demand, capacity.rate * part) for part in (0.1, 0.5, 1.0, 1.0 / graph.FULL + 0.2)
    ]
    assert seen[2].p95.value <= 0.03 * 1.001
    assert [one.p95.value for one in seen] == sorted(one.p95.value for one in seen)
    assert [one.stable for one in seen] == [True, True, True, False]
    assert all(one.p50.value <= one.p95.value <= one.p99.value for one in seen)
    assert all(one.p95.low < one.p95.value < one.p95.high for one in seen[:3])
    assert seen[0].basis == "assumed"


def test_a_p99_is_turned_into_the_p95_that_it_asks_for():
    """A limit on the 99th percentile is looser than the same on the 95th; the tighter of both holds."""
    assert graph_limit(Promise(p95=1.0)) == 1.0
    assert graph_limit(Promise(p99=1.0)) == pytest.approx(math.log(20) / math.log(100))
    assert graph_limit(Promise(p95=0.5, p99=1.0)) == 0.5
    assert graph_limit(Promise(availability=0.999)) == math.inf


def test_rows_of_a_request_count():
    """Ten rows a request is a tenth of the requests at most; a hundred thousand keep no limit of milliseconds."""
    question = asked(models.graphs()["bert-base"], p95=0.1)
    known, way = forecasts(question, None), Way("T4", "T4")
    one, ten, many = (
        known.capacity(way, replace(question.demand, rows=rows), question.promise) for rows in (1.0, 10.0, 1e5)
    )
    assert 0 < ten.rate <= one.rate / 10 * (1 + 1e-9)
    assert ten.response.p95.value <= 0.1 * (1 + 1e-9)
    assert (many.rate, many.response) == (0.0, None)
    assert "for 100,000 rows in batches of 64 on 1 x T4" in many.reason
    (offer,) = known.nearest(way, replace(question.demand, rows=1e5), question.promise)
    assert known.capacity(way, replace(question.demand, rows=1e5), Promise(p95=offer.value * 1.01)).rate > 0


def test_the_file_s_largest_batch_is_kept():
    """A replica that may answer one row at a time carries less than with batches of 64; each says so in its p95."""
    question = asked(models.graphs()["resnet-50"], p95=0.3)
    known, way = forecasts(question, None), Way("T4", "T4")
    rates = []
    for batch in (1, 8, 64):
        demand = replace(question.demand, batch=batch)
        rates.append(known.capacity(way, demand, question.promise).rate)
        full = batch / graph.batch_seconds(question.model, gpus.find("T4"), "fp16", batch).seconds
        assert rates[-1] <= graph.FULL * full * (1 + 1e-9)
        assert not known.response(way, demand, full * 1.01).stable
    assert rates == sorted(rates)
    assert rates[2] > 1.5 * rates[0]


@pytest.mark.parametrize("name", ["resnet-50", "bert-base", "ranker-dlrm", "yolov8m", "minilm-l6"])
def test_what_is_shown_keeps_what_was_promised_and_fits(name):
    """At its rate each way's p95 is within the limit, in batches that its memory holds, however it is asked."""
    shape = models.graphs()[name]
    a100 = gpus.find("A100-80GB")
    listed = [Way("T4", "T4"), Way("A100-80GB", a100.name), Way("cpu-8", "cpu-8", precision="fp32", unit="server")]
    listed += [Way("A100-80GB", a100.name, slice=one.name, slots=len(one.starts)) for one in mig.profiles(a100.mig)]
    for way, limit, rows in itertools.product(listed, (0.01, 0.05, 0.3, 2.0), (1.0, 40.0)):
        question = asked(shape, p95=limit)
        question = replace(question, demand=replace(question.demand, rows=rows, batch=4096))
        known = forecasts(question, None)
        found = known.capacity(way, question.demand, question.promise)
        if found.rate:
            again = known.response(way, question.demand, found.rate)
            assert again.p95.value == pytest.approx(found.response.p95.value)
            assert again.p95.value <= limit * (1 + 1e-9)
            assert again.utilisation <= graph.FULL * (1 + 1e-9)


def test_the_batch_is_what_the_memory_holds():
    """A model whose rows take 1 GB each is answered in smaller batches on a slice than on the whole GPU."""
    shape = GraphShape("wide", 10**8, 4e8, 1e9, 8e9, 10)
    a100 = gpus.find("A100-80GB")
    question = asked(shape, p95=60.0)
    known = forecasts(question, None).capacity._ask.__self__
    small, whole = Way("A100-80GB", a100.name, slice="1g.10gb", slots=7), Way("A100-80GB", a100.name)
    batches = {}
    for way in (small, whole):
        _, found = known._chosen(shape, way, question.demand, question.promise)
        batches[way] = found.largest
        part = mig.profile(a100.mig, way.slice) if way.slice else None
        assert isinstance(fit_graph(shape, a100, found.largest, part), FitsGraph)
        assert not isinstance(fit_graph(shape, a100, found.largest * 2, part), FitsGraph) or found.largest == 64
    assert 1 < batches[small] < batches[whole]


@pytest.mark.parametrize("device", ["T4", "cpu-8"])
def test_no_limit_is_never_stricter_than_a_loose_one(device):
    """What promises no time carries at least as much as what promises a minute, or an hour."""
    way = Way(device, device, precision="fp16" if device == "T4" else "fp32")
    for shape in models.graphs().values():
        question = asked(shape)
        known = forecasts(question, None)
        free = known.capacity(way, question.demand, Promise()).rate
        assert free > 0
        for limit in (1.0, 60.0, 3600.0):
            assert known.capacity(way, question.demand, Promise(p95=limit)).rate <= free * (1 + 1e-9)


@given(
    st.floats(0.05, 200.0).filter(lambda value: value != 1.0),
    st.floats(1e-3, 1e7),
    st.floats(1.0, 50.0),
    st.floats(0.5, 20.0),
)
@settings(max_examples=60)
def test_more_replicas_share_smoother_arrivals(variability, peak, more, base):
    """The rate of one is that of arrivals no smoother than its part; the replicas needed never fall with the peak."""

    def rate_of(value):
        return base / (1.0 + 0.1 * value)

    def needed(each):
        demand = Demand("x", each, 1.0, variability=variability)
        rate, at = shared(demand, rate_of)
        assert rate <= rate_of(thinned(demand, rate)) * (1 + 1e-9)
        assert min(rate_of(variability), rate_of(1.0)) * (1 - 1e-9) <= rate
        assert rate_of(at) <= rate * (1 + 1e-9)
        return each / rate

    assert needed(peak * more) >= needed(peak) * (1 - 1e-9)


def test_arrivals_are_thinned_over_the_replicas():
    """With a variability of 20, twelve times a replica's rate needs far fewer than twelve unthinned; p95 is kept."""
    question = chat(90, 150, Promise(p95=3.0))
    way = Way("H100", "H100-SXM", 4)
    known = forecasts(question, builtin())

    def carried(rate, variability=20.0):
        demand = replace(question.demand, rate=rate, peak=1.0, variability=variability)
        found = known.capacity(way, demand, question.promise)
        again = known.response(way, demand, found.rate)
        assert again.p95.value == pytest.approx(found.response.p95.value)
        assert again.p95.value <= 3.0 * 1.001
        return found.rate

    alone, poisson = carried(0.01), carried(0.01, 1.0)
    rates = [carried(alone * times) for times in (1, 2, 3, 5, 8, 12, 30, 100, 1000)]
    replicas = [alone * times / rate for times, rate in zip((1, 2, 3, 5, 8, 12, 30, 100, 1000), rates, strict=True)]
    assert rates[0] == alone < 0.8 * poisson
    assert replicas == sorted(replicas)
    assert rates[-1] > 0.97 * poisson
    assert max(rates) <= poisson


def test_more_traffic_is_never_cheaper_whatever_the_arrivals():
    """The cheapest fleet never gets cheaper as the peak grows, with smooth and with bursty arrivals."""
    plain = chat(90, 150, Promise(p95=4.0))
    known = forecasts(plain, builtin())
    for variability in (0.3, 8.0):
        costs = []
        for peak in (1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 11.0):
            question = replace(plain, demand=replace(plain.demand, peak=peak, variability=variability))
            found = answer(question, known, Asks(sensitive=False))
            costs.append(found.best.fleet.dollars if found.best else math.inf)
        assert costs == sorted(costs)
        assert math.isfinite(costs[0])


def test_weights_on_the_nodes_own_disks_are_back_sooner():
    """A node that must fetch image and weights is away for longer: the same fleet is there less of the time."""
    sites, way = (Site("us", 3, 3, 2),), Way("H100", "H100-SXM", 4)
    question = chat(90, 150, Promise(p95=4.0))
    fetched, kept = (
        forecasts(replace(question, weights_cached=cached), builtin()).availability(way, sites, 3, (3,))
        for cached in (False, True)
    )
    assert 0.9 < fetched < kept < 1.0
    other = asked(models.graphs()["resnet-50"])
    fetched, kept = (
        forecasts(replace(other, weights_cached=cached), None).availability(Way("T4", "T4"), sites, 3, (3,))
        for cached in (False, True)
    )
    assert 0.9 < fetched < kept < 1.0


def test_availability_rises_with_replicas_and_nodes_that_are_spare():
    """One replica is as available as its node and region; a spare one raises it."""
    question = asked(models.graphs()["resnet-50"], survive=Survive(0, 1))
    known, way = forecasts(question, None), Way("H100", "H100-SXM")
    found = answer(question, known).best.fleet
    assert found.sites[0].left >= 1
    one = known.availability(way, (Site("a", 1, 1, 0),), 1, (1,))
    two = known.availability(way, (Site("a", 2, 2, 1),), 1, (1,))
    assert 0.99 < one < two < 1.0


THREE = ("us", "eu", "ap")


def chat(p50, p95, promise, names=("H100",), **rest):
    """A 70B model in three regions, which survives one of them and a node in each."""
    pools = tuple(
        replace(pool(name, price), nodes=dict.fromkeys(THREE), tariffs=dict.fromkeys(THREE, Tariff(price)))
        for name, price in (("H100", 4.0), ("B200", 8.0), ("L4", 0.7))
        if name in names
    )
    output = lengths.through(p50, p95) if p50 < p95 else lengths.fixed(p95)
    demand = Demand("chat", 500_000 / 86_400, 3.0, lengths=lengths.lengths(lengths.fixed(1000), output))
    return Question(demand, promise, models.find("llama-3.3-70b"), pools, THREE, Survive(1, 1), **rest)


def cheapest(question):
    """Dollars of its cheapest fleet; infinite when nothing will do."""
    found = answer(question, forecasts(question, builtin()), Asks(sensitive=False))
    return found.best.fleet.dollars if found.best else math.inf


def test_a_tighter_promise_or_longer_outputs_never_cost_less():
    """With the built-in coefficients the cheapest fleet gets dearer, at last impossible, as the promise tightens."""
    costs = [cheapest(chat(90, 150, Promise(p95=limit, availability=0.999))) for limit in (8.0, 4.0, 3.0, 2.0, 1.0)]
    assert costs == sorted(costs)
    assert math.isfinite(costs[0])
    assert math.isinf(costs[-1])
    longer = [cheapest(chat(p95 * 0.6, p95, Promise(p95=3.0))) for p95 in (50.0, 100.0, 150.0, 300.0)]
    assert longer == sorted(longer)


def test_long_outputs_in_three_seconds_are_impossible_and_tokens_are_offered():
    """What no number of replicas can do is said, with shorter outputs, a later p95 and a promise on tokens that can."""
    question = chat(129, 451, Promise(p95=3.0))
    known = forecasts(question, builtin())
    found = answer(question, known, Asks(sensitive=False))
    assert found.best is None
    assert found.impossible.why.startswith("no fleet keeps p95 3 s at these lengths")
    offers = {offer.nearest.what: offer for offer in found.impossible.offers}
    assert offers["output"].nearest.value < 451
    assert offers["p95"].nearest.value > 3.0
    assert "output tokens at batch 16 on 8 x H100-SXM at FP16" in offers["output"].nearest.says
    kept = replace(question, promise=Promise(p95=offers["p95"].nearest.value * 1.01))
    assert answer(kept, forecasts(kept, builtin()), Asks(sensitive=False)).best is not None
    assert "first token within" in offers["tokens"].nearest.says


def test_a_model_that_fits_nowhere_says_so_with_the_numbers():
    """140 GB on cards of 24 GB: refused with the sizes, whatever is promised."""
    question = chat(90, 150, Promise(p95=60.0), names=("L4",))
    question = replace(question, pools=tuple(replace(each, per_node=1) for each in question.pools))
    found = answer(question, forecasts(question, builtin()))
    assert found.impossible.why == "it fits on nothing that is in the pools"
    assert "141 GB of weights on 1 x 24 GB leaves nothing" in found.ranking.refused[0].why
