"""The data check that every run makes before it trains: one table against itself and against the last run's.

`profile` (in the step's process) counts; `compare` (pure) finds what is wrong, each in a sentence that names
the column and the numbers. Who calls it: the built-in step `data-check`. What it must never do: change a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mainspring.artefacts.manifest import Field
from mainspring.errors import UserCodeError
from mainspring.pipelines.table import Shape

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SHRUNK = 0.5  # of the last run's rows (in the same time): fewer stop the run
MISSING_RISE = 0.2  # a column's share of missing values may rise by this much from run to run
RANGE_REACH = 10.0  # values further out than this many widths of the last run's range stop the run

Profile = dict[str, Any]
"""{"rows", "first", "last", "columns": {name: {"type", "missing", "low", "high"}}, "positives"}"""


def profile(table: pd.DataFrame, times: np.ndarray[Any, Any], raw: tuple[Field, ...], shape: Shape) -> Profile:
    """Count what `compare` needs, and stop at what is wrong by itself.

    Raises `UserCodeError` for outcomes other than 0 and 1, names that are not unique, and infinite numbers.
    """
    import numpy as np

    _names(table, shape)
    columns: dict[str, dict[str, Any]] = {}
    for field in raw:
        column = table[field.name]
        told: dict[str, Any] = {"type": field.datatype, "missing": float(column.isna().mean())}
        if field.datatype not in ("BYTES", "BOOL") and told["missing"] < 1:
            numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
            infinite = int(np.isinf(numbers).sum())
            if infinite:
                raise UserCodeError("data-infinite", f"column `{field.name}` is infinite in {infinite:,} rows")
            told |= {"low": float(np.nanmin(numbers)), "high": float(np.nanmax(numbers))}
        columns[field.name] = told
    return {
        "rows": len(table),
        "first": float(times.min()),
        "last": float(times.max()),
        "columns": columns,
        "positives": _positives(table, shape),
    }


def _names(table: pd.DataFrame, shape: Shape) -> None:
    names = table[shape.id]
    if names.isna().any():
        raise UserCodeError("data-id", f"column `{shape.id}` is missing in {int(names.isna().sum()):,} rows")
    twice = names.duplicated()
    if twice.any():
        raise UserCodeError(
            "data-id",
            f"column `{shape.id}` does not name rows: {int(twice.sum()):,} of {len(names):,} are repeats,"
            f" such as `{names[twice].iloc[0]}`",
        )


def _positives(table: pd.DataFrame, shape: Shape) -> float | None:
    """The share of positive outcomes; None when none is known."""
    if not shape.truth:
        return None
    if shape.truth not in table.columns:
        raise UserCodeError(
            "data-column",
            f"the table has no column `{shape.truth}`, which holds the outcome",
            "return it from the first step, or change `truth.field` of the endpoint",
        )
    known = table[shape.truth].dropna()
    wrong = ~known.isin([0, 1])
    if wrong.any():
        raise UserCodeError(
            "data-truth",
            f"the outcome `{shape.truth}` is neither 0 nor 1 in {int(wrong.sum()):,} of {len(known):,} rows,"
            f" such as `{known[wrong].iloc[0]}`",
        )
    return float(known.astype("float64").mean()) if len(known) else None


def compare(now: Profile, last: Profile | None, since: float | None, until: float) -> tuple[str, ...]:
    """Find what stops the run: sentences, none when the data is fit to be trained on."""
    wrong = [
        f"column `{name}` is missing in every row"
        for name, column in now["columns"].items()
        if column["missing"] == 1 and (last is None or last["columns"].get(name, {}).get("missing") != 1)
    ]
    if last is None:
        return tuple(wrong)
    wrong += _columns(now["columns"], last["columns"])
    begin = last["first"] if since is None else max(since, last["first"])
    shared = max(0.0, min(until, last["last"]) - begin) / max(1.0, last["last"] - last["first"])
    expected = last["rows"] * min(1.0, shared)
    if now["rows"] < SHRUNK * expected:
        wrong.append(
            f"there are {now['rows']:,} rows; by the last run's {last['rows']:,} some {expected:,.0f} were expected"
        )
    return tuple(wrong)


def _columns(now: dict[str, Any], last: dict[str, Any]) -> list[str]:
    wrong = [f"column `{name}` of the last run is gone" for name in last if name not in now]
    for name, column in now.items():
        before = last.get(name)
        if before is None:
            continue
        if _family(column["type"]) != _family(before["type"]):
            wrong.append(f"column `{name}` was {before['type']} in the last run and is {column['type']} now")
            continue
        if column["missing"] > before["missing"] + MISSING_RISE:
            wrong.append(
                f"column `{name}` is missing in {column['missing']:.0%} of the rows, {before['missing']:.0%} before"
            )
        if "low" in column and "low" in before:
            reach = RANGE_REACH * max(before["high"] - before["low"], 1e-9 + abs(before["high"]))
            if column["low"] < before["low"] - reach or column["high"] > before["high"] + reach:
                wrong.append(
                    f"column `{name}` goes from {column['low']:g} to {column['high']:g};"
                    f" in the last run it went from {before['low']:g} to {before['high']:g}"
                )
    return wrong


def _family(datatype: str) -> str:
    """Whole numbers with a gap become floats in pandas, so numbers are one family."""
    return "text" if datatype == "BYTES" else "number"
