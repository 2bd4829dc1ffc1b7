"""Prompts and outputs as cases: from a median and a 95th percentile, from a mean, fixed, or as a trace has them.

What this is: distributions of tokens cut into bins; pure, and the same each time. Who calls it: the resolver of
`serving.<endpoint>.traffic`, `forecast/queue.py`, `decide/soak.py`, `sizing/`. What it must never do: draw at random.

A distribution becomes some 26 cases, each the mean of its bin, so that the mean is kept exactly. The bins are narrow
in the tail and centred on the 50th, 90th, 95th and 99th percentile, so that these are kept to a few parts in 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import InputError
from mainspring.forecast.setup import Lengths

EDGES = (
    *(0.0, 0.025, 0.075, 0.125, 0.175, 0.225, 0.275, 0.325, 0.375, 0.425, 0.475, 0.525, 0.575, 0.625, 0.675, 0.725),
    *(0.775, 0.825, 0.875, 0.925, 0.94, 0.96, 0.975, 0.985, 0.995, 0.999, 1.0),
)
"""Cumulative probabilities at which a distribution is cut."""

COARSE = (
    *(0.0, 0.075, 0.175, 0.275, 0.375, 0.475, 0.525, 0.625, 0.725, 0.825, 0.875, 0.925),
    *(0.94, 0.96, 0.975, 0.985, 0.995, 0.999, 1.0),
)
"""The same for what a trace has, whose bins are cut in thirds by prompt."""

SIGMA = 0.761
"""Standard deviation of the log of output lengths when only a mean is known: that of a lognormal through the median
(129) and the 95th percentile (451) of the Azure LLM inference trace 2023, conversation. `assumed` for anybody else."""

Z95 = NormalDist().inv_cdf(0.95)
LONGEST = 10_000_000.0  # tokens; more is a slip of the keyboard


Tokens = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution of tokens, as values with weights that sum to one."""

    value: tuple[float, ...]
    weight: tuple[float, ...]


def fixed(tokens: float) -> Spread:
    """Always as many tokens. Raises `InputError` unless it is 1 to 10 million."""
    return Spread((_tokens("tokens", tokens),), (1.0,))


def through(p50: float, p95: float, longest: float | None = None) -> Spread:
    """A lognormal through a median and a 95th percentile, cut off at `longest` (what `max_tokens` does).

    Raises `InputError` when the numbers contradict each other.
    """
    median, high = _tokens("p50", p50), _tokens("p95", p95)
    if high < median:
        raise InputError(
            "bad-lengths", f"p95 `{p95:g}` is below p50 `{p50:g}`", "the 95th percentile is at least the median"
        )
    if longest is not None and _tokens("max", longest) < high:
        raise InputError(
            "bad-lengths", f"max `{longest:g}` is below p95 `{p95:g}`", "leave out `max`, or raise it to `p95` or more"
        )
    return _lognormal(math.log(median), math.log(high / median) / Z95, longest or math.inf)


def around(mean: float, longest: float | None = None) -> Spread:
    """A lognormal of this mean and of the spread `SIGMA`, which is assumed, cut off at `longest`.

    The cut comes after: with one, the mean is a little less than asked for.
    """
    middle = _tokens("mean", mean)
    if longest is not None and _tokens("max", longest) < middle:
        raise InputError(
            "bad-lengths", f"max `{longest:g}` is below mean `{mean:g}`", "leave out `max`, or raise it above `mean`"
        )
    return _lognormal(math.log(middle) - SIGMA**2 / 2, SIGMA, longest or math.inf)


def lengths(prompt: Spread, output: Spread, cached: float = 0.0) -> Lengths:
    """Prompts and outputs that do not depend on each other; `cached` is the share of prompt tokens in the prefix cache.

    Many prompts are merged to at most 6 cases, for the time of an answer depends on the output far more.
    """
    if not 0.0 <= cached < 1.0:
        raise InputError("bad-lengths", f"cached share `{cached:g}` is not in 0..1", "say `cached: 30%`, below 100 %")
    few = _merged(prompt, 6)
    pairs = [
        (p, o, v * w)
        for p, v in zip(few.value, few.weight, strict=True)
        for o, w in zip(output.value, output.weight, strict=True)
    ]
    return _cases(pairs, cached)


def observed(prompts: Tokens, outputs: Tokens, cached: float = 0.0) -> Lengths:
    """Prompts and outputs as a trace pairs them, in at most 64 cases: bins of the output, each in thirds by prompt.

    Raises `InputError` when there are none, or not as many of one as of the other.
    """
    if not len(outputs) or len(prompts) != len(outputs):
        raise InputError(
            "bad-lengths", f"`{len(prompts)}` prompts for `{len(outputs)}` outputs", "give one prompt for each output"
        )
    rows = sorted(zip(map(float, outputs), map(float, prompts), strict=True))
    count = len(rows)
    cuts = [round(edge * count) for edge in COARSE]
    pairs: list[tuple[float, float, float]] = []
    for start, stop in pairwise(cuts):
        within = sorted(rows[start:stop], key=lambda row: row[1])
        thirds = [round(len(within) * third / 3) for third in range(4)]
        for low, high in pairwise(thirds):
            part = within[low:high]
            if part:
                mean_output = math.fsum(o for o, _ in part) / len(part)
                pairs.append((math.fsum(p for _, p in part) / len(part), mean_output, len(part) / count))
    return _cases(pairs, cached)


def percentile(known: Lengths, share: float, of: str = "output") -> float:
    """The smallest number of tokens that at least `share` of all requests do not exceed."""
    values = known.output if of == "output" else known.prompt
    pairs = sorted(zip(values, known.weight, strict=True))
    total, target = 0.0, share * math.fsum(known.weight) - 1e-9
    for value, weight in pairs:
        total += weight
        if total >= target:
            return value
    return pairs[-1][0]


def scaled(known: Lengths, output: float = 1.0, prompt: float = 1.0) -> Lengths:
    """The same, with every output and prompt so many times as long (for sensitivities); never below one token."""
    return Lengths(
        tuple(max(1.0, p * prompt) for p in known.prompt),
        tuple(max(1.0, o * output) for o in known.output),
        known.weight,
        known.cached,
    )


def _tokens(name: str, value: float) -> float:
    if not 1.0 <= value <= LONGEST:
        raise InputError(
            "bad-lengths", f"`{value:g}` {name} of tokens is not in 1..10,000,000", "give a positive number of tokens"
        )
    return float(value)


def _lognormal(mu: float, sigma: float, longest: float) -> Spread:
    """Means of bins in closed form: E[X; X < x] = exp(mu + sigma^2/2) Phi((ln x - mu)/sigma - sigma)."""
    if sigma < 1e-9:
        return Spread((min(math.exp(mu), longest),), (1.0,))
    normal = NormalDist()
    whole = math.exp(mu + sigma**2 / 2)
    cut = normal.cdf((math.log(longest) - mu) / sigma) if math.isfinite(longest) else 1.0

    def below(share: float) -> float:  # E[min(X, longest)] over the lowest `share` of X
        inside = min(share, cut)
        if inside <= 0.0:
            return 0.0
        part = whole * (normal.cdf(normal.inv_cdf(inside) - sigma) if inside < 1.0 else 1.0)
        return part + (longest * (share - cut) if share > cut else 0.0)

    value, weight = [], []
    for low, high in pairwise(EDGES):
        value.append(max(1.0, (below(high) - below(low)) / (high - low)))
        weight.append(high - low)
    return Spread(tuple(value), tuple(weight))


def _merged(spread: Spread, cases: int) -> Spread:
    """Neighbouring cases merged, each group to its mean, until there are at most `cases`."""
    if len(spread.value) <= cases:
        return spread
    groups: list[list[tuple[float, float]]] = [[] for _ in range(cases)]
    done = 0.0
    for value, weight in sorted(zip(spread.value, spread.weight, strict=True)):
        groups[min(cases - 1, int((done + weight / 2) * cases))].append((value, weight))
        done += weight
    kept = [group for group in groups if group]
    sums = [math.fsum(w for _, w in group) for group in kept]
    means = [math.fsum(v * w for v, w in group) / total for group, total in zip(kept, sums, strict=True)]
    return Spread(tuple(means), tuple(sums))


def _cases(pairs: Sequence[tuple[float, float, float]], cached: float) -> Lengths:
    prompt, output, weight = zip(*pairs, strict=True)
    return Lengths(prompt, output, weight, cached)
