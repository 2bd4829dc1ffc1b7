"""How to buy what is needed hour by hour: reserved, spot or on demand.

What this is: the cheapest mix for a curve of needs, exact; pure. Who calls it: `sizing/`, `advise`. What it must never
do: count a spot machine that may not be there towards a promise.

Reserved machines are paid every hour, used or not, so one more is worth it while the share of hours that need it is
above its price over that on demand: the newsvendor's quantile (with 35 % off, 65 % of the hours). Over them, in each
hour, spot and on demand: of s spot machines only as many are counted as are live with the wanted probability. Within a
zone they go together: their number live is beta-binomial, with an intra-class correlation. What spot can't be counted
for is bought on demand for as long as it is needed. All on demand is one of the mixes tried, so no answer is dearer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import InputError

Floats = NDArray[np.float64]

HOURS = 730.0  # of a month: 8,760 / 12


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per machine-hour; None: not sold so. A machine is whatever the needs are counted in."""

    on_demand: float
    reserved: float | None = None
    spot: float | None = None


@dataclass(frozen=True, slots=True)
class SpotRules:
    """What spot machines can be counted on for. All defaults are assumed: no provider promises any of this."""

    zones: int = 3  # pools that are interrupted apart from each other
    there: float = 0.9  # share of the time in which a wanted machine is live
    together: float = 0.3  # correlation of two machines of a zone being live; 0: each by itself
    interruptions: float = 0.05  # of one machine, per hour
    restart: float = 0.25  # hours that an interruption costs: provisioning and loading weights, paid and idle
    wanted: float = 0.999  # probability, in each hour, that as many are live as are needed


@dataclass(frozen=True, slots=True)
class Mix:
    """What to buy for a curve of needs."""

    reserved: int  # every hour
    spot: float  # mean over the hours
    on_demand: float  # mean over the hours
    spot_most: int  # in the hour with most
    on_demand_most: int
    dollars: float  # a month
    all_on_demand: float  # dollars a month of buying each hour's need on demand, for comparison
    live: float  # the least, over the hours, of the probability that as many are live as are needed

    @property
    def saved(self) -> float:
        """The part of the bill on demand that it saves."""
        return 1.0 - self.dollars / self.all_on_demand if self.all_on_demand else 0.0


def mix(needs: Sequence[int], prices: Prices, rules: SpotRules | None = None) -> Mix:
    """The cheapest way to have what each hour needs; `needs` are machines in each hour of a typical day or week.

    Spot only with a price and `rules`. The scaling that follows the curve is taken as given (and as free).
    Raises `InputError` for a negative need or price, and for spot rules that are no probabilities.
    """
    _check(needs, prices, rules)
    most = max(needs, default=0)
    counted, layers = _layers(most, prices, rules)
    hours = np.bincount(np.array(needs, dtype=np.int64), minlength=most + 1) if len(needs) else np.zeros(1)
    hours = hours * HOURS / max(1, len(needs))
    cost = np.array([layer[0] for layer in layers])
    each = prices.reserved
    best, dollars = 0, float(hours @ cost)
    for reserved in range(1, most + 1 if each is not None else 0):
        over = np.maximum(np.arange(most + 1) - reserved, 0)
        total = HOURS * reserved * (each or 0.0) + float(hours @ cost[over])
        if total < dollars - 1e-9:
            best, dollars = reserved, total
    over = np.maximum(np.arange(most + 1) - best, 0)
    spot = np.array([layers[n][1] for n in over])
    rest = np.array([layers[n][2] for n in over])
    met = hours > 0
    return Mix(
        best,
        float(hours @ spot) / HOURS,
        float(hours @ rest) / HOURS,
        int(spot[met].max(initial=0)),
        int(rest[met].max(initial=0)),
        dollars,
        float(hours @ np.arange(most + 1)) * prices.on_demand,
        min((_live(counted, s, n - o) for n, s, o, m in zip(over, spot, rest, met, strict=True) if m), default=1.0),
    )


def break_even(prices: Prices) -> float | None:
    """The share of the hours above which a reserved machine is cheaper than one on demand; None when never."""
    if prices.reserved is None or prices.reserved >= prices.on_demand:
        return None
    return prices.reserved / prices.on_demand


def blended(on_demand: float, parts: Sequence[tuple[float, float]]) -> float:
    """The price of a machine-hour in a fixed mix: `parts` are (share, discount), the rest is on demand.

    `60 % reserved at 35 % off, rest on demand` is `[(0.6, 0.35)]`. Raises `InputError` when shares are over 100 %.
    """
    total = math.fsum(share for share, _ in parts)
    if total > 1 + 1e-9 or any(share < 0 or not 0 <= discount < 1 for share, discount in parts):
        said = ", ".join(f"{share:.0%} at {discount:.0%} off" for share, discount in parts)
        raise InputError(
            "bad-mix",
            f"a mix of `{said}` is not possible",
            "shares add up to 100 % at most, and discounts are below 100 %",
        )
    return on_demand * (1.0 - math.fsum(share * discount for share, discount in parts))


def week(mean: float, peak: float, weekend: float = 0.6) -> tuple[float, ...]:
    """Load of each hour of a week, Monday 0 h first: a daily wave, lower on Saturday and Sunday.

    exp(k sin), with k such that the largest hour is `peak` times the mean of all; `weekend` is the height of those two
    days over that of the others. The shape is assumed: a trace of a week or more is better.
    """
    if peak < 1 or mean < 0 or not 0 < weekend <= 1:
        raise InputError("bad-peak", f"a peak of `{peak:g}` x the mean is not possible", "it is 1x or more")
    hour = np.arange(168)
    wave = np.sin((hour % 24 - 9) / 24 * 2 * math.pi)  # highest at 15 h
    days = np.where(hour >= 120, weekend, 1.0)
    low, high = 0.0, 30.0
    flat = float(days.max() / days.mean())
    if peak <= flat:  # the weekend alone is a higher peak than was asked for: make it shallower
        depth = (7.0 / peak - 5.0) / 2.0
        return tuple((np.where(hour >= 120, depth, 1.0) * mean * peak).tolist())
    for _ in range(60):
        k = (low + high) / 2
        shape = days * np.exp(k * wave)
        low, high = (k, high) if shape.max() / shape.mean() < peak else (low, k)
    shape = days * np.exp(high * wave)
    return tuple((shape * mean / shape.mean()).tolist())


Counted = tuple[Floats, ...]
"""For each number of spot machines: the probability that at least 0, 1, ... of them are live."""


def _layers(most: int, prices: Prices, rules: SpotRules | None) -> tuple[Counted, list[tuple[float, int, int]]]:
    """The cheapest (dollars/h, spot, on demand) over the reserved ones, for each number of machines needed."""
    use = rules is not None and prices.spot is not None
    counted = _counted(2 * most + 2 * rules.zones if rules and use else 0, rules)
    sure = [int(np.flatnonzero(odds >= (rules.wanted if rules else 1.0))[-1]) for odds in counted]
    each = 0.0
    if rules is not None and prices.spot is not None:
        each = prices.spot * rules.there * (1.0 + rules.interruptions * rules.restart)
    layers = []
    for need in range(most + 1):
        ways = ((s * each + max(need - n, 0) * prices.on_demand, s, max(need - n, 0)) for s, n in enumerate(sure))
        layers.append(min(ways))
    return counted, layers


def _counted(most: int, rules: SpotRules | None) -> Counted:
    if rules is None:
        return (np.ones(1),)
    found = []
    for count in range(most + 1):
        live: Floats = np.ones(1)
        for zone in range(rules.zones):
            held = count // rules.zones + (zone < count % rules.zones)
            live = np.convolve(live, _beta_binomial(held, rules.there, rules.together))
        found.append(np.minimum(np.cumsum(live[::-1])[::-1], 1.0))
        found[-1][0] = 1.0
    return tuple(found)


@lru_cache(maxsize=4096)
def _beta_binomial(count: int, share: float, together: float) -> Floats:
    """Probabilities of 0..count live: binomial whose share is itself Beta, with intra-class correlation `together`."""
    if share >= 1.0 or share <= 0.0:
        odds = np.zeros(count + 1)
        odds[count if share >= 1.0 else 0] = 1.0
        return odds
    if together >= 1.0:
        odds = np.zeros(count + 1)
        odds[0] += 1.0 - share
        odds[count] += share
        return odds
    if together <= 0.0:
        return np.array([math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)])
    a, b = share * (1 - together) / together, (1 - share) * (1 - together) / together

    def beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return np.array(
        [
            math.exp(
                math.lgamma(count + 1)
                - math.lgamma(k + 1)
                - math.lgamma(count - k + 1)
                + beta(k + a, count - k + b)
                - beta(a, b)
            )
            for k in range(count + 1)
        ]
    )


def _live(counted: Counted, spot: int, needed: int) -> float:
    return 1.0 if needed <= 0 else float(counted[spot][needed])


def _check(needs: Sequence[int], prices: Prices, rules: SpotRules | None) -> None:
    if any(need < 0 for need in needs):
        raise InputError("bad-need", f"a need of `{min(needs)}` machines is negative", "needs are 0 or more")
    if any(price is not None and not price >= 0 for price in (prices.on_demand, prices.reserved, prices.spot)):
        raise InputError("bad-price", f"prices `{prices}` hold a negative one", "mainspring catalog prices")
    if rules is not None and not (
        rules.zones >= 1
        and 0 <= rules.there <= 1
        and 0 <= rules.together <= 1
        and 0 <= rules.wanted <= 1
        and rules.interruptions >= 0
        and rules.restart >= 0
    ):
        raise InputError(
            "bad-spot", f"spot rules `{rules}` are not possible", "shares lie in 0..1, there is a zone at least"
        )
