"""Times of the two arms from their histograms: over a limit, and beside the control at the same time.

What this is: counts of slow answers, pure, on arrays (slices, buckets) of `decide/arms.py`'s `EDGES`.
Who calls it: `decide/checks.py`; benchmarks with made-up arrays.
What it must never do: round a bucket so that a quick answer counts as slow, where slow ones give a rollout up.

Beside the control: in each block of slices the limit is the control's own p95 of earlier blocks, so it is known before
what it is used on. A candidate's answer is slow over `factor` times the limit, a control's over the limit itself. While
the candidate's times are at most `factor` times the control's, its share of slow ones is at most the control's, and
both are compared conditional on slow ones as errors are (`decide/sequential.py`): the limit need not be right, a
load that slows both arms is no evidence. Requests of like prompt length are compared with each other (strata), since
slow answers to long prompts would be hidden by many short ones; and a common factor is looked for in all together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.decide.arms import EDGES, STRATA, Histogram
from mainspring.decide.sequential import AHEAD, log_mean, rate_ratios, ratio_logs, renewed, told

Floats = NDArray[np.float64]

BUCKETS = len(EDGES) + 1
PART = 0.95  # of the answers are within the limit
SLOW = 1.0 - PART
BLOCK = 8
"""Answers of each arm in a block at least: by few the share that the candidate got would be mostly chance."""
BEFORE = 40
"""Answers of the control, of like length, before its p95 is taken from them."""
SERIOUS = 3.0
"""Middle of the prior on how many times more often it is slow, less one: 20 times is always."""
LOWER: Floats = np.array((0.0, *EDGES))
_UPPER: Floats = np.array((*EDGES, np.inf))


def dense(histogram: Histogram, buckets: int = BUCKETS) -> Floats:
    """All buckets of one histogram."""
    found = np.zeros(buckets)
    for bucket, count in histogram:
        found[bucket] += count
    return found


def surely_over(counts: Floats, limit: float) -> float:
    """Answers in buckets that lie wholly above the limit: what gives a rollout up."""
    return float(counts[limit <= LOWER].sum())


def maybe_over(counts: Floats, limit: float) -> float:
    """Answers in buckets that reach above the limit: what a promise is judged by."""
    return float(counts[limit * (1 + 1e-9) < _UPPER].sum())


def quantile(counts: Floats, part: float = PART) -> float:
    """The upper edge of the bucket that holds the quantile, seconds; nan without answers, inf above all edges."""
    total = counts.sum()
    return float(_UPPER[int(np.argmax(counts.cumsum() >= part * total))]) if total else float("nan")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Slow answers of one stratum, block by block."""

    ends: NDArray[np.int64]  # the last slice of each block
    slow: Floats  # the candidate's, over factor times the limit
    answers: Floats
    control_slow: Floats  # over the limit
    control: Floats


def blocks(candidate: Floats, control: Floats, factor: float) -> Blocks:
    """Cut both arms' histograms (slices, buckets), in order of time, into blocks and count the slow ones.

    The last, unfinished block is left out.
    """
    ends = cut(candidate.sum(axis=1), control.sum(axis=1))
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    whole = ends[-1] + 1 if len(ends) else 0
    own, rest = (np.add.reduceat(part[:whole], starts, axis=0) for part in (candidate, control))
    return counted(own, rest, ends, factor)


def counted(own: Floats, rest: Floats, ends: NDArray[np.int64], factor: float) -> Blocks:
    """Count the slow ones in the histograms of blocks (blocks, buckets) that end with those slices.

    Blocks before the control has `BEFORE` answers count nothing.
    """
    if not len(ends):
        nothing = np.zeros(0)
        return Blocks(ends, nothing, nothing, nothing, nothing)
    before = np.concatenate([np.zeros((1, BUCKETS)), rest.cumsum(axis=0)[:-1]])
    seen = before.sum(axis=1)
    limit = np.argmax(before.cumsum(axis=1) >= PART * seen[:, None] - 1e-9, axis=1)  # its upper edge is the limit
    known = (seen >= BEFORE) & (limit < len(EDGES))
    edge = _UPPER[np.minimum(limit, len(EDGES) - 1)]
    over = np.searchsorted(LOWER, edge * factor * (1 - 1e-9), side="left")  # the first bucket wholly above
    own_above = np.concatenate([own[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((len(own), 1))], axis=1)
    rest_above = np.concatenate([rest[:, ::-1].cumsum(axis=1)[:, ::-1], np.zeros((len(rest), 1))], axis=1)
    rows = np.arange(len(ends))
    slow, control_slow = own_above[rows, over], rest_above[rows, np.minimum(limit + 1, BUCKETS)]
    counted = [np.where(known, part, 0.0) for part in (slow, own.sum(axis=1), control_slow, rest.sum(axis=1))]
    return Blocks(ends, *counted)


def beside(strata: Sequence[Blocks]) -> float:
    """The e-value against "in each stratum the candidate is within its factor", from all blocks.

    Half is a common factor over all strata (a product over them for each rate ratio, then the mixture), half the mean
    over strata, each for itself (a fifth each, so that the weights do not depend on what was seen), which also finds
    what begins late (`renewed`).
    """
    others = rate_ratios(1.0, SERIOUS)
    logs, alone = np.zeros((len(STRATA) + 1, len(others))), np.zeros(len(STRATA) + 1)
    for i, one in enumerate(strata):
        if len(one.ends):
            steps = ratio_logs(one.slow, one.answers, one.control_slow, one.control, 1.0, others, path=True)
            logs[i], alone[i] = steps[:, -1], renewed(steps)
    together, apart = log_mean(logs.sum(axis=0)), log_mean(alone)
    return float(told(log_mean(np.array([together, apart]))))


def cut(own: Floats, rest: Floats) -> NDArray[np.int64]:
    """The last slice of each block, from both arms' answers in each slice.

    A block is over as soon as both arms have `BLOCK` answers. Late ones are longer: a 720th of what was before them at
    least, so that there are never many.
    """
    ends, mine, theirs, begins = [], 0.0, 0.0, 0
    for i, (a, b) in enumerate(zip(own.tolist(), rest.tolist(), strict=True)):
        mine, theirs = mine + a, theirs + b
        if mine >= BLOCK and theirs >= BLOCK and i + 1 - begins >= begins // AHEAD:
            ends.append(i)
            mine, theirs, begins = 0.0, 0.0, i + 1
    return np.array(ends, dtype=np.int64)
