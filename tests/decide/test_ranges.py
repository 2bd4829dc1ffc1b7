"""Input ranges: what a replica must survive, and what the sentences say of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mainspring.decide.ranges import ColumnSeen, InputNumbers, InputSeen, judge_inputs, judge_predictions
from mainspring.stack.safety import InputGate

GATE = InputGate.model_validate({"distance": "0..5000", "hour": [0, 23]})
GOOD = InputNumbers(
    rows=400,
    columns=(ColumnSeen("distance", 390, 0, 11.0, 4_900.0), ColumnSeen("hour", 400, 0, 0.0, 23.0)),
    probes=(
        InputSeen("distance", "at its low end", True, "scored", 0.2),
        InputSeen("distance", "above its range", False, "scored", 0.4),
        InputSeen("distance", "a text instead of a number", False, "declined", said="`400` not FP64"),
    ),
    steady=True,
)


def test_scored_or_declined_is_survived() -> None:
    """A finite score and a status of 400 are both survived, and counted."""
    rows, probes = judge_inputs(GATE, GOOD)
    assert rows.passed
    assert probes.passed
    assert rows.message == (
        "Inputs of 400 held-out rows: 0 of 790 values outside their range (allowed 0% of each column): passed"
    )
    assert "of 3 requests 2 scored, 1 declined, 0 failed: passed" in probes.message
    assert probes.numbers == {"probes": 3.0, "scored": 2.0, "declined": 1.0, "failed": 0.0}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (InputSeen("hour", "missing", False, "failed", said="`500` the model failed"), "`hour` missing: `500` the"),
        (InputSeen("hour", "at its high end", True, "declined", said="`400` no"), "`hour` at its high end: `400` no"),
        (InputSeen("", "cut off in the middle", False, "failed"), "; cut off in the middle: no answer"),
    ],
)
def test_an_error_or_a_refusal_inside_of_the_range_is_not(bad: InputSeen, said: str) -> None:
    """A server's error is never survived; a value inside of its range must be scored."""
    told = judge_inputs(GATE, replace(GOOD, probes=(*GOOD.probes, bad)))[1]
    assert not told.passed
    assert said in told.message


def test_what_is_not_known_is_refused() -> None:
    """Nothing asked, a column that the model does not take, a replica that scores otherwise afterwards: refused."""
    assert not judge_inputs(GATE, None)[0].passed
    assert not judge_inputs(GATE, replace(GOOD, probes=()))[0].passed
    absent = judge_inputs(GATE, replace(GOOD, absent=("weight",)))
    assert [item.passed for item in absent] == [False]
    assert "takes no column `weight`" in absent[0].message
    assert not judge_inputs(GATE, replace(GOOD, steady=False))[1].passed
    assert not judge_inputs(GATE, replace(GOOD, columns=()))[0].passed


def test_rows_outside_are_counted_and_shown() -> None:
    """A held-out value outside of its range is refused, unless the file lets some be; the extremes are named."""
    numbers = replace(GOOD, columns=(ColumnSeen("distance", 400, 2, -3.0, 9_000.0),))
    told = judge_inputs(GATE, numbers)[0]
    assert not told.passed
    assert "`distance` from -3 to 9000, 2 outside 0..5000" in told.message
    assert told.numbers["outside.distance"] == 2.0
    lenient = InputGate.model_validate({"columns": {"distance": "0..5000"}, "outside": "1%"})
    assert judge_inputs(lenient, numbers)[0].passed


def test_predictions() -> None:
    """The lowest and the highest of rows and probes must be in the range; what is no number is refused."""
    assert judge_predictions((0.1, 0.5), (0.15, 0.45), 400, GOOD.probes).passed
    low = judge_predictions((0.3, 0.5), (0.35, 0.45), 400, GOOD.probes)
    assert not low.passed
    assert "and 2 probes from 0.2 to 0.45, allowed 0.3..0.5" in low.message
    assert not judge_predictions((0.0, 1.0), (math.nan, math.nan), 400, ()).passed
