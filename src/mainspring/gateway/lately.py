"""How many came and ended in the last seconds, second by second.

What this is: rings of a minute, turned by the hub's clock. Who calls it: doors and exchanges count; `loads` reads.
What it must never do: cost more than an addition for a request.
"""

from __future__ import annotations

from collections import deque

MINUTE = 60
SHORT = 10


class Lately:
    """Of one endpoint."""

    __slots__ = ("_turned", "came", "ended", "seconds")

    def __init__(self) -> None:
        self.came = self.ended = 0  # in this second
        self.seconds = 0.0  # with replicas, of those that ended in this second
        self._turned: deque[tuple[int, int, float]] = deque(maxlen=MINUTE)

    def roll(self) -> None:
        """A second is over."""
        self._turned.append((self.came, self.ended, self.seconds))
        self.came = self.ended = 0
        self.seconds = 0.0

    def rates(self) -> tuple[float, float]:
        """Requests that came, a second, over the last 10 s and the last 60 s; less where it runs for less long."""
        turned = [came for came, _, _ in self._turned]
        short = turned[-SHORT:]
        return sum(short) / max(len(short), 1), sum(turned) / max(len(turned), 1)

    def mean(self) -> float | None:
        """Mean seconds with a replica, of those that ended in the last minute; None where none did."""
        ended = self.ended + sum(ended for _, ended, _ in self._turned)
        return (self.seconds + sum(seconds for _, _, seconds in self._turned)) / ended if ended else None
