"""Whether a request to a predictive endpoint is let in, in the words of the door it came to.

Who calls it: the doors of the Open Inference Protocol, TensorFlow Serving and TorchServe. What it must never do: name
an endpoint to somebody who has no token for it, or keep what a refused request had taken of its limits.
"""

from __future__ import annotations

from collections.abc import Callable

from mainspring.decide.limits import NANO
from mainspring.gateway.accounts import Account, Charge, Refusal
from mainspring.gateway.desk import AGAIN, Desk, start
from mainspring.gateway.ledger import LedgerError
from mainspring.gateway.prediction import Prediction
from mainspring.gateway.refused import limit_words
from mainspring.gateway.routing import Endpoint
from mainspring.gateway.tokens import Key
from mainspring.wire.http1 import Request

Words = Callable[[int, str], bytes]
"""The body of an error, by status and message."""


class Admission:
    """The checks that all doors for predictive endpoints share."""

    def __init__(self, desk: Desk, words: Words) -> None:
        self.desk = desk
        self._words = words

    def reject(self, request: Request, status: int, reason: str, message: str, headers: bytes = b"") -> None:
        """Refuse a request."""
        self.desk.metrics.reject(reason)
        request.reply(status, self._words(status, message), headers)

    def unknown(self, request: Request, name: bytes) -> None:
        """There is no such endpoint: say which there are."""
        desk = self.desk
        if desk.table.epoch is None:
            message = "there are no routes yet: the gateway has just started"
            self.reject(request, 503, "no-routes", message, AGAIN)
            return
        there = ", ".join(f"`{known}`" for known, e in desk.table.endpoints.items() if not e.auth) or "none"
        shown = name.decode(errors="replace")
        self.reject(request, 404, "endpoint", f"there is no endpoint `{shown:.100}`; there is {there}")

    def let_in(self, request: Request, route: Endpoint) -> Key | None:
        """The key that a request to an endpoint with `auth` shows; None: it is refused."""
        key = self.desk.tokens.of(request.headers.get(b"authorization"))
        if key is not None and route.name in key.endpoints:
            if not route.routes.tenants or key.tenant in route.routes.tenants:
                return key
            self.reject(request, 403, "tenant", f"this key's tenant may not use `{route.name}` (any more)")
            return None
        message = f"`{route.name}` asks for a token: send `Authorization: Bearer ...` with one that is good for it"
        self.reject(request, 401, "token", message, b"www-authenticate: Bearer\r\n")
        return None

    def admit(self, request: Request, route: Endpoint, key: Key | None, one: Prediction) -> None:
        """Send it on its way if its limits and the queue allow it."""
        desk, traffic, charge = self.desk, route.traffic, None
        if key is not None:
            account = desk.accounts.of(route, key)
            if account.asks:
                charge = self._reserve(request, account)
                if charge is None:
                    return
            one.charged_to(account, charge)
        if traffic.inside >= route.queue:  # last, so that nobody gives way to a request that its own limits refuse
            other = desk.hub.displaced(route, one.tenant)
            if other is None:
                if charge is not None:
                    charge.undo()
                self.reject(request, 503, "queue", route.full(), route.again())
                return
            other.fail(429, f"`{route.name}` is full, and others wait for less than their share")
        try:
            start(one, request)
        except BaseException:  # a fault of ours: what it took is given back
            if one.charge is not None:
                one.charge.undo()
            raise

    def _reserve(self, request: Request, account: Account) -> Charge | None:
        """Take what a prediction may use from the limits; None: it is refused."""
        route = account.route
        dollars = max(int(route.traffic.learned.decode_s * route.routes.core_price * NANO), 1)
        try:
            charge = account.reserve(0, dollars)
        except LedgerError:
            self.reject(request, 503, "ledger", "limits can't be counted at present: `fail` is `closed`", AGAIN)
            return None
        if isinstance(charge, Refusal):
            said = limit_words(charge)
            account.counts.refuse(charge.limit.what)
            self.reject(request, said.status, "limit", said.message, account.lines() + said.again)
            return None
        return charge
