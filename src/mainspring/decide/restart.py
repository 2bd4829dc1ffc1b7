"""When a process that ended by itself is started again: backoff, and a limit that is never a hang.

Pure; called by the loop for replicas, gateway workers and runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_WAIT = 0.5  # seconds after the first failure; doubles with each one
LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Restart:
    """`at`: the monotonic moment from which it may start; `looping`: the limit was reached."""

    at: float
    looping: bool


def restart(starts: Sequence[float], failures: int, count: float, per: float) -> Restart:
    """Decide when the next start may be.

    `starts` are monotonic times of the latest starts, oldest first; `failures` ends in a row that
    nobody asked for (1 or more); at most `count` restarts in any `per` seconds.
    """
    if not starts:
        return Restart(0.0, looping=False)
    wait = 0.0 if failures <= 1 else min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(failures - 2, 10))
    at = starts[-1] + wait
    limit = int(count) + 1  # the first start is not a restart
    if len(starts) >= limit and starts[-limit] + per > at:
        return Restart(starts[-limit] + per, looping=True)
    return Restart(at, looping=False)
