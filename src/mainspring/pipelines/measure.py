"""What the gates are judged by: candidate and champion on the same held-out rows, by the function that serves.

Who calls it: the built-in step `gate`, in its own process. What it must never do: judge (that is `decide/gate.py`),
or score a row that one of the two was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mainspring.errors import UserCodeError
from mainspring.loop.snapshot import CheckNumbers, DayLoss, GateNumbers, GroupNumbers
from mainspring.pipelines.package import raw_columns
from mainspring.pipelines.scored import Scores
from mainspring.stack.pipelines import Gates, GroupGate

if TYPE_CHECKING:
    import pandas as pd

DAY = 86400.0

Array = np.ndarray[Any, np.dtype[np.float64]]


def measure(
    rows: pd.DataFrame,
    times: Array,
    truth: Array | None,
    candidate: Scores,
    champion: Scores | None,
    *,
    champion_version: str,
    gates: Gates,
    checks: Mapping[str, Callable[..., Any]],
) -> GateNumbers:
    """Score the same rows with both and count; `checks` are the user's own functions by their name."""
    own = candidate.score(raw_columns(rows, candidate.manifest.inputs))
    other = champion.score(raw_columns(rows, champion.manifest.inputs)) if champion else None
    known = truth if truth is not None else np.full(len(rows), math.nan)
    finite = len(own) and bool(np.isfinite(own).all())
    return GateNumbers(
        rows=len(rows) if truth is not None else 0,
        days=day_losses(times, known, own, other) if truth is not None else (),
        auc=auc(known, own),
        champion_auc=auc(known, other) if other is not None else math.nan,
        latency_p95=math.nan,  # a real replica is asked for it: `probing.py`
        groups=tuple(g for name, gate in gates.groups.items() for g in groups(name, gate, rows, times, known, own)),
        checks=tuple(_check(name, function, candidate, rows, own, other) for name, function in checks.items()),
        champion=champion_version if champion else "",
        auc_errors=auc_errors(times, known, own, other) if other is not None else (math.nan, math.nan),
        predicted=(float(own.min()), float(own.max())) if finite else (math.nan, math.nan),
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
    apart = math.nan if other is None else ((own - truth) ** 2 - (other - truth) ** 2) ** 2
    squares = np.bincount(place, weights=np.broadcast_to(apart, len(place)), minlength=len(days))
    return tuple(
        DayLoss(int(day), int(n), float(a), float(b), float(c))
        for day, n, a, b, c in zip(days, rows, mine, theirs, squares, strict=True)
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


def components(truth: Array, scores: Array) -> Array:
    """What each row adds to the area under the curve beyond its mean: it sums to 0, and squared to its variance.

    For a row of either outcome: the share of the other outcome's rows that it stands on the right side of, less the
    area, by the number of rows of its own outcome (DeLong, DeLong and Clarke-Pearson 1988). Rows of an unknown outcome
    add nothing; nan when one outcome is missing.
    """
    positives, negatives = truth == 1, truth == 0
    n, m = int(positives.sum()), int(negatives.sum())
    found = np.full(len(truth), 0.0 if n and m else math.nan)
    if not n or not m:
        return found
    high, low = np.sort(scores[positives]), np.sort(scores[negatives])

    def below(values: Array, at: Array) -> Array:
        """The share of sorted values below each of `at`, those that are equal by half."""
        sides = np.searchsorted(values, at, "left") + np.searchsorted(values, at, "right")
        return np.asarray(sides / (2.0 * len(values)))

    area = auc(truth, scores)
    found[positives] = (below(low, scores[positives]) - area) / n
    found[negatives] = (1.0 - below(high, scores[negatives]) - area) / m
    return found


def auc_errors(times: Array, truth: Array, own: Array, other: Array) -> tuple[float, float]:
    """Standard errors of the difference of two areas on the same rows: with days as blocks, and by single rows."""
    difference = components(truth, own) - components(truth, other)
    _, place = np.unique(np.floor(times / DAY).astype(np.int64), return_inverse=True)
    return _error(_by(place, difference)), _error(difference)


def _by(place: npt.NDArray[np.intp], parts: Array) -> Array:
    """Sums of the parts by place."""
    return np.bincount(place, weights=parts).astype(np.float64)


def _error(sums: Array) -> float:
    """The standard error of a sum of independent parts whose mean is 0; nan of fewer than two."""
    count = len(sums)
    return math.sqrt(count / (count - 1) * float((sums**2).sum())) if count > 1 else math.nan


def groups(
    name: str, gate: GroupGate, rows: pd.DataFrame, times: Array, truth: Array, scores: Array
) -> list[GroupNumbers]:
    """The metric in each group of a raw column's values (at most the 200 largest), and its standard error."""
    if gate.column not in rows.columns:
        raise UserCodeError(
            "gate-column", f"the check `gates.groups.{name}` names column `{gate.column}`, which the rows lack"
        )
    column = rows[gate.column]
    days = np.floor(times / DAY).astype(np.int64)
    found: list[GroupNumbers] = []
    for value in column.value_counts().index[:200]:
        mask = (column == value).to_numpy(dtype=bool, na_value=False)
        metric, parts = _metric(gate.metric, truth[mask], scores[mask])
        own_days, place = np.unique(days[mask], return_inverse=True)
        error = _error(_by(place, parts))
        found.append(GroupNumbers(name, str(value), int(mask.sum()), metric, error, len(own_days)))
    return sorted(found, key=lambda g: g.group)


def _metric(metric: str, truth: Array, scores: Array) -> tuple[float, Array]:
    """The metric of some rows, and what each row adds to it beyond its mean."""
    if metric == "auc":
        return auc(truth, scores), components(truth, scores)
    each = scores - truth if metric == "rate" else (scores - truth) ** 2
    mean = float(np.mean(each))
    return mean, (each - mean) / len(each)


def _check(
    name: str, function: Callable[..., Any], scorer: Scores, rows: pd.DataFrame, own: Array, other: Array | None
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
