"""What comes to one of several replicas: smoother than all the traffic, the more of them there are.

What this is: `queue.thinned` for as many replicas as the peak takes, which depends on what each carries, which depends
on how smooth its part is; pure. Who calls it: `forecasts.py`. What it must never do: forecast: what a replica carries
at a variability is asked of the function that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mainspring.forecast import queue
from mainspring.forecast.setup import Arrivals
from mainspring.sizing.question import Demand

STEP = 2.0**0.25
"""Ratio of the numbers of replicas among which arrivals are taken as thinned: the lower of two neighbours counts."""

STEPS = 80
"""Of them: up to a million replicas."""


def thinned(demand: Demand, rate: float) -> float:
    """Variability of what comes to each of the replicas that share the demand's peak, `rate` requests/s each."""
    replicas = max(demand.at_peak / rate, 1.0) if rate > 0 else math.inf
    return queue.thinned(Arrivals(0.0, demand.variability), replicas).variability


def shared(demand: Demand, rate_of: Callable[[float], float]) -> tuple[float, float]:
    """What each of the fewest replicas that carry the peak carries, requests/s, and a variability at which it does.

    `rate_of` says what one carries at a variability, and never more at a higher one. The number of replicas, peak over
    rate, never falls as the peak grows: so more traffic never makes a fleet cheaper.
    """
    peak, whole = demand.at_peak, demand.variability
    first = rate_of(whole)
    if whole == 1.0 or first <= 0 or peak <= first:
        return first, whole

    def at(step: int) -> float:
        return queue.thinned(Arrivals(0.0, whole), STEP**step).variability

    # As many as with the least and the most that one could carry: few steps are left between them.
    least, most = sorted((first, rate_of(1.0)))
    low = max(0, min(math.floor(math.log(peak / most, STEP)) - 1, STEPS - 1))
    high = max(low + 1, min(math.ceil(math.log(peak / least, STEP)), STEPS))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if STEP**middle * rate_of(at(middle)) >= peak else (middle, high)
    if whole < 1.0:  # thinning makes smooth arrivals rougher: the upper of two neighbours counts
        rough = at(high) if high < STEPS else 1.0
        return rate_of(rough), rough
    return max(rate_of(at(low)), min(peak / STEP**high, rate_of(at(high)))), at(low)
