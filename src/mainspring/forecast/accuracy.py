"""How far forecasts are from measurements, in percent, and for whom.

What this is: errors of points, summed up by whatever they share; pure. Who calls it: `mainspring calibrate`,
`benchmarks/forecast/accuracy.py`, tests. What it must never do: leave a point out.

The mean absolute percentage error (MAPE) of a time is the mean of `|forecast - measured| / measured`. The whole request
is `ttft + (output - 1) tpot` on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mainspring.forecast.coefficients import Coefficients
from mainspring.forecast.measurements import Measurement
from mainspring.forecast.steady import steady


@dataclass(frozen=True, slots=True)
class Error:
    """Absolute errors of one point, in percent of what was measured."""

    point: Measurement
    tpot: float
    e2e: float
    ttft: float


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean absolute percentage errors of some points."""

    name: str
    points: int
    tpot: float
    e2e: float
    ttft: float


def errors(points: Sequence[Measurement], coefficients: Coefficients) -> list[Error]:
    """The error of each point."""
    found = []
    for one in points:
        told = steady(one.setup, one.mean_prompt, one.mean_output, one.concurrency, coefficients, burst=one.burst)
        found.append(
            Error(
                one,
                _percent(told.tpot, one.tpot),
                _percent(told.end_to_end(one.output), one.end_to_end),
                _percent(told.ttft, one.ttft),
            )
        )
    return found


def mean(name: str, some: Sequence[Error]) -> Errors:
    """The mean of some errors; of none, zero points and zeros."""
    count = len(some)
    each = max(count, 1)
    return Errors(
        name,
        count,
        sum(one.tpot for one in some) / each,
        sum(one.e2e for one in some) / each,
        sum(one.ttft for one in some) / each,
    )


def by(some: Sequence[Error], key: Callable[[Measurement], str]) -> list[Errors]:
    """The mean of each part that `key` tells apart, by its name."""
    parts: dict[str, list[Error]] = {}
    for one in some:
        parts.setdefault(key(one.point), []).append(one)
    return [mean(name, parts[name]) for name in sorted(parts)]


def dense_hopper(point: Measurement) -> bool:
    """Whether a point is of a dense model on an H100 or H200."""
    return point.setup.shape.dense and point.setup.gpu.arch == "Hopper"


def _percent(told: float, measured: float) -> float:
    return 100.0 * abs(told - measured) / measured
