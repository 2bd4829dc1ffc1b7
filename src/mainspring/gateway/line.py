"""Those who wait for one revision of an endpoint: a queue for each tenant, and whose turn it is.

What this is: deques and the arrays that `decide.admit` is asked with. Who calls it: the hub. What it must never do:
decide; or lose one that waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mainspring.decide import admit

if TYPE_CHECKING:
    from mainspring.gateway.exchange import Exchange

CREDIT = 1.0
"""Work of one round for a share of 1, in tokens: small beside any answer, so that turns change with each request."""
_MOST_DEBT = 4.0  # times what may be saved up: an answer may be much longer than was reckoned
_MOST_WORK = 1e9
"""Whatever a replica says of its tokens: beyond it a small share's credit would be lost in a float's rounding."""


class Line:
    """The waiting requests of one revision."""

    __slots__ = (
        "_at",
        "_before",
        "_deficit",
        "_head",
        "_mean",
        "_number",
        "_out",
        "_priority",
        "_quantum",
        "_queues",
        "_share",
        "_waiting",
        "size",
    )

    def __init__(self) -> None:
        self._number: dict[str, int] = {}  # of each tenant
        self._queues: list[deque[Exchange]] = []
        self._waiting: list[int] = []
        self._head: list[float] = []
        self._quantum: list[float] = []
        self._share: list[float] = []
        self._priority: list[int] = []
        self._deficit: list[float] = []
        self._at = -1
        self._before: tuple[list[float], int] = ([], -1)  # credit before the last turn, and whose that was
        self._out: Exchange | None = None  # who was taken out last
        self._mean = 0.0  # work of the requests of late
        self.size = 0

    def _of(self, tenant: str, standing: tuple[float, int]) -> int:
        found = self._number.get(tenant)
        is_new = found is None
        if found is None:
            found = self._number[tenant] = len(self._queues)
            self._queues.append(deque())
            for numbers in (self._waiting, self._priority):
                numbers.append(0)
            for values in (self._head, self._quantum, self._share, self._deficit):
                values.append(0.0)
        self._share[found], self._priority[found] = standing
        self._quantum[found] = standing[0] * CREDIT
        if is_new:  # it has used nothing of late
            self._deficit[found] = self._saved() * self._quantum[found]
        return found

    def append(self, one: Exchange) -> None:
        """Who comes last in the queue of its tenant."""
        one.work = min(one.weigh(), _MOST_WORK)
        self._mean += (one.work - self._mean) * (admit.NEW if self._mean else 1.0)
        i = self._of(one.tenant, one.standing())
        self._queues[i].append(one)
        self._changed(i, 1)

    def put_back(self, one: Exchange) -> None:
        """Who was taken out by `next` just now, and has to wait on: all is as it was before.

        Credit too: else one that waits for room could pay long before there is some, and would go beside others that
        come meanwhile and have saved up more. One that was taken out of another line, whose version it is not to have
        any more, is first here.
        """
        i = self._of(one.tenant, one.standing())
        self._queues[i].appendleft(one)
        if one is self._out:
            self._deficit[: len(self._before[0])], self._at = self._before
            self._out = None
        self._changed(i, 1)

    def _changed(self, i: int, by: int) -> None:
        queue = self._queues[i]
        self._waiting[i] += by
        self.size += by
        self._head[i] = queue[0].work if queue else 0.0

    def next(self) -> Exchange | None:
        """Take out the one whose turn it is; None where nobody waits."""
        if not self.size:
            return None
        saved, self._before = self._saved(), (self._deficit.copy(), self._at)
        i = admit.turn(self._waiting, self._head, self._quantum, self._priority, self._deficit, self._at, saved)
        self._at = i
        one = self._out = self._queues[i].popleft()
        self._changed(i, -1)
        return one

    def _saved(self) -> float:
        return admit.saved_rounds(self._mean, self._quantum)

    def remove(self, one: Exchange) -> bool:
        """Whoever leaves; False when it does not wait here."""
        i = self._number.get(one.tenant, -1)
        try:
            self._queues[i].remove(one)
        except (ValueError, IndexError):
            return False
        self._changed(i, -1)
        return True

    def correct(self, tenant: str, work: float) -> None:
        """A request that was sent from here used so much more (less than 0: less) than was estimated."""
        i = self._number.get(tenant, -1)
        if i >= 0:
            most = _MOST_DEBT * self._saved() * self._quantum[i]
            self._deficit[i] = min(max(self._deficit[i] - work, -most), most)

    def standings(self) -> Iterator[tuple[str, int, float, int]]:
        """Each tenant with how many of its live requests wait here, its share and its priority."""
        for tenant, i in self._number.items():
            live = sum(one.is_live for one in self._queues[i])
            yield tenant, live, self._share[i], self._priority[i]

    def latest(self, tenant: str) -> Exchange | None:
        """The live request of a tenant that came last."""
        i = self._number.get(tenant, -1)
        return next((one for one in reversed(self._queues[i]) if one.is_live), None) if i >= 0 else None

    def oldest(self) -> Exchange | None:
        """Who has waited longest."""
        first = [queue[0] for queue in self._queues if queue]
        return min(first, key=lambda one: one.since, default=None)
