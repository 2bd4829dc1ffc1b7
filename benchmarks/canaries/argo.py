"""Argo Rollouts' rule: a measurement each interval against a condition, and how many may fail.

Sources: argoproj.github.io/argo-rollouts, "Analysis & Progressive Delivery" (the example: Prometheus, interval 5m,
`successCondition: result[0] >= 0.95`, `failureLimit: 3`; by default `failureLimit` is 0), and the controller,
analysis/analysis.go: a metric fails when *more* than `failureLimit` measurements failed, so a limit of 3 takes a fourth
(the document says three; the code is what runs).

Where a choice is left, the kinder one: the first measurement is taken after one interval, not at once; a window without
a request counts as a success (by the example's condition it would be a failure); and the query is over all requests of
the window (the example's `irate` sees the last two scrapes only).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canaries.found import first
from canaries.traffic import Counts, Floats


@dataclass(frozen=True, slots=True)
class Argo:
    """One metric of an AnalysisTemplate."""

    least: float  # share of answers without an error
    limit: int = 0
    window: int = 30  # stretches of 10 s: 5 min

    def by_errors(self, counts: Counts) -> Floats:
        """Minutes until it aborts; NaN: never."""
        seen = counts.windows(self.window)
        return self._failed(seen.candidate - seen.candidate_bad < self.least * seen.candidate)

    def by_times(self, p95: Floats, bound: float) -> Floats:
        """The same on the p95 of each window (NaN: no request), `successCondition: result[0] <= bound`."""
        return self._failed(np.nan_to_num(p95, nan=0.0) > bound)

    def _failed(self, failed: np.ndarray) -> Floats:
        return first(np.cumsum(failed, axis=1) > self.limit, self.window)
