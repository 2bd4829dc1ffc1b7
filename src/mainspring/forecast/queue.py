"""What users of one replica see when requests come as they please: percentiles with an interval, and what binds.

What this is: queueing on top of `forecast/steady.py`; pure. Who calls it: `sizing/`, the plan, `decide/soak.py`.
What it must never do: price anything, or look at more than one replica.

How. `forecast/curve.py` holds what the replica does with each number of requests in its batch; `forecast/crowd.py` says
how often each number is met under open arrivals. A request of o tokens then takes

    wait for a slot + its own first token, were it alone + others' prompts in the way + (o - 1) x time per token

where the time per token is averaged over as long as the request lasts: short requests meet good and bad moments, long
ones their mean. Others' prompts delay the first token by at least rho s / (1 - rho) x (Ca2 + Cs2 + 1) / 2: Kingman's
formula for prompts that take s each, and as much again for the prompts of one's own step; taken as exponential.
Percentiles are read off the mixture over lengths and moments: nothing is drawn.

Held against simulations of an engine step by step (`tests/forecast/test_queue.py`): medians and 95th percentiles within
10 % with Poisson arrivals and within 15 % with a variability of 4, up to 80 % of the largest rate.

The interval. It holds the error of the performance model (90 % of it, from `Steady.spread`, as if every step were
slowed alike) and that of this queue (`QUEUE_SPREAD`): the forecast is made again with all times longer and shorter by
so much. So it widens near the largest rate, where a little slower means a lot more waiting, and has no upper end where
the slower replica would be overrun. It does not hold: another traffic than was said, a router that loads replicas
unevenly, another version of the engine.

Variability is that of the gaps between arrivals at this replica (`thinned` for one of several), and the rate is taken
to be steady. Real traffic is neither: replayed through the same simulated engine, the Azure conversation hour has a p95
within 10 % of this up to a third of the largest rate, and 1.8 times this at 60 %, for its busiest minute is 1.5 times
its mean; the code hour (variability 173) has twice this and more. The rate of the busiest minute gives a bound from
above for the first; nothing but a replay in the twin does for the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.forecast.coefficients import Coefficients
from mainspring.forecast.crowd import Crowd, averaged, crowd, lasting
from mainspring.forecast.curve import SLOTS, Curve, Floats, curve
from mainspring.forecast.lengths import EDGES
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Arrivals, Interval, Lengths, Response, Setup, Steady
from mainspring.forecast.steady import steady

QUEUE_SPREAD = 0.05
"""Standard deviation of log(simulated / forecast) of this queue, from its tests."""

Z90 = 1.645  # 90 % of a normal lies within so many standard deviations
SHARES = (0.5, 0.95, 0.99)
LEAST = 1e-9  # requests/s: a lone request


def curve_of(setup: Setup, lengths: Lengths, coefficients: Coefficients, slots: int = SLOTS) -> Curve:
    """The curve of a replica; ask once and solve for many rates."""

    def service(prompt: float, output: float, concurrency: float) -> Steady:
        return steady(setup, prompt, output, concurrency, coefficients, cached=lengths.cached)

    return curve(service, lengths, slots)


def respond(
    setup: Setup, arrivals: Arrivals, lengths: Lengths, coefficients: Coefficients, *, slots: int = SLOTS
) -> Response:
    """What users of one replica see. At or above the largest rate `stable` is False and all times are infinite."""
    return solve(curve_of(setup, lengths, coefficients, slots), arrivals)


def solve(known: Curve, arrivals: Arrivals) -> Response:
    """The same for a curve that is there already."""
    value, low, high = (_seen(each, arrivals) for each in (known, *_edges(known)))

    def interval(of: Callable[[_Seen], float]) -> Interval:
        return Interval(of(value), min(of(low), of(value)), max(of(high), of(value)))

    return Response(
        p50=interval(lambda s: s.whole[0]),
        p95=interval(lambda s: s.whole[1]),
        p99=interval(lambda s: s.whole[2]),
        ttft=interval(lambda s: s.ttft),
        tpot=interval(lambda s: s.tpot),
        running=value.running,
        waiting=value.waiting,
        utilisation=arrivals.rate / float(known.rates[-1]),
        stable=math.isfinite(value.tpot),
        rests=known.at(value.running),
    )


def thinned(arrivals: Arrivals, replicas: float) -> Arrivals:
    """What comes to each of so many replicas when a router picks one at random: rarer, and nearer to Poisson.

    Ca2 becomes 1 + (Ca2 - 1) / replicas: a geometric sum of gaps. A router that looks at the load does better.
    """
    return Arrivals(arrivals.rate / replicas, 1.0 + (arrivals.variability - 1.0) / replicas)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The largest rate of one replica that keeps a promise."""

    rate: float | None  # requests/s; None: a lone request breaks it already
    binds: str  # "p95", "p99", "ttft", "tpot" of the promise, or "memory" or "throughput" when none of them does
    response: Response | None = None  # at that rate
    reason: str = ""  # why there is none, with the numbers
    longest: dict[int, float] | None = None  # output tokens that meet the promise, by batch (1 and 16); 0: none


def capacity(
    setup: Setup,
    lengths: Lengths,
    coefficients: Coefficients,
    promise: Promise,
    *,
    variability: float = 1.0,
    slots: int = SLOTS,
) -> Capacity:
    """The largest rate that keeps the timed limits of a promise, by the forecast itself, not by its interval.

    `availability` is left to `decide/availability.py`.
    """
    return most(curve_of(setup, lengths, coefficients, slots), promise, variability=variability)


def most(known: Curve, promise: Promise, *, variability: float = 1.0, seen: bool = True) -> Capacity:
    """The same for a curve that is there already, to a thousandth of the replica's largest rate; without `seen` the
    response is left out, which takes half the time.
    """
    limits = promise.timed
    alone = _broken(_seen(known, Arrivals(LEAST)), limits)  # a lone request has no queue, however they come
    if alone:
        return _none(known, limits, alone)
    top = float(known.rates[-1])
    low, high = 0.0, top
    binds = known.binds if known.binds == "memory" else "throughput"
    while high - low > 1e-3 * top:
        middle = (low + high) / 2
        if _kept(_mixture(known, Arrivals(middle, variability)), limits):
            low = middle
        else:
            high = middle
    if low <= 0.0:
        near = _broken(_seen(known, Arrivals(high, variability)), limits) or {binds: 0.0}
        name = next(iter(near))
        return Capacity(None, name, None, f"{name} is kept for a lone request only, not at {high:.2g} requests/s")
    broken = _broken(_seen(known, Arrivals(high, variability)), limits) if high < top else {}
    if broken:
        binds = max(broken, key=lambda name: broken[name] / limits[name])
    return Capacity(low, binds, solve(known, Arrivals(low, variability)) if seen else None)


def longest_output(known: Curve, name: str, limit: float, batch: int) -> float:
    """Output tokens of a request that meets a limit on p95 or p99 with so many in the batch; 0 when none does."""
    number = min(batch, known.slots)
    first = float(known.alone @ np.array(known.lengths.weight)) + float(known.extra[number - 1])
    if name not in {"p95", "p99"} or first > limit:
        return 0.0
    return 1.0 + (limit - first) / float(known.tpot[number - 1])


@dataclass(frozen=True, slots=True)
class _Seen:
    """A forecast without its interval. Seconds."""

    whole: tuple[float, ...]  # percentiles SHARES of the whole request
    mean: float  # of the whole request
    ttft: float  # 95th percentile
    tpot: float  # mean
    running: float
    waiting: float


OVERRUN = _Seen((math.inf,) * len(SHARES), math.inf, math.inf, math.inf, math.inf, math.inf)


def _edges(known: Curve) -> tuple[Curve, Curve]:
    """The curve with all times shorter, and with all longer, by what the interval holds."""
    first = math.exp(Z90 * math.hypot(known.spread_ttft, QUEUE_SPREAD))
    rest = math.exp(Z90 * math.hypot(known.spread, QUEUE_SPREAD))
    return known.slower(1 / first, 1 / rest), known.slower(first, rest)


@dataclass(frozen=True, slots=True)
class _Mixture:
    """All that a request may meet: times that are known, exponential delays on top, and how likely each pair is."""

    whole: Floats  # s, of the whole request without the delay
    first: Floats  # s, of the first token without the delay
    delays: Floats  # s, means
    odds: Floats
    tpot: float
    running: float
    wait: float


def _seen(known: Curve, arrivals: Arrivals) -> _Seen:
    met = _mixture(known, arrivals)
    if met is None:
        return OVERRUN
    return _Seen(
        _quantiles(met.whole, met.delays, met.odds, SHARES),
        float((met.odds * (met.whole + met.delays)).sum() / met.odds.sum()),
        _quantiles(met.first, met.delays, met.odds, (0.95,))[0],
        met.tpot,
        met.running,
        met.wait,
    )


def _kept(met: _Mixture | None, limits: dict[str, float]) -> bool:
    """Whether all limits are met: their shares of requests are within them, which needs no percentile to be found."""
    if met is None:
        return False
    for name, limit in limits.items():
        if name == "tpot":
            if met.tpot > limit:
                return False
            continue
        start, share = (met.first, 0.95) if name == "ttft" else (met.whole, 0.95 if name == "p95" else 0.99)
        late = np.maximum(limit - start, 0.0) / np.maximum(met.delays, 1e-9)
        if float((-np.expm1(-late) * met.odds).sum()) < share * float(met.odds.sum()):
            return False
    return True


def _mixture(known: Curve, arrivals: Arrivals) -> _Mixture | None:
    """What requests meet; None where the replica is overrun."""
    rates, rate = known.rates, max(arrivals.rate, LEAST)
    if rate >= float(rates[-1]):
        return None
    weight, output = np.array(known.lengths.weight), np.array(known.lengths.output)
    found = crowd(rates, rate, *_variabilities(known, arrivals.variability))
    number, share = _moments(found)
    extra = np.maximum(known.extra[number - 1], _behind_prompts(known, rate, arrivals.variability))
    mean = float(found.arriving @ known.tpot) + found.waits * float(known.tpot[-1])
    kept = averaged(known.alone + (output - 1.0) * mean, lasting(found, known.tpot, rate))
    each = mean + kept[:, None] * (known.tpot[number - 1][None, :] - mean)
    wait = found.queue / rate
    # the last moment is that of the requests that wait for a slot: of their two delays the longer is the random one
    last = np.arange(len(number)) == len(number) - 1
    first = known.alone[:, None] + np.where(last, extra, 0.0)[None, :]
    delay = np.where(last, wait / max(found.waits, 1e-300), extra)
    odds = weight[:, None] * share[None, :]
    delays = np.broadcast_to(delay, odds.shape)
    return _Mixture(
        first + (output - 1.0)[:, None] * each,
        first,
        delays,
        odds,
        mean,
        found.running + rate * float(share @ (extra - known.extra[number - 1])),
        wait,
    )


def _moments(found: Crowd) -> tuple[NDArray[np.intp], Floats]:
    """Numbers in the batch that requests meet, in bins fine in the tail, with shares; last: those that wait."""
    total = np.cumsum(found.arriving)
    ends = np.searchsorted(total, np.array(EDGES[1:]) * total[-1] * (1 - 1e-12))
    cuts = np.unique(np.minimum(ends, found.slots - 1))
    numbers = found.arriving * np.arange(1, found.slots + 1)
    sums = np.diff(total[cuts], prepend=0.0)
    means = np.diff(np.cumsum(numbers)[cuts], prepend=0.0) / np.maximum(sums, 1e-300)
    number = np.clip(np.rint(means).astype(np.intp), 1, found.slots)
    return np.append(number, found.slots), np.append(sums, found.waits)


def _variabilities(known: Curve, arrivals: float) -> tuple[float, float]:
    """The z and q of `forecast/crowd.py`, at the times that the largest batch gives."""
    weight, output = np.array(known.lengths.weight), np.array(known.lengths.output)
    times = known.alone + known.extra[-1] + (output - 1.0) * known.tpot[-1]
    order = np.argsort(times)
    times, weight = times[order], weight[order]
    mean = float(times @ weight)
    above = 1.0 - np.concatenate([[0.0], np.cumsum(weight)[:-1]])
    shorter = float(np.diff(times, prepend=0.0) @ above**2)  # E[min(S, S')]
    cs2 = max(0.0, float(times**2 @ weight) / mean**2 - 1.0)
    return 1.0 + (arrivals - 1.0) * shorter / mean, (arrivals + cs2) / 2.0


def _behind_prompts(known: Curve, rate: float, variability: float) -> float:
    """Mean seconds that a prompt waits for other prompts; Cs2 is that of the prompts' times."""
    busy = min(rate * known.prompt, 0.95)
    weight = np.array(known.lengths.weight)
    cs2 = max(0.0, float(known.alone**2 @ weight) / float(known.alone @ weight) ** 2 - 1.0)
    return busy * known.prompt / (1.0 - busy) * (variability + cs2 + 1.0) / 2.0


def _quantiles(start: Floats, delay: Floats, odds: Floats, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Quantiles of a mixture of `start` plus an exponential of mean `delay`, by bisection of its distribution."""
    there = odds > 1e-12
    start, odds = start[there], odds[there] / float(odds[there].sum())
    steep = 1.0 / np.maximum(delay[there], 1e-9)
    low = np.full(len(shares), float(start.min()))
    high = np.full(len(shares), float((start + 12.0 / steep).max()))
    wanted = np.array(shares)
    for _ in range(26):
        middle = (low + high) / 2
        late = np.maximum(middle[:, None] - start[None, :], 0.0) * steep[None, :]
        under = (-np.expm1(-late) @ odds) < wanted
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return tuple(high.tolist())


def _broken(seen: _Seen, limits: dict[str, float]) -> dict[str, float]:
    """The limits that are not met, with what is seen instead."""
    values = {"p95": seen.whole[1], "p99": seen.whole[2], "ttft": seen.ttft, "tpot": seen.tpot}
    return {name: values[name] for name, limit in limits.items() if values[name] > limit}


def _none(known: Curve, limits: dict[str, float], alone: dict[str, float]) -> Capacity:
    """Why not even a lone request keeps the promise, and the outputs that would."""
    name = max(alone, key=lambda each: alone[each] / limits[each])
    reason = f"{name} {alone[name]:.3g} s of a lone request is over the limit of {limits[name]:.3g} s"
    longest = {batch: longest_output(known, name, limits[name], batch) for batch in (1, 16)}
    if name in {"p95", "p99"}:
        reason += (
            f": it allows at most about {longest[1]:,.0f} output tokens for a lone request"
            f", {longest[16]:,.0f} at batch 16"
        )
    return Capacity(None, name, None, reason, longest)
