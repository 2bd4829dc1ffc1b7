"""The rows of a run: cut to its time, held out for its gates, and never seen by the wrong step.

The first step's table gets an index of its own, named `row`; whatever later carries that index is aligned to
it, so the held-out rows can be taken out of it wherever it goes. Who calls it: steps' own processes.
What it must never do: give `train` a row of the hold-out, or any step a row from after the run's end.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mainspring.artefacts.manifest import Field
from mainspring.errors import UserCodeError
from mainspring.stack.pipelines import Gates
from mainspring.stack.units import seconds

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

INDEX = "row"
DAY = 86400.0
Part = Literal["all", "known", "train", "held"]
"""Which rows a step gets: all of the run, all with a known outcome, those before the hold-out, or the held-out ones."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the columns of the first step's table are called."""

    time: str
    id: str
    truth: str  # "" when nothing is ever known of the outcome


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where the rows of a run begin and end, and where the hold-out begins; POSIX seconds."""

    since: float
    until: float
    held: float


def hold_out(gates: Gates) -> tuple[float, bool]:
    """How many seconds of rows are held out, and whether a gate of the file needs them to be so many."""
    rows = [gate.rows for gate in (gates.brier, gates.auc) if gate is not None]
    spans = [_last(text) for text in rows]
    return max(spans, default=14 * DAY), bool(spans or gates.groups or gates.checks)


def _last(text: str) -> float:
    match = re.fullmatch(r"last\s+(.+)", text.strip())
    if not match:
        raise UserCodeError("gate-rows", f"`{text}` does not say which rows are held out", "write `rows: last 14d`")
    return seconds(match[1])


def with_index(table: Any, step: str) -> pd.DataFrame:
    """Give the first step's table the index that all later tables are aligned by."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise UserCodeError(
            "table", f"step `{step}` returned a `{type(table).__name__}`; the first step returns a pandas DataFrame"
        )
    named = any(name is not None for name in table.index.names)
    framed: pd.DataFrame = table.reset_index(drop=not named)
    framed.index = pd.RangeIndex(len(framed), name=INDEX)
    framed.columns = [str(c) for c in framed.columns]
    return framed


def moments(table: pd.DataFrame, shape: Shape, step: str) -> np.ndarray[Any, Any]:
    """The rows' moments as POSIX seconds. Raises `UserCodeError` when one cannot be read."""
    import numpy as np
    import pandas as pd

    for needed, what in ((shape.time, "each row's moment"), (shape.id, "each row's name")):
        if needed not in table.columns:
            raise UserCodeError(
                "data-column",
                f"the table of step `{step}` has no column `{needed}`, which holds {what}; it has"
                f" {', '.join(f'`{c}`' for c in list(table.columns)[:12])}",
                "return that column, or set `time:` and `id:` of the pipeline",
            )
    column: Any = table[shape.time]
    if pd.api.types.is_numeric_dtype(column):
        raise UserCodeError(
            "data-time", f"column `{shape.time}` holds numbers, not moments", "use `pandas.to_datetime(..., utc=True)`"
        )
    parsed: Any = pd.to_datetime(column, utc=True, errors="coerce")
    bad = int(parsed.isna().sum())
    if bad:
        example = column[parsed.isna()].iloc[0]
        raise UserCodeError(
            "data-time",
            f"column `{shape.time}` cannot be read as a moment in {bad:,} of {len(table):,} rows, such as `{example}`",
        )
    micros = parsed.dt.tz_localize(None).astype("datetime64[us]").to_numpy().astype(np.int64)
    return np.asarray(micros / 1e6)


def cut(
    table: pd.DataFrame, times: np.ndarray[Any, Any], since: float | None, until: float
) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Drop every row outside [since, until)."""
    keep = times < until
    if since is not None:
        keep &= times >= since
    return table[keep], times[keep]


def bounds(
    times: np.ndarray[Any, Any], since: float | None, until: float, *, span: float, wanted: bool, step: str
) -> Bounds:
    """Find where the hold-out of `span` seconds begins, counted back from the end of the data.

    Without a gate that needs it (`wanted`), at most a quarter of the rows' time is held out.
    """
    if not len(times):
        raise UserCodeError(
            "data-empty",
            f"no row of step `{step}` lies in the time of this run",
            "look at `first:` and the column of time",
        )
    first, last = float(times.min()), float(times.max())
    end = min(until, (math.floor(last / DAY) + 1) * DAY)  # whole days, so that no day-block is cut in two
    begin = first if since is None else max(since, math.floor(first / DAY) * DAY)
    if not wanted:
        span = min(span, (end - begin) / 4)
    held = end - span
    if held <= first:
        days, out = (end - begin) / DAY, span / DAY
        raise UserCodeError(
            "data-short",
            f"the rows span {days:.1f} days, and the last {out:g} are held out for the gates: none is left to train on",
            f"bring more rows, or hold out fewer, such as `rows: last {max(3, int(days // 4))}d`",
        )
    return Bounds(begin, end, held)


def fields(table: pd.DataFrame, shape: Shape) -> tuple[Field, ...]:
    """The raw fields that a request carries: every column but the moment, the name and the outcome."""
    import pandas as pd

    found: list[Field] = []
    for name in table.columns:
        if name in (shape.time, shape.id, shape.truth):
            continue
        kind = table[name].dtype
        if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
            raise UserCodeError(
                "data-type",
                f"column `{name}` holds moments or durations, which a request cannot carry",
                "turn it into a number or a text in the first step, or leave it out",
            )
        found.append(Field(name, _datatype(kind)))
    return tuple(found)


def _datatype(kind: Any) -> str:
    import pandas as pd

    if pd.api.types.is_bool_dtype(kind):
        return "BOOL"
    if pd.api.types.is_integer_dtype(kind):
        return "INT64"
    if pd.api.types.is_float_dtype(kind):
        return "FP32" if str(kind) == "float32" else "FP64"
    return "BYTES"


class Rows:
    """The cut table's index, moments and outcomes: what a step's inputs are cut by."""

    def __init__(self, slim: pd.DataFrame, shape: Shape, limits: Bounds, step: str = "") -> None:
        """`slim` has at least the columns of time and outcome, and the index `row`."""
        self.index = slim.index
        self.times = moments(slim.assign(**{shape.id: ""}), shape, step)
        self.truth = slim[shape.truth].astype("float64") if shape.truth else None
        self.shape, self.limits = shape, limits

    def mask(self, part: Part, after: float = -math.inf) -> np.ndarray[Any, Any]:
        """Which rows belong to a part; outside `all` only rows with a known outcome, in `held` none before `after`."""
        import numpy as np

        if part in ("all", "known"):
            return np.ones(len(self.index), dtype=bool) if part == "all" else self.known()
        chosen = self.times < self.limits.held if part == "train" else self.times >= max(self.limits.held, after)
        return np.asarray(chosen & self.known())

    def known(self) -> np.ndarray[Any, Any]:
        """Which rows have a known outcome (all, when there is no outcome column)."""
        import numpy as np

        return np.asarray(np.ones(len(self.index), dtype=bool) if self.truth is None else self.truth.notna())

    def take(self, value: Any, mask: np.ndarray[Any, Any], name: str, step: str) -> Any:
        """The rows of `mask` of a value that is aligned to the table; other values as they are.

        Raises `UserCodeError` for a table that seems to hold the same rows but lost their index: then
        the held-out rows cannot be told from the others.
        """
        import numpy as np
        import pandas as pd

        if isinstance(value, np.ndarray) and value.ndim and len(value) == len(self.index):
            return value[mask]
        if not isinstance(value, pd.DataFrame | pd.Series):
            return value
        if value.index.name == INDEX:
            if value.index.equals(self.index):
                return value[mask]
            return value[value.index.isin(self.index[mask])]
        columns = set(value.columns) if isinstance(value, pd.DataFrame) else set()
        if len(value) == len(self.index) or columns & {self.shape.time, self.shape.id}:
            raise UserCodeError(
                "step-index",
                f"the table of step `{name}` lost the rows' index; the held-out ones cannot be kept from `{step}`",
                f"return it with `index=` of the table that `{name}` got, and without `reset_index`",
            )
        return value
