"""An alarm that rings within some tens of microseconds, where event loops round to whole milliseconds.

What this is: Linux's timerfd, watched by the loop; elsewhere the loop's own timer. Who calls it: `load.py`. What it
must never do: spin.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable

_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC are these


class _Times(ctypes.Structure):
    """`struct itimerspec`: the interval, then the time to the first ring, each in s and ns."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class Alarm:
    """Calls `ring` on the loop, once for each `set`; a new `set` replaces the last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], object]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._times = _Times()
        self._file = self._open()
        if self._file >= 0:
            loop.add_reader(self._file, self._rings)

    def _open(self) -> int:
        """The timer's descriptor; -1 where there is none."""
        if sys.platform != "linux":
            return -1
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            return int(self._libc.timerfd_create(_MONOTONIC, _FLAGS))
        except (OSError, AttributeError):
            return -1

    def set(self, seconds: float) -> None:
        """Ring so many seconds from now; at once for none or fewer."""
        if self._file < 0:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, seconds), self._ring)
            return
        nanoseconds = max(1, int(seconds * 1e9))
        self._times.first_s, self._times.first_ns = divmod(nanoseconds, 1_000_000_000)
        self._libc.timerfd_settime(self._file, 0, ctypes.byref(self._times), None)

    def _rings(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return  # set anew in the meantime
        self._ring()

    def close(self) -> None:
        """Ring no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1
