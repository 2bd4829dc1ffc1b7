"""Per-request decisions compile, and compiled they answer bit for bit what they answer interpreted."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
import numpy as np
import pytest

from mainspring.decide import admit, affinity, breaker, nearest, pick, reserve, retry

STATES = 300


def counts(chance: random.Random, n: int, most: int) -> np.ndarray:
    """So many whole numbers, often equal."""
    top = chance.choice([1, 3, most])
    return np.array([chance.randint(0, top) for _ in range(n)], dtype=np.int64)


def choose(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `affinity.choose`, in requests and in blocks."""
    n, total = chance.randint(0, 9), chance.randint(0, 40)
    hits = counts(chance, n, 45)
    one = chance.choice([0, total])
    return counts(chance, n, 60), chance.randint(0, 9), hits, total, chance.randint(-1, n), chance.randint(0, 99), one


def ejection(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `breaker.eject`."""
    n = chance.randint(0, 9)
    asked = counts(chance, n, 500)
    wrong = np.array([chance.randint(0, int(one)) if chance.random() < 0.5 else 0 for one in asked], dtype=np.int64)
    return wrong, asked, (counts(chance, n, 1) if chance.random() < 0.5 else np.zeros(n, np.int64)), 20


def again(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `retry.again`."""
    status = chance.choice([retry.UNKNOWN, retry.RUNNING, 0, 1, 139, -6, -9, -11, -15])
    sent, tries, retried = chance.choice([0, 0, 5]), chance.randint(0, 3), chance.randint(0, 30)
    return chance.randint(0, 3), sent, tries, retried, chance.randint(0, 200), 2_000, chance.random() < 0.5, status


def region(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `nearest.region`."""
    n = chance.randint(0, 6)
    order = np.array(chance.sample(range(-1, n + 1), chance.randint(0, n)), dtype=np.int64)
    return order, counts(chance, n, 3), counts(chance, n, 3)


def cooling(chance: random.Random) -> tuple[Any, ...]:
    """`failures`, `since` and settings of a breaker."""
    return chance.randint(0, 200), chance.uniform(0, 1e6), 5, chance.uniform(0.1, 5), chance.uniform(5, 100)


def usable(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `breaker.usable`."""
    failures, since, limit, first, longest = cooling(chance)
    return failures, since, since + chance.uniform(0, 100), chance.random() < 0.3, limit, first, longest


def weights(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `pick.revision`."""
    return chance.random(), counts(chance, chance.randint(0, 6), 10_000)


def turns(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `admit.turn`."""
    n = chance.randint(0, 6)
    shares = [chance.choice([0.01, 0.5, 1.0, 4.0]) for _ in range(n)]
    head = np.array([chance.choice([1.0, chance.uniform(1, 5_000)]) for _ in range(n)])
    deficit = np.array([chance.choice([0.0, chance.uniform(-20_000, 5_000)]) for _ in range(n)])
    saved, at = chance.choice([0.0, chance.uniform(0, 5_000)]), chance.randint(-1, n)
    return counts(chance, n, 9), head, np.array(shares), counts(chance, n, 2), deficit, at, saved


def gives_way(chance: random.Random) -> tuple[Any, ...]:
    """Arguments of `admit.displaced`."""
    n = chance.randint(1, 6)
    shares = np.array([chance.choice([0.01, 0.5, 1.0, 4.0]) for _ in range(n)])
    return counts(chance, n, 9), shares, counts(chance, n, 2), chance.randint(0, n - 1)


def known(chance: random.Random) -> np.ndarray:
    """Tokens a byte by class, some of them unknown."""
    return np.array([chance.choice([0.0, chance.uniform(0.01, 3.0)]) for _ in range(reserve.CLASSES)])


CASES: list[tuple[Callable[..., Any], Callable[[random.Random], tuple[Any, ...]]]] = [
    (affinity.choose, choose),
    (affinity.differ, lambda c: (counts(c, c.randint(0, 6), 3),)),
    (breaker.counted, lambda c: (c.randint(0, 9), c.random() < 0.7, c.random() < 0.3, c.randint(0, 30), 30, 5)),
    (breaker.until, cooling),
    (breaker.usable, usable),
    (breaker.eject, ejection),
    (breaker.returned, lambda c: (c.uniform(0, 99), c.uniform(0, 999), c.randint(0, 20), 30.0, 300.0)),
    (retry.again, again),
    (nearest.region, region),
    (admit.admit, lambda c: (c.randint(0, 5), c.randint(0, 5), c.randint(-1, 2))),
    (admit.retry_after, lambda c: (c.randint(0, 500), c.choice([0.0, c.uniform(0, 50), float("inf"), float("nan")]))),
    (admit.turn, turns),
    (admit.displaced, gives_way),
    (admit.saved_rounds, lambda c: (c.uniform(0, 500), np.array([c.uniform(0.01, 9) for _ in range(c.randint(0, 5))]))),
    (reserve.size_class, lambda c: (c.choice([0, 1, 2**30, c.randint(0, 10**7)]),)),
    (reserve.prompt_tokens, lambda c: (c.randint(1, 10**7), known(c))),
    (reserve.likely_tokens, lambda c: (c.randint(1, 10**7), known(c))),
    (reserve.risen, lambda c: (c.choice([0.0, c.uniform(0, 2)]), c.uniform(0, 2))),
    (pick.unit, lambda c: (np.uint64(c.getrandbits(64)),)),
    (pick.revision, weights),
    (pick.mirrored, lambda c: (c.random(), c.randint(0, 10_000))),
    (pick.replica, lambda c: (counts(c, c.randint(0, 9), 60), c.randint(0, 99))),
]


def bits(value: Any) -> bytes:
    """An answer, so that equal means the same bits."""
    return struct.pack("<d", value) if isinstance(value, float) else struct.pack("<q", value)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as numba compiles it, with those of its own module that it calls."""
    called = {
        name: compiled(found)
        for name in function.__code__.co_names
        if isinstance(found := function.__globals__.get(name), FunctionType) and found.__module__ == function.__module__
    }
    same = FunctionType(function.__code__, function.__globals__ | called, function.__name__, function.__defaults__)
    return numba.njit(same if called else function)


@pytest.mark.parametrize(("function", "made"), CASES, ids=lambda one: getattr(one, "__name__", "made"))
def test_compiled_is_interpreted(function: Callable[..., Any], made: Callable[..., Any], seed: int) -> None:
    """On random states numba's answer has the same bits, and so has what it changes; arguments are told by a seed."""
    quick = compiled(function)
    chance = random.Random(seed)
    for _ in range(STATES):
        given = made(chance)
        other = copy.deepcopy(given)
        assert bits(quick(*given)) == bits(function(*other)), given
        for one, same in zip(given, other, strict=True):
            assert not isinstance(one, np.ndarray) or one.tobytes() == same.tobytes()


def test_defaults_compile() -> None:
    """What is left out is the same compiled: the functions' own defaults."""
    none = np.zeros(2, dtype=np.int64)
    assert numba.njit(affinity.choose)(np.array([1, 0]), 0, none, 4) == affinity.choose([1, 0], 0, [0, 0], 4)
    assert numba.njit(breaker.usable)(6, 10.0, 12.0, False) == breaker.usable(6, 10.0, 12.0, False)
    assert numba.njit(retry.again)(2, 0, 1, 0, 9, 2_000, True) == retry.again(2, 0, 1, 0, 9, 2_000, True)
