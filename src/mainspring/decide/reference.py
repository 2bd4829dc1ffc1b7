"""The drift reference of a version: what its rows looked like, and how much windows of them differ by themselves.

What this is: a value that is written to `reference.json` beside the model, and the pure functions that make it.
Who calls it: the pipeline's packaging step makes it; monitoring counts live values on its bins (`bin_counts`).
What it must never do: read a file, or know what a DataFrame is.

The format (JSON, by these dataclasses; unknown keys are ignored, so fields may be added):

    {"schema": 1, "window": 604800.0, "since": ..., "until": ..., "rows": 52000, "note": "", "features": [
      {"feature": "temp", "kind": "number", "edges": [...], "categories": [], "shares": [...],
       "inside": [...], "rows": 52000},
      {"feature": "carrier", "kind": "category", "edges": [], "categories": ["AA", ...], ...},
      {"feature": "", ...the predicted score, kind number...}]}

Bins of a number: (-inf, edges[0]], (edges[0], edges[1]], ..., (edges[-1], inf), then one for missing.
Bins of a category: one for each of `categories`, one for every other value, then one for missing.
`inside` holds the drift statistic of every window of `window` seconds inside the reference (a step of one block,
which is a day or the window if that is shorter) against the REST of the reference, sorted. It is empty when the
reference is no longer than one window: then nothing is known about its own ups and downs.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
QUANTILES = 20  # bins of equal share in the reference
TOP = 50  # categories that get a bin of their own
DAY = 86400.0

Statistic = Callable[[Sequence[float], Sequence[int]], float]  # (reference shares, counts) -> drift


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """One raw field (or the score, as `""`): its bins, its shares, and its calibration."""

    feature: str
    kind: str  # "number" | "category"
    edges: tuple[float, ...]  # inner edges, ascending; of a number
    categories: tuple[str, ...]  # of a category, most frequent first
    shares: tuple[float, ...]  # of the reference rows, by bin; the last bin is 'missing'; sums to 1
    inside: tuple[float, ...]  # the statistic on windows inside the reference, sorted
    rows: int  # reference rows

    @property
    def bins(self) -> int:
        """Number of bins, 'missing' included."""
        return _bins(self.kind, self.edges, self.categories)

    def bin_counts(self, values: Iterable[Any]) -> NDArray[np.int64]:
        """Count values (numbers, strings, booleans, None, NaN; an array or a list) by bin."""
        index = bin_index(self.kind, self.edges, self.categories, values)
        return np.bincount(index, minlength=self.bins).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Reference:
    """All features of one version."""

    window: float  # seconds; length of the windows of `inside`
    since: float  # event time of the reference rows, POSIX seconds
    until: float
    rows: int
    features: tuple[FeatureReference, ...]
    note: str = ""  # where the score's reference comes from
    schema: int = SCHEMA

    def get(self, feature: str) -> FeatureReference | None:
        """The reference of one feature (`""` for the score), or None when there is none."""
        return next((f for f in self.features if f.feature == feature), None)


def label(value: Any) -> str:
    """Name a category: the same for 3 and 3.0, for True and numpy's True, in training and in a request."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def is_missing(value: Any) -> bool:
    """Say whether a value is None, NaN, or another that is not equal to itself (NaT, NA)."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124  NaN and NaT are the values that differ from themselves
    except TypeError:  # pandas.NA refuses to be a truth value
        return True


def _bins(kind: str, edges: Sequence[float], categories: Sequence[str]) -> int:
    return len(edges) + 2 if kind == "number" else len(categories) + 2


def _number(value: Any) -> float:
    if is_missing(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def numbers(values: Iterable[Any]) -> NDArray[np.float64]:
    """Turn values into floats; what is no number is NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    listed = list(values)
    try:
        return np.asarray(listed, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.asarray([_number(v) for v in listed], dtype=np.float64)


def bin_index(kind: str, edges: Sequence[float], categories: Sequence[str], values: Iterable[Any]) -> NDArray[np.int64]:
    """Give each value the number of its bin."""
    last = _bins(kind, edges, categories) - 1
    if kind == "number":
        array = numbers(values)
        index = np.searchsorted(np.asarray(edges, dtype=np.float64), array, side="left").astype(np.int64)
        index[np.isnan(array)] = last
        return index
    known = {name: i for i, name in enumerate(categories)}
    seen: dict[tuple[type, Any], int] = {}
    out: list[int] = []
    for value in values.tolist() if isinstance(values, np.ndarray) else values:
        try:
            found = seen.get((type(value), value))  # True, 1 and 1.0 are one key, but not one category
        except TypeError:  # a value that cannot be hashed, such as a list: no category
            out.append(last - 1)
            continue
        if found is None:
            found = last if is_missing(value) else known.get(label(value), last - 1)
            if len(seen) < 100_000:  # hostile input must not grow this without bound
                seen[type(value), value] = found
        out.append(found)
    return np.asarray(out, dtype=np.int64)


def _edges(values: NDArray[np.float64]) -> tuple[float, ...]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ()
    inner = np.quantile(finite, np.arange(1, QUANTILES) / QUANTILES, method="inverted_cdf")
    unique = np.unique(inner)
    if unique.size > 1 or unique[0] < finite.max():
        return tuple(float(e) for e in unique[unique < finite.max()])
    return (float(unique[0]),)  # a constant: it, or something else


def _categories(values: Iterable[Any]) -> tuple[str, ...]:
    counts = Counter(label(v) for v in values if not is_missing(v))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(name for name, _ in ranked[:TOP])


def day_counts(index: NDArray[np.int64], bins: int, times: NDArray[np.float64], block: float) -> NDArray[np.int64]:
    """Count rows by block of time (rows of the result) and bin (columns); every block from first to last."""
    if not times.size:
        return np.zeros((0, bins), dtype=np.int64)
    blocks = np.floor(times / block).astype(np.int64)
    blocks -= blocks.min()
    total = int(blocks.max()) + 1
    return np.bincount(blocks * bins + index, minlength=total * bins).reshape(total, bins).astype(np.int64)


def inside_windows(counts: NDArray[np.int64], width: int, statistic: Statistic) -> tuple[float, ...]:
    """Measure each window of `width` blocks against all other blocks; sorted. `counts`: blocks by bins."""
    if counts.shape[0] <= width:
        return ()
    total = counts.sum(axis=0)
    running = np.vstack([np.zeros_like(total)[None, :], np.cumsum(counts, axis=0)])
    found: list[float] = []
    for start in range(counts.shape[0] - width + 1):
        window = running[start + width] - running[start]
        rest = total - window
        if window.sum() > 0 and rest.sum() > 0:
            shares = rest / rest.sum()
            found.append(float(statistic(tuple(shares.tolist()), tuple(int(c) for c in window))))
    return tuple(sorted(found))


def feature_reference(
    feature: str,
    kind: str,
    values: Sequence[Any] | NDArray[Any],
    times: NDArray[np.float64],
    *,
    window: float,
    statistic: Statistic,
) -> FeatureReference:
    """Make the reference of one feature from its values and their event times (POSIX seconds)."""
    edges = _edges(numbers(values)) if kind == "number" else ()
    categories = _categories(values) if kind == "category" else ()
    index = bin_index(kind, edges, categories, values)
    bins = _bins(kind, edges, categories)
    totals = np.bincount(index, minlength=bins)
    rows = int(totals.sum())
    shares = tuple(float(c) / rows for c in totals) if rows else tuple(0.0 for _ in totals)
    block = min(DAY, window)
    width = max(1, math.ceil(window / block - 1e-9))
    inside = inside_windows(day_counts(index, bins, times, block), width, statistic)
    return FeatureReference(feature, kind, edges, categories, shares, inside, rows)


def to_json(reference: Reference) -> bytes:
    """Write a reference; the same reference gives the same bytes."""
    return json.dumps(asdict(reference), sort_keys=True, allow_nan=False).encode()


def from_json(text: bytes) -> Reference:
    """Read a reference; unknown keys are ignored. Raises `ValueError` when it is not one."""
    try:
        raw = json.loads(text)
        if raw["schema"] != SCHEMA:
            raise ValueError(f"reference of schema `{raw['schema']}`; this version knows `{SCHEMA}`")
        features = tuple(_feature(f) for f in raw["features"])
        return Reference(
            window=float(raw["window"]),
            since=float(raw["since"]),
            until=float(raw["until"]),
            rows=int(raw["rows"]),
            features=features,
            note=str(raw.get("note", "")),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a drift reference: {error!r}") from error


def _feature(raw: dict[str, Any]) -> FeatureReference:
    feature = FeatureReference(
        feature=str(raw["feature"]),
        kind=str(raw["kind"]),
        edges=tuple(float(e) for e in raw["edges"]),
        categories=tuple(str(c) for c in raw["categories"]),
        shares=tuple(float(s) for s in raw["shares"]),
        inside=tuple(float(i) for i in raw["inside"]),
        rows=int(raw["rows"]),
    )
    if feature.kind not in ("number", "category") or len(feature.shares) != feature.bins:
        raise ValueError(f"the reference of `{feature.feature}` does not fit its own bins")
    return feature
