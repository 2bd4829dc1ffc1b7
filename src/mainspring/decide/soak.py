"""What a canary can and cannot find out at this traffic: the soak calculator.

What this is: exact statistics of counts; pure. Who calls it: the plan. What it must never do: take "nothing bad was
seen" for "nothing is bad".

Two questions, answered apart. Abort: is the new version surely worse than allowed? Promote: is it surely as good as
promised? Between them lies hold. Both use tests that stay valid at any look (`decide/sequential.py`): the counts for
abort are those that the live loop acts on (`decide/rollout.py`). The count for one look, fixed beforehand, is beside.

Requests are taken as independent. Those of one user or one bad machine are not: then it takes more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from mainspring.decide.rollout import ALPHA
from mainspring.decide.sequential import evidence_above, evidence_below

CONFIDENCE = 0.95  # of a promotion
POWER = 0.9  # with which something is called seen
SLOWER = 1.2  # the regression of p95 that is asked about
MANY = 10**9  # requests: more is never


LARGE = 20_000
"""Counts from which a binomial tail is taken from the normal law."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A stage of a rollout and the traffic that it meets."""

    rate: float  # requests/s of the endpoint, all regions together
    share: float  # of the requests of its regions that go to the new version
    seconds: float
    part: float = 1.0  # of the traffic that its regions have

    @property
    def per_second(self) -> float:
        """Requests/s that the new version gets."""
        return self.rate * self.part * self.share

    @property
    def requests(self) -> int:
        """Requests that the new version gets in all."""
        return int(self.per_second * self.seconds + 1e-9)


@dataclass(frozen=True, slots=True)
class Soak:
    """What the stage can say. Shares are of requests that fail; hours are at the stage's share and regions."""

    requests: int  # of the new version
    control: int  # of the old version in the same regions and time
    objective: float  # share of errors that is promised
    abort: float  # share of errors over which it is to be aborted
    certifies: float  # the smallest share that no error at all would certify, at any look
    certifies_fixed: float  # the same at one look fixed beforehand
    needed: int  # requests without an error to certify the objective, at any look
    needed_fixed: int
    hours: float  # for `needed`
    hours_everywhere: float  # the same with this share in all regions
    share: float  # of these regions' requests, to certify in the stage's time; over 1: impossible
    promote_up_to: int  # errors at the end with which it is promoted; -1: not even with none
    abort_from: int  # errors at the end with which it is aborted
    detects: float  # the smallest true share of errors that is seen with 90 %
    slow_needed: int | None = None  # requests until p95 longer by a fifth is seen with 90 %; None: not asked
    slow_hours: float | None = None

    @property
    def certain(self) -> bool:
        """Whether the stage can certify the objective at all."""
        return self.promote_up_to >= 0

    def says(self) -> tuple[str, ...]:
        """What it comes to, in sentences."""
        if not self.requests:
            return ("no request reaches the new version in this time: nothing can be said of it",)
        sees = f"{self.requests:,} requests are too few to abort, even if all of them fail"
        if self.detects < 1:
            sees = (
                f"{self.requests:,} requests notice an error share of {self.detects * 100:.2g} % or more, nine times "
                f"in ten, and are aborted from {self.abort_from} errors on"
            )
        if self.certain:
            sure = f"they certify errors below {self.objective * 100:g} % with up to {self.promote_up_to} errors"
        else:
            share = f"{self.share:.0%} of the requests here" if self.share <= 1 else "more requests than there are here"
            sure = (
                f"they cannot certify errors below {self.objective * 100:g} %: without any error they certify "
                f"{self.certifies * 100:.2g} %; "
                f"that takes {self.needed:,} requests ({self.needed_fixed:,} at one look): {self.hours:,.1f} h so, "
                f"{self.hours_everywhere:,.1f} h in all regions, or {share} in the time given"
            )
        if self.slow_needed is None:
            return sees, sure
        if self.slow_needed >= MANY:
            return sees, sure, "a p95 longer by a fifth is not seen"
        return (
            sees,
            sure,
            f"a p95 longer by a fifth is seen after {self.slow_needed:,} requests, {self.slow_hours:,.1f} h",
        )


Verdict = Literal["promote", "hold", "abort"]


def soak(canary: Canary, objective: float, *, abort: float | None = None, p50: float = 0.0, p95: float = 0.0) -> Soak:
    """What a canary can find out about an objective on errors (0.001 for 99.9 %) and, with p50 and p95, about latency.

    `abort` is the share of errors in `abort: {errors: ...}`; without one, or with one that any or no errors reach, it
    is the objective, which is more than 0 and less than 1.
    """
    bound = abort if abort is not None and 0.0 < abort < 1.0 else objective
    count = canary.requests
    needed = certain_after(objective)
    hours = needed / canary.per_second / 3600.0 if canary.per_second > 0 else math.inf
    slow = slow_after(p50, p95) if 0 < p50 <= p95 < math.inf else None
    others = 1.0 - canary.share
    return Soak(
        count,
        int(canary.rate * canary.part * others * canary.seconds + 1e-9),
        objective,
        bound,
        certified(count),
        1.0 - (1.0 - CONFIDENCE) ** (1.0 / count) if count else 1.0,
        needed,
        math.ceil(math.log(1.0 - CONFIDENCE) / math.log1p(-objective)),
        hours,
        hours * canary.part,
        needed / (canary.rate * canary.part * canary.seconds)
        if canary.rate * canary.part * canary.seconds
        else math.inf,
        promoted_up_to(count, objective),
        aborted_from(count, bound),
        seen_from(count, bound),
        slow,
        slow / canary.per_second / 3600.0 if slow is not None and canary.per_second > 0 else None,
    )


def verdict(bad: int, total: int, objective: float, abort: float) -> Verdict:
    """Promote, hold or abort after `bad` of `total`; no requests are a reason to hold."""
    if total <= 0:
        return "hold"
    if evidence_above(bad, total, abort) >= 1.0 / ALPHA:
        return "abort"
    return "promote" if evidence_below(bad, total, objective) >= 1.0 / (1.0 - CONFIDENCE) else "hold"


def certain_after(objective: float, errors: int = 0) -> int:
    """Requests, `errors` of them bad, after which the share of errors is certainly below `objective`, at any look."""
    enough = 1.0 / (1.0 - CONFIDENCE)
    return _first(lambda n: evidence_below(errors, max(n, errors), objective) >= enough)


def certified(requests: int) -> float:
    """The smallest share of errors that so many requests without one certify, at any look; 1 when none do."""
    enough = 1.0 / (1.0 - CONFIDENCE)
    low, high = 1e-12, 1.0 - 1e-9
    if requests <= 0 or evidence_below(0, requests, high) < enough:
        return 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if evidence_below(0, requests, middle) >= enough else (middle, high)
    return high


def promoted_up_to(requests: int, objective: float) -> int:
    """The most errors among so many requests with which the objective is certified; -1 when none are few enough."""
    enough = 1.0 / (1.0 - CONFIDENCE)
    return _first(lambda bad: bad > requests or evidence_below(bad, requests, objective) < enough) - 1


def aborted_from(requests: int, bound: float) -> int:
    """The fewest errors among so many requests that abort; one more than there are requests when none do."""
    return _first(lambda bad: bad > requests or evidence_above(bad, requests, bound) >= 1.0 / ALPHA)


def seen_from(requests: int, bound: float) -> float:
    """The smallest true share of errors that is aborted with a probability of 90 % or more; 1 when none is.

    Counted at the last look alone: earlier looks only add to it.
    """
    least = aborted_from(requests, bound)
    if least > requests:
        return 1.0
    low, high = bound, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if at_least(least, requests, middle) >= POWER else (middle, high)
    return high


def slow_after(p50: float, p95: float, slower: float = SLOWER) -> int:
    """Requests until times longer by a factor are seen with 90 %: more than 5 % over the old version's p95.

    The shape between p50 and p95 is lognormal. The old version's p95 is taken as known: it has far more requests.
    """
    share = over(p50, p95, p95, slower)
    if share <= 0.05:
        return MANY
    return _first(lambda n: n > 0 and at_least(aborted_from(n, 0.05), n, share) >= POWER)


def slowdown_seen(requests: int, p50: float, p95: float, limit: float) -> float:
    """The smallest factor on all times that is seen with 90 % against a limit in seconds on p95; inf when none is."""
    share = seen_from(requests, 0.05)
    if share >= 1.0 - 1e-9:
        return math.inf
    return limit / _at(p50, p95, 1.0 - share)


def over(p50: float, p95: float, limit: float, slower: float = 1.0) -> float:
    """The share of requests over a limit when all times are longer by a factor; lognormal through p50 and p95."""
    sigma = math.log(p95 / p50) / NormalDist().inv_cdf(0.95)
    if sigma <= 0:
        return 1.0 if p95 * slower > limit else 0.0
    return 1.0 - NormalDist().cdf(math.log(limit / slower / p50) / sigma)


def at_least(bad: int, total: int, share: float) -> float:
    """The probability of `bad` or more of `total` when each is so with probability `share`."""
    if bad <= 0:
        return 1.0
    if bad > total or share <= 0.0:
        return 0.0
    if share >= 1.0:
        return 1.0
    if bad > LARGE:  # the normal law with a continuity correction: off by less than 1e-3 there
        spread = math.sqrt(total * share * (1.0 - share))
        return 1.0 - NormalDist().cdf((bad - 0.5 - total * share) / spread)
    number = np.arange(1, bad)
    steps = np.log((total - number + 1) / number) + math.log(share) - math.log1p(-share)
    logs = total * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    return float(max(0.0, 1.0 - np.exp(logs).sum()))


def _at(p50: float, p95: float, share: float) -> float:
    """The time that `share` of the requests do not exceed; lognormal through p50 and p95."""
    normal = NormalDist()
    return p50 * math.exp(math.log(p95 / p50) * normal.inv_cdf(share) / normal.inv_cdf(0.95))


def _first(enough: Callable[[int], bool]) -> int:
    """The first whole number that is enough, where all later ones are; `MANY` when none is."""
    if enough(0):
        return 0
    high = 1
    while not enough(high):
        if high >= MANY:
            return MANY
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
