"""How long a test that is looked at always takes to fire: first passage, worked out and not drawn.

What this is: the chance that an e-value has reached its threshold after so many trials, and from it the median time;
pure. Who calls it: `decide/soak.py`. What it must never do: have a test of its own: the e-values are those that the
live loop acts on (`decide/sequential.py`).

A trial is a request (of the absolute test) or an error of either arm (of the test beside the control, which is
conditional on errors); it is bad with a fixed chance. Then the e-value after `n` trials depends on the bad ones alone,
and grows with them: it has fired when they reach a boundary. The chance of that is a recursion over trials: the count
of bad ones, those at the boundary taken out. Trials are looked at one by one up to 64, then in steps of 2 %, so a time
is at most 2 % too long. They come as a Poisson process, and are taken as independent: those of one user or one bad
machine are not, and then it takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Evidence = Callable[[Counts, Counts], Floats]
"""Log of the e-value after (bad, trials), of arrays of one shape."""

SINGLE = 64  # looks one by one; then each is 2 % later than the last
STEP = 1.02
ENOUGH = 1e-3  # once less than this chance is left, the rest does not matter
WIDEST = 1500  # bad trials that are followed: a boundary beyond is not reached, so a time is rather too long


@dataclass(frozen=True, slots=True)
class Passage:
    """When a test fires: after which trials, with which chance for the first time there."""

    trials: Counts
    chance: Floats  # adds up to at most 1: the rest has not fired by the last of `trials`

    def by(self, rate: float, seconds: float) -> float:
        """The chance that it has fired, where trials come at a rate (1/s) as a Poisson process."""
        if rate <= 0 or seconds <= 0 or not len(self.trials):
            return 0.0
        return float(np.sum(self.chance * _at_least(self.trials, rate * seconds)))

    def median(self, rate: float, until: float) -> float:
        """Seconds until it has fired with a chance of a half; infinite when that is not so by `until`."""
        if self.by(rate, until) < 0.5:
            return math.inf
        low, high = 0.0, until
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.by(rate, middle) >= 0.5 else (middle, high)
        return high


def passage(trials: Counts, least: Counts, share: float) -> Passage:
    """When the bad ones among `trials` (ascending) first reach `least`, where each is bad with the chance `share`."""
    if not len(trials) or share <= 0:
        return Passage(trials, np.zeros(len(trials)))
    left, fired, before = np.ones(1), np.zeros(len(trials)), 0
    for number, (count, needed) in enumerate(zip(trials.tolist(), least.tolist(), strict=True)):
        if needed > WIDEST:
            break
        stays = np.convolve(left, _binomial(count - before, share, needed + 1))[:needed]
        fired[number] = max(0.0, float(left.sum() - stays.sum()))  # what is not below the boundary is beyond it
        left, before = stays, count
        if left.sum() < ENOUGH:
            break
    return Passage(trials, fired)


def looks(most: int) -> Counts:
    """Numbers of trials at which is looked: each up to 64, then in steps of 2 %, up to `most`."""
    found, at = list(range(1, min(most, SINGLE) + 1)), SINGLE
    while at < most:
        at = min(most, max(at + 1, math.ceil(at * STEP)))
        found.append(at)
    return np.array(found, dtype=np.int64)


def boundary(evidence: Evidence, threshold: float, trials: Counts) -> Counts:
    """The fewest bad among so many trials with which the evidence is enough; one more than there are when none are."""
    enough = math.log(threshold)
    low, high = np.full(len(trials), -1, dtype=np.int64), trials + 1
    while True:
        open_ = high - low > 1
        if not open_.any():
            return high
        middle = (low + high) // 2
        reached = evidence(np.clip(middle, 0, trials), trials) >= enough
        low, high = np.where(open_ & ~reached, middle, low), np.where(open_ & reached, middle, high)


def _binomial(trials: int, share: float, width: int) -> Floats:
    """Chances of 0, 1, ... bad of so many trials: the first `width` of them."""
    if share >= 1.0:
        found = np.zeros(min(width, trials + 1))
        if trials < len(found):
            found[trials] = 1.0
        return found
    number = np.arange(1, min(trials, width - 1) + 1)
    ratio = np.log((trials - number + 1) / number) + math.log(share) - math.log1p(-share)
    return np.exp(trials * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(ratio)]))


def _at_least(counts: Counts, mean: float) -> Floats:
    """The chance that a Poisson number of this mean is at least so large, for each count (ascending).

    Exact below a mean of 1e5 (its terms summed in logarithms); above, by the normal law, off by less than 1e-3.
    """
    if mean > 1e5:
        return np.array([0.5 * math.erfc((c - 0.5 - mean) / math.sqrt(2 * mean)) for c in counts.tolist()])
    top = int(min(counts[-1], mean + 40 * math.sqrt(mean) + 60))
    number = np.arange(1, top + 1)
    logs = -mean + np.concatenate([[0.0], np.cumsum(math.log(mean) - np.log(number))])
    below = np.concatenate([[0.0], np.cumsum(np.exp(logs))])  # [c]: the chance of fewer than c
    return np.clip(1.0 - below[np.minimum(counts, top + 1)], 0.0, 1.0)
