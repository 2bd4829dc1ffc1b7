"""What was worked out last of large values: the evidence of a rollout is looked at often and changes seldom.

What this is: a memory of pure functions, which shows in nothing but time. Who calls it: `decide/rollout.py`,
`decide/figures.py`, and the loop's evidence. What it must never do: take two values for one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
KEPT = 4
"""Results of each function: rollouts at the same time of one stack are few, and their evidence may be large."""


class Latest(Generic[T]):
    """The last results of one function of frozen values."""

    def __init__(self) -> None:
        self._held: tuple[tuple[tuple[object, ...], Hashable, T], ...] = ()

    def of(self, about: tuple[object, ...], key: Hashable, work: Callable[[], T]) -> T:
        """The result for these very objects (not for equal ones: to compare is slow) and an equal key."""
        for objects, other, found in self._held:
            same = len(objects) == len(about) and all(a is b for a, b in zip(objects, about, strict=True))
            if same and other == key:
                return found
        found = work()
        self._held = ((about, key, found), *self._held[: KEPT - 1])
        return found
