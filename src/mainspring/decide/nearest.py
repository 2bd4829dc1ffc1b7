"""Which region answers: the nearest that can.

What this is: a pure function over arrays, in the subset of Python that numba compiles. Who calls it: the gateway for
each request where replicas are in several regions; the twin. What it must never do: send far away what can be answered
near.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = Sequence[int] | npt.NDArray[np.integer[Any]]


def region(order: Counts, ready: Counts, free: Counts) -> int:
    """The region for a request; -1 when no region has a replica.

    `order`: regions by number, nearest first; those that it lacks are never chosen. `ready`: replicas that may be used,
    by region. `free`: requests that they could take at once, by region. The first with both; else, since all are full,
    the first that is ready: to wait near is better than to wait far away.
    """
    waiting = -1
    for k in range(len(order)):
        i = int(order[k])
        if 0 <= i < len(ready) and int(ready[i]) > 0:
            if int(free[i]) > 0:
                return i
            if waiting < 0:
                waiting = i
    return waiting
