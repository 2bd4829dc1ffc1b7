"""Whether a tabular model survives what a request may bring: values at, beyond and far from their ranges.

What this is: pure functions, `judge_inputs` and `judge_predictions`, and the numbers that they judge. Who calls it:
`decide/gate.py`. What it must never do: call silence or a broken replica a refusal.

Each probe changes one column of a row that scored well. It is survived when the replica answers it with a finite
score, or declines it by a status of 400 to 499; inside of its range a value must be scored. A server's error, no answer
or an end of the process is neither, whatever was asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mainspring.decide.verdict import Item, item
from mainspring.stack.safety import InputGate

NAMED = 5
"""Probes or columns that a sentence names; the run has all of them."""

Outcome = Literal["scored", "declined", "failed"]


@dataclass(frozen=True, slots=True)
class ColumnSeen:
    """The held-out rows' values of one column that has a range."""

    column: str
    values: int  # that are not missing
    outside: int
    low: float  # the lowest and the highest; nan without any
    high: float


@dataclass(frozen=True, slots=True)
class InputSeen:
    """What a real replica made of one probe."""

    column: str  # "": the whole request
    what: str  # "above its range", "missing"
    inside: bool  # the value is in its range, so it must be scored
    outcome: Outcome
    score: float = math.nan
    said: str = ""  # the status and what the replica said, of one that was not scored


@dataclass(frozen=True, slots=True)
class InputNumbers:
    """What asking a replica beyond the ranges gave."""

    rows: int  # held-out rows that were looked at
    columns: tuple[ColumnSeen, ...] = ()
    probes: tuple[InputSeen, ...] = ()
    steady: bool = False  # after all of it the same row was scored to the same bits as before
    absent: tuple[str, ...] = ()  # columns of the stack file that the model does not take


def judge_inputs(gate: InputGate, numbers: InputNumbers | None) -> list[Item]:
    """The verdicts on the held-out rows' values and on the probes."""
    if numbers is None or not numbers.probes:
        return [item("inputs", False, "Inputs: the replica was not asked", {})]
    if numbers.absent:
        named = ", ".join(f"`{name}`" for name in numbers.absent[:NAMED])
        return [item("inputs", False, f"Inputs: the model takes no column {named}", {})]
    return [_rows(gate, numbers), _survived(numbers)]


def _rows(gate: InputGate, numbers: InputNumbers) -> Item:
    values, outside = sum(c.values for c in numbers.columns), sum(c.outside for c in numbers.columns)
    over = [c for c in numbers.columns if c.outside > gate.outside * c.values]
    told = {"rows": float(numbers.rows), "values": float(values), "outside": float(outside)}
    told |= {f"outside.{c.column}": float(c.outside) for c in numbers.columns if c.outside}
    if not values:
        return item("inputs.rows", False, "Inputs: no held-out row has a value in these columns", told)
    sentence = f"Inputs of {numbers.rows:,} held-out rows: {outside:,} of {values:,} values outside their range"
    sentence += f" (allowed {gate.outside * 100:.4g}% of each column)"
    for column in over[:NAMED]:
        low, high = gate.columns[column.column]
        sentence += (
            f"; `{column.column}` from {column.low:g} to {column.high:g}, {column.outside:,} outside {low:g}..{high:g}"
        )
    return item("inputs.rows", not over, sentence, told)


def _survived(numbers: InputNumbers) -> Item:
    bad = [p for p in numbers.probes if p.outcome == "failed" or (p.inside and p.outcome != "scored")]
    scored = sum(p.outcome == "scored" for p in numbers.probes)
    declined = sum(p.outcome == "declined" for p in numbers.probes)
    told = {"probes": float(len(numbers.probes)), "scored": float(scored), "declined": float(declined)}
    told["failed"] = float(len(bad))
    sentence = (
        f"Inputs at and beyond their ranges: of {len(numbers.probes)} requests {scored} scored, {declined} declined"
    )
    sentence += f", {len(bad)} failed"
    for one in bad[:NAMED]:
        sentence += f"; {f'`{one.column}` ' if one.column else ''}{one.what}: {one.said or 'no answer'}"
    if len(bad) > NAMED:
        sentence += f"; and {len(bad) - NAMED} more"
    if not numbers.steady:
        sentence += "; afterwards the replica no longer scored the first row as before"
    return item("inputs.probes", not bad and numbers.steady, sentence, told)


def judge_predictions(
    span: tuple[float, float], seen: tuple[float, float], rows: int, probes: Sequence[InputSeen]
) -> Item:
    """Whether every prediction lies in its range: of `rows` held-out rows (lowest, highest) and of all probes."""
    low, high = seen
    scores = [p.score for p in probes if p.outcome == "scored"]
    least, most = min([low, *scores]), max([high, *scores])
    told = {"lowest": least, "highest": most, "low": span[0], "high": span[1], "rows": float(rows)}
    if not (math.isfinite(low) and math.isfinite(high)):
        return item("predictions", False, f"Predictions of {rows:,} held-out rows are not all numbers", told)
    more = f" and {len(scores)} probes" if scores else ""
    sentence = (
        f"Predictions of {rows:,} held-out rows{more} from {least:.4g} to {most:.4g}, allowed {span[0]:g}..{span[1]:g}"
    )
    return item("predictions", bool(span[0] <= least and most <= span[1]), sentence, told)
