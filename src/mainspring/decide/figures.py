"""Both arms of a rollout in a dozen figures, for people: what was answered, what failed, how long it took.

What this is: sums over all slices; pure. Who calls it: the loop, for its records; the console shows them. What it must
never do: judge (`decide/rollout.py` does), or call unknown what is zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from mainspring.decide.arms import EDGES, Arms, Histogram
from mainspring.decide.latest import Latest

NAMES = (
    "requests", "errors", "control_requests", "control_errors", "mirrored", "mirrored_errors",
    "p50", "p95", "control_p50", "control_p95", "first_p95", "control_first_p95",
)  # fmt: skip
"""What `figures` tells: counts since the candidate's first request, times in seconds."""


_ADDED_UP: Latest[dict[str, float | None]] = Latest()


def figures(arms: Arms | None) -> dict[str, float | None]:
    """Count both arms since the candidate's first request; every value is None where the arms are unknown.

    Times are those that the latency checks rest on: the candidate's undisturbed answers, and the fresh control's where
    there is one. In a rollout that only mirrors so far, the candidate's times are of what nobody saw.
    """
    if arms is None:
        return dict.fromkeys(NAMES)
    return dict(_ADDED_UP.of((arms,), None, lambda: _figures(arms)))


def _figures(arms: Arms) -> dict[str, float | None]:
    new, old = [s.candidate for s in arms.slices], [s.control for s in arms.slices]
    unseen = arms.mirrored
    live = any(c.requests for c in new)
    times = together(c.times for c in new) if live else unseen.times
    firsts = together(c.firsts for c in new) if live else unseen.firsts
    before, before_firsts = together(c.times for c in old), together(c.firsts for c in old)
    return {
        "requests": float(sum(c.requests for c in new)),
        "errors": float(sum(c.errors for c in new)),
        "control_requests": float(sum(c.requests for c in old)),
        "control_errors": float(sum(c.errors for c in old)),
        "mirrored": float(unseen.requests),
        "mirrored_errors": float(unseen.errors),
        "p50": quantile(times, 0.5),
        "p95": quantile(times, 0.95),
        "control_p50": quantile(before, 0.5),
        "control_p95": quantile(before, 0.95),
        "first_p95": quantile(firsts, 0.95),
        "control_first_p95": quantile(before_firsts, 0.95),
    }


def together(several: Iterable[Histogram]) -> Histogram:
    """One histogram of all."""
    found: Counter[int] = Counter()
    for one in several:
        for bucket, count in one:
            found[bucket] += count
    return tuple(sorted(found.items()))


def quantile(times: Histogram, share: float) -> float | None:
    """The upper edge of the bucket in which the share is reached: at most 4.4 % too high; None without any.

    Beyond the last edge it is that edge, since more is not known.
    """
    total = sum(count for _, count in times)
    if total == 0:
        return None
    rank, seen = max(1, math.ceil(share * total - 1e-9)), 0
    for bucket, count in times:
        seen += count
        if seen >= rank:
            return EDGES[min(bucket, len(EDGES) - 1)]
    return EDGES[-1]
