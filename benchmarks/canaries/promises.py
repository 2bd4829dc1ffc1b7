"""Days of a rollout, error by error: when a promise is certain, and when it is given up before.

What this is: errors as a Poisson process with the requests between them, so that every single request is a look. Who
calls it: `benchmarks/canary.py`, its tests. What it must never do: stop before the last look that a loop could have.
"""

from __future__ import annotations

import math

import numpy as np

from canaries.traffic import Floats, Ints, World
from mainspring.decide.sequential import evidence_below


def certain_from(promise: float, beta: float, most: int) -> Ints:
    """With so many errors (the index), how many requests make it certain that fewer than `promise` fail.

    Up to the number of errors that would need more than `most` requests.
    """
    found: list[int] = []
    low = 0
    while low < most:
        bad, high = len(found), most + 1
        while high - low > 1:  # evidence grows with every request that is answered well
            middle = (low + high) // 2
            enough = middle >= bad and evidence_below(bad, middle, promise) >= 1 / beta
            low, high = (low, middle) if enough else (middle, high)
        found.append(high)
        low = high - 1
    return np.array(found)


def ever_certain(errors: float, certain: Ints, most: int) -> float:
    """The chance that a promise is called certain within `most` requests of which each fails with `errors`: exact.

    It is not when after `certain[bad]` requests more than `bad` have failed, for every `bad`: a recursion over these.
    """
    left, seen = np.eye(1, len(certain) + 2)[0], 0  # the chance of so many errors, not certain so far; the last: more
    for bad, needed in enumerate(certain[certain <= most]):
        step = needed - seen
        number = np.arange(1, min(step, len(left)) + 1)
        logs = np.cumsum(np.log((step - number + 1) / number)) + number * (np.log(errors) - np.log1p(-errors))
        grown = np.convolve(left, np.exp(step * np.log1p(-errors) + np.concatenate([[0.0], logs])))[: len(left)]
        grown[-1] += left.sum() - grown.sum()
        grown[: bad + 1] = 0.0
        left, seen = grown, needed
    return float(1.0 - left.sum())


def events(world: World, errors: float) -> int:
    """More errors, of both versions together, than a run has."""
    mean = world.rate * world.seconds * (world.share * errors + (1 - world.share) * world.errors)
    return math.ceil(mean + 6 * math.sqrt(mean) + 10)


def walk(
    world: World, errors: float, certain: Ints, given_up: Ints | None, runs: int, seed: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Hours until a promise is certain and until the rollout is given up, whichever is first; NaN: not in `seconds`.

    `given_up` says from how many errors of the candidate's among so many of both (the index) it is given up; None:
    never.
    """
    random = np.random.default_rng(seed)
    rate = world.rate * world.share
    mine, others = rate * errors, (world.rate - rate) * world.errors
    number = events(world, errors)
    since = random.exponential(1 / (mine + others), (runs, number))
    at = np.cumsum(since, axis=1)
    is_mine = random.random((runs, number)) < mine / (mine + others)
    bad = np.cumsum(is_mine, axis=1)
    before = bad - is_mine
    answered = np.cumsum(random.poisson(rate * (1 - errors) * since), axis=1) + before
    needed = np.append(certain, np.iinfo(np.int64).max)[np.minimum(before, len(certain))]
    reached = np.minimum(at, np.maximum(0.0, at - (answered - needed) / rate))
    sure = _first(answered >= needed, reached, world.seconds)
    out = np.full(runs, np.nan)
    if given_up is not None:
        out = _first(bad >= given_up[1 : number + 1], at, world.seconds)
    sure_first = np.nan_to_num(sure, nan=np.inf) <= np.nan_to_num(out, nan=np.inf)
    return np.where(sure_first, sure, np.nan) / 3600, np.where(sure_first, np.nan, out) / 3600


def _first(hit: np.ndarray, at: Floats, until: float) -> Floats:
    """The time of the first True of each run, if it is before the end."""
    time = np.where(hit.any(axis=1), at[np.arange(len(at)), hit.argmax(axis=1)], np.nan)
    return np.where(time <= until, time, np.nan)


def clumped(errors: float, size: float, certain: Ints, most: int, runs: int, seed: tuple[int, ...]) -> Floats:
    """Whether a promise was called certain within `most` requests when errors come in rows (retries), 1 or 0.

    The share of requests that fail is `errors` as before, but they come in rows whose lengths are geometric with mean
    `size`. Each request is a look.
    """
    random = np.random.default_rng(seed)
    clumps = math.ceil(most * errors / size * 1.5 + 60)
    good = random.geometric(errors / size / (1 - errors + errors / size), (runs, clumps)) - 1
    lengths = random.geometric(1 / size, (runs, clumps))
    before = np.cumsum(lengths, axis=1) - lengths
    answered = np.minimum(np.cumsum(good, axis=1) + before, most)
    needed = np.append(certain, most + 1)[np.minimum(before, len(certain))]
    return (answered >= needed).any(axis=1).astype(float)


def of_users(errors: float, size: float, asks: int) -> tuple[float, float]:
    """The share of users who meet an error, and requests of each, when `errors` of the requests fail.

    Each user asks so many times; errors come in rows as in `clumped`: who fails tries again.
    """
    begins = errors / size / (1 - errors + errors / size)  # of the requests that are no retries
    return 1 - (1 - begins) ** asks, asks * (1 + begins * (size - 1))


def by_user(errors: float, size: float, asks: int, certain: Ints, most: int) -> float:
    """As `ever_certain` where users keep their version: those with an error are bad, of all (`Tally.promised`)."""
    failing, each = of_users(errors, size, asks)
    return ever_certain(failing, certain, int(most / each))
