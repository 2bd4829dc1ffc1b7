"""Flagger's rule: a check each interval against a range, and after how many that failed it rolls back.

Sources: docs.flagger.app, "Metrics Analysis" (`request-success-rate`: min 99 over 1m; `request-duration`), "How it
works" (`interval: 1m`, `threshold: 10` failed checks before rollback), and pkg/controller/scheduler.go: failed checks
add up over the whole analysis, they need not follow each other.

Where a choice is left, the kinder one: it rolls back at the check that reaches the threshold (the controller does at
the next); a window without a request passes (0/0 is outside no range; a series that is missing altogether fails). The
weight stays what it is for the stage: Flagger's own steps would be a different rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from canaries.found import first
from canaries.traffic import Counts, Floats


@dataclass(frozen=True, slots=True)
class Flagger:
    """One metric of a Canary."""

    least: float = 0.99  # `thresholdRange: {min: 99}`
    threshold: int = 10
    window: int = 6  # stretches of 10 s: 1 min

    def by_errors(self, counts: Counts) -> Floats:
        """Minutes until it rolls back; NaN: never."""
        seen = counts.windows(self.window)
        return self._failed(seen.candidate - seen.candidate_bad < self.least * seen.candidate)

    def by_times(self, p95: Floats, bound: float) -> Floats:
        """The same on the p95 of each window (NaN: no request), `thresholdRange: {max: bound}`."""
        return self._failed(np.nan_to_num(p95, nan=0.0) > bound)

    def _failed(self, failed: np.ndarray) -> Floats:
        return first(np.cumsum(failed, axis=1) >= self.threshold, self.window)
