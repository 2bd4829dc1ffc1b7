"""Per-request choices: which revision answers, and which of its replicas.

What this is: scalars and arrays in, scalars out, in the subset of Python that numba compiles (this
module never imports numba). Who calls it: the gateway for each request, and the twin.
What it must never do: read a clock or a generator; chance comes in as `u`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

PARTS = 10_000
"""Weights and shares are parts of this."""


def unit(digest8: int) -> float:
    """Turn 64 bits of a hash into a number in [0, 1): its upper 53 bits, so that it is exact."""
    return float(digest8 >> 11) * 1.1102230246251565e-16  # 2**-53


def revision(u: float, weights: npt.NDArray[np.integer[Any]]) -> int:
    """The index that `u` in [0, 1) falls on, by weight; -1 when nothing has a weight.

    The same `u` and weights give the same index; weights need not sum to anything in particular.
    """
    total = 0
    for i in range(len(weights)):
        total += weights[i]
    point = u * total
    reached = 0
    last = -1
    for i in range(len(weights)):
        if weights[i] > 0:
            reached += weights[i]
            last = i
            if point < reached:
                return i
    return last


def mirrored(u: float, share: int) -> bool:
    """Whether a request is copied to the mirror; `share` in parts of 10,000, `u` from a hash of its own."""
    return u * PARTS < share


def replica(outstanding: npt.NDArray[np.integer[Any]], start: int) -> int:
    """The index with the fewest requests outstanding; ties go to the first from `start` on; -1 when empty."""
    n = len(outstanding)
    best = -1
    fewest = 0
    for k in range(n):
        i = (start + k) % n
        work = int(outstanding[i])
        if best < 0 or work < fewest:
            best = i
            fewest = work
    return best
