"""What a request may use, told before it is known: what is reserved of a limit, and settled at its end.

What this is: pure functions over scalars and arrays, in the subset of Python that numba compiles. Who calls it: the
gateway, the twin. What it must never do: count a token (nobody can who has no tokenizer), or promise that it did.

How many tokens a prompt has is estimated by the most tokens a byte that prompts of about its length had lately: rising
at once, falling slowly. Until the first answer is there, a token is taken for a byte, which none is shorter than.
"""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence

CLASSES = 24
"""Prompts are told apart by powers of two of their bytes: short ones have more tokens a byte, for their template."""
UNKNOWN = 0.0
_FALL = 1.0 / 64.0
_MARGIN = 1.05
_BYTES = 4  # of a token, where nothing is known
_TEMPLATE = 256  # tokens around a prompt of which nothing is known yet


def size_class(size: int) -> int:
    """Which of the `CLASSES` a prompt of so many bytes is in."""
    found = math.frexp(size)[1] - 1
    return 0 if found < 0 else found if found < CLASSES else CLASSES - 1


def prompt_tokens(size: int, most: Sequence[float]) -> int:
    """Tokens that a prompt of `size` bytes may have. `most`: tokens a byte by class, `UNKNOWN` where nobody knows."""
    at = size_class(size)
    for below in range(at, -1, -1):  # a shorter prompt has more tokens a byte: no less than is needed
        if most[below] > UNKNOWN:
            return int(size * most[below] * _MARGIN) + 1
    return size + _TEMPLATE


def likely_tokens(size: int, mean: Sequence[float]) -> int:
    """Tokens that a prompt of `size` bytes probably had, for one that broke off before anybody said it.

    `mean`: tokens a byte by class; where nobody knows, English's of some 4 bytes.
    """
    at = size_class(size)
    for below in range(at, -1, -1):
        if mean[below] > UNKNOWN:
            return int(size * mean[below]) + 1
    return size // _BYTES + 1


def reckon(size: int, most: Sequence[float], mean: Sequence[float]) -> tuple[int, int]:
    """Tokens that a prompt probably has, and that it may have: `likely_tokens` and `prompt_tokens` in one."""
    at = size_class(size)
    if mean[at] > UNKNOWN and most[at] > UNKNOWN:
        return int(size * mean[at]) + 1, int(size * most[at] * _MARGIN) + 1
    return likely_tokens(size, mean), prompt_tokens(size, most)


def learn(most: MutableSequence[float], size: int, tokens: int) -> None:
    """Note what a prompt of `size` bytes had."""
    if size <= 0 or tokens <= 0:
        return
    at = size_class(size)
    most[at] = risen(most[at], tokens / size)


def learn_mean(mean: MutableSequence[float], size: int, tokens: int) -> None:
    """Note what a prompt of `size` bytes had, in the mean of late."""
    if size <= 0 or tokens <= 0:
        return
    at = size_class(size)
    seen = tokens / size
    mean[at] = seen if mean[at] == UNKNOWN else mean[at] + (seen - mean[at]) * _FALL


def risen(most: float, seen: float) -> float:
    """The most of late: up at once, down by a 64th of the way."""
    if most == UNKNOWN or seen >= most:
        return seen
    return most + (seen - most) * _FALL
