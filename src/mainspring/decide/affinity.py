"""Which replica gets a prompt: least work, counting the prefill that is still to do, within a load cap.

What this is: scalars and arrays in, an index out, in the subset of Python that numba compiles. Who calls it: the
gateway for each request to a language model, and the twin. What it must never do: let affinity overload a replica.

The cost of a replica, in blocks: `outstanding + total - hit`, its work before this prompt and what it has not cached of
this prompt. That is NVIDIA Dynamo's router ("Router Design" in its documentation: active blocks plus prefill blocks,
weighted alike by default), with what a gateway knows without asking an engine. A request is so much work:

- until its first byte: the blocks of its prompt that its replica had not cached when it was sent, and `EACH`;
- from then on, while its answer is streamed: `EACH`. Prefill is what a first token waits for; decoding is shared.

A caller that only counts requests leaves `one` at 0: a whole prompt then weighs `WEIGHT` requests, since most of those
that are outstanding are past their prefill. In `benchmarks/affinity_simulated.py` blocks are the better unit.

The cap: more than `ceil(1.25 * mean + one)` outstanding is too many, as in consistent hashing with bounded loads
(Mirrokni, Thorup and Zadimoghaddam 2017; 1.25 is the factor in common use, `one` is the request that is placed). Where
requests are counted and the slots of a replica are known, one without a free slot is over the cap while another has
one: to wait for a whole request to end takes longer than a prefill. (Where blocks are counted, the caller leaves such
replicas out by itself.) The least loaded is never over the cap, so there is always a choice. All is worked out in
integers, costs multiplied by `total`, so nothing is rounded.

Where the caches make no difference to a prompt (`differ`), callers count requests, as without affinity: prompts that
share nothing then go exactly where least-outstanding sends them. Blocks of work, which see prefill only, spread them
less evenly while they are answered: on llama.cpp first tokens came sooner, and 4 % of the throughput was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = Sequence[int] | npt.NDArray[np.integer[Any]]
"""One number a replica. Interpreted, a list is read quicker than an array; compiled, it is an int64 array."""

EACH = 1
"""Blocks of work that an outstanding request is beside its prefill."""

WEIGHT = 4
"""Requests that the prefill of a whole prompt weighs as much as, where requests are counted."""


def differ(hit: Counts) -> bool:
    """Whether replicas have cached more or less of a prompt: where they have not, there is nothing to be affine to."""
    for i in range(1, len(hit)):  # noqa: SIM110 - numba compiles loops
        if hit[i] != hit[0]:
            return True
    return False


def choose(
    outstanding: Counts, slots: int, hit: Counts, total: int, sticky: int = -1, start: int = 0, one: int = 0
) -> int:
    """The index of the replica for a prompt; -1 when there is none.

    `outstanding`: the work of each replica, in blocks (then `one` is `total`), or in requests (then `one` is 0).
    `slots`: requests that a replica works on at once; 0: not known. Only looked at where requests are counted.
    `hit`: of the prompt's `total` blocks, how many from its start each replica is believed to have cached.
    `sticky`: the replica that this session was with, kept unless it is over the cap; -1: none.
    `start`: ties go to the first from here on. Where hits are equal, the answer is that of `pick.replica`.
    """
    n = len(outstanding)
    if n < 2:
        return n - 1
    load = 0
    least = int(outstanding[0])
    for i in range(n):
        work = int(outstanding[i])
        load += work
        if work < least:  # noqa: PLR1730 - quicker than a call when interpreted
            least = work
    room = one if one > 0 else 1
    cap = (5 * load + 4 * n * room + 4 * n - 1) // (4 * n)
    if one <= 0 and least < slots <= cap:
        cap = slots - 1
    if 0 <= sticky < n and int(outstanding[sticky]) <= cap:
        return sticky
    scale = total if total > 0 else 1
    weight = one if one > 0 else WEIGHT
    best = -1
    cheapest = 0
    i = start % n
    for _ in range(n):
        work = int(outstanding[i])
        if work <= cap:
            missing = total - int(hit[i])
            if missing < 0:
                missing = 0
            elif missing > total:
                missing = total
            cost = work * scale + weight * missing
            if best < 0 or cost < cheapest:
                best = i
                cheapest = cost
        i += 1
        if i == n:
            i = 0
    return best
