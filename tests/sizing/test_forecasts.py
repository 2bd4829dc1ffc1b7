"""The real forecasts behind sizing: other models here, language models with the built-in coefficients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mainspring.facts import cpus, gpus, models
from mainspring.forecast import graph, lengths
from mainspring.forecast.coefficients import builtin
from mainspring.forecast.promise import Promise
from mainspring.sizing.answer import Asks, answer
from mainspring.sizing.forecasts import forecasts, graph_limit
from mainspring.sizing.question import Demand, Pool, Question, Site, Survive, Tariff, Way

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
    for shared in (False, True):
        question = asked(models.graphs()["resnet-50"], shared=shared)
        found = answer(question, forecasts(question, None))
        costs[shared] = next(
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


def test_rows_of_a_request_count():
    """Ten rows a request is a tenth of the requests."""
    question = asked(models.graphs()["vit-b-16"])
    known, way = forecasts(question, None), Way("H100", "H100-SXM")
    one = known.capacity(way, question.demand, question.promise).rate
    ten = known.capacity(way, Demand("rank", 1.0, rows=10.0), question.promise).rate
    assert ten == pytest.approx(one / 10)


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
