"""How soon a stage of a rollout sees what is wrong with a new version: each of the live loop's tests, worked out.

What this is: the tests of errors and times as counts that reach a boundary (`decide/detect.py`), at the traffic of a
stage; pure. Who calls it: `decide/soak.py`. What it must never do: have a test, or a level, of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np

from mainspring.decide.arms import width_of
from mainspring.decide.detect import Counts, Evidence, Floats, boundary, looks, passage
from mainspring.decide.levels import level
from mainspring.decide.sequential import FIRST, SERIOUS, ratio_evidence, share_above
from mainspring.decide.terms import Terms
from mainspring.decide.times import BEFORE, BLOCK, SLOW
from mainspring.decide.times import SERIOUS as SERIOUS_TIMES
from mainspring.decide.waves import FRESH_MOST

POWER = 0.9  # the chance with which something is called detected
MOST_TRIALS = 2_000_000  # that are followed: who has more sees what there is to see long before
TINY = 1e-300  # an e-value that is 0 in floating point
SHARES = (*(m * 10.0**e for e in range(-5, 0) for m in (1, 2, 5)), 1.0)
"""True shares of errors that are asked about."""
SLOWER = (1.1, 1.2, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Factors on all times that are asked about."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A stage of a rollout and the traffic that it meets."""

    rate: float  # requests/s of the endpoint, all regions together; 0: not known
    share: float  # of the requests of its regions that go to the new version
    seconds: float
    part: float = 1.0  # of the traffic that its regions have
    region: str = ""  # the one region; "": all of them
    mirror: bool = False  # nobody sees the new version's answers

    @property
    def per_second(self) -> float:
        """Requests/s that the new version gets."""
        return self.rate * self.part * self.share

    @property
    def requests(self) -> int:
        """Requests that the new version gets in all."""
        return int(self.per_second * self.seconds + 1e-9)

    @property
    def control(self) -> int:
        """Requests that the old version gets in the same regions and time."""
        share = 0.0 if self.mirror else self.share
        return int(self.rate * self.part * (1.0 - share) * self.seconds + 1e-9)


@dataclass(frozen=True, slots=True)
class Sight:
    """Something that is wrong with the new version, and how soon it is given up for that."""

    size: float  # a share of errors, or a factor on all times
    chance: float  # of being seen in the stage's time
    median: float  # seconds; infinite where the chance is under a half


def error_sights(canary: Canary, terms: Terms, usual: float) -> tuple[Sight, ...]:
    """Each share of errors that is too many, and how soon it is seen; `usual` is the old version's share."""
    return _sights(SHARES, _error_tests(canary, terms, usual), canary.seconds) if canary.requests else ()


def slow_sights(canary: Canary, terms: Terms, p50: float, p95: float) -> tuple[Sight, ...]:
    """Each factor on all times that is too slow, and how soon it is seen; p50 and p95 are the old one's, seconds."""
    if not canary.requests or not 0 < p50 <= p95 < math.inf:
        return ()
    return _sights(SLOWER, _slow_tests(canary, terms, p50, p95), canary.seconds)


def smallest(sights: tuple[Sight, ...]) -> Sight | None:
    """The smallest that is seen with 90 %, as all larger ones are; None when none is."""
    found = None
    for sight in reversed(sights):
        if sight.chance < POWER:
            break
        found = sight
    return found


def over(p50: float, p95: float, limit: float, slower: float = 1.0) -> float:
    """The share of requests over a limit when all times are longer by a factor; lognormal through p50 and p95."""
    sigma = math.log(p95 / p50) / NormalDist().inv_cdf(0.95)
    if sigma <= 0:
        return 1.0 if p95 * slower > limit else 0.0
    return 1.0 - NormalDist().cdf(math.log(limit / slower / p50) / sigma)


@dataclass(frozen=True, slots=True)
class _Test:
    """One of the live loop's tests, as a count of trials that reaches a boundary."""

    allowed: float  # sizes up to here are within its bound
    trials: Counts
    least: Counts
    met: Callable[[float], tuple[float, float]]  # from a true size: the chance that a trial is bad, and trials/s
    delay: float = 0.0  # seconds before what comes counts

    def sight(self, size: float, seconds: float) -> Sight:
        """How it sees something of that size."""
        bad, rate = self.met(size)
        found, left = passage(self.trials, self.least, bad), seconds - self.delay
        return Sight(size, found.by(rate, left), self.delay + found.median(rate, left))


def _sights(sizes: tuple[float, ...], tests: list[_Test], seconds: float) -> tuple[Sight, ...]:
    """Each size that is too large for a test, as the one that is quickest sees it."""
    found = []
    for size in sizes:
        mine = [test.sight(size, seconds) for test in tests if size > test.allowed * (1 + 1e-9)]
        if mine:
            found.append(Sight(size, max(one.chance for one in mine), min(one.median for one in mine)))
    return tuple(found)


def _error_tests(canary: Canary, terms: Terms, usual: float) -> list[_Test]:
    """The tests of errors: each bound by itself."""
    found, mine, old = [], canary.per_second, canary.rate * canary.part
    name, old = ("mirrored errors over control", old) if canary.mirror else ("errors over control", old - mine)
    for bound in terms.errors:
        if not bound.over:
            found.append(_alone(canary, terms, "errors", bound.value, bound.value, lambda size: size))
        elif canary.control:
            ratio = 1 + bound.value
            rates = partial(_rates, mine, old, lambda size: size, usual)
            evidence = partial(_beside, ratio, mine / (mine + old), SERIOUS, part=FIRST)
            test = _test(canary, terms, name, ratio * usual, evidence, rates)
            found.append(replace(test, delay=width_of(canary.seconds)))  # the first slice counts as one error at most
    return found


def _slow_tests(canary: Canary, terms: Terms, p50: float, p95: float) -> list[_Test]:
    """The tests of times: each bound by itself. What is counted is how many take longer than the bound.

    Beside the control: fresh replicas of the old version get as many requests as the new one, where it gets a third at
    most, and their times are what is compared. Counted is from when the control's own p95 is known. Half of the bet is
    on all lengths of prompts together, which is what is reckoned with.
    """
    found = []
    for bound in terms.p95:
        limit = (1 + bound.value) * p95 if bound.over else bound.value
        slow = partial(over, p50, p95, limit)
        if not bound.over:
            found.append(_alone(canary, terms, "p95", SLOW, limit / p95, slow))
        elif canary.control:
            mine = canary.per_second
            old = mine if canary.share <= FRESH_MOST else canary.rate * canary.part - mine
            rates = partial(_rates, mine, old, slow, SLOW)
            evidence = partial(_beside, 1.0, mine / (mine + old), SERIOUS_TIMES, part=0.5)
            test = _test(canary, terms, "p95 over control", limit / p95, evidence, rates)
            found.append(replace(test, delay=BEFORE / old + BLOCK / min(mine, old)))
    return found


def _alone(
    canary: Canary, terms: Terms, name: str, bound: float, allowed: float, share: Callable[[float], float]
) -> _Test:
    """The test of a share of the new version's requests against a bound: a trial is a request."""
    inside = min(max(bound, 1e-6), 1.0 - 1e-6)  # `0%` and `100%` are bounds like others
    rates = partial(_rates_alone, canary.per_second, share)
    return _test(
        canary, terms, name, allowed, lambda bad, total: share_above(bad, total, inside) + math.log(FIRST), rates
    )


def _test(
    canary: Canary, terms: Terms, name: str, allowed: float, evidence: Evidence,
    met: Callable[[float], tuple[float, float]],
) -> _Test:  # fmt: skip
    """A test at its part of alpha, for as many trials as may come when everything is bad."""
    mean = met(max(SLOWER))[1] * canary.seconds
    trials = looks(int(min(MOST_TRIALS, mean + 6.0 * math.sqrt(mean) + 10.0)))
    return _Test(allowed, trials, boundary(evidence, 1.0 / level(terms, name), trials), met)


def _rates_alone(per_second: float, share: Callable[[float], float], size: float) -> tuple[float, float]:
    return min(1.0, share(size)), per_second


def _rates(mine: float, old: float, share: Callable[[float], float], usual: float, size: float) -> tuple[float, float]:
    """Of bad requests of both arms: the share that is the new version's, and how many come in a second."""
    own, rest = mine * min(1.0, share(size)), old * usual
    return (own / (own + rest) if own + rest else 0.0), own + rest


def _beside(ratio: float, weight: float, serious: float, mine: Counts, everything: Counts, part: float = 1.0) -> Floats:
    """The logarithm of the e-value beside the control, after `mine` of all bad ones: as in one slice, at one weight.

    `part` of the money is bet so; what is bet on faults that begin later is left out, so a time is rather too long.
    """
    rest = (everything - mine)[..., None]
    value = ratio_evidence(mine[..., None], 0, rest, 0, ratio, weight, serious=serious)
    found: Floats = np.log(np.maximum(part * value, TINY))
    return found
