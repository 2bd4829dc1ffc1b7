"""What both doors of the gateway work with.

Who calls it: `server` makes it; the doors and their exchanges use it. What it must never do: decide anything.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from typing import TYPE_CHECKING

from mainspring.gateway.accounts import Accounts
from mainspring.gateway.exchange import OVER, Exchange
from mainspring.gateway.hub import Hub
from mainspring.gateway.log import Log, Written, row
from mainspring.gateway.tokens import Tokens
from mainspring.wire.http1 import Request

if TYPE_CHECKING:
    from mainspring.gateway.copies import Copies
    from mainspring.gateway.mirror import Mirror

_SHORT = 0.05  # seconds; who is done within this is written down once, at the end
_TELL = 0.5  # seconds between two words on which requests have ended
_LONGEST_ID = 128
_ID_BYTES = frozenset(range(0x21, 0x7F))
LEFT = 499
"""The status of a request whose client left before there was an answer (nginx's number)."""
AGAIN = b"retry-after: 1\r\n"


def signed(id: bytes, revision: bytes, overhead: float) -> bytes:
    """The lines that each answer carries; `overhead` is in microseconds."""
    return b"x-request-id: %b\r\nx-mainspring-revision: %b\r\nx-mainspring-overhead-us: %d\r\n" % (
        id, revision, overhead,
    )  # fmt: skip


def unit(endpoint: str, split: str) -> str:
    """What stands in records for the user or session that a revision is chosen by; "" for none.

    The same for the same one, whichever worker asks and whatever was started anew; the value itself is never kept.
    """
    if not split:
        return ""
    key = f"{endpoint}\0{split}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key, digest_size=6, person=b"unit").hexdigest()


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
        self.upstream_key = hub.upstream_key = upstream_key  # the lines of a header that replicas are asked with
        self._stem = os.urandom(10).hex().encode()
        self._made = 0
        self._counted = 0
        self._told = float("-inf")
        self._ended: dict[str, float] = {}  # what was told last, by endpoint

    def made_id(self) -> bytes:
        """An id for a request that has none: 32 hexadecimal digits, never the same twice."""
        self._made += 1
        return b"%b%012x" % (self._stem, self._made)

    def id_of(self, request: Request) -> bytes:
        """The client's `x-request-id` if it can stand in a header and a log, else one of ours."""
        return self.given_id(request) or self.made_id()

    def given_id(self, request: Request) -> bytes:
        """The client's `x-request-id`; empty when there is none, or it can't stand in a header and a log."""
        given = request.headers.get(b"x-request-id", b"")
        return given if len(given) <= _LONGEST_ID and _ID_BYTES.issuperset(given) else b""

    def number(self) -> int:
        """The number of a request, by which its beginning and its end are matched."""
        self._counted += 1
        return self._counted

    def write_begun(self) -> None:
        """At each tick: write down those on their way that have lasted longer than one."""
        before = time.monotonic() - _SHORT
        for one in [one for one in self.hub.active if one.unbegun and one.since < before]:
            one.begin()

    def write_ended(self) -> None:
        """Now and then: write down, of endpoints where versions are compared, up to when all requests have ended.

        And up to when all copies of them have. The line stands behind the record of each. A replay's event time says
        nothing of what is on its way.
        """
        mono, now, table = time.monotonic(), time.time(), self.table
        if mono - self._told < _TELL or table.clock == "request":
            return
        self._told = mono
        until = {name: now for name, endpoint in table.endpoints.items() if len(endpoint.revisions) > 1}
        if until:
            for one in self.hub.active:
                if one.endpoint in until:
                    until[one.endpoint] = min(until[one.endpoint], one.came())
        for name, at in until.items():
            # A request that ends at this moment has no copy yet; those that had ended at the last word have theirs.
            copies = min(self._ended.get(name, -math.inf), self.mirror.came(name), self.copies.came(name))
            self.log.append(row(Written(endpoint=name, at=at, copies=max(copies, 0.0))))
        self._ended = until

    def reject(self, request: Request, status: int, reason: str, message: str, headers: bytes = b"") -> None:
        """Refuse a request, in the words of the Open Inference Protocol."""
        self.metrics.reject(reason)
        request.fail(status, message, headers)
