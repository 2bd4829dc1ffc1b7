"""What time it is: the live clock, and the clock of a replay.

What this is: with the shim, the only place of the local world that asks the machine for the time. Who calls it: the
cycle, through `loop.ports.Clock`. What it must never do: let `mono` or `watched` go back.
"""

from __future__ import annotations

import threading
import time

from mainspring.loop.snapshot import Now

GAP = 60.0  # seconds; a longer time between two looks counts as this much watched


def _machine() -> float:
    """Seconds since the machine started, the time asleep included."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class _Mono:
    """Seconds that go on over controller boots, and over a restart of the machine."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._lock = threading.Lock()

    def read(self, last: Now | None = None) -> float:
        with self._lock:
            mono = _machine() + self._offset
            if last is not None and mono < last.mono:  # the machine was restarted
                self._offset += last.mono - mono
                mono = last.mono
            return mono


class LiveClock:
    """The real time."""

    def __init__(self) -> None:
        self._mono = _Mono()

    def mono(self) -> float:
        """Seconds that never go back; the same as in `Now.mono`."""
        return self._mono.read()

    def now(self, watched: float, last: Now | None) -> Now:
        """The moment; a gap of more than 60 s since `last` counts as 60 s watched."""
        mono = self._mono.read(last)
        if last is not None:
            watched += min(mono - last.mono, GAP)
        return Now(wall=time.time(), mono=mono, watched=watched)


class ReplayClock:
    """Event time that is set by whoever replays: it stands still in between.

    `watched` grows with event time, without a cap; `mono` is real, since processes take real time.
    """

    def __init__(self, start: float) -> None:
        self._wall = start
        self._lock = threading.Lock()
        self._mono = _Mono()

    def set(self, wall: float) -> None:
        """Move event time forward to `wall` (POSIX seconds); an earlier time is ignored."""
        with self._lock:
            self._wall = max(self._wall, wall)

    def wall(self) -> float:
        """Event time, POSIX seconds."""
        with self._lock:
            return self._wall

    def mono(self) -> float:
        """Seconds that never go back; the same as in `Now.mono`."""
        return self._mono.read()

    def now(self, watched: float, last: Now | None) -> Now:
        """The moment; all event time since `last` counts as watched."""
        wall = self.wall()
        if last is not None:
            watched += max(wall - last.wall, 0.0)
        return Now(wall=wall, mono=self._mono.read(last), watched=watched)
