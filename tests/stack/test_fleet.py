"""A stack of regions and GPUs is read, or refused where it contradicts itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError, Problem, StackError
from mainspring.stack import fleet_units
from mainspring.stack.fleet_units import Part, Spread, Survival, Times
from mainspring.stack.load import parse
from mainspring.stack.notes import notes
from mainspring.stack.resolve import revision
from mainspring.stack.runnable import planned_only, runnable

CASE = (Path(__file__).parents[2] / "examples" / "03-case-study" / "mainspring.yaml").read_text(encoding="utf-8")


def refused(old: str, new: str) -> list[Problem]:
    """The problems of the case study's file with one change."""
    assert old in CASE
    with pytest.raises(StackError) as caught:
        parse(CASE.replace(old, new, 1).encode(), "s.yaml")
    return list(caught.value.problems)


def test_the_case_study_is_read() -> None:
    """Its GPUs, regions, traffic, promise and costs come out as plain numbers."""
    stack = parse(CASE.encode(), "s.yaml")
    pool, chat = stack.compute["h100"], stack.serving["chat"]
    assert stack.compute.regions == ("us-east-1", "eu-west-1", "ap-southeast-1")
    assert (pool.gpus, pool.nodes, pool.price) == (Times(8, "H100-80GB"), Spread(8, 8, per_region=True), (4.0, "gpu"))
    assert pool.per_hour == 32.0
    assert (chat.gpus, chat.replicas) == (Times(4, "h100"), Spread(4, 4, per_region=True))
    assert chat.traffic is not None
    assert chat.traffic.requests is not None
    assert chat.traffic.requests.per_second == pytest.approx(5.787, abs=0.001)
    assert (chat.traffic.peak, chat.traffic.prompt and chat.traffic.prompt.p50) == (3.0, 1000.0)
    assert (chat.objective.p95, chat.weights.size) == (3.0, 140_000_000_000)
    assert chat.objective.availability == pytest.approx(0.999)
    assert stack.orchestration.survive == (Survival(1, "region"), Survival(1, "node"))
    assert stack.cost.quoted["gpu"].count == 280_000


def test_it_is_planned_and_not_run() -> None:
    """`up` is refused with the reason and the verb that reads it; a note says the same; its revision is stable."""
    stack = parse(CASE.encode(), "s.yaml")
    assert "kubernetes" in planned_only(stack)[0]
    with pytest.raises(InputError, match="kubernetes") as caught:
        runnable(stack)
    assert caught.value.hint == "mainspring plan"
    assert "`up` does not" in notes(stack)[0].message
    assert revision(stack) == revision(parse(("# x\n" + CASE).encode(), "s.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("us-east-1, eu-west-1,", "us-east-1, us-east-1,", "twice", "us-east-1"),
        ("4 x h100 ", "4 x h200 ", "unknown-pool", "h100"),
        ("4 x h100 ", "16 x h100 ", "too-many-gpus", "8"),
        ("runtime: vllm", "regions: [eu-wst-1]", "unknown-region", "eu-west-1"),
        ("nodes: 8 per region", "nodes: 8 per region, regions: [us-west-9]", "unknown-region", "us-west-9"),
        ("in: us-east-1", "in: us-est-1", "unknown-region", "us-east-1"),
        ("[1 region, 1 node", "[3 regions, 1 node", "nothing-left", "leaves none"),
        ("500k/day, ", "0/day, ", "no-rate", "no requests"),
        ("requests: 500k/day, ", "", "no-rate", "500k/day"),
        ("peak: 3x", "peak: 3", "bad-value", "3x"),
        ("peak: 3x", "peak: 0.5x", "bad-value", "1x"),
        ("prompt: 1000 tokens", "prompt: 0 tokens", "bad-value", "tokens"),
        ("{p50: 90, p95: 150}", "{p50: 190, p95: 150}", "bad-value", "grow"),
        ("8 x H100-80GB", "80 x H100-80GB", "bad-value", "72"),
        ("8 x H100-80GB", "x H100", "bad-value", "4 x h100"),
        ("price: $4/h per gpu", "price: $4/h per core", "bad-value", "cores"),
        ("price: $4/h per gpu", "buy: {reserved: 60%, on_demand: 30%}", "bad-value", "rest"),
        ("price: $4/h per gpu", "buy: {reserved: 60%, spot: 50%}", "bad-value", "add up"),
        ("price: $4/h per gpu", "machine: this", "bad-value", "exactly one"),
        ("peak: 3x", "peak: 3x, regions: {us-east-1: 50%}", "bad-shares", "0.5"),
        ("where: kubernetes", "where: kubernets", "unknown-pool", "kubernets"),
    ],
)
def test_contradictions(old: str, new: str, code: str, words: str) -> None:
    """Each is told with its place and the value."""
    found = refused(old, new)
    assert code in [one.code for one in found], [str(one) for one in found]
    told = next(one for one in found if one.code == code)
    assert words in told.message
    assert told.line > 0


def test_contradicting_residency() -> None:
    """An endpoint that may only be where its pool isn't, or whose users are elsewhere, is refused."""
    only_us = CASE.replace("nodes: 8 per region", "nodes: 8 per region, regions: [us-east-1]")
    wrong = only_us.replace("runtime: vllm", "regions: [eu-west-1]").replace("in: us-east-1, ", "")
    with pytest.raises(StackError, match="may only be in `eu-west-1`, and its pool `h100` is only in `us-east-1`"):
        parse(wrong.encode(), "s.yaml")
    assert refused("runtime: vllm", "regions: [eu-west-1]")[0].code == "residency"  # its canary is in us-east-1
    elsewhere = CASE.replace("in: us-east-1, ", "").replace("runtime: vllm", "regions: [eu-west-1]")
    elsewhere = elsewhere.replace("peak: 3x", "peak: 3x, regions: {us-east-1: 100%}")
    with pytest.raises(StackError, match="requests come from `us-east-1`"):
        parse(elsewhere.encode(), "s.yaml")


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        (fleet_units.times, "1 x 1g.10gb of a100", Times(1, "a100", "1g.10gb")),
        (fleet_units.times, "h100", Times(1, "h100")),
        (fleet_units.spread, "3..6 per region", Spread(3, 6, per_region=True)),
        (fleet_units.spread, 2, Spread(2, 2)),
        (fleet_units.factor, "1.5x", 1.5),
        (fleet_units.tokens, "4k tokens", 4000.0),
        (fleet_units.bandwidth, "2TB/s", 2e12),
        (fleet_units.throughput, "2 PFLOPS", 2e15),
        (fleet_units.watts, "1.2kW", 1200.0),
        (fleet_units.part, "60% at 35% off", Part(0.6, 0.35)),
        (fleet_units.part, "rest", Part(None, None)),
        (fleet_units.survival, "1 node per region", Survival(1, "node")),
    ],
)
def test_units(parser: object, text: object, value: object) -> None:
    """What people write, as numbers; each value is taken again as it is."""
    assert callable(parser)
    assert parser(text) == value


PARSERS = ("times", "spread", "factor", "tokens", "bandwidth", "throughput", "watts", "part", "survival")


@given(st.sampled_from(PARSERS), st.text(max_size=90) | st.integers() | st.floats() | st.none() | st.booleans())
def test_units_refuse_with_a_sentence(name: str, junk: object) -> None:
    """Junk is a value of the unit, or a `ValueError` with the value in backticks."""
    try:
        getattr(fleet_units, name)(junk)
    except ValueError as error:
        assert re.search(r"`", str(error))
