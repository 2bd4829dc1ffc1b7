"""Whether a request is let in, whose turn it is among those who wait, and when one that isn't let in may come back.

What this is: pure functions over scalars and arrays, in the subset of Python that numba compiles. Who calls it: the
gateway; the twin. What it must never do: let a queue grow without bound, or one tenant wait for another's backlog.

Whose turn it is, is told by deficit round robin (Shreedhar and Varghese, SIGCOMM 1995): each tenant in turn gets
credit by its share, and spends it on work, so that in the long run a busy endpoint's work is divided by the shares,
whatever the number and the length of the requests. Work is estimated when a request is sent and corrected when its
answer is there (as the counters of Sheng et al., OSDI 2024, are).
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence

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


def turn(
    waiting: Sequence[int], head: Sequence[float], quantum: Sequence[float], priority: Sequence[int],
    deficit: MutableSequence[float], at: int,
) -> int:  # fmt: skip
    """The tenant whose first request is next; -1 where nobody waits. Its work is taken from its `deficit`, in place.

    All by tenant: `waiting` requests, the work of the first one (`head`), the credit of a round (`quantum`, over 0),
    and `priority` (0 goes first; shares hold among equals). `at`: the tenant whose turn it was last.
    """
    count = len(waiting)
    top = -1
    for i in range(count):
        if waiting[i] > 0:
            if top < 0 or priority[i] < top:
                top = priority[i]
        elif deficit[i] > 0.0:
            deficit[i] = 0.0  # credit is not saved up by those who want nothing
    if top < 0:
        return -1
    _skip_rounds(waiting, head, quantum, priority, deficit, top)
    i = at if 0 <= at < count else 0
    while True:
        if waiting[i] > 0 and priority[i] == top and deficit[i] >= head[i]:
            deficit[i] -= head[i]
            return i
        i = i + 1 if i + 1 < count else 0
        if waiting[i] > 0 and priority[i] == top:
            deficit[i] += quantum[i]


def _skip_rounds(
    waiting: Sequence[int], head: Sequence[float], quantum: Sequence[float], priority: Sequence[int],
    deficit: MutableSequence[float], top: int,
) -> None:  # fmt: skip
    """Go through the rounds in which nobody has credit enough, all at once."""
    rounds = -1.0
    for i in range(len(waiting)):
        if waiting[i] > 0 and priority[i] == top:
            needed = math.ceil((head[i] - deficit[i]) / quantum[i]) - 1.0
            if rounds < 0.0 or needed < rounds:
                rounds = max(needed, 0.0)
    if rounds > 0.0:
        for i in range(len(waiting)):
            if waiting[i] > 0 and priority[i] == top:
                deficit[i] += rounds * quantum[i]


def displaced(waiting: Sequence[int], share: Sequence[float], priority: Sequence[int], mine: int) -> int:
    """Whose latest waiting request gives way to a new one of tenant `mine` in a full queue; `mine`: the new one does.

    The one of the lowest priority below its own; among equals, of the tenant that has the most waiting for its share.
    """
    worst, most = mine, (waiting[mine] + 1) / share[mine]
    for i in range(len(waiting)):
        if i == mine or waiting[i] == 0 or priority[i] < priority[worst]:
            continue
        load = waiting[i] / share[i]
        if priority[i] > priority[worst] or load > most:
            worst, most = i, load
    return worst
