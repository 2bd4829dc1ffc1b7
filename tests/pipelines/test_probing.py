"""The gate's real replica: time, memory, and what the packaged artefact makes of odd requests."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from mainspring.artefacts.manifest import Field, Manifest
from mainspring.decide.gate import judge
from mainspring.decide.probes import ProbeSeen, SafetyNumbers
from mainspring.decide.ranges import ColumnSeen, InputNumbers, InputSeen
from mainspring.loop.snapshot import DayLoss, GateNumbers, GroupNumbers
from mainspring.pipelines.probing import Answer, body, oddities, outcome
from mainspring.pipelines.seen import gate_from, gate_to, read_run
from mainspring.stack.load import load
from mainspring.stack.safety import InputGate
from tests.pipelines.conftest import CODE, STACK, Product

ASKED = STACK.replace(
    "    gates:\n",
    "    gates:\n      latency: {p95: 1s}\n      memory: {at_most: 2GB}\n"
    "      inputs: {distance: 0..2000}\n      predictions: 0..1\n",
)
CAREFUL = CODE.replace('rows["distance"].fillna(0)', 'rows["distance"].fillna(0).clip(0, 2000)')
"""Features that survive any number."""
MANIFEST = Manifest(
    model="late", run="", format="onnx", digest="", inputs=(Field("distance", "FP64"), Field("side", "BYTES"),
    Field("stops", "INT64")), output="probability",
)  # fmt: skip
BASE = {"distance": 30.0, "side": "left", "stops": 1}


def items(product: Product, run: str) -> dict[str, tuple[bool, str]]:
    """The verdicts of a run, by gate."""
    numbers = read_run(product.state / "runs" / run).gate
    assert numbers is not None
    verdict = judge(load(product.folder / "mainspring.yaml").pipelines["late"].gates, numbers)
    return {item.name: (item.passed, item.message) for item in verdict.items}


def test_a_careful_artefact_survives_and_is_timed_and_weighed(product: Product) -> None:
    """On a real replica: each row within milliseconds, its memory, and every odd request scored or declined."""
    product.write(stack=ASKED, code=CAREFUL)
    seen = product.run("late-1")
    assert seen.state == "succeeded", seen.error
    assert seen.gate is not None
    assert 0 < seen.gate.latency_p95 < 1
    assert 2e7 < seen.gate.memory < 2e9
    assert seen.gate.inputs is not None
    asked = {probe.what: probe for probe in seen.gate.inputs.probes if probe.column == "distance"}
    assert asked["at its high end"].outcome == "scored"
    assert asked["below its range"].outcome == "scored"
    assert asked["infinite"].outcome == "declined"  # JSON has no word for it
    assert asked["a text instead of a number"].outcome == "declined"
    assert asked["left out"].outcome == "declined"
    assert {probe.outcome for probe in seen.gate.inputs.probes} == {"scored", "declined"}
    assert seen.gate.inputs.steady
    told = items(product, "late-1")
    assert all(passed for passed, _ in told.values()), told
    assert "of a replica that serves" in told["memory"][1]


def test_an_artefact_that_fails_beyond_its_range_is_refused(product: Product) -> None:
    """The logarithm of a negative distance is no number: the replica's error is the gate's finding, and is named."""
    product.write(stack=ASKED, code=CODE)
    product.run("late-1")
    told = items(product, "late-1")
    assert not told["inputs.probes"][0]
    assert "`distance` below its range: `500`" in told["inputs.probes"][1]
    assert told["inputs.rows"][0]
    assert told["latency"][0]


def test_a_replica_that_ends_is_no_refusal(product: Product) -> None:
    """A value that ends the process is told as that, and nothing is taken for declined any more."""
    fatal = CAREFUL.replace(
        "def features(rows: pd.DataFrame) -> pd.DataFrame:\n",
        "def features(rows: pd.DataFrame) -> pd.DataFrame:\n"
        '    if (rows["distance"] > 1e6).any():\n        import os\n        os._exit(3)\n',
    )
    assert fatal != CAREFUL
    product.write(stack=ASKED, code=fatal)
    seen = product.run("late-1")
    assert seen.gate is not None
    assert seen.gate.inputs is not None
    last = seen.gate.inputs.probes[-1]
    assert (last.column, last.what, last.outcome) == ("distance", "huge", "failed")
    assert not seen.gate.inputs.steady
    assert not items(product, "late-1")["inputs.probes"][0]


def test_a_range_of_a_text_is_told(product: Product) -> None:
    """A column of texts has no range; the run fails with the column's name."""
    product.write(stack=ASKED.replace("distance: 0..2000", "side: 0..1"), code=CAREFUL)
    seen = product.run("late-1")
    assert seen.state == "failed"
    assert "`gates.inputs` gives `side` a range, and it holds no numbers" in seen.error


def test_each_odd_request_changes_one_thing() -> None:
    """Every probe differs from the row that scores well in one column, but for those of the whole request."""
    gate = InputGate.model_validate({"distance": "0..100"})
    found = list(oddities(MANIFEST, gate, BASE))
    assert len({(odd.column, odd.what) for odd in found}) == len(found)
    plain = {one["name"]: one["data"] for one in json.loads(body(MANIFEST, BASE))["inputs"]}
    for odd in found:
        if odd.column:
            asked = {one["name"]: one["data"] for one in json.loads(odd.body)["inputs"]}
            assert {name for name in plain if asked.get(name) != plain[name]} == {odd.column}
    assert {odd.what for odd in found if odd.inside} == {"at its low end", "at its high end"}
    assert {odd.column for odd in found} == {"distance", "side", "stops", ""}


def test_what_an_answer_comes_to() -> None:
    """A finite score, a status of 400 to 499, and anything else."""
    assert outcome(Answer(200, 0.5, "")) == "scored"
    assert outcome(Answer(200, math.nan, "")) == "failed"
    assert outcome(Answer(422, math.nan, "")) == "declined"
    assert outcome(Answer(500, math.nan, "")) == "failed"
    assert outcome(Answer(0, math.nan, "no answer")) == "failed"


def test_no_replica_is_left(product: Product) -> None:
    """The replica that was asked ends with the step."""
    product.write(stack=ASKED, code=CAREFUL)
    product.run("late-1")
    left = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if b"mainspring.replicas" in words and str(product.folder).encode() in words:
            left.append(path)
    assert left == []


def test_numbers_survive_the_file() -> None:
    """What a run wrote down is read back as it was measured, also what is not known."""
    probe = InputSeen("hour", "missing", False, "declined", said="`400` null")
    numbers = GateNumbers(
        rows=5,
        days=(DayLoss(1, 5, 0.5, 0.4, 0.01),),
        auc=0.7,
        champion_auc=0.6,
        latency_p95=0.01,
        groups=(GroupNumbers("sides", "a", 5, 0.1, 0.02, 1),),
        champion="1",
        auc_errors=(0.1, 0.2),
        safety=SafetyNumbers((ProbeSeen("refusals", "theft-1", False, None, "Sure"),), (), 24, 1),
        inputs=InputNumbers(5, (ColumnSeen("hour", 5, 0, 0.0, 23.0),), (probe,), True, ("gone",)),
        predicted=(0.1, 0.9),
        memory=2e8,
    )
    back = gate_from(json.loads(json.dumps(gate_to(numbers))))
    assert back.safety == numbers.safety
    assert back.inputs is not None
    assert math.isnan(back.inputs.probes[0].score)
    assert replace(back.inputs, probes=()) == replace(numbers.inputs or back.inputs, probes=())
    assert replace(back, inputs=None) == replace(numbers, inputs=None)
    plain = gate_to(numbers)
    older = {key: plain[key] for key in ("rows", "auc", "champion_auc", "latency_p95", "checks", "champion")}
    older |= {"days": [], "groups": [{"check": "sides", "group": "a", "rows": 5, "value": 0.1}]}
    assert math.isnan(gate_from(older).memory)
    assert math.isnan(gate_from(older).groups[0].error)
