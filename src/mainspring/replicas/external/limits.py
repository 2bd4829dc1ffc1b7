"""How many requests a server elsewhere is sent: at once, and over time.

What this is: two counts, with the clock as an argument. Who calls it: the forwarder. What it must never do: queue; who
comes too early is told when to come again.
"""

from __future__ import annotations

import math


class Limits:
    """At most `at_once` on their way, and `rate` a second with a burst of one second's worth; 0 and None: no limit."""

    def __init__(self, at_once: int, rate: float | None) -> None:
        self._at_once, self._rate = at_once, rate
        self._most = max(1.0, rate or 0.0)
        self._left = self._most
        self._seen: float | None = None
        self.running = 0

    def enter(self, now: float) -> int:
        """Take a request in at `now` (seconds): 0, or the whole seconds after which it may be tried again."""
        if self._at_once and self.running >= self._at_once:
            return 1
        if self._rate is not None:
            since = 0.0 if self._seen is None else max(0.0, now - self._seen)
            self._left, self._seen = min(self._most, self._left + since * self._rate), now
            if self._left < 1.0:
                return max(1, math.ceil((1.0 - self._left) / self._rate))
            self._left -= 1.0
        self.running += 1
        return 0

    def leave(self) -> None:
        """A request that was taken in has ended."""
        self.running -= 1
