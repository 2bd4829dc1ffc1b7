"""How many slots a demand takes, so that few requests wait longer than they may.

What this is: Erlang's C formula, and what is left of a queue once a new replica is there; pure functions over scalars.
Who calls it: `decide/scale.py`. What it must never do: know what a replica is, what it costs, or what time it is.

A slot is a place for one request with a replica. Demand is counted in busy slots (Erlangs): requests that come in a
second, times the seconds that each is with a replica (Little's law). The gateway holds what finds no slot in one queue,
so all slots of an endpoint are one M/M/n queue:

    P(a request waits longer than t) = C(n, a) exp(-(n - a) t / s),   C(n, a) = n B / (n - a (1 - B)),
    B the blocking of Erlang's B formula, by its recursion B(n) = a B(n-1) / (n + a B(n-1))

(Gross, Shortle, Thompson, Harris: Fundamentals of Queueing Theory, 4th ed., 2.3.) A large fleet so needs a smaller
part of its slots in reserve than a small one, which a fixed target of utilisation can't say.
"""

from __future__ import annotations

import math

LATE = 0.05
"""At most this share of requests is to wait longer than it may: the rest of a p95."""


def slots_for(busy: float, seconds: float, wait: float, most: int, share: float = LATE) -> int:
    """The fewest slots, up to `most`, with which at most `share` of the requests wait longer than `wait` seconds.

    `busy`: the demand in busy slots. `seconds`: that a request is with a replica. `most` is also the answer where even
    that is not enough. More demand never takes fewer slots.
    """
    if busy <= 0.0:
        return 0
    if busy >= most:
        return most
    blocking = 1.0
    for slots in range(1, most):
        blocking = busy * blocking / (slots + busy * blocking)
        spare = slots - busy
        if spare > 0.0:
            delayed = slots * blocking / (slots - busy * (1.0 - blocking))
            if delayed * math.exp(-spare * wait / seconds) <= share:
                return slots
    return most


def left_over(waiting: float, rate: float, seconds: float, slots: float, ahead: float) -> float:
    """Requests that still wait in `ahead` seconds, if `slots` serve what waits and what comes until then; 0 or more."""
    return max(0.0, waiting + (rate - slots / seconds) * ahead)


def growth(recent: tuple[float, ...], ahead: float, each: float, share: float) -> float:
    """By how much demand may grow within `ahead` seconds: the `share` quantile of how it grew over such a time of late.

    `recent`: the demand each `each` seconds, oldest first. Less than one step ahead is taken as its part of one; 0
    where too little was seen. It holds the trend (of a ramp all differences are alike) and how unsteady the demand is,
    and it takes a rare jump for what it is: not to be known before.
    """
    steps = max(1, round(ahead / each))
    count = len(recent) - steps
    if count < 5:
        return 0.0
    grown = sorted(recent[i + steps] - recent[i] for i in range(count))
    return max(0.0, grown[min(count - 1, int(share * count))]) * min(1.0, ahead / each)
