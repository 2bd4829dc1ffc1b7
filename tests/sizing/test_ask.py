"""A stack file becomes questions for sizing, or is refused with the place, the value and the next command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mainspring.errors import InputError, Problem, StackError
from mainspring.facts.gpus import Gpu
from mainspring.facts.shapes import GraphShape, ModelShape
from mainspring.sizing.ask import Asked, ask
from mainspring.sizing.question import is_market
from mainspring.stack.load import read

EXAMPLES = Path(__file__).parents[2] / "examples"
CASE = (EXAMPLES / "03-case-study" / "mainspring.yaml").read_text(encoding="utf-8")
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:15:{second:02d}.0000000,{900 + second},{10 + second}\n" for second in range(0, 60, 2)
)


def asked(text: str, files: Mapping[str, str] | None = None) -> Asked:
    """The questions of a text, with files beside it."""

    def fetch(name: str) -> bytes:
        if files is None or name not in files:
            raise InputError("unreadable", f"`{name}` can't be read", "ls")
        return files[name].encode()

    return ask(read(text.encode(), "s.yaml"), fetch)


def refused(old: str, new: str, files: Mapping[str, str] | None = None) -> Problem:
    """The first problem of the case study with one change."""
    assert old in CASE
    with pytest.raises(StackError) as caught:
        asked(CASE.replace(old, new, 1), files)
    return caught.value.problems[0]


def test_the_case_study_as_a_question() -> None:
    """Traffic, lengths, promise, losses, pools and the fleet as written are the file's."""
    (question,) = asked(CASE).questions
    assert question.demand.rate == pytest.approx(500_000 / 86_400)
    assert question.demand.at_peak == pytest.approx(17.36, abs=0.01)
    assert question.demand.lengths is not None
    prompt, output = question.demand.lengths.mean()
    assert prompt == pytest.approx(1000)
    assert 85 < output < 110  # a lognormal through 90 and 150
    assert (question.promise.p95, question.survive.regions, question.survive.nodes_per_region) == (3.0, 1, 1)
    assert isinstance(question.model, ModelShape)
    assert question.model.name == "llama-3.1-70b"
    assert question.written is not None
    assert str(question.written.way) == "4 x H100-SXM at FP16"
    assert question.written.replicas == dict.fromkeys(question.regions, (4, 4))
    assert question.written.nodes == dict.fromkeys(question.regions, 8)
    mine = question.pools[0]
    assert (mine.name, mine.per_node, mine.tariffs["us-east-1"].on_demand) == ("h100", 8, 4.0)
    assert mine.tariffs["us-east-1"].reserved == pytest.approx(2.6)
    others = {pool.device.name for pool in question.pools if is_market(pool.name)}
    assert {"T4", "L4", "B200-SXM"} <= others
    assert "H100-SXM" not in others  # the file's own pool stands for it


def test_right_sizing_is_twenty_questions() -> None:
    """All endpoints are read, language models and others; CPU servers are compared for those others only."""
    text = (EXAMPLES / "04-right-sizing" / "mainspring.yaml").read_text(encoding="utf-8")
    questions = {one.demand.endpoint: one for one in asked(text).questions}
    assert len(questions) == 20
    fraud, chat = questions["fraud"], questions["chat"]
    assert isinstance(fraud.model, GraphShape)
    assert not all(isinstance(pool.device, Gpu) for pool in fraud.pools)
    assert all(isinstance(pool.device, Gpu) for pool in chat.pools)
    assert fraud.written is not None
    assert fraud.written.nodes == {}  # pools are shared: replicas count, not nodes


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("8 x H100-80GB", "8 x H10O-80GB", "unknown-gpu", "H100"),
        ("shape: llama-3.1-70b", "shape: lama-3.1-70b", "unknown-model", "llama-3.1-70b"),
        ("shape: llama-3.1-70b", "shape: nowhere.json", "unreadable", "nowhere.json"),
        (", output: {p50: 90, p95: 150}", "", "no-lengths", "output"),
        ("peak: 3x", "peak: 3x, trace: gone.csv", "unreadable", "gone.csv"),
        ("size: 140GB, ", "size: 1GB, ", "", ""),
    ],
)
def test_names_that_are_not_there(old: str, new: str, code: str, words: str) -> None:
    """An unknown GPU or model, a missing file or length is told at its line, with the next command."""
    if not code:
        assert asked(CASE.replace(old, new)).questions  # the shape counts, not the size
        return
    told = refused(old, new)
    assert told.code == code
    assert words in told.message
    assert told.line > 0
    assert told.hint


def test_a_shape_by_its_size_is_assumed() -> None:
    """Without `shape` the nearest dense model of that size stands in, and a note says so; an odd size is refused."""
    text = CASE.replace("    shape: llama-3.1-70b\n", "")
    found = asked(text)
    assert isinstance(found.questions[0].model, ModelShape)
    assert found.questions[0].model.confidence == "low"
    assert any("assumed to be like" in note for note in found.notes)
    assert refused("    shape: llama-3.1-70b\n    runtime: vllm", "    runtime: vllm\n    replicas: 1")  # twice a key
    odd = text.replace("140GB", "500GB")
    with pytest.raises(StackError, match="like no built-in model"):
        asked(odd)


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ("", "0 request"),
        (TRACE.replace(":02.", ":58.", 1), "before"),
        (TRACE.replace(",902,", ",-902,"), "-902"),
        (TRACE.replace(",902,", ",nan,"), "nan"),
        ("when,what\n1,2\n", "when"),
    ],
)
def test_traces_that_are_wrong(trace: str, words: str) -> None:
    """An empty, unsorted, negative or unreadable trace is refused at the file's line that names it."""
    told = refused("peak: 3x", "peak: 3x, trace: t.csv", {"t.csv": trace})
    assert told.path == "serving.chat.traffic.trace"
    assert words in told.message.lower(), told.message


def test_a_trace_gives_what_the_file_leaves_out() -> None:
    """Rate, lengths and variability come from the trace; what the file says wins."""
    text = CASE.replace("requests: 500k/day, ", "").replace(", prompt: 1000 tokens, output: {p50: 90, p95: 150}", "")
    (question,) = asked(text.replace("peak: 3x", "peak: 3x, trace: t.csv"), {"t.csv": TRACE}).questions
    assert question.demand.rate == pytest.approx(0.5)
    assert question.demand.variability == pytest.approx(0.0, abs=0.01)
    assert question.demand.lengths is not None
    assert question.demand.lengths.mean()[1] == pytest.approx(39.0, abs=0.5)


def test_own_types_and_price_feeds() -> None:
    """A type of one's own is used by its name; a feed's prices go before the defaults, and its doubts are notes."""
    own = "  types: {mine: {memory: 64GB, bandwidth: 2TB/s, fp16: 300 TFLOPS}}\n"
    text = CASE.replace("  h100: {gpus: 8 x H100-80GB", own + "  h100: {gpus: 8 x mine")
    (question,) = asked(text).questions
    assert question.pools[0].device.name == "mine"
    feed = "provider,gpu,region,on_demand_per_gpu_hour,spot_per_gpu_hour_max\nx,H100,us-east-1,3.5,3.5\n"
    text = CASE.replace("price: $4/h per gpu", "regions: [us-east-1]").replace("  h100:", "  prices: p.csv\n  h100:")
    found = asked(text.replace("survive: [1 region, ", "survive: ["), {"p.csv": feed})
    tariff = found.questions[0].pools[0].tariffs["us-east-1"]
    assert (tariff.on_demand, tariff.spot) == (3.5, None)  # spot equal to on demand is no spot
    assert any("p.csv" in note for note in found.notes)
    with pytest.raises(StackError, match=r"p\.csv"):
        asked(text, {"p.csv": "a,b\n1,2\n"})


def test_slices_must_be_the_hardware_s() -> None:
    """A MIG slice that the GPU does not have is refused with those that it has."""
    told = refused("4 x h100 ", "1 x 1g.11gb of h100 ")
    assert told.code == "unknown-slice"
    assert "1g.10gb" in told.message
    (question,) = asked(CASE.replace("4 x h100 ", "1 x 1g.10gb of h100 ")).questions
    assert question.written is not None
    assert (question.written.way.slice, question.written.way.slots) == ("1g.10gb", 7)


def test_the_largest_batch_and_the_disks_of_nodes_are_the_file_s() -> None:
    """`batch.size` bounds what a server answers at once; `weights.cache: node` says that nodes keep the weights."""
    (kept,) = asked(CASE).questions
    assert (kept.demand.batch, kept.weights_cached) == (32, True)
    assert ", cache: node}" in CASE
    (question,) = asked(CASE.replace(", cache: node}", "}\n    batch: {size: 8}", 1)).questions
    assert (question.demand.batch, question.weights_cached) == (8, False)


FEED = "provider,gpu,region,on_demand_per_gpu_hour\nx,mine,us-east-1,3.5\n"


def fed(buy: str = "", regions: str = "") -> str:
    """The case study on a type of its own, which a price feed has in one region and on demand only."""
    own = "  types: {mine: {memory: 80GB, bandwidth: 2TB/s, fp16: 300 TFLOPS}}\n  prices: p.csv\n"
    text = CASE.replace("  h100: {gpus: 8 x H100-80GB", own + "  h100: {gpus: 8 x mine" + regions)
    return text.replace(", price: $4/h per gpu", buy).replace("survive: [1 region, ", "survive: [")


def test_a_region_or_a_way_to_buy_without_a_price_is_refused() -> None:
    """What the file uses and nobody sells is told at the pool's line, once for each; elsewhere it doesn't matter."""
    with pytest.raises(StackError) as caught:
        asked(fed(), {"p.csv": FEED})
    assert {one.code for one in caught.value.problems} == {"no-price"}
    assert {one.path for one in caught.value.problems} == {"compute.h100"}
    assert len(caught.value.problems) == len(asked(CASE).questions[0].regions) - 1
    assert not any("`us-east-1`" in one.message for one in caught.value.problems)
    one = ", regions: [us-east-1]"
    assert asked(fed(regions=one), {"p.csv": FEED}).questions
    with pytest.raises(StackError, match="in `us-east-1` spot"):
        asked(fed(", buy: {spot: 40%, on_demand: rest}", one), {"p.csv": FEED})
    assert asked(fed(", buy: {spot: 40% at 50% off, on_demand: rest}", one), {"p.csv": FEED}).questions


def test_cores_where_the_pool_is_not_are_a_residency_problem() -> None:
    """An endpoint on CPU servers that may run in no region of theirs is refused at its regions."""
    text = """mainspring: 1
stack: s
compute:
  regions: [a, b]
  cpu: {cores: 4, price: $1/h, regions: [a]}
orchestration: {where: kubernetes, control: suggest}
serving:
  rank:
    model: r@champion
    shape: ranker-two-tower
    cores: 2
    replicas: 2
    regions: [b]
    traffic: {requests: 2000/s, peak: 3x}
    objective: {p95: 50ms}
"""
    with pytest.raises(StackError) as caught:
        asked(text)
    (told,) = caught.value.problems
    assert (told.code, told.path) == ("residency", "serving.rank.regions")
    assert asked(text.replace("regions: [b]", "regions: [a]")).questions[0].written is not None


def test_weights_of_no_size_are_like_no_model() -> None:
    """A size of zero says nothing about a model: refused, with what to add."""
    with pytest.raises(StackError, match="add `shape:`"):
        asked(CASE.replace("    shape: llama-3.1-70b\n", "").replace("140GB", "0GB"))


@pytest.mark.parametrize(
    ("left", "mean"), [("prompt: 1000 tokens", (1000.0, 39.0)), ("output: 70 tokens", (929.0, 70.0))]
)
def test_a_trace_and_one_of_the_lengths(left: str, mean: tuple[float, float]) -> None:
    """The length that the file doesn't give is the trace's."""
    text = CASE.replace("prompt: 1000 tokens, output: {p50: 90, p95: 150}", f"{left}, trace: t.csv")
    (question,) = asked(text, {"t.csv": TRACE}).questions
    assert question.demand.lengths is not None
    assert question.demand.lengths.mean() == pytest.approx(mean, rel=0.002)


def test_a_price_of_a_node_is_paid_for_whole_nodes() -> None:
    """`$32/h` is of a node, `$4/h per gpu` of what is used; endpoints that share nodes pay for their parts."""
    (node,) = asked(CASE.replace("$4/h per gpu", "$32/h")).questions
    (each,) = asked(CASE).questions
    assert (node.pools[0].billed, each.pools[0].billed) == ("node", "device")
    assert node.pools[0].tariffs["us-east-1"].on_demand == each.pools[0].tariffs["us-east-1"].on_demand == 4.0
    many = (EXAMPLES / "04-right-sizing" / "mainspring.yaml").read_text(encoding="utf-8")
    assert all(pool.billed == "device" for question in asked(many).questions for pool in question.pools)
