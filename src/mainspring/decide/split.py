"""Is the traffic split as the routes said? The check that comes first: arms that were not split so are not comparable.

An e-process for a share, at any look: the mixture of binomial likelihoods over Beta priors about the share, against
the best share within `TOLERANCE` of it (Lindon and Malek 2022, "Anytime-valid inference for multinomial count data",
NeurIPS 35; there for one exact share). Pieces of time with different shares are a product.

What this is: one formula. Who calls it: `decide/checks.py`. What it must never do: say why.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma, log

import numpy as np

from mainspring.decide.sequential import log_mean, told

TOLERANCE = 0.02
"""So much of the smaller arm's share it may be off: a fiftieth shifts no verdict, and tries again on the other arm."""
CERTAINTY = 0.01
"""The chance that a split which is right is called off: it holds a rollout up, and gives none up."""
STRENGTHS = (10.0, 100.0, 1_000.0, 10_000.0)
"""Of the Beta priors, in requests: the first sees a split far off at once, the last one that is off by a little."""


@dataclass(frozen=True, slots=True)
class Split:
    """How far the split is from what the routes said."""

    evidence: float  # e-value against "it is within the tolerance"
    wanted: float  # the candidate's share by the routes, over all requests
    got: float
    requests: int

    @property
    def off(self) -> bool:
        """Whether it is surely off."""
        return self.evidence >= 1.0 / CERTAINTY

    @property
    def more(self) -> bool:
        """Whether the candidate got more than it should: then what is conditional on its share is no test any more."""
        return self.got > self.wanted


def split(pieces: tuple[tuple[float, int, int], ...]) -> Split:
    """Judge pieces of (share by the routes, the candidate's requests, the control's); none at all are within."""
    logs, wanted, own, everything = 0.0, 0.0, 0, 0
    for share, candidate, control in pieces:
        total = candidate + control
        if not 0.0 < share < 1.0 or not total:
            continue  # all of it, or nothing: not a split
        logs += _piece(share, candidate, control)
        wanted, own, everything = wanted + share * total, own + candidate, everything + total
    if not everything:
        return Split(1.0, 0.0, 0.0, 0)
    return Split(float(told(logs)), wanted / everything, own / everything, everything)


def _piece(share: float, candidate: int, control: int) -> float:
    """Logarithm of the e-value of one piece."""
    room = TOLERANCE * min(share, 1.0 - share)
    nearest = min(max(candidate / (candidate + control), share - room), share + room)
    usual = candidate * log(nearest) + control * log(1.0 - nearest)
    mixed = []
    for strength in STRENGTHS:
        a, b = strength * share, strength * (1.0 - share)
        mixed.append(_log_beta(a + candidate, b + control) - _log_beta(a, b) - usual)
    return float(log_mean(np.array(mixed)))


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
