"""When a replica is left alone: a circuit breaker for one that fails, ejection for one that is worse than the rest.

What this is: pure functions over counters, in the subset of Python that numba compiles. Who calls it: the gateway,
when a request ends and before one is sent; the twin. What it must never do: eject more than half of the replicas, or
keep one away for ever.

The breaker's whole state is two numbers: `failures` in a row, and `since`, when the last of them was. It opens at
`LIMIT` failures in a row (5: Envoy's outlier detection, `consecutive_5xx`), or when of at least `VOLUME` requests in
the window half failed (20 requests in 10 s and 50 %: Hystrix's circuit breaker). After a cool-down one probe is let
through; it closes the breaker or doubles the cool-down: each failed probe is one more failure in a row.

Ejection looks at the share of errors over a window (10 s: Envoy's `interval`). Envoy ejects what is 1.9 standard
deviations of the hosts' shares from their mean, from 5 hosts and 100 requests on. Few hosts have no such deviation to
speak of, so here a replica is compared with all the others taken together: its share must be higher by `MARGIN` and
by `DEVIATIONS` standard errors of the difference of two shares (pooled, the textbook test). An ejection lasts 30 s
times how often it was ejected, at most 300 s (Envoy's `base_ejection_time`, `max_ejection_time`). At most half are out:
that is where Envoy stops believing in health checks (`healthy_panic_threshold`, 50 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = Sequence[int] | npt.NDArray[np.integer[Any]]

LIMIT = 5
VOLUME = 20
FIRST = 1.0
LONGEST = 60.0
MARGIN = 0.1
DEVIATIONS = 3.0
WINDOW = 10.0
"""Seconds over which errors and requests are counted; the caller counts."""


def counted(failures: int, failed: bool, probe: bool, errors: int = 0, requests: int = 0, limit: int = LIMIT) -> int:
    """The number of failures in a row after one more request ended; the caller notes `since` when it grew.

    `probe`: the request was let through by an open breaker. `errors` of `requests` failed in the window, this one
    counted. While the breaker is open, what was sent before it opened says nothing new and changes nothing.
    """
    if failures >= limit and not probe:
        return failures
    if not failed:
        return 0
    if failures < limit and requests >= VOLUME and 2 * errors >= requests:
        return limit
    return failures + 1


def until(failures: int, since: float, limit: int = LIMIT, first: float = FIRST, longest: float = LONGEST) -> float:
    """The moment from which the next request may be sent: `since` itself while the breaker is closed.

    `since` in seconds of any clock; the cool-down is `first` seconds, doubled with each failed probe up to `longest`.
    """
    if failures < limit:
        return since
    return since + min(first * 2.0 ** min(failures - limit, 64), longest)


def usable(
    failures: int,
    since: float,
    now: float,
    probing: bool,
    limit: int = LIMIT,
    first: float = FIRST,
    longest: float = LONGEST,
) -> bool:
    """Whether a request may be sent: the breaker is closed, or it cooled down and no probe is on its way.

    When this is true and `failures >= limit`, the request is the probe: the caller sets `probing` until it ended.
    """
    if failures < limit:
        return True
    if probing:
        return False
    return now >= since + min(first * 2.0 ** min(failures - limit, 64), longest)


def eject(errors: Counts, requests: Counts, ejected: Counts, volume: int = VOLUME) -> int:
    """The replica to eject now; -1: none.

    `errors[i]` of `requests[i]` failed in the window; `ejected[i]` is 1 for those that are out already. Of several that
    are far above the others it is the one with the highest share, then the first. One that is out isn't compared.
    """
    n = len(errors)
    out = 0
    wrong = 0
    asked = 0
    for i in range(n):
        if int(ejected[i]) != 0:
            out += 1
        else:
            wrong += int(errors[i])
            asked += int(requests[i])
    if 2 * (out + 1) > n:
        return -1
    right = asked - wrong
    worst = -1
    highest = 0.0
    for i in range(n):
        mine = int(requests[i])
        others = asked - mine
        if int(ejected[i]) != 0 or mine < max(volume, 1) or others < max(volume, 1):
            continue
        bad = int(errors[i])
        share = bad / mine
        above = share - (wrong - bad) / others
        if above < MARGIN or share <= highest:
            continue
        variance = float(wrong) * float(right) / float(asked) / float(mine) / float(others)
        if above * above >= DEVIATIONS * DEVIATIONS * variance:
            worst = i
            highest = share
    return worst


def returned(since: float, now: float, times: int, base: float = 30.0, longest: float = 300.0) -> bool:
    """Whether a replica that was ejected at `since`, for the `times`-th time in a row, takes requests again."""
    return now >= since + min(base * max(times, 1), longest)
