"""What is believed of gates that only a real model can show: that they hold.

What this is: the numbers of evaluations, checks, safety, inputs and groups, made up as good ones. Who calls it: the
twin's runs. What it must never do: believe that a version is better or worse: losses by day are `beliefs.py`'s.
"""

from __future__ import annotations

import math
from dataclasses import replace

from mainspring.decide.probes import SETS, ProbeSeen, SafetyNumbers
from mainspring.decide.ranges import ColumnSeen, InputNumbers, InputSeen
from mainspring.loop.snapshot import CheckNumbers, EvalNumbers, GateNumbers, GroupNumbers
from mainspring.stack.pipelines import Gates

PERFECT = (1.0,) * 40
"""The scores of an evaluation that nobody has run."""
MANY = 1_000_000
"""Rows of a group that nobody has counted."""


def believed(gates: Gates, numbers: GateNumbers) -> GateNumbers:
    """Add to the losses by day whatever else the gates ask for."""
    compared = bool(numbers.champion)
    groups = [
        GroupNumbers(name, group, MANY, 0.5, 0.0, len(numbers.days)) for name in gates.groups for group in ("a", "b")
    ]
    return replace(
        numbers,
        checks=tuple(CheckNumbers(name, passed=True, message="believed to hold") for name in gates.checks),
        evals=tuple(EvalNumbers(name, PERFECT, PERFECT if compared else ()) for name in gates.evals),
        groups=tuple(groups),
        auc_errors=(0.0, 0.0) if compared else (math.nan, math.nan),
        safety=_safety(gates, compared=compared),
        inputs=_inputs(gates, numbers.rows),
        predicted=gates.predictions or (math.nan, math.nan),
        memory=0.0 if gates.memory else math.nan,
    )


def _safety(gates: Gates, *, compared: bool) -> SafetyNumbers | None:
    if gates.safety is None:
        return None
    asked = [(name, probe.name) for name in gates.safety.sets for probe in SETS[name]]
    probes = tuple(ProbeSeen(name, probe, True, True if compared else None) for name, probe in asked)
    return SafetyNumbers(probes, (), max(1, len(probes)), 0)


def _inputs(gates: Gates, rows: int) -> InputNumbers | None:
    if gates.inputs is None:
        return None
    columns = tuple(ColumnSeen(name, rows, 0, low, high) for name, (low, high) in gates.inputs.columns.items())
    score = gates.predictions[0] if gates.predictions else 0.5
    probes = tuple(InputSeen(name, "at its low end", True, "scored", score) for name in gates.inputs.columns)
    return InputNumbers(rows, columns, probes, steady=True)
