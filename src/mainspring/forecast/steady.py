"""A replica with a constant number of requests in flight: mean times, and what they rest on.

What this is: the equations of the closed loop, corrected by what was measured in the same group, made monotone; pure.
Who calls it: `queue.py`, `sizing/`, benchmarks, tests. What it must never do: queue open arrivals (that is `queue.py`).

More requests in flight never lower a time, and never lower the rate; a longer prompt never lowers the time to the
first token: a correction that would is cut (sizing relies on it). A curve over concurrency is made once for each
(setup, prompt, output) and read linearly between its nodes, which keeps it monotone between them as well: with times
linear in `C`, `C / (a + b C)` rises whenever it does from node to node.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mainspring.forecast import equations
from mainspring.forecast.coefficients import Coefficients
from mainspring.forecast.levels import group
from mainspring.forecast.residual import correction
from mainspring.forecast.setup import Rests, Setup, Steady
from mainspring.forecast.steps import logs
from mainspring.forecast.terms import Floats, terms

Binds = Literal["bandwidth", "compute", "communication", "overhead", "memory"]

NODES = 2.0 ** np.arange(0.0, 17.25, 0.5)
"""Concurrencies of a curve."""

PROMPTS = 2.0 ** np.arange(5.0, 21.0)
"""Prompts that a longer one is held against."""

FULL = 0.97
"""Share of what is in flight that runs, below which memory binds."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Times over concurrency."""

    tpot: Floats
    ttft: Floats
    running: Floats
    binds: tuple[Binds, ...]


def steady(
    setup: Setup,
    prompt: float,
    output: float,
    concurrency: float,
    coefficients: Coefficients,
    *,
    cached: float = 0.0,
    burst: float = 0.0,
) -> Steady:
    """Forecast a closed loop of `concurrency` requests of `prompt` and `output` tokens; `cached`: share of prefix hits.

    `burst`: share of the requests whose time counts that came at once at the start, as a benchmark starts; 0 is a loop
    that has been going for long. `concurrency` below one counts as one, above 131,072 as that.
    """
    curve = _curve(setup, float(prompt), float(output), float(cached), float(burst), coefficients)
    at = min(max(float(concurrency), 1.0), float(NODES[-1]))
    upper = min(int(np.searchsorted(NODES, at)), len(NODES) - 1)
    lower = max(upper - 1, 0)
    part = (at - NODES[lower]) / (NODES[upper] - NODES[lower]) if upper > lower else 0.0

    def read(values: Floats) -> float:
        return float(values[lower] + (values[upper] - values[lower]) * part)

    tpot, ttft = read(curve.tpot), read(curve.ttft)
    wide = coefficients.spread(setup)
    return Steady(
        ttft=ttft,
        tpot=tpot,
        running=min(read(curve.running), at),
        requests=at / (ttft + max(float(output) - 1.0, 0.0) * tpot),
        binds=curve.binds[lower if part < 0.5 else upper],
        spread=wide[0],
        spread_ttft=wide[1],
        rests=_rests(setup, float(prompt), float(output), at, float(cached), coefficients),
    )


@lru_cache(maxsize=4096)
def _curve(
    setup: Setup, prompt: float, output: float, cached: float, burst: float, coefficients: Coefficients
) -> Curve:
    """The curve of one case."""
    log = logs(setup, coefficients)
    held = coefficients.anchors.get(group(setup))
    prompts = np.append(PROMPTS[prompt > PROMPTS], prompt) if held else np.array([prompt])
    times = equations.loop(terms(setup, prompts[:, None], output, cached, burst), NODES[None, :], log)
    tpot, ttft = times.tpot, times.ttft
    if held:
        more = correction(held, setup, coefficients.version(setup), prompts, output, NODES)
        tpot, ttft = tpot * np.exp(more[0]), ttft * np.exp(more[1])
    else:
        tpot = np.maximum(tpot, _floor(setup, output))
    shape = (len(prompts), len(NODES))
    tpot, ttft = np.broadcast_to(tpot, shape), np.broadcast_to(ttft, shape)
    slow, first = _monotone(tpot[-1], ttft.max(axis=0), output)
    batch = np.broadcast_to(times.running, shape)[-1]
    return Curve(slow, first, batch, _binds(times, shape))


def _floor(setup: Setup, output: float) -> float:
    """Seconds a token that bandwidth alone asks for: a group that was not measured is never faster."""
    t = terms(setup, 1.0, output)
    return float((t.weights + t.experts * t.chosen) / t.gained)


def _monotone(tpot: Floats, ttft: Floats, output: float) -> tuple[Floats, Floats]:
    """Times that never fall, and let the rate never fall, as concurrency rises."""
    rest = max(output - 1.0, 0.0)
    slow, first = [float(tpot[0])], [float(ttft[0])]
    for k in range(1, len(tpot)):
        more = float(NODES[k] / NODES[k - 1])
        t = min(max(float(tpot[k]), slow[-1]), slow[-1] * more)
        limit = more * (first[-1] + rest * slow[-1]) - rest * t
        first.append(min(max(float(ttft[k]), first[-1]), limit))
        slow.append(t)
    return np.array(slow), np.array(first)


def _binds(times: equations.Times, shape: tuple[int, int]) -> tuple[Binds, ...]:
    """What takes the largest part of a token's time, at each node."""
    rows = [times.bandwidth, times.compute + times.stolen, times.communication, times.overhead]
    parts = np.array([np.broadcast_to(row, shape)[-1] for row in rows])
    names: tuple[Binds, ...] = ("bandwidth", "compute", "communication", "overhead")
    full = np.broadcast_to(times.running, shape)[-1] < FULL * NODES
    return tuple("memory" if f else names[int(i)] for f, i in zip(full, parts.argmax(axis=0), strict=True))


def _rests(
    setup: Setup, prompt: float, output: float, concurrency: float, cached: float, coefficients: Coefficients
) -> tuple[Rests, ...]:
    """What this forecast rests on; a point that was itself measured rests on that."""
    told = coefficients.rests(setup)
    if cached:
        return (*told, Rests("prefix cache, share of prompts found", cached, "assumed", "as given"))
    held = coefficients.anchors.get(group(setup))
    if held is None or setup.draft or setup.share < 1:
        return told
    at = np.log2([concurrency, float(setup.gpus), max(prompt, 1.0), max(output, 1.0)])
    same = np.abs(held.place - at).max(axis=1) < 1e-3
    same &= (held.copies == (setup.attention_dp > 1)) & (held.spread == (setup.expert_parallel > 1))
    count = int((same & (np.array(held.version) == coefficients.version(setup))).sum()) if same.any() else 0
    if not count:
        return told
    source = f"{count} of the {len(held)} points of its group are at this very load (smoothed with their neighbours)"
    return (Rests("measured times", float(count), "measured", source),)
