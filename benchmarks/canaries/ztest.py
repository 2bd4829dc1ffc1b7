"""A test of two shares (pooled z, one-sided 5 %) on all that was seen so far, looked at each five minutes.

Source: any textbook; that looking often breaks it is Armitage, McPherson and Rowe 1969, "Repeated significance tests on
accumulating data". It is here since many dashboards and home-made scripts do this.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from canaries.found import first
from canaries.traffic import Counts, Floats, Ints


@dataclass(frozen=True, slots=True)
class Peeked:
    """The candidate's share of what is bad against the control's."""

    alpha: float = 0.05
    window: int = 30  # stretches of 10 s between two looks

    def by_errors(self, counts: Counts) -> Floats:
        """Minutes until the difference is called significant; NaN: never."""
        return self.by_shares(counts.candidate, counts.candidate_bad, counts.control, counts.control_bad)

    def by_shares(self, candidate: Ints, candidate_bad: Ints, control: Ints, control_bad: Ints) -> Floats:
        """The same of any counts by (run, stretch)."""
        looks = slice(self.window - 1, None, self.window)
        n1, x1, n0, x0 = (np.cumsum(a, axis=1)[:, looks] for a in (candidate, candidate_bad, control, control_bad))
        with np.errstate(divide="ignore", invalid="ignore"):
            pooled = (x1 + x0) / (n1 + n0)
            z = (x1 / n1 - x0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0))
        return first(np.nan_to_num(z, nan=0.0) > NormalDist().inv_cdf(1 - self.alpha), self.window)
