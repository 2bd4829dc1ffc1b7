"""What the gates are judged by: candidate and champion on the same held-out rows, by the function that serves.

Who calls it: the built-in step `gate`, in its own process. What it must never do: judge (that is `decide/gate.py`),
or score a row that one of the two was trained on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mainspring.artefacts.score import Scorer
from mainspring.errors import UserCodeError
from mainspring.loop.snapshot import CheckNumbers, DayLoss, GateNumbers, GroupNumbers
from mainspring.pipelines.package import raw_columns
from mainspring.stack.pipelines import Gates, GroupGate

if TYPE_CHECKING:
    import pandas as pd

SINGLES = 300  # single rows that latency is measured on
DAY = 86400.0

Array = np.ndarray[Any, np.dtype[np.float64]]


def measure(
    rows: pd.DataFrame,
    times: Array,
    truth: Array | None,
    candidate: Scorer,
    champion: Scorer | None,
    *,
    champion_version: str,
    gates: Gates,
    checks: Mapping[str, Callable[..., Any]],
) -> GateNumbers:
    """Score the same rows with both and count; `checks` are the user's own functions by their name."""
    own = candidate.score(raw_columns(rows, candidate.manifest.inputs))
    other = champion.score(raw_columns(rows, champion.manifest.inputs)) if champion else None
    known = truth if truth is not None else np.full(len(rows), math.nan)
    return GateNumbers(
        rows=len(rows) if truth is not None else 0,
        days=day_losses(times, known, own, other) if truth is not None else (),
        auc=auc(known, own),
        champion_auc=auc(known, other) if other is not None else math.nan,
        latency_p95=latency(candidate, rows),
        groups=tuple(g for name, gate in gates.groups.items() for g in groups(name, gate, rows, known, own)),
        checks=tuple(_check(name, function, candidate, rows, own, other) for name, function in checks.items()),
        champion=champion_version if champion else "",
    )


def day_losses(times: Array, truth: Array, own: Array, other: Array | None) -> tuple[DayLoss, ...]:
    """Sums of squared errors by UTC day, in order; the champion's are nan without one."""
    days, place = np.unique(np.floor(times / DAY).astype(np.int64), return_inverse=True)
    rows = np.bincount(place, minlength=len(days))
    mine = np.bincount(place, weights=(own - truth) ** 2, minlength=len(days))
    theirs = (
        np.full(len(days), math.nan)
        if other is None
        else np.bincount(place, weights=(other - truth) ** 2, minlength=len(days))
    )
    return tuple(
        DayLoss(int(day), int(n), float(a), float(b)) for day, n, a, b in zip(days, rows, mine, theirs, strict=True)
    )


def auc(truth: Array, scores: Array) -> float:
    """The exact area under the ROC curve by ranks, ties shared; nan when one outcome is missing."""
    positives = truth == 1
    n, m = int(positives.sum()), int((truth == 0).sum())
    if not n or not m:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[place]  # the mean rank of those that share a score
    return float((ranks[positives].sum() - n * (n + 1) / 2) / (n * m))


def latency(scorer: Scorer, rows: pd.DataFrame) -> float:
    """Seconds that 95 of 100 single rows take at most, artefact as it will be served; nan without rows."""
    if not len(rows):
        return math.nan
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(SINGLES, len(rows))).astype(np.int64))
    names = [field.name for field in scorer.manifest.inputs]
    columns = {name: rows[name].iloc[chosen].astype(object).where(lambda c: c.notna(), None).tolist() for name in names}
    seconds: list[float] = []
    for place in [0, *range(len(chosen))]:
        single = {name: [columns[name][place]] for name in names}
        began = time.perf_counter()
        scorer.score(single)
        seconds.append(time.perf_counter() - began)
    return float(np.quantile(seconds[1:], 0.95))  # the first one warms up


def groups(name: str, gate: GroupGate, rows: pd.DataFrame, truth: Array, scores: Array) -> list[GroupNumbers]:
    """The metric in each group of a raw column's values (at most the 200 largest)."""
    if gate.column not in rows.columns:
        raise UserCodeError(
            "gate-column", f"the check `gates.groups.{name}` names column `{gate.column}`, which the rows lack"
        )
    column = rows[gate.column]
    found: list[GroupNumbers] = []
    for value in column.value_counts().index[:200]:
        mask = (column == value).to_numpy(dtype=bool, na_value=False)
        found.append(GroupNumbers(name, str(value), int(mask.sum()), _metric(gate.metric, truth[mask], scores[mask])))
    return sorted(found, key=lambda g: g.group)


def _metric(metric: str, truth: Array, scores: Array) -> float:
    if metric == "auc":
        return auc(truth, scores)
    if metric == "rate":
        return float(np.mean(scores - truth))
    return float(np.mean((scores - truth) ** 2))


def _check(
    name: str, function: Callable[..., Any], scorer: Scorer, rows: pd.DataFrame, own: Array, other: Array | None
) -> CheckNumbers:
    """Run a check of the user's own: it returns True, False, or (passed, message)."""
    import inspect

    offered = {"model": scorer, "rows": rows, "predictions": own, "champion_predictions": other}
    asked = inspect.signature(function).parameters
    answer = function(**{key: value for key, value in offered.items() if key in asked})
    passed, message = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "")
    if not isinstance(passed, bool | np.bool_):
        raise UserCodeError(
            "gate-check", f"the check `{name}` returned `{answer!r}`", "return `True`, `False`, or `(passed, message)`"
        )
    return CheckNumbers(name, bool(passed), str(message) or ("it holds" if passed else "it does not hold"))
