"""Whether a candidate may see traffic: the gates of the stack file against what the gate step measured.

What this is: one pure function, `judge`. Who calls it: the loop (its verdict is the one that counts), the run
itself for a first version (which is refitted only when it passes), `mainspring gate`, and tests.
What it must never do: compare a candidate with anything but the champion on the same rows, pass what it cannot decide.

The interval is a bootstrap of whole days (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8
and 13; blocks, because rows of one day share their weather): the paired difference of the mean squared error is
computed anew on `RESAMPLES` draws of the days with replacement, and its quantile at `confidence` must be below the
margin. The difference of two areas under the ROC curve is no mean over rows; its standard error comes from the rows'
structural components (DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44), summed by day where days are blocks
(Obuchowski 1997, Biometrics 53).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mainspring.decide.evals import EvalNumbers, judge_eval
from mainspring.decide.groups import GroupNumbers, judge_groups, student
from mainspring.decide.probes import SafetyNumbers
from mainspring.decide.ranges import InputNumbers, judge_inputs, judge_predictions
from mainspring.decide.safety import judge_safety
from mainspring.decide.verdict import Item, Verdict, signed
from mainspring.decide.verdict import item as _item
from mainspring.decide.worth import Footprint, worth
from mainspring.stack.pipelines import Gates, LatencyGate, MetricGate

RESAMPLES = 2_000
MIN_ROWS = 100
MIN_DAYS = 3


class DayLoss(Protocol):
    """One day of held-out rows: `loop.snapshot.DayLoss`."""

    @property
    def rows(self) -> int: ...
    @property
    def candidate(self) -> float: ...
    @property
    def champion(self) -> float: ...
    @property
    def squares(self) -> float: ...


class CheckNumbers(Protocol):
    """What a check of the user's own said: `loop.snapshot.CheckNumbers`."""

    @property
    def name(self) -> str: ...
    @property
    def passed(self) -> bool: ...
    @property
    def message(self) -> str: ...


class NamedEval(EvalNumbers, Protocol):
    """One evaluation's scores and its name: `loop.snapshot.EvalNumbers`."""

    @property
    def name(self) -> str: ...


class GateNumbers(Protocol):
    """What the gate step measured: `loop.snapshot.GateNumbers`, which lies above this package."""

    @property
    def rows(self) -> int: ...
    @property
    def days(self) -> Sequence[DayLoss]: ...
    @property
    def auc(self) -> float: ...
    @property
    def champion_auc(self) -> float: ...
    @property
    def auc_errors(self) -> tuple[float, float]: ...
    @property
    def latency_p95(self) -> float: ...
    @property
    def groups(self) -> Sequence[GroupNumbers]: ...
    @property
    def checks(self) -> Sequence[CheckNumbers]: ...
    @property
    def champion(self) -> str: ...
    @property
    def evals(self) -> Sequence[NamedEval]: ...
    @property
    def safety(self) -> SafetyNumbers | None: ...
    @property
    def inputs(self) -> InputNumbers | None: ...
    @property
    def predicted(self) -> tuple[float, float]: ...
    @property
    def memory(self) -> float: ...
    @property
    def converted(self) -> str: ...
    @property
    def own(self) -> Footprint | None: ...
    @property
    def other(self) -> Footprint | None: ...


def judge(gates: Gates, numbers: GateNumbers, seed: int = 0) -> Verdict:
    """Judge every gate; the same numbers and seed give the same verdict."""
    items: list[Item] = []
    if gates.brier is not None:
        items += _brier(gates.brier, numbers, seed)
    if gates.auc is not None:
        items += _auc(gates.auc, numbers)
    if gates.latency is not None:
        answers = bool(numbers.evals or numbers.safety)
        items.append(_latency(gates.latency, numbers.latency_p95, answers=answers))
    if gates.inputs is not None:
        items += judge_inputs(gates.inputs, numbers.inputs)
    if gates.predictions is not None:
        probes = numbers.inputs.probes if numbers.inputs else ()
        items.append(judge_predictions(gates.predictions, numbers.predicted, numbers.rows, probes))
    for name, group in gates.groups.items():
        items.append(judge_groups(name, group, [g for g in numbers.groups if g.check == name]))
    items += _checks(gates, numbers.checks)
    scores = {one.name: one for one in numbers.evals}
    for name, gate in gates.evals.items():
        items += judge_eval(name, gate, scores.get(name), numbers.champion, seed)
    if gates.safety is not None:
        items += judge_safety(gates.safety, numbers.safety, numbers.champion, seed)
    if gates.memory is not None:
        items.append(_memory(gates.memory.at_most, _taken(numbers)))
    if numbers.converted:
        items.append(worth(numbers.converted, numbers.own, numbers.other))
    return Verdict(all(item.passed for item in items), tuple(items))


def _checks(gates: Gates, checks: Sequence[CheckNumbers]) -> list[Item]:
    told = {check.name: check for check in checks}
    found = []
    for name in gates.checks:
        check = told.get(name)
        said = check.message if check else "it was not run"
        found.append(_item(f"checks.{name}", check is not None and check.passed, f"Check `{name}`: {said}", {}))
    return found


def _taken(numbers: GateNumbers) -> float:
    """Bytes that a real replica held; nan when nobody looked."""
    if math.isnan(numbers.memory) and numbers.own is not None and not numbers.rows:
        return numbers.own.memory  # of a language model that an older Mainspring measured
    return numbers.memory


def paired_difference(days: Sequence[DayLoss], confidence: float, seed: int) -> tuple[float, float, float]:
    """Mean paired loss difference (candidate - champion) with one-sided bounds (low, high) at `confidence`.

    All nan without rows. Days are resampled whole; the mean is over rows.
    """
    rows = np.array([d.rows for d in days], dtype=np.float64)
    differences = np.array([d.candidate - d.champion for d in days], dtype=np.float64)
    if not len(days) or rows.sum() == 0:
        return math.nan, math.nan, math.nan
    mean = float(differences.sum() / rows.sum())
    draws = np.random.default_rng(seed).multinomial(len(days), np.full(len(days), 1 / len(days)), size=RESAMPLES)
    drawn_rows = draws @ rows
    means = (draws @ differences)[drawn_rows > 0] / drawn_rows[drawn_rows > 0]
    low, high = np.quantile(means, [1 - confidence, confidence])
    return mean, float(low), float(high)


def row_difference(days: Sequence[DayLoss], confidence: float) -> tuple[float, float, float]:
    """The same by single rows: the mean paired difference, and t standard errors of independent rows beside it."""
    rows = sum(d.rows for d in days)
    if rows < 2:
        return math.nan, math.nan, math.nan
    mean = math.fsum(d.candidate - d.champion for d in days) / rows
    spread = max(0.0, math.fsum(d.squares for d in days) / rows - mean * mean) * rows / (rows - 1)
    reach = student(confidence, rows - 1) * math.sqrt(spread / rows)
    return mean, mean - reach, mean + reach


def _too_few(name: str, numbers: GateNumbers) -> Item | None:
    days = sum(d.rows > 0 for d in numbers.days)
    if numbers.rows >= MIN_ROWS and days >= MIN_DAYS:
        return None
    sentence = (
        f"{name} cannot be judged on {numbers.rows:,} held-out rows of {days} days with known outcome"
        f" (at least {MIN_ROWS} rows of {MIN_DAYS} days are needed)"
    )
    if not numbers.rows:
        sentence += "; rows that the champion was trained on do not count: a new version needs new data"
    return _item(name.lower(), False, sentence, {"rows": float(numbers.rows), "days": float(days)})


def _brier(gate: MetricGate, numbers: GateNumbers, seed: int) -> list[Item]:
    few = _too_few("Brier", numbers)
    if few:
        return [few]
    rows = sum(d.rows for d in numbers.days)
    own = math.fsum(d.candidate for d in numbers.days) / rows
    items: list[Item] = []
    if gate.no_worse_by is not None:
        items.append(_no_worse(gate, numbers, own, rows, seed))
    items += _absolute("brier", "Brier", gate, own, rows)
    return items


def _no_worse(gate: MetricGate, numbers: GateNumbers, own: float, rows: int, seed: int) -> Item:
    if not numbers.champion:
        sentence = f"Brier {own:.4f} on {rows:,} rows; there is no champion to compare with"
        return _item("brier", math.isfinite(own), sentence, {"candidate": own, "rows": float(rows)})
    assert gate.no_worse_by is not None
    other = math.fsum(d.champion for d in numbers.days) / rows
    by_row = gate.by == "row" and all(math.isfinite(d.squares) for d in numbers.days)
    mean, low, high = (
        row_difference(numbers.days, gate.confidence)
        if by_row
        else paired_difference(numbers.days, gate.confidence, seed)
    )
    note = "; single rows were not kept, so whole days were resampled" if gate.by == "row" and not by_row else ""
    sentence = (
        f"Brier {own:.4f} vs {other:.4f} of version {numbers.champion} on {rows:,} rows of {len(numbers.days)} days:"
        f" difference {signed(mean)}, {gate.confidence:.0%} sure it is no worse than {signed(high)}"
        f" (allowed {signed(gate.no_worse_by)}{note})"
    )
    told = {"candidate": own, "champion": other, "difference": mean, "low": low, "high": high, "rows": float(rows)}
    return _item("brier", bool(high < gate.no_worse_by), sentence, told | {"days": float(len(numbers.days))})


def _absolute(name: str, title: str, gate: MetricGate, own: float, rows: int) -> list[Item]:
    """Bounds on the candidate's own value; a value that is not known (nan) is refused."""
    items: list[Item] = []
    for bound, words in ((gate.at_least, "at least"), (gate.at_most, "at most")):
        if bound is not None:
            known = f"{own:.4f}" if math.isfinite(own) else "unknown (one outcome is missing)"
            sentence = f"{title} {known} on {rows:,} rows, wanted {words} {bound:g}"
            passed = own >= bound if words == "at least" else own <= bound
            items.append(_item(name, bool(passed), sentence, {"candidate": own, "bound": bound}))
    return items


def _auc(gate: MetricGate, numbers: GateNumbers) -> list[Item]:
    few = _too_few("AUC", numbers)
    if few:
        return [few]
    rows = sum(d.rows for d in numbers.days)
    items = [_auc_no_worse(gate, gate.no_worse_by, numbers, rows)] if gate.no_worse_by is not None else []
    return items + _absolute("auc", "AUC", gate, numbers.auc, rows)


def _auc_no_worse(gate: MetricGate, margin: float, numbers: GateNumbers, rows: int) -> Item:
    own, other = numbers.auc, numbers.champion_auc
    told = {"candidate": own, "rows": float(rows)}
    if not numbers.champion:
        sentence = f"AUC {own:.4f} on {rows:,} rows; there is no champion to compare with"
        return _item("auc", math.isfinite(own), sentence, told)
    error = numbers.auc_errors[("day", "row").index(gate.by)]
    days = sum(d.rows > 0 for d in numbers.days)
    reach = student(gate.confidence, (days if gate.by == "day" else rows) - 1) * error
    low = own - other - reach
    if not math.isfinite(low):
        sentence = f"AUC can't be compared with version {numbers.champion} on {rows:,} rows: one outcome is missing"
        return _item("auc", False, sentence, told)
    sentence = (
        f"AUC {own:.4f} vs {other:.4f} of version {numbers.champion} on {rows:,} rows of {days} days:"
        f" difference {signed(own - other)}, {gate.confidence * 100:.4g}% sure it is no worse than {signed(low)}"
        f" (allowed {signed(-margin)})"
    )
    told |= {"champion": other, "difference": own - other, "low": low, "high": own - other + reach, "error": error}
    return _item("auc", bool(low > -margin), sentence, told)


def _latency(gate: LatencyGate, p95: float, *, answers: bool) -> Item:
    bound = gate.p95
    if not answers:
        known = f"{p95 * 1e3:.2f} ms" if math.isfinite(p95) else "unknown"
        sentence = f"95 of 100 single rows take a replica at most {known} (allowed {bound * 1e3:g} ms)"
    else:
        known = f"{p95:.2f} s" if math.isfinite(p95) else "unknown"
        how = f"at {gate.at.per_second:g}/s" if gate.at else "asked for one by one"
        sentence = f"95 of 100 answers {how} take at most {known} (allowed {bound:g} s)"
    return _item("latency", bool(p95 <= bound), sentence, {"p95": p95, "bound": bound})


def _memory(bound: int, taken: float) -> Item:
    known = f"{taken / 1e6:,.0f} MB" if math.isfinite(taken) else "nobody knows how much"
    sentence = f"Memory of a replica that serves: {known} (allowed {bound / 1e6:,.0f} MB)"
    return _item("memory", bool(taken <= bound), sentence, {"memory": taken, "bound": float(bound)})


def seed_of(run: str) -> int:
    """The seed of a run's bootstrap: the same run is judged alike wherever it is judged."""
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest(), "big")
