"""How long the made-up requests take: lognormal, longer for longer prompts.

What this is: seconds of every request as the control would take them, and factors that make a version slower. Who calls
it: `benchmarks/canary.py`, its tests. What it must never do: give the versions different requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from canaries.traffic import Floats, Ints, Requests
from mainspring.decide.arms import EDGES, STRATA

BOUND = 3.0
"""Seconds that the objective gives 95 of 100 answers."""
LONG = 2048
"""Tokens from which a prompt is long: the upper edge of a stratum."""
_EDGES, _STRATA = np.array(EDGES), np.array(STRATA)


@dataclass(frozen=True, slots=True)
class Shape:
    """Prompts are lognormal; an answer takes a fixed time, more for a longer prompt, times lognormal noise."""

    prompt: float = 800.0  # tokens, median
    spread: float = 1.0  # of the logarithm of prompts
    noise: float = 0.4  # of the logarithm of times
    reading: float = 4000.0  # tokens that take as long to read as the rest takes
    over: float = 0.015  # share of the control's answers that takes longer than BOUND, but for what follows
    own: float = 0.0  # share of the variance of prompts (of their logarithms) that lies between users
    wave: tuple[float, float, float] = (0.0, 0.0, 1.0)  # from, to (shares of the stage): all times longer by a factor
    growth: float = 1.0  # times at the end over those at the beginning, on both versions
    longer: float = 1.0  # prompts at the end over those at the beginning
    broken: float = 1.0  # times of the control's bad replica over others


@lru_cache
def least(shape: Shape) -> float:
    """Seconds of an answer to no prompt at all, so that the control's share over `BOUND` is as the shape says."""
    points = np.array([NormalDist().inv_cdf((i + 0.5) / 2000) for i in range(2000)])
    extra = np.log1p(shape.prompt * np.exp(shape.spread * points) / shape.reading)
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        share = float(np.mean([1 - NormalDist().cdf(z) for z in (math.log(BOUND) - middle - extra) / shape.noise]))
        low, high = (middle, high) if share < shape.over else (low, middle)
    return math.exp(low)


@dataclass(frozen=True, slots=True)
class Timed:
    """A prompt and the control's time for each request."""

    prompt: Floats
    seconds: Floats
    stratum: Ints  # of prompt lengths

    def with_(self, requests: Requests, slower: Slower) -> Floats:
        """Seconds of each request when the candidate is slower."""
        factor = np.where(self.prompt > LONG, slower.long * slower.all, slower.all)
        return np.where(requests.candidate, self.seconds * factor, self.seconds)


@dataclass(frozen=True, slots=True)
class Slower:
    """What the candidate's times are multiplied by."""

    all: float = 1.0
    long: float = 1.0  # further, for long prompts


def draw(requests: Requests, shape: Shape, seed: tuple[int, ...]) -> Timed:
    """Prompts and times of these requests."""
    random, count, slices = np.random.default_rng(seed), len(requests.cell), requests.world.slices
    run, at = np.divmod(requests.cell, slices)
    length = random.standard_normal(count, dtype=np.float32).astype(np.float64)
    if shape.own and requests.world.users is not None:
        users = random.standard_normal((requests.runs, requests.world.users.count))
        length = math.sqrt(shape.own) * users[run, requests.user] + math.sqrt(1.0 - shape.own) * length
    prompt = shape.prompt * np.exp(shape.spread * length) * shape.longer ** (at / slices)
    seconds = np.exp(shape.noise * random.standard_normal(count, dtype=np.float32).astype(np.float64))
    seconds *= least(shape) * (1.0 + prompt / shape.reading) * shape.growth ** (at / slices)
    begin, end, factor = shape.wave
    seconds[(at >= begin * slices) & (at < end * slices)] *= factor
    seconds[requests.broken] *= shape.broken
    return Timed(prompt, seconds, np.searchsorted(_STRATA, prompt))


def bucket(seconds: Floats) -> Ints:
    """The bucket of `EDGES` that a time falls into."""
    return np.searchsorted(_EDGES, seconds)


def quantiles(group: Ints, seconds: Floats, groups: int, share: float) -> Floats:
    """The least value that `share` of a group's values do not exceed, by group; NaN of none."""
    order = np.lexsort((seconds, group))
    number = np.bincount(group, minlength=groups)
    ends = np.cumsum(number)
    at = ends - number + np.maximum(np.ceil(share * number - 1e-9).astype(np.int64) - 1, 0)
    found = np.full(groups, np.nan)
    found[number > 0] = seconds[order][at[number > 0]]
    return found
