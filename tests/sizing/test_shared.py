"""Pools that several endpoints share, parts of servers, and what is told of fleets that will not do."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mainspring.errors import StackError
from mainspring.forecast.coefficients import builtin
from mainspring.sizing.ask import ask
from mainspring.sizing.fleet import Fleets, plan_fleets
from mainspring.sizing.forecasts import forecasts
from mainspring.sizing.judge import judge
from mainspring.sizing.question import HOURS, Capacity, Survive
from mainspring.sizing.rank import Fleet, Refused, size
from mainspring.sizing.shared import bills, checks
from mainspring.stack.load import read

HEAD = "mainspring: 1\nstack: a\n"
CHAT = "traffic: {requests: 50k/day, prompt: 800 tokens, output: 150 tokens}, objective: {ttft: 1s, tpot: 40ms}"
TREES = "model: t@champion, shape: xgboost-500, traffic: {requests: 5M/day, rows: 10}, objective: {p95: 20ms}"


def stack(compute: str, *endpoints: str, survive: str = "") -> str:
    """A stack file with these endpoints, called a, b, ..."""
    orchestration = f"orchestration: {{where: kubernetes{f', survive: [{survive}]' if survive else ''}}}\n"
    lines = [f"  {name}: {{{body}}}\n" for name, body in zip("abcdef", endpoints, strict=False)]
    return f"{HEAD}compute: {{{compute}}}\n{orchestration}serving:\n{''.join(lines)}"


def asked(text: str):
    """Its questions."""
    document = read(text.encode(), "s.yaml")
    return document, ask(document, lambda name: Path(name).read_bytes())


def planned(text: str) -> Fleets:
    """Its answer."""
    document, questions = asked(text)
    return plan_fleets(document.stack, questions, builtin())


def chat(gpus: str, replicas: str) -> str:
    """A small language model on so many GPUs."""
    return f"model: m@champion, shape: llama-3.1-8b, runtime: vllm, gpus: {gpus}, replicas: {replicas}, {CHAT}"


def trees(gpus: str, replicas: str, rate: str = "5M/day", p95: str = "20ms") -> str:
    """A model of trees on so many GPUs, whose forecast is quick."""
    traffic = f"traffic: {{requests: {rate}, rows: 10}}, objective: {{p95: {p95}}}"
    return f"model: t@champion, shape: xgboost-500, gpus: {gpus}, replicas: {replicas}, {traffic}"


def shared(text: str):
    """The checks of the pools that its endpoints share."""
    return checks(asked(text)[1].questions)


def test_a_pool_does_not_hold_more_than_it_has() -> None:
    """Two endpoints of eight GPUs do not fit on one node of eight, though each by itself does; four and four do."""
    eight = "a100: {gpus: 8 x A100-80GB, nodes: 1}"
    found = planned(stack(eight, trees("1 x a100", "8"), trees("1 x a100", "8")))
    assert all(answer.met for answer in found.answers)
    assert not found.met
    assert [(check.needed, check.has, check.met) for check in found.shared] == [(16, 8, False)]
    assert "a 8 and b 8" in found.shared[0].says
    assert found.written == pytest.approx(8 * 3.0 * HOURS)  # the node is paid for, once
    told = json.loads(json.dumps(found.told(), allow_nan=False))
    assert told["met"] is False
    assert told["shared"][0]["met"] is False
    assert [check.met for check in shared(stack(eight, chat("1 x a100", "4"), chat("1 x a100", "4")))] == [True]


def test_pieces_must_also_fit_beside_one_another() -> None:
    """Gangs of three leave two of eight GPUs that no third gang fits on; slices are parts, and pack into whole GPUs."""
    two = "a100: {gpus: 8 x A100-80GB, nodes: 2}"
    (check,) = shared(stack(two, chat("3 x a100", "4"), chat("3 x a100", "1")))
    assert check.needed <= check.has
    assert not check.met
    assert "1 replica of b" in check.says or "1 replica of a" in check.says
    one = "a100: {gpus: 1 x A100-80GB, nodes: 1}"
    (check,) = shared(stack(one, chat("1 x 1g.10gb of a100", "3"), chat("1 x 1g.10gb of a100", "4")))
    assert check.met
    (check,) = shared(stack(one, chat("1 x 1g.10gb of a100", "4"), chat("1 x 1g.10gb of a100", "4")))
    assert not check.met


def test_a_pool_is_billed_once_or_by_what_is_held() -> None:
    """Nodes that the file counts are paid for whole and once; of others the whole GPUs that replicas hold."""
    _, found = asked(stack("a100: {gpus: 8 x A100-80GB, nodes: 2}", chat("1 x a100", "2"), chat("2 x a100", "3")))
    assert sum(one.devices for one in bills(found.questions)) == pytest.approx(16 * 3.0 * HOURS)
    _, found = asked(stack("a100: {gpus: 8 x A100-80GB}", chat("1 x a100", "2"), chat("2 x a100", "3")))
    assert sum(one.devices for one in bills(found.questions)) == pytest.approx(8 * 3.0 * HOURS)
    cut = chat("1 x 1g.10gb of a100", "3")
    _, found = asked(stack("a100: {gpus: 8 x A100-80GB}", cut, cut))
    assert sum(one.devices for one in bills(found.questions)) == pytest.approx(1 * 3.0 * HOURS)


def test_a_replica_has_the_cores_that_it_is_given() -> None:
    """Four replicas of 4 cores are one server of 16, carry less than whole servers do, and compute in FP32."""
    (answer,) = planned(stack("cpu: {cores: 16}", f"{TREES}, cores: 4, replicas: 4")).answers
    judged = answer.written.judged
    assert str(judged.written.way) == "4 cores of cpu-16 at FP32"
    assert (judged.in_use, judged.devices) == (1, 1)
    assert answer.written.paid.bill.devices == pytest.approx(16 * 0.05 * HOURS)
    (whole,) = planned(stack("cpu: {cores: 16}", f"{TREES}, cores: 16, replicas: 4")).answers
    assert judged.capacity.rate < whole.written.judged.capacity.rate
    assert whole.written.judged.in_use == 4
    (five,) = planned(stack("cpu: {cores: 16}", f"{TREES}, cores: 5, replicas: 4")).answers
    assert five.written.judged.in_use == 2  # three of them to a server
    (check,) = shared(stack("cpu: {cores: 16, nodes: 1}", *[f"{TREES}, cores: 8, replicas: {n}" for n in (1, 2)]))
    assert (check.needed, check.has, check.met) == (1.5, 1, False)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (stack("cpu: {cores: 16}", f"{TREES}, cores: 64"), "too-many-cores", "has 16"),
        (stack("a100: {gpus: 1 x A100-80GB}", chat("2 x 1g.10gb of a100", "1")), "one-slice", "runs on one slice"),
    ],
)
def test_what_no_server_or_slice_can_be_is_a_problem_of_the_file(text: str, code: str, words: str) -> None:
    """More cores than a server has, and more slices than one a replica, are refused at their line."""
    with pytest.raises(StackError) as caught:
        asked(text)
    told = caught.value.problems[0]
    assert told.code == code
    assert words in told.message
    assert told.line > 0
    assert told.hint


def test_what_is_not_written_is_not_judged() -> None:
    """An endpoint without a fleet is neither met nor not, as long as something would do."""
    pool = "a100: {gpus: 8 x A100-80GB}"
    found = planned(stack(pool, TREES))
    assert (found.judged, found.met) == (0, True)
    assert found.told()["endpoints"][0]["met"] is None
    found = planned(stack(pool, TREES.replace("20ms", "0.001ms")))
    assert (found.met, found.told()["endpoints"][0]["met"]) == (False, False)


def test_nothing_promised_is_told() -> None:
    """Without an objective the check says that only the traffic was judged."""
    text = stack("a100: {gpus: 1 x A100-80GB}", trees("1 x a100", "1").split(", objective")[0])
    assert planned(text).answers[0].written.judged.checks[0].says.startswith("nothing is promised: only the traffic")


def test_the_file_s_own_shape_is_repaired_first() -> None:
    """A fleet that is too small gets its own way in the number that will do; one that never can says why."""
    one = "a100: {gpus: 1 x A100-80GB, nodes: 1}"
    (answer,) = planned(stack(one, trees("1 x a100", "1", "1M/s"))).answers
    repair = answer.repair
    assert repair.fleet.way.engine_key == answer.written.judged.written.way.engine_key
    rate = answer.written.judged.capacity.rate
    assert (repair.fleet.replicas - 1) * rate < answer.question.demand.at_peak <= repair.fleet.replicas * rate
    assert repair.why == f"{repair.fleet.replicas:,} replicas in place of 1 and more nodes"
    (answer,) = planned(stack(one, trees("1 x a100", "1", p95="0.001ms"))).answers
    assert isinstance(answer.repair, Refused)
    assert answer.told()["repair"]["refused"]
    (answer,) = planned(stack(one, trees("1 x a100", "1"))).answers
    assert answer.repair is None


def test_losing_all_regions_that_there_are_leads() -> None:
    """An endpoint that may be in one region and must survive the loss of one says that first."""
    regions = "regions: [eu, us], a100: {gpus: 8 x A100-80GB, nodes: 2 per region}"
    text = stack(regions, f"{trees('1 x a100', '2 per region')}, regions: [eu]", survive="1 region")
    (answer,) = planned(text).answers
    says = answer.written.judged.binds.says
    assert says.startswith("it may run in 1 region only (eu), and must survive the loss of 1 region")
    assert answer.impossible.why == says
    assert all(row.why or row.fleet for row in answer.rows)


def test_people_do_not_read_names_of_the_price_list() -> None:
    """A price row names the type, not the internal name of its pool; one replica carries."""
    (answer,) = planned(stack("a100: {gpus: 1 x A100-80GB}", trees("1 x a100", "1"))).answers
    rows = [row.setting for row in answer.rows if row.factor == "price"]
    assert rows
    assert all(row.startswith("of ") and "market:" not in row for row in rows)
    says = [check.says for check in answer.written.judged.checks]
    assert any(one.startswith("1 replica carries") for one in says)
    assert "here: 1 replica there, 1 needed for its own share of the peak" in says


def test_levers_tell_how_it_is_bought_and_whole_gpus_are_told_from_parts() -> None:
    """What levers reserve or put on spot is told as such; slices of one endpoint are whole GPUs when alone."""
    small = trees("1 x a100", "3", "2k/day").replace("xgboost-500", "vit-b-16").replace("20ms", "300ms")
    text = stack("a100: {gpus: 8 x A100-80GB}", small, small, survive="1 node per region") + "cost: {spot: 40%}\n"
    found = planned(text)
    for one in found.levers.final:
        assert one.bought is None or one.how != "on demand"
        assert sum(one.devices.values()) > 0
    assert any("reserved" in one.how for one in found.levers.final)
    assert found.enough >= found.parts - 1e-6
    for answer in found.answers:
        fleet = answer.best.fleet
        assert fleet.whole >= fleet.devices
        assert fleet.whole == int(fleet.whole)
        if fleet.way.slice:  # two that must be on different nodes are not on one GPU
            assert fleet.whole == fleet.replicas


def test_any_rate_is_answered_in_bounded_time() -> None:
    """Tens of thousands of replicas with an availability to reach are sized at once; more are refused by number."""
    text = stack("a100: {gpus: 8 x A100-80GB, regions: [eu, us]}, regions: [eu, us]", trees("1 x a100", "1"))
    (question,) = asked(text)[1].questions
    promise = replace(question.promise, availability=0.9999)
    question = replace(question, promise=promise, survive=Survive(1, 1))
    ways = forecasts(question, None)
    way = question.written.way
    began = time.process_time()
    for total in (40, 4_000, 40_000, 400_000_000):
        peak = replace(question.demand, rate=float(total), peak=1.0)
        found = size(replace(question, demand=peak), way, Capacity(1.0), ways.availability)
        assert isinstance(found, Fleet) == (total <= 40_000)
        if isinstance(found, Fleet):
            assert found.replicas >= 2 * total
            assert found.availability >= 0.9999
    assert found.why == "it needs 400 million replicas at 1/s a replica: 100,000 are sized at most"
    assert time.process_time() - began < 2.0


def test_nothing_is_enough_where_nothing_will_do_for_one() -> None:
    """An endpoint whose promise can't be kept isn't counted at the price of the fleet that fails it."""
    gpus, good = "a100: {gpus: 8 x A100-80GB}", trees("1 x a100", "2", "2k/day", "300ms")
    found = planned(stack(gpus, good, trees("1 x a100", "2", "2k/day", "0.01ms")))
    assert found.answers[0].best is not None
    assert found.answers[1].best is None
    assert (found.parts, found.enough) == (None, None)
    assert planned(stack(gpus, good, good)).enough is not None


def test_a_price_of_a_node_is_billed_by_the_node() -> None:
    """Three replicas on one GPU each pay for one node of eight at its price; priced by the GPU, for three."""
    body, node = trees("1 x a100", "3", "2k/day", "300ms"), "a100: {gpus: 8 x A100-80GB, price: %s}"
    paid = [planned(stack(node % price, body)).answers[0].written for price in ("$24/h", "$3/h per gpu")]
    assert [one.paid.bill.devices for one in paid if one] == pytest.approx([24.0 * HOURS, 9.0 * HOURS])
    assert [one.judged.devices for one in paid if one] == [8, 3]


@pytest.mark.parametrize("step", [1, 3])
def test_more_replicas_never_break_a_promise_that_is_as_high_as_the_region_s(step: int) -> None:
    """In one region that is up 99.99 % of the time, 99.99 % stays kept with more replicas, each on its own node or not.

    The plan finds a fleet then, and its own fleet is judged to keep the promise.
    """
    body = trees("1 x t4", "1", "100/s", "300ms").replace("xgboost-500", "resnet-50").replace("rows: 10", "peak: 1x")
    text = stack(
        f"t4: {{gpus: {step} x T4, price: $0.5/h per gpu}}", body.replace("300ms}", "300ms, availability: 99.99%}")
    )
    (question,) = asked(text)[1].questions
    ways = forecasts(question, None)
    written, met = question.written, []
    assert written is not None
    capacity = ways.capacity(written.way, question.demand, question.promise)
    for count in range(1, 50):
        there = replace(question, written=replace(written, replicas={"here": (1, count)}))
        judged = judge(there, capacity, ways.availability)
        met.append(next(check.met for check in judged.checks if check.name == "availability"))
    assert met == sorted(met)
    assert (met[0], met[-1]) == (False, True)
    found = size(question, written.way, capacity, ways.availability)
    assert isinstance(found, Fleet)
    assert found.replicas == 1 + met.index(True)
