"""Whether a window of live values has drifted from what the live version was trained on.

What this is: pure arithmetic: a distance (`psi`), a bound for it that is calibrated on the reference's own
windows (`threshold`), and the verdict of a watch (`judge`). Who calls it: `loop/decide.py` at each look of
monitoring; packaging measures the reference's own windows with `psi`. What it must never do: fire on a fixed
number (autocorrelated features pass PSI > 0.25 every week without any change), or on rows that are too few.

The reasoning, with references and what was tried: docs/decisions/0003-drift-thresholds.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mainspring.stack.monitoring import DriftSpec
from mainspring.stack.units import Rate

SMALLEST_SHARE = 1e-4  # a bin's share counts as at least this, on both sides, so that PSI stays finite
FLOOR = 0.25  # under this a change is not worth a retraining, however sure it is
MIN_ROWS = 200  # with fewer rows in the window nothing is known
MIN_WINDOWS = 3  # with fewer windows (not overlapping) inside the reference, its own ups and downs are not known
DAY = 86400.0

_SHIFTS = np.concatenate([np.linspace(0.0, 3.0, 301), np.linspace(3.05, 8.0, 100)])  # standard deviations
_NORMAL = NormalDist()


class FeatureLike(Protocol):
    """What is read of `loop.readings.FeatureDrift` (the layer above; a reading is taken by its shape)."""

    @property
    def feature(self) -> str: ...
    @property
    def reference(self) -> tuple[float, ...]: ...
    @property
    def counts(self) -> tuple[int, ...]: ...
    @property
    def inside(self) -> tuple[float, ...]: ...


class DriftLike(Protocol):
    """What is read of `loop.readings.Drift`."""

    @property
    def rows(self) -> int: ...
    @property
    def features(self) -> Sequence[FeatureLike]: ...


@dataclass(frozen=True, slots=True)
class FeatureVerdict:
    """One feature of a watch; `value` and `threshold` are None when they are unknown."""

    feature: str  # "" is the predicted score
    value: float | None  # PSI of the window against the reference
    threshold: float | None
    fired: bool


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    """What a drift watch says about a window."""

    fired: bool
    features: tuple[FeatureVerdict, ...]
    message: str


def psi(reference_shares: Sequence[float], counts: Sequence[int]) -> float:
    """Population stability index of counts against shares on the same bins: the sum of (q - p) ln(q / p).

    Smoothing: a share under `SMALLEST_SHARE` (0.0001) counts as that, on both sides, without scaling the others.
    An empty bin therefore costs at most p ln(p / 0.0001), and the index stays finite. No rows at all give 0.
    """
    total = float(sum(counts))
    if total <= 0:
        return 0.0
    p = np.maximum(np.asarray(reference_shares, dtype=np.float64), SMALLEST_SHARE)
    q = np.maximum(np.asarray(counts, dtype=np.float64) / total, SMALLEST_SHARE)
    return math.fsum(((q - p) * np.log(q / p)).tolist())


@lru_cache(maxsize=256)
def _psi_of_shift(shares: tuple[float, ...]) -> tuple[float, ...]:
    """PSI on these bins when a normal variable moves by each of `_SHIFTS`, in the direction that shows more.

    The last bin (missing) takes no part. The curve grows like the square of the shift and flattens where all
    rows have left the reference's bins: this is the scale on which the reference's own windows look normal.
    """
    told = np.asarray(shares[:-1], dtype=np.float64)
    if told.sum() <= 0:
        return ()
    edges = np.clip(np.cumsum(told / told.sum())[:-1], 1e-12, 1 - 1e-12)
    cuts = np.array([_NORMAL.inv_cdf(float(e)) for e in edges])
    curve = []
    for shift in _SHIFTS.tolist():
        both = []
        for signed in (shift, -shift):
            cumulated = np.array([0.0, *[_NORMAL.cdf(c - signed) for c in cuts.tolist()], 1.0])
            both.append(_psi_of_shares(told / told.sum(), np.diff(cumulated)))
        curve.append(max(both))
    return tuple(np.maximum.accumulate(np.array(curve)).tolist())


def _psi_of_shares(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    p, q = np.maximum(p, SMALLEST_SHARE), np.maximum(q, SMALLEST_SHARE)
    return float(((q - p) * np.log(q / p)).sum())


def independent_windows(inside: int, every: float) -> int:
    """Say how many windows of `every` seconds lie side by side where `inside` overlapping ones fit.

    Windows inside a reference start one block (a day, or the window if that is shorter) after each other.
    """
    width = max(1, math.ceil(every / min(DAY, every) - 1e-9))
    return (inside + width - 1) // width if inside else 0


def per_look(rate: Rate, every: float, features: int) -> float:
    """Turn "so often when nothing changed" into the chance that one feature may fire at one look.

    A watch fires when any of its features does, so its chance is shared among them.
    """
    look = min(0.5, rate.per_second * every)
    return float(1.0 - (1.0 - look) ** (1.0 / max(1, features)))


def threshold(
    inside: Sequence[float], reference_shares: Sequence[float], rate: Rate, every: float, features: int
) -> float | None:
    """Give the PSI above which one of `features` features fires, one look every `every` seconds; None: unknown.

    Each inside window's PSI is read as a shift (the normal shift that gives this PSI on these bins). Shifts of
    windows are taken as normal around nothing, with a spread known from as many windows as lie side by side, so
    the bound is Student's t at the chance of `per_look`, turned back into PSI. Never under the largest inside
    window, nor under `FLOOR`.
    """
    windows = independent_windows(len(inside), every)
    if windows < MIN_WINDOWS:
        return None
    curve = _psi_of_shift(tuple(reference_shares))
    largest = max(inside)
    if not curve or curve[-1] < FLOOR:  # one bin, or none: no shift can be seen, only missing values
        return max(FLOOR, largest)
    shifts = np.interp(np.asarray(inside), _distinct(curve), _SHIFTS)
    spread = math.sqrt(math.fsum((shifts**2).tolist()) / len(inside))
    bound = spread * student_two_sided(per_look(rate, every, features), windows - 1)
    return max(FLOOR, largest, float(np.interp(bound, _SHIFTS, np.asarray(curve))))


def _distinct(curve: tuple[float, ...]) -> NDArray[np.float64]:
    """Make a curve that may be flat at its end strictly growing, so that it can be read backwards."""
    grown: NDArray[np.float64] = np.asarray(curve, dtype=np.float64) + np.arange(len(curve)) * 1e-12
    return grown


@lru_cache(maxsize=1024)
def student_two_sided(chance: float, freedom: int) -> float:
    """Give t so that a Student variable is beyond t on either side with this chance (Abramowitz & Stegun 26.7.3-4)."""
    if chance <= 0.0:
        return math.inf
    low, high = 0.0, 1.0
    while _student_beyond(high, freedom) > chance and high < 1e9:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_beyond(middle, freedom) > chance else (low, middle)
    return high


def _student_beyond(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 or not odd else 0.0
    for k in range(3 if odd else 2, freedom, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = (angle + sine * total) * 2 / math.pi if odd else sine * total
    return max(0.0, 1.0 - inside)


def judge(watch: DriftSpec, drift: DriftLike, every: float) -> DriftVerdict:
    """Judge a window of `every` seconds; too few rows, or no calibration, is unknown and never fires."""
    asked = (*dict.fromkeys(watch.features), *(("",) if watch.prediction else ()))
    seen = {feature.feature: feature for feature in drift.features}
    verdicts = tuple(_feature(watch, seen.get(name), name, len(asked), every) for name in asked)
    return DriftVerdict(any(v.fired for v in verdicts), verdicts, _message(verdicts, seen, drift.rows))


def _feature(watch: DriftSpec, seen: FeatureLike | None, name: str, features: int, every: float) -> FeatureVerdict:
    if seen is None or sum(seen.counts) < MIN_ROWS:
        return FeatureVerdict(name, None, None, False)
    value = psi(seen.reference, seen.counts)
    bound = threshold(seen.inside, seen.reference, watch.false_alarms, every, features)
    return FeatureVerdict(name, value, bound, bound is not None and value > bound)


def _message(verdicts: Sequence[FeatureVerdict], seen: dict[str, FeatureLike], rows: int) -> str:
    if rows < MIN_ROWS:
        return f"unknown: {rows} rows in the window, {MIN_ROWS} are needed"
    said = []
    for v in sorted(verdicts, key=lambda v: not v.fired):
        name = v.feature or "score"
        if v.value is None:
            said.append(f"{name} unknown ({'too few rows' if v.feature in seen else 'not in the reference'})")
        elif v.threshold is None:
            said.append(f"{name} unknown (the reference is too short to know its own ups and downs)")
        else:
            said.append(f"{name} PSI {v.value:.2f} {'over' if v.fired else 'within'} {v.threshold:.2f}")
    return ", ".join(said)
