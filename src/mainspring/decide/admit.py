"""Whether a request is let in, and when one that isn't may come back.

What this is: pure functions over scalars, in the subset of Python that numba compiles. Who calls it: the gateway before
anything else is done for a request; the twin. What it must never do: let a queue grow without bound.
"""

from __future__ import annotations

import math

SOONEST = 1
LATEST = 60
"""Seconds; OpenAI's own clients wait for what `Retry-After` says up to this, and go by their own backoff beyond."""


def admit(inside: int, queue: int, free: int) -> int:
    """0: let in. 429: full, the client is too quick. 503: full, and there is no replica to make it less so.

    `inside`: requests of the endpoint that are inside already, waiting or at a replica. `queue`: the most there may be.
    `free`: requests that replicas could take at once (0: all are busy); less than 0: no replica is ready.
    """
    if inside < queue:
        return 0
    return 503 if free < 0 else 429


def retry_after(waiting: int, served_per_second: float) -> int:
    """Whole seconds until those who wait now are served, from 1 to 60; 1 where nothing is known of the rate."""
    if waiting <= 0 or not served_per_second > 0.0:
        return SOONEST
    seconds = waiting / served_per_second
    if seconds >= LATEST:
        return LATEST
    return max(SOONEST, math.ceil(seconds))
