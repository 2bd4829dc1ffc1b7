"""What both doors of the gateway work with.

Who calls it: `server` makes it; the doors and their exchanges use it. What it must never do: decide anything.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mainspring.gateway.accounts import Accounts
from mainspring.gateway.exchange import OVER, Exchange
from mainspring.gateway.hub import Hub
from mainspring.gateway.log import Log
from mainspring.gateway.tokens import Tokens
from mainspring.wire.http1 import Request

if TYPE_CHECKING:
    from mainspring.gateway.copies import Copies
    from mainspring.gateway.mirror import Mirror

_SHORT = 0.05  # seconds; who is done within this is written down once, at the end
AGAIN = b"retry-after: 1\r\n"


def signed(id: bytes, revision: bytes, overhead: float) -> bytes:
    """The lines that each answer carries; `overhead` is in microseconds."""
    return b"x-request-id: %b\r\nx-mainspring-revision: %b\r\nx-mainspring-overhead-us: %d\r\n" % (
        id, revision, overhead,
    )  # fmt: skip


def start(one: Exchange, request: Request) -> None:
    """Count a live request as inside, and send it on its way; where that fails it was never there."""
    traffic = one.route.traffic
    traffic.inside += 1
    traffic.requests += 1
    traffic.lately.came += 1
    request.on_gone = one.gone
    try:
        one.start()
    except BaseException:
        if one.state != OVER:  # else its end has counted it out
            traffic.inside -= 1
            one.finish()
        raise


class Desk:
    """The parts of one worker."""

    def __init__(
        self, hub: Hub, log: Log, mirror: Mirror, copies: Copies, tokens: Tokens, accounts: Accounts,
        upstream_key: bytes = b"",
    ) -> None:  # fmt: skip
        self.hub, self.table, self.metrics = hub, hub.table, hub.metrics
        self.log, self.mirror, self.copies, self.tokens, self.accounts = log, mirror, copies, tokens, accounts
        self.upstream_key = upstream_key  # the lines of a header that replicas are asked with
        self._stem = os.urandom(10).hex().encode()
        self._made = 0
        self._counted = 0

    def made_id(self) -> bytes:
        """An id for a request that has none: 32 hexadecimal digits, never the same twice."""
        self._made += 1
        return b"%b%012x" % (self._stem, self._made)

    def number(self) -> int:
        """The number of a request, by which its beginning and its end are matched."""
        self._counted += 1
        return self._counted

    def write_begun(self) -> None:
        """At each tick: write down those on their way that have lasted longer than one."""
        before = time.monotonic() - _SHORT
        for one in [one for one in self.hub.active if one.unbegun and one.since < before]:
            one.begin()

    def reject(self, request: Request, status: int, reason: str, message: str, headers: bytes = b"") -> None:
        """Refuse a request, in the words of the Open Inference Protocol."""
        self.metrics.reject(reason)
        request.fail(status, message, headers)
