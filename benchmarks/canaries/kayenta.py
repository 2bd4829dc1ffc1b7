"""Kayenta's judge (NetflixACAJudge) on one metric: Mann-Whitney on points of a minute, judged again each half hour.

Sources: github.com/spinnaker/kayenta, docs/canary-config.md and the judge's MannWhitneyClassifier: the metric is High
when the lower end of the 98 % interval of the shift (R's wilcox.test, asymptotic, with its continuity correction) is
over 0.25 times the absolute Hodges-Lehmann estimate. The control is a fresh baseline of the canary's own size; minutes
without a request are left out (`nanStrategy: remove`).

The interval's ends are taken from the ordered differences of pairs, which is what the root that R looks for is but for
ties; points of p95 have none. All minutes since the beginning are in each judgement (a "growing" analysis).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from canaries.traffic import Floats


@dataclass(frozen=True, slots=True)
class Kayenta:
    """One metric that may not increase."""

    confidence: float = 0.98
    tolerance: float = 0.25
    every: int = 30  # minutes between two judgements

    def by_points(self, candidate: Floats, baseline: Floats) -> Floats:
        """Minutes until High, of points by (run, minute); NaN: never."""
        found = np.full(len(candidate), np.nan)
        for at in range(self.every, candidate.shape[1] + 1, self.every):
            for run in np.flatnonzero(np.isnan(found)):
                if self.high(candidate[run, :at], baseline[run, :at]):
                    found[run] = at
        return found

    def high(self, candidate: Floats, baseline: Floats) -> bool:
        """Whether the metric is classified as High."""
        one, other = candidate[~np.isnan(candidate)], baseline[~np.isnan(baseline)]
        m, n = len(one), len(other)
        if not m or not n:
            return False
        z = NormalDist().inv_cdf(0.5 + self.confidence / 2)
        low = math.floor(m * n / 2 - z * math.sqrt(m * n * (m + n + 1) / 12) - 0.5)
        if low < 0:
            return False
        middle = m * n // 2
        shifts = np.partition((one[:, None] - other[None, :]).ravel(), (low, middle))
        return bool(shifts[low] > self.tolerance * abs(shifts[middle]))
