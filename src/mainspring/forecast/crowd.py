"""How many requests are in a replica at once, when they come as they please.

What this is: the distribution of the number in the system of a server whose rate depends on that number; pure. Who
calls it: `forecast/queue.py`. What it must never do: know what a token is.

A replica with n requests in its batch finishes `rates[n-1]` requests/s. Replacing it, under any arrivals, by a server
with just these rates is Norton's theorem for queues (Chandy, Herzog and Woo 1975). Under Poisson arrivals and
processor sharing the number in the system is then a birth-death chain whatever the lengths are (insensitivity: Kelly
1979, "Reversibility and Stochastic Networks", section 3.3), and this is exact. Arrivals that are more or less variable
stretch the chain: the step n-1 -> n has weight (theta / rate(n)) ** (1/s), where s is

    within the slots   z = 1 + (Ca2 - 1) E[min(S, S')] / E[S]      peakedness of G/G/inf (Whitt 1984)
    beyond them        q = (Ca2 + Cs2) / 2                         Allen-Cunneen

and theta is such that as many leave as come (beyond the slots theta is the rate of arrivals, so that one slot alone is
idle for its share and queues by Kingman's formula). With Ca2 = Cs2 = 1 that is M/M/k, exactly. The references are from
memory; what vouches for the formulas are closed forms and simulations in `tests/forecast/test_queue.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SMOOTHEST = 0.05  # least s: arrivals like clockwork still find some spread
TURNS = 50  # of bisection: 2**-50 of the bracket


@dataclass(frozen=True, slots=True)
class Crowd:
    """The number in the system. States 0..k; beyond k, a queue whose lengths are geometric with ratio `ratio`."""

    states: Floats  # share of time with n requests, n = 0..k
    queued: float  # share of time with more than k
    ratio: float
    arriving: Floats  # share of requests that make it 1..k in the batch, the request itself counted
    waits: float  # share of requests that find all slots taken
    running: float  # mean number in the batch
    queue: float  # mean number that wait for a slot

    @property
    def slots(self) -> int:
        """The largest batch."""
        return len(self.arriving)


def crowd(rates: Floats, rate: float, within: float = 1.0, beyond: float = 1.0) -> Crowd:
    """The crowd when `rate` requests/s come; `rates` must not fall with n. Stable only below `rates[-1]`.

    `within` is z and `beyond` q of the module's docstring.
    """
    k = len(rates)
    z, q = max(SMOOTHEST, within), max(SMOOTHEST, beyond)
    numbers = np.arange(0, k + 1, dtype=np.float64)
    heights = np.concatenate([[0.0], -np.cumsum(np.log(rates)) / z])
    top = float(rates[-1])

    ratio = (rate / top) ** (1.0 / q)

    def at(theta: float) -> tuple[Floats, float]:
        weights = heights + numbers * (np.log(theta) / z)
        states = np.exp(weights - weights.max())
        queued = float(states[-1]) * ratio / (1.0 - ratio)
        total = float(states.sum()) + queued
        return states / total, queued / total

    theta = rate if z == 1.0 and q == 1.0 else _balanced(lambda t: _leaving(rates, *at(t)), rate)
    states, queued = at(theta)
    waits = min(1.0, top * queued / rate)
    arriving = rates * states[1:]
    arriving *= (1.0 - waits) / max(float(arriving.sum()), 1e-300)
    return Crowd(
        states,
        queued,
        ratio,
        arriving,
        waits,
        float(numbers @ states) + k * queued,
        queued / (1.0 - ratio),
    )


def lasting(found: Crowd, slowness: Floats, rate: float) -> float:
    """Seconds over which `slowness` (by 1..k in the batch) stays what it is: its integral autocorrelation time.

    For a birth-death chain with births at `rate`: sum over n of (sum over j <= n of (f(j) - f) pi(j))^2 / (rate pi(n)),
    over the variance (from the Poisson equation of the chain). The stretched chain is treated as one of these.
    """
    f = np.concatenate([slowness[:1], slowness])
    off = f - (float(f @ found.states) + float(f[-1]) * found.queued)
    variance = float(off**2 @ found.states) + float(off[-1]) ** 2 * found.queued
    if variance <= 1e-18 * float(f[-1]) ** 2:
        return 0.0
    sums = np.cumsum(off * found.states)[:-1]
    there = found.states[:-1] > 1e-12
    total = float((sums[there] ** 2 / (rate * found.states[:-1][there])).sum())
    r, last = found.ratio, float(found.states[-1])
    total += float(off[-1]) ** 2 * last * r * r / ((1.0 - r) ** 3 * rate)
    return total / variance


def averaged(span: Floats, lasts: float) -> Floats:
    """What is left of a standard deviation when something that lasts `lasts` seconds is averaged over each `span`.

    sqrt(2 (x - 1 + exp(-x))) / x with x = span / lasts: the average of an exponentially correlated process.
    """
    if lasts <= 0.0:
        return np.zeros_like(span)
    x = np.maximum(span / lasts, 1e-4)
    kept: Floats = np.sqrt(np.maximum(2.0 * (x + np.expm1(-x)), 0.0)) / x
    return np.minimum(kept, 1.0)


def _leaving(rates: Floats, states: Floats, queued: float) -> float:
    return float(rates @ states[1:]) + float(rates[-1]) * queued


def _balanced(leaving: Callable[[float], float], rate: float) -> float:
    """The theta at which as many leave as come; more leave at a larger one."""
    low = high = rate
    while leaving(high) < rate:
        high *= 2.0
    while leaving(low) > rate:
        low /= 2.0
    for _ in range(TURNS):
        middle = (low + high) / 2.0
        if leaving(middle) < rate:
            low = middle
        else:
            high = middle
    return high
