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
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mainspring.stack.pipelines import Gates, GroupGate, MetricGate

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


@dataclass(frozen=True, slots=True)
class Item:
    """The verdict of one gate, in a sentence and in numbers."""

    name: str  # "brier", "auc", "latency", "groups.NAME", "checks.NAME"
    passed: bool
    message: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of all gates; it passed when every one did."""

    passed: bool
    items: tuple[Item, ...]

    @property
    def message(self) -> str:
        """What was refused and why, or all that passed, as one line."""
        told = [item.message for item in self.items if item.passed == self.passed]
        return "; ".join(told) or "there are no gates"


def judge(gates: Gates, numbers: GateNumbers, seed: int = 0) -> Verdict:
    """Judge every gate; the same numbers and seed give the same verdict."""
    items: list[Item] = []
    if gates.brier is not None:
        items += _brier(gates.brier, numbers, seed)
    if gates.auc is not None:
        items += _auc(gates.auc, numbers)
    if gates.latency is not None:
        items.append(_latency(gates.latency.p95, numbers.latency_p95))
    for name, group in gates.groups.items():
        items.append(_groups(name, group, [g for g in numbers.groups if g.check == name]))
    told = {check.name: check for check in numbers.checks}
    for name in gates.checks:
        check = told.get(name)
        said = check.message if check else "it was not run"
        items.append(_item(f"checks.{name}", check is not None and check.passed, f"Check `{name}`: {said}", {}))
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


def _item(name: str, passed: bool, sentence: str, numbers: dict[str, float]) -> Item:
    return Item(name, passed, f"{sentence}: {'passed' if passed else 'refused'}", numbers)


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
        f" difference {_signed(mean)}, {gate.confidence:.0%} sure it is no worse than {_signed(high)}"
        f" (allowed {_signed(gate.no_worse_by)}{note})"
    )
    told = {"candidate": own, "champion": other, "difference": mean, "low": low, "high": high, "rows": float(rows)}
    return _item("brier", bool(high < gate.no_worse_by), sentence, told | {"days": float(len(numbers.days))})


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


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


def _latency(bound: float, p95: float) -> Item:
    known = f"{p95 * 1e3:.2f} ms" if math.isfinite(p95) else "unknown"
    sentence = f"95 of 100 single rows take at most {known} (allowed {bound * 1e3:g} ms)"
    return _item("latency", bool(p95 <= bound), sentence, {"p95": p95, "bound": bound})


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
