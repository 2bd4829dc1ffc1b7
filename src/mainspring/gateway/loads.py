"""What this worker is doing, told to the loop by a file: who waits, who is served, how many come.

What this is: one small JSON file a worker, replaced whole about once a second. Who calls it: `__main__`'s watch; the
loop reads it, and scales by it. What it must never do: hold up a request, or say nothing as if it were zero.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec

from mainspring.gateway.hub import Hub
from mainspring.wire.process import write_whole

log = logging.getLogger(__name__)

EVERY = 0.5
_encode = msgspec.json.Encoder().encode


class Loads:
    """The file of one worker."""

    def __init__(self, path: Path | None, hub: Hub, boot: str) -> None:
        self._path, self._hub, self._boot = path, hub, boot
        self._next = 0.0
        self._failed = False

    def tick(self, now: float) -> None:
        """Write it when it is time. `now`: monotonic seconds."""
        if self._path is None or now < self._next:
            return
        self._next = now + EVERY
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, _encode(self.said(now)))
            self._failed = False
        except OSError as error:  # the loop sees that it knows nothing, and holds
            if not self._failed:
                log.warning("`%s` cannot be written: %s", self._path, error.strerror)
            self._failed = True

    def said(self, now: float) -> dict[str, object]:
        """What the file says; `at` is of the kernel's monotonic clock, which all processes share."""
        hub, endpoints = self._hub, {}
        for name, traffic in hub.table.traffic.items():
            if name not in hub.table.endpoints:
                continue
            waiting = hub.waiting(name)
            rate, slow = traffic.lately.rates()
            endpoints[name] = {
                "waiting": waiting, "running": max(traffic.inside - waiting, 0), "oldest": hub.oldest(name, now),
                "rate": rate, "slow": slow, "seconds": traffic.lately.mean(),
            }  # fmt: skip
        return {"at": time.monotonic(), "pid": os.getpid(), "boot": self._boot, "endpoints": endpoints}
