"""The load generator watched by itself: is it what limits the figures?

What this is: how late requests were sent, how long the event loop was held up, the share of a core that was used.
Who calls it: `load.py` measures, `summary.py` judges. What it must never do: excuse a figure.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass
from time import perf_counter, thread_time

import numpy as np

from mainspring.bench.arrivals import Floats

BEAT = 0.02  # seconds between two looks
LATE = 0.002  # seconds (p95) under which lateness and lag are never worth a word
OF_MEDIAN = 0.1  # and the share of the median answer under which they are not
LATE_TAIL = 0.010  # the same of p99, against the p99 of answers
BUSY = 0.85  # of one core


@dataclass(frozen=True, slots=True)
class Generator:
    """What the generator did to the figures. Seconds."""

    late_p50: float | None  # from when a request was due to when it was taken up; None: a closed loop has nothing due
    late_p95: float | None
    late_p99: float | None
    late_max: float | None
    lag_p95: float  # by which the event loop came back too late
    lag_max: float
    cpu: float  # of one core, while requests were being sent
    connections: int  # open at once
    crowded: int  # requests that found all connections in use
    reasons: tuple[str, ...] = ()  # why it limits the figures


class Watch:
    """Beats on the loop, and counts what it sees."""

    def __init__(self) -> None:
        self._lags = array("d")
        self._cpu = self._since = 0.0
        self.share = 0.0

    def start(self) -> None:
        """From here on."""
        self._cpu, self._since = thread_time(), perf_counter()

    def mark(self) -> None:
        """The last request has been sent: the processor's share is of the time until here."""
        self.share = (thread_time() - self._cpu) / max(1e-9, perf_counter() - self._since)

    async def beat(self) -> float:
        """Wait a beat; gives the time."""
        wanted = perf_counter() + BEAT
        await asyncio.sleep(BEAT)
        now = perf_counter()
        self._lags.append(max(0.0, now - wanted))
        return now

    def generator(self, late: Floats | None, connections: int, crowded: int) -> Generator:
        """What was seen, not judged yet."""
        lags = np.array(self._lags) if len(self._lags) else np.zeros(1)
        p50, p95, p99, most = None, None, None, None
        if late is not None and len(late):
            p50, p95, p99, most = np.quantile(late, (0.5, 0.95, 0.99, 1.0)).tolist()
        lag, longest = np.quantile(lags, (0.95, 1.0)).tolist()
        return Generator(p50, p95, p99, most, lag, longest, self.share, connections, crowded)


def reasons(seen: Generator, median: float | None, tail: float | None, count: int, limit: int) -> tuple[str, ...]:
    """Why the generator limits the figures, in words; `median` and `tail` (p99) are of the answers, in seconds."""
    found = []
    allowed = max(LATE, OF_MEDIAN * (median or 0.0))
    allowed_tail = max(LATE_TAIL, OF_MEDIAN * (tail or median or 0.0))
    usual = f"; the median answer takes {_ms(median)}" if median else ""
    if seen.late_p95 is not None and seen.late_p95 > allowed:
        found.append(f"requests left {_ms(seen.late_p95)} late (p95){usual}")
    elif seen.late_p99 is not None and seen.late_p99 > allowed_tail:
        found.append(f"requests left {_ms(seen.late_p99)} late (p99){usual}")
    if seen.lag_p95 > allowed + 0.001:  # loops round to milliseconds
        found.append(f"its event loop was held up {_ms(seen.lag_p95)} (p95){usual}")
    if seen.cpu > BUSY:
        found.append(f"it used {seen.cpu:.0%} of its one core")
    if count and seen.crowded > 0.01 * count:
        found.append(f"{seen.crowded:,} requests found all {limit:,} connections in use")
    return tuple(found)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
