"""Whether a candidate may see traffic: the gates of the stack file against what the gate step measured.

What this is: one pure function, `judge`. Who calls it: the loop (its verdict is the one that counts), the run
itself for a first version (which is refitted only when it passes), `mainspring gate`, and tests.
What it must never do: compare a candidate with anything but the champion on the same rows, pass what it cannot decide.

The interval is a bootstrap of whole days (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8
and 13; blocks, because rows of one day share their weather): the paired difference of the mean squared error is
computed anew on `RESAMPLES` draws of the days with replacement, and its quantile at `confidence` must be below the
margin.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mainspring.decide.evals import EvalNumbers, judge_eval
from mainspring.decide.verdict import Item, Verdict, signed
from mainspring.decide.verdict import item as _item
from mainspring.decide.worth import Footprint, worth
from mainspring.stack.pipelines import Gates, GroupGate, LatencyGate, MetricGate

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


class GroupNumbers(Protocol):
    """One group of a bias check: `loop.snapshot.GroupNumbers`."""

    @property
    def check(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def value(self) -> float: ...


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
        items.append(_latency(gates.latency, numbers.latency_p95, answers=bool(numbers.evals)))
    for name, group in gates.groups.items():
        items.append(_groups(name, group, [g for g in numbers.groups if g.check == name]))
    told = {check.name: check for check in numbers.checks}
    for name in gates.checks:
        check = told.get(name)
        said = check.message if check else "it was not run"
        items.append(_item(f"checks.{name}", check is not None and check.passed, f"Check `{name}`: {said}", {}))
    scores = {one.name: one for one in numbers.evals}
    for name, gate in gates.evals.items():
        items += judge_eval(name, gate, scores.get(name), numbers.champion, seed)
    if gates.memory is not None:
        items.append(_memory(gates.memory.at_most, numbers.own.memory if numbers.own else math.nan))
    if numbers.converted:
        items.append(worth(numbers.converted, numbers.own, numbers.other))
    return Verdict(all(item.passed for item in items), tuple(items))


def unsupported(gates: Gates) -> tuple[tuple[str, str], ...]:
    """Name the gates that cannot be judged honestly, as (path under `gates`, sentence); for validation."""
    found: list[tuple[str, str]] = []
    if gates.auc is not None and gates.auc.no_worse_by is not None:
        found.append(
            ("auc.no_worse_by", "AUC is not a mean over rows, so no interval by days is made of it: use `at_least`")
        )
    return tuple(found)


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
    mean, low, high = paired_difference(numbers.days, gate.confidence, seed)
    note = "; single rows are not kept, so whole days were resampled" if gate.by == "row" else ""
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
    items = _absolute("auc", "AUC", gate, numbers.auc, sum(d.rows for d in numbers.days))
    if gate.no_worse_by is not None:
        items.append(_item("auc", False, "`auc.no_worse_by` is not supported: use `at_least`, or `brier`", {}))
    return items


def _latency(gate: LatencyGate, p95: float, *, answers: bool) -> Item:
    bound = gate.p95
    if not answers:
        known = f"{p95 * 1e3:.2f} ms" if math.isfinite(p95) else "unknown"
        sentence = f"95 of 100 single rows take at most {known} (allowed {bound * 1e3:g} ms)"
    else:
        known = f"{p95:.2f} s" if math.isfinite(p95) else "unknown"
        how = f"at {gate.at.per_second:g}/s" if gate.at else "asked for one by one"
        sentence = f"95 of 100 answers {how} take at most {known} (allowed {bound:g} s)"
    return _item("latency", bool(p95 <= bound), sentence, {"p95": p95, "bound": bound})


def _memory(bound: int, taken: float) -> Item:
    known = f"{taken / 1e6:,.0f} MB" if math.isfinite(taken) else "nobody knows how much"
    sentence = f"Memory of a replica that serves: {known} (allowed {bound / 1e6:,.0f} MB)"
    return _item("memory", bool(taken <= bound), sentence, {"memory": taken, "bound": float(bound)})


def _groups(name: str, gate: GroupGate, groups: list[GroupNumbers]) -> Item:
    judged = sorted(
        (g for g in groups if g.rows >= gate.min_rows and math.isfinite(g.value)), key=lambda g: (g.value, g.group)
    )
    told = {f"group.{g.group}": g.value for g in judged}
    if len(judged) < 2:
        sentence = f"Groups of `{gate.column}`: fewer than two have {gate.min_rows} rows, so nothing can be compared"
        return _item(f"groups.{name}", False, sentence, told)
    low, high = judged[0], judged[-1]
    gap = high.value - low.value
    sentence = (
        f"Groups of `{gate.column}`: {gate.metric} from {low.value:.4f} (`{low.group}`) to {high.value:.4f}"
        f" (`{high.group}`), {gap:.4f} apart (allowed {gate.differ_at_most:g})"
    )
    return _item(f"groups.{name}", bool(gap <= gate.differ_at_most), sentence, told | {"gap": gap})


def seed_of(run: str) -> int:
    """The seed of a run's bootstrap: the same run is judged alike wherever it is judged."""
    return int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest(), "big")
