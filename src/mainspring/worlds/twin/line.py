"""Requests that wait at the simulated gateway: one queue, or one a tenant, whose turn it is by the gateway's own rule.

What this is: two kinds of the same small queue; pure. Who calls it: `worlds/twin/queueing.py`. What it must never do:
have a rule of its own: turns and who gives way are told by `decide/admit.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from mainspring.decide.admit import NEW, displaced, saved_rounds, turn


class Line(Protocol):
    """Requests by number, in the order in which they are served."""

    def __len__(self) -> int: ...

    def push(self, request: int) -> None:
        """Have one wait."""

    def pop(self) -> int:
        """Take the one whose turn it is."""

    def oldest(self) -> int:
        """The one that came first, which stays."""

    def drop(self) -> int:
        """Take out the one that came first."""

    def yields(self, request: int) -> int:
        """Which one gives way in a full queue: one that waits and is taken out, or `request` itself."""


class Plain:
    """First come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()
        self.push = self._waiting.append
        self.pop = self.drop = self._waiting.popleft

    def __len__(self) -> int:
        return len(self._waiting)

    def oldest(self) -> int:
        return self._waiting[0]

    def yields(self, request: int) -> int:
        return request


class Shared:
    """A queue for each tenant; turns by deficit round robin, equal shares and priorities."""

    def __init__(self, tenant: Sequence[int], work: Sequence[float], count: int, shares: Sequence[float] = ()) -> None:
        self._tenant, self._work = tenant, work
        self._waiting: list[deque[int]] = [deque() for _ in range(count)]
        self._shares = list(shares) or [1.0] * count
        self._same, self._deficit, self._at, self._held = [0] * count, [0.0] * count, 0, 0
        self._mean = 0.0  # work of the requests of late

    def __len__(self) -> int:
        return self._held

    def push(self, request: int) -> None:
        self._mean += (self._work[request] - self._mean) * (NEW if self._mean else 1.0)
        self._waiting[self._tenant[request]].append(request)
        self._held += 1

    def pop(self) -> int:
        counts = [len(one) for one in self._waiting]
        heads = [self._work[one[0]] if one else 0.0 for one in self._waiting]
        saved = saved_rounds(self._mean, self._shares)
        self._at = turn(counts, heads, self._shares, self._same, self._deficit, self._at, saved)
        self._held -= 1
        return self._waiting[self._at].popleft()

    def oldest(self) -> int:
        return min(one[0] for one in self._waiting if one)

    def drop(self) -> int:
        first = self.oldest()
        self._held -= 1
        return self._waiting[self._tenant[first]].popleft()

    def yields(self, request: int) -> int:
        counts = [len(one) for one in self._waiting]
        worst = displaced(counts, self._shares, self._same, self._tenant[request])
        if worst == self._tenant[request]:
            return request
        self._held -= 1
        return self._waiting[worst].pop()
