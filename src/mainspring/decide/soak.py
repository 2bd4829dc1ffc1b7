"""What a stage of a rollout can and cannot find out at this traffic: the soak calculator.

What this is: exact statistics of counts, in figures and sentences; pure. Who calls it: the plan, the loop when a
rollout begins, `mainspring rollout soak`. What it must never do: take "nothing bad was seen" for "nothing is bad".

Two questions, answered apart. Abort: is the new version surely worse than allowed, and how soon is that seen? Promote:
is it surely as good as promised? Between them lies hold. Both are answered for the tests that the live loop acts on
(`decide/sequential.py`), which may be looked at always; the count for one look, fixed beforehand, is beside.

Requests are taken as independent. Those of one user or one bad machine are not: then it takes more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from mainspring.decide.checks import percent
from mainspring.decide.sequential import evidence_below, share_below
from mainspring.decide.sights import Canary, Sight, error_sights, over, slow_sights, smallest
from mainspring.decide.terms import Terms
from mainspring.decide.times import SLOW

__all__ = ["Canary", "Sight", "Soak", "certain_after", "certified", "promoted_up_to", "soak", "timed_after"]

MANY = 10**9  # requests: more is never
USUAL = 0.001  # share of errors of an old version of which nothing is known or promised


@dataclass(frozen=True, slots=True)
class Soak:
    """What the stage can say. Hours are at the stage's share and regions."""

    canary: Canary
    requests: int  # of the new version
    control: int  # of the old version, beside it
    usual: float  # share of errors of the old version that this rests on
    errors: tuple[Sight, ...]  # for each share of errors that is too many, ascending
    slow: tuple[Sight, ...]  # for each factor on times that is too slow; empty: not asked, or no bound
    objective: float | None = None  # share of errors that is promised; None: nothing is
    certifies: float = 1.0  # the smallest share that no error at all would certify
    needed: int = 0  # requests without an error to certify the objective, at any look
    needed_fixed: int = 0  # the same at one look fixed beforehand
    promote_up_to: int = -1  # errors at the end with which the objective is certain; -1: not even with none
    promised_p95: float | None = None  # seconds; None: nothing is promised, or the times are not known
    slow_share: float = 0.0  # of answers that take longer than that
    timed: int = 0  # requests to certify the promised p95 at that share; `MANY`: never

    @property
    def certain(self) -> bool:
        """Whether the stage can certify the objective at all, or has none to certify."""
        return self.objective is None or self.promote_up_to >= 0

    @property
    def detects(self) -> Sight | None:
        """The smallest share of errors that is detected: seen with 90 %, and so are all larger ones."""
        return smallest(self.errors)

    @property
    def notices(self) -> Sight | None:
        """The smallest factor on all times that is detected."""
        return smallest(self.slow)

    @property
    def hours(self) -> float:
        """Hours until the objective is certain, when no error comes."""
        return _hours(self.needed, self.canary.per_second)

    @property
    def hours_everywhere(self) -> float:
        """The same with this share in all regions."""
        return self.hours * self.canary.part

    @property
    def hours_mirrored(self) -> float:
        """The same when all requests of these regions are mirrored."""
        return _hours(self.needed, self.canary.rate * self.canary.part)

    @property
    def share(self) -> float:
        """The share of these regions' requests that certifies the objective in the stage's time; over 1: impossible."""
        there = self.canary.rate * self.canary.part * self.canary.seconds
        return self.needed / there if there else math.inf

    def says(self) -> tuple[str, ...]:
        """What it comes to, in sentences."""
        if not self.canary.rate:
            return ("nothing is known of the traffic yet, so that nobody can say how long it takes",)
        if not self.requests:
            return ("no request reaches the new version in this time: nothing can be said of it",)
        verb = " mirrored" if self.canary.mirror else ""
        head = f"{percent(self.canary.share)} of {self._where()}{verb} for {_length(self.canary.seconds)} is"
        told = [f"{head} {self.requests:,} requests: {self._sees()}"]
        if self.objective is not None:
            told.append(self._sure())
        if not self.certain and self.canary.share * (1 + self.canary.mirror) < 1:
            told.append(self._offers())
        if self.promised_p95 is not None:
            told.append(self._in_time())
        if self.slow:
            told.append(self._slower())
        return tuple(told)

    def _where(self) -> str:
        if self.canary.region:
            return self.canary.region
        return "all requests" if self.canary.part >= 1.0 else "these regions' requests"

    def _sees(self) -> str:
        seen = self.detects
        if seen is None:
            return "too few to detect even that all of them fail" if self.errors else "no bound on errors is tested"
        usual = f", where {percent(self.usual)} is usual"
        return f"it detects a {percent(seen.size)} error rate in about {_about(seen.median)}{usual}"

    def _sure(self) -> str:
        promised = percent(1.0 - (self.objective or 0.0), digits=7)
        if self.certain:
            return f"it certifies {promised} with up to {self.promote_up_to:,} errors"
        everywhere = ""
        if self.canary.part < 1.0:
            everywhere = f", or {_length(self.hours_everywhere * 3600)} at {percent(self.canary.share)} of all regions"
        elif self.share <= 1.0:
            everywhere = f", or {self.share:.0%} of the requests in the time given"
        sure = f"; without any error it certifies {_kept(self.certifies)}" if self.certifies < 1 else ""
        return (
            f"it cannot certify {promised}, which takes {self.needed:,} requests without an error: "
            f"{_length(self.hours * 3600)} so{everywhere}{sure}"
        )

    def _offers(self) -> str:
        each = self.canary.rate * self.canary.part * 3600
        return (
            f"a stage of `mirror: 100%` before gives {each:,.0f} requests an hour at no user's risk, and certifies it "
            f"in {_length(self.hours_mirrored * 3600)}; recorded requests that are replayed meanwhile count too: "
            "`mainspring bench ENDPOINT --body FILE`"
        )

    def _in_time(self) -> str:
        promise = f"a p95 of {self.promised_p95:.3g} s"
        if self.timed >= MANY:
            return f"it cannot certify {promise}, over which {percent(self.slow_share)} of answers usually are"
        long = _length(_hours(self.timed, self.canary.per_second) * 3600)
        if self.timed <= self.requests:
            return f"it certifies {promise} after about {self.timed:,} requests, {long}"
        return f"it cannot certify {promise}, which takes about {self.timed:,} requests: {long}"

    def _slower(self) -> str:
        seen = self.notices
        if seen is None:
            return "a version that is slower is not detected in this time, unless it is more than ten times as slow"
        return f"it detects times longer by {percent(seen.size - 1.0)} in about {_about(seen.median)}"


def soak(canary: Canary, terms: Terms, *, usual: float | None = None, p50: float = 0.0, p95: float = 0.0) -> Soak:
    """What a stage can find out, by the tests and at the levels that `terms` have.

    `usual` is the old version's share of errors; without one it is what is promised, or else 0.1 %. `p50` and `p95`
    are its times, in seconds; without them nothing is said of latency.
    """
    promised = terms.promised_errors if terms.promised_errors and terms.promised_errors < 1.0 else None
    usual = usual if usual is not None else promised if promised is not None else USUAL
    count = canary.requests
    errors, slow = error_sights(canary, terms, usual), slow_sights(canary, terms, p50, p95)
    found = Soak(canary, count, canary.control, usual, errors, slow)
    if terms.promised_p95 and 0 < p50 <= p95 < math.inf:
        slower = over(p50, p95, terms.promised_p95)
        timed = timed_after(slower, terms.beta)
        found = replace(found, promised_p95=terms.promised_p95, slow_share=slower, timed=timed)
    if promised is None:
        return found
    return replace(
        found,
        objective=promised,
        certifies=certified(count, terms.beta),
        needed=certain_after(promised, beta=terms.beta),
        needed_fixed=math.ceil(math.log(terms.beta) / math.log1p(-promised)),
        promote_up_to=promoted_up_to(count, promised, terms.beta),
    )


def certain_after(objective: float, errors: int = 0, beta: float = 0.05) -> int:
    """Requests, `errors` of them bad, after which the share of errors is certainly below `objective`, at any look."""
    return _first(lambda n: evidence_below(errors, max(n, errors), objective) >= 1.0 / beta)


def timed_after(share: float, beta: float = 0.05) -> int:
    """Requests, of which `share` take longer than a promised p95, after which it is certain that under 5 % do."""
    if share >= SLOW:
        return MANY
    return _first(lambda n: float(share_below(share * n, n, SLOW)) >= -math.log(beta))


def certified(requests: int, beta: float = 0.05) -> float:
    """The smallest share of errors that so many requests without one certify, at any look; 1 when none do."""
    low, high = 1e-12, 1.0 - 1e-9
    if requests <= 0 or evidence_below(0, requests, high) < 1.0 / beta:
        return 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if evidence_below(0, requests, middle) >= 1.0 / beta else (middle, high)
    return high


def promoted_up_to(requests: int, objective: float, beta: float = 0.05) -> int:
    """The most errors among so many requests with which the objective is certain; -1 when none are few enough."""
    return _first(lambda bad: bad > requests or evidence_below(bad, requests, objective) < 1.0 / beta) - 1


def _hours(requests: int, per_second: float) -> float:
    return requests / per_second / 3600.0 if per_second > 0 else math.inf


def _kept(share: float) -> str:
    """What is left of 100 % without a share of errors, rounded down to two digits of that share."""
    size = 10.0 ** (math.floor(math.log10(share)) - 1)
    return percent(1.0 - math.ceil(share / size - 1e-9) * size, digits=7)


def _length(seconds: float) -> str:
    """A length to two digits: `11 h`, `3.6 h`, `33 min`."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            number = seconds / size
            return f"{number:,.0f} {unit}" if number >= 9.95 else f"{number:.1f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"


def _about(seconds: float) -> str:
    """A time that is about so long: `23 minutes`, `2.5 hours`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} second{'s' * (round(seconds) > 1)}"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 36_000 else f"{seconds / 3600:,.0f} hours"


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
