"""Whether a request is let in, whose turn it is among those who wait, and when one that isn't let in may come back.

What this is: pure functions over scalars and arrays, in the subset of Python that numba compiles. Who calls it: the
gateway; the twin. What it must never do: let a queue grow without bound, or one tenant wait for another's backlog.

Whose turn it is, is told by deficit round robin (Shreedhar and Varghese, SIGCOMM 1995): all get credit by their shares,
round by round, and spend it on work, so that in the long run a busy endpoint's work is divided by the shares, whatever
the number and the length of the requests. Work is estimated when a request is sent and corrected when its answer is
there (as the counters of Sheng et al., OSDI 2024, are). Two things are other than in the paper. A round's credit is
small, and whoever can pay sends one request at a time, so that nobody waits for a whole round of another's. And a
tenant that wants nothing for a while saves credit up, to a bound: without that, one that stays within its share would
wait behind one that doesn't as soon as it sends two requests at a time (`make bench-fairness`).
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence

SOONEST = 1
LATEST = 60
"""Seconds; OpenAI's own clients wait for what `Retry-After` says up to this, and go by their own backoff beyond."""

SAVED = 16.0
"""What a tenant of a middling share may save up while it wants nothing, in usual requests: more than a quiet one sends
at a time, and so few that those who wait hardly notice when it spends them."""
NEW = 1.0 / 32.0
"""What a request counts for in the mean of usual ones."""


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


def saved_rounds(mean: float, quantum: Sequence[float]) -> float:
    """Rounds of credit that a tenant may save up: so many that one of a middling share has `SAVED` usual requests.

    `mean`: the work of a usual request.
    """
    total = 0.0
    for one in quantum:
        total += one
    return SAVED * mean * len(quantum) / total if total > 0.0 else 0.0


def turn(
    waiting: Sequence[int], head: Sequence[float], quantum: Sequence[float], priority: Sequence[int],
    deficit: MutableSequence[float], at: int, saved: float = 0.0,
) -> int:  # fmt: skip
    """The tenant whose first request is next; -1 where nobody waits. Its work is taken from its `deficit`, in place.

    All by tenant: `waiting` requests, the work of the first one (`head`), the credit of a round (`quantum`, over 0),
    and `priority` (0 goes first; shares hold among equals). `at`: the tenant whose turn it was last. `saved`: rounds
    whose credit a tenant keeps, or gains, while it wants nothing.
    """
    count = len(waiting)
    top = -1
    for i in range(count):
        if waiting[i] > 0:
            if top < 0 or priority[i] < top:
                top = priority[i]
        elif deficit[i] > saved * quantum[i]:
            deficit[i] = saved * quantum[i]
    if top < 0:
        return -1
    first = _go_rounds(waiting, head, quantum, priority, deficit, top, saved)
    i = at if 0 <= at < count else 0
    for _ in range(count):  # who can pay, in turn: nobody spends all that it has saved at one go
        i = i + 1 if i + 1 < count else 0
        if waiting[i] > 0 and priority[i] == top and deficit[i] >= head[i]:
            first = i
            break
    deficit[first] -= head[first]
    return first


def _go_rounds(
    waiting: Sequence[int], head: Sequence[float], quantum: Sequence[float], priority: Sequence[int],
    deficit: MutableSequence[float], top: int, saved: float,
) -> int:  # fmt: skip
    """Give as many rounds' credit, all at once, as it takes until somebody can pay; returns who can then."""
    first, rounds = -1, 0.0
    for i in range(len(waiting)):
        if waiting[i] > 0 and priority[i] == top:
            needed = math.ceil((head[i] - deficit[i]) / quantum[i])
            if first < 0 or needed < rounds:
                first, rounds = i, needed
    if rounds > 0.0:
        for i in range(len(waiting)):
            if priority[i] == top:
                credit = deficit[i] + rounds * quantum[i]
                if waiting[i] == 0 and credit > saved * quantum[i]:
                    credit = max(deficit[i], saved * quantum[i])
                deficit[i] = credit
    return first


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
