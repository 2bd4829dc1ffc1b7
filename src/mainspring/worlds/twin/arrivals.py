"""What is asked of an endpoint in the twin: requests from a trace, or drawn from a rate that changes over time.

What this is: `Arrivals`, and shapes of rates; pure, the same seed gives the same requests. Who calls it:
`mainspring simulate`, the scaling benchmark, tests. What it must never do: read a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.facts.traces import Trace

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
HOUR, DAY = 3600.0, 86400.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long prompts and outputs are, in tokens: log-normal by median and 95th percentile."""

    prompt: tuple[float, float] = (800.0, 3000.0)
    output: tuple[float, float] = (120.0, 400.0)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in the order in which they come."""

    at: Floats  # s from the beginning
    prompt: Floats  # tokens
    output: Floats  # tokens
    seconds: float  # how long it goes on, the time after the last request included
    says: str  # where they come from
    tenant: Whole | None = None  # places in `tenants`; None: all are of the one
    tenants: tuple[str, ...] = ("everyone",)

    def __len__(self) -> int:
        return len(self.at)


def of_trace(trace: Trace, speed_up: float = 1.0, seconds: float | None = None) -> Arrivals:
    """The requests of a trace, `speed_up` times as fast; `seconds`: only so much of it."""
    at = trace.arrival / speed_up
    count = len(at) if seconds is None else int(np.searchsorted(at, seconds))
    faster = "" if speed_up == 1.0 else f", {speed_up:g} times as fast"
    span = float(at[-1]) + 1.0 if seconds is None else seconds
    return Arrivals(at[:count], trace.prompt[:count], trace.output[:count], span, f"{trace.name}{faster}")


def drawn(rates: Floats, lengths: Lengths, seed: int, says: str) -> Arrivals:
    """Poisson arrivals at a rate that is given for each second."""
    random = np.random.default_rng([seed, 1])
    counts = random.poisson(rates)
    second = np.repeat(np.arange(len(rates), dtype=np.float64), counts)
    at = np.sort(second + random.random(len(second)))
    return Arrivals(
        at, _tokens(random, lengths.prompt, len(at)), _tokens(random, lengths.output, len(at)), float(len(rates)), says
    )


def _tokens(random: np.random.Generator, quantiles: tuple[float, float], count: int) -> Floats:
    middle, high = quantiles
    spread = math.log(max(high / middle, 1.0)) / 1.6449
    found: Floats = np.maximum(1.0, np.round(middle * np.exp(spread * random.standard_normal(count))))
    return found


def steady(rate: float, seconds: float, seed: int) -> Floats:
    """The same all along."""
    del seed
    return np.full(math.ceil(seconds), rate)


def steps(rate: float, seconds: float, seed: int) -> Floats:
    """A new rate every 20 to 60 minutes, between 0.2 and 2.2 times `rate`."""
    random, found = np.random.default_rng([seed, 2]), np.empty(0)
    while len(found) < seconds:
        found = np.append(found, np.full(int(random.uniform(1200, 3600)), rate * random.uniform(0.2, 2.2)))
    return found[: math.ceil(seconds)]


def ramps(rate: float, seconds: float, seed: int) -> Floats:
    """Straight lines between such rates, 20 to 60 minutes each."""
    random = np.random.default_rng([seed, 3])
    corners, values = [0.0], [rate]
    while corners[-1] < seconds:
        corners.append(corners[-1] + random.uniform(1200, 3600))
        values.append(rate * random.uniform(0.2, 2.2))
    found: Floats = np.interp(np.arange(math.ceil(seconds)), corners, values)
    return found


def bursts(rate: float, seconds: float, seed: int) -> Floats:
    """0.6 times `rate`, and every 15 minutes or so a burst of 30 to 240 seconds at 2 to 5 times it."""
    random = np.random.default_rng([seed, 4])
    found, at = np.full(math.ceil(seconds), 0.6 * rate), random.exponential(900.0)
    while at < seconds:
        length = random.uniform(30, 240)
        found[int(at) : int(at + length)] = rate * random.uniform(2, 5)
        at += length + random.exponential(900.0)
    return found


def day(rate: float, seconds: float, seed: int) -> Floats:
    """A day with a night, a morning and an afternoon peak, and noise that lasts some minutes; the mean is `rate`."""
    random = np.random.default_rng([seed, 5])
    hour = np.arange(math.ceil(seconds)) % DAY / HOUR
    shape = 0.25 + np.exp(-(((hour - 10.5) / 2.2) ** 2)) + 0.9 * np.exp(-(((hour - 15.5) / 2.8) ** 2))
    blocks = random.normal(0.0, 0.12, len(hour) // 300 + 2)
    noise = np.exp(np.interp(np.arange(len(hour)), np.arange(len(blocks)) * 300.0, blocks))
    full = np.arange(0.0, 24.0, 1 / 60)
    mean = (0.25 + np.exp(-(((full - 10.5) / 2.2) ** 2)) + 0.9 * np.exp(-(((full - 15.5) / 2.8) ** 2))).mean()
    found: Floats = rate * shape / mean * noise
    return found


SHAPES: dict[str, Callable[[float, float, int], Floats]] = {
    "steady": steady, "steps": steps, "ramps": ramps, "burst": bursts, "day": day,
}  # fmt: skip
"""By name: from a mean rate (1/s), a time (s) and a seed to a rate for each second."""
