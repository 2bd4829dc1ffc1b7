"""What the gateway believes of one replica: does it answer at all, and does it answer worse than the others.

What this is: the counters that `decide.breaker` judges. The breaker is about requests that got no answer (refused,
died, late, not HTTP); ejection is about answers of 500 and more. A model that fails for one kind of input is thus never
left alone altogether: ejection takes at most half of the replicas.
Who calls it: `upstream` and `exchange`. What it must never do: read a clock; `now`, in monotonic seconds, is given.
"""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.decide import breaker


class Health:
    """Counters of one replica. `is_good` is a shortcut: nothing is known against it."""

    __slots__ = (
        "_began", "_last", "ejected_at", "ejections", "errors", "failures", "is_good", "probing", "requests", "since",
    )  # fmt: skip

    def __init__(self) -> None:
        self.failures = 0
        self.since = 0.0
        self.probing = False
        self.errors = 0  # answers of 500 and more, and no answers, in the window
        self.requests = 0
        self._began = 0.0
        self._last = (0, 0)
        self.ejected_at = -1.0  # less than 0: it is not out
        self.ejections = 0
        self.is_good = True

    @property
    def is_open(self) -> bool:
        """Whether the breaker keeps requests away."""
        return self.failures >= breaker.LIMIT

    def usable(self, now: float) -> bool:
        """Whether to send it a request."""
        if self.is_good:
            return True
        if self.ejected_at >= 0:
            if not breaker.returned(self.ejected_at, now, self.ejections):
                return False
            self.ejected_at = -1.0
        return breaker.usable(self.failures, self.since, now, self.probing)

    def sent(self) -> bool:
        """A request goes to it; returns whether that is the probe of an open breaker."""
        if self.failures < breaker.LIMIT or self.probing:
            return False
        self.probing = True
        return True

    def answered(self, status: int, probe: bool) -> None:
        """An answer came, whatever its status."""
        self.requests += 1
        if status >= 500:
            self.errors += 1
        if self.failures:
            self.failures = breaker.counted(self.failures, failed=False, probe=probe)
        if probe:
            self.probing = False
        if not self.is_good:
            self.is_good = self.failures == 0 and self.ejected_at < 0

    def failed(self, now: float, probe: bool) -> None:
        """No answer came."""
        self.requests += 1
        self.errors += 1
        before = self.failures
        self.failures = breaker.counted(before, failed=True, probe=probe)
        if self.failures > before:
            self.since = now
        if probe:
            self.probing = False
        self.is_good = False

    def left(self, probe: bool) -> None:
        """The client went before there was an answer: nothing is learnt."""
        if probe:
            self.probing = False

    def roll(self, now: float) -> None:
        """Forget what is older than the window (in two halves, so that a sudden change is seen)."""
        if now - self._began >= breaker.WINDOW / 2:
            self._last = (self.errors - self._last[0], self.requests - self._last[1])
            self.errors, self.requests = self._last
            self._began = now


def eject(replicas: Sequence[Health], now: float) -> None:
    """Put the worst replica of a revision aside, if there is one that is much worse than the others."""
    for one in replicas:
        one.roll(now)
    out = [int(one.ejected_at >= 0) for one in replicas]
    index = breaker.eject([one.errors for one in replicas], [one.requests for one in replicas], out)
    if index >= 0:
        worst = replicas[index]
        worst.ejected_at, worst.is_good = now, False
        worst.ejections += 1
