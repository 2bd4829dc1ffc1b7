"""One live request to a predictive endpoint: its answer written down, put into the client's words, and copied.

Who calls it: the doors of the Open Inference Protocol, TensorFlow Serving and TorchServe. What it must never do: answer
before the record of the answer is written (as far as the disk allows).
"""

from __future__ import annotations

import time
from typing import Protocol

import msgspec

from mainspring.decide.limits import NANO
from mainspring.gateway import wire
from mainspring.gateway.accounts import Account, Charge
from mainspring.gateway.desk import AGAIN, LEFT, Desk, signed, unit
from mainspring.gateway.exchange import OVER, Exchange
from mainspring.gateway.log import Row, row
from mainspring.gateway.mirror import Copy
from mainspring.gateway.outcome import Outcome
from mainspring.gateway.routing import Asked, Endpoint, chance
from mainspring.wire.dialects import Garbage
from mainspring.wire.http1 import Request, error_body

LINE = b"POST /v2/models/-/infer HTTP/1.1\r\n"


class Voice(Protocol):
    """The client's protocol, where that is another than the Open Inference Protocol."""

    def said(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Status and body for the client, of an answer (or an error) of the Open Inference Protocol."""


class Prediction(Exchange):
    """One live request to a predictive endpoint."""

    is_live = True
    __slots__ = (
        "account", "at", "body_asked", "charge", "desk", "id", "key", "region", "request", "shown", "split",
        "voice",
    )  # fmt: skip

    def __init__(
        self, desk: Desk, request: Request, route: Endpoint, body_asked: wire.Infer, body: bytes, fixed: str,
        voice: Voice | None = None,
    ) -> None:  # fmt: skip
        self.desk, self.request, self.body_asked, self.voice = desk, request, body_asked, voice
        given = body_asked.at() if desk.table.clock == "request" else None
        self.at = given if given is not None else time.time()
        if body_asked.id:
            self.id = body_asked.id
            self.shown = wire.header_safe(self.id)
        else:
            self.shown = desk.made_id()
            self.id = self.shown.decode()
        self.split = request.headers.get(route.split_header, b"").decode("latin-1") if route.split_header else ""
        headers = b"x-request-id: %b\r\n" % self.shown
        super().__init__(desk.hub, route, LINE, headers, body, route.timeout, fixed)
        self.account: Account | None = None
        self.charge: Charge | None = None
        self.key = self.region = ""
        if route.session or desk.table.orders:
            self.asked = Asked(
                desk.table.region(request.headers.get(b"x-mainspring-region")),
                request.headers.get(route.session, b"")[:256] if route.session else b"",
            )
            self.region = desk.table.name_of(self.asked.region)

    def charged_to(self, account: Account, charge: Charge | None) -> None:
        """Whose request it is, and what of their limits it holds."""
        self.account, self.charge = account, charge
        self.key, self.tenant = account.key.id, account.key.tenant

    def chance(self) -> float:
        return chance(self.endpoint, self.split or self.id, draw=self.route.routes.draw)

    def came(self) -> float:
        return self.at

    def called(self) -> str:
        return self.id

    def gone(self) -> None:
        """Nobody saw an answer, so there is no record of one; but where versions are compared, who made them leave?"""
        if self.state != OVER:
            super().gone()
            self.desk.metrics.gone += 1
            self.route.traffic.inside -= 1
            self._settle_up(0.0, self.upstream_s)
            if len(self.route.revisions) > 1 and self.revision is not None:
                outcome = Outcome(LEFT, b"", self.tries + 1)
                self._sign(outcome)
                seconds = time.perf_counter() - self.request.arrived
                self.desk.log.append(row(self._record(outcome, seconds, None, None, "")))

    def _settle_up(self, compute: float, seconds: float) -> None:
        """Give back what was reserved and not used."""
        route = self.route
        route.traffic.lately.ended += 1
        route.traffic.lately.seconds += seconds
        if compute > 0.0:
            route.traffic.learned.note_compute(compute)
        if self.charge is not None:
            self.charge.settle(0, int(compute * route.routes.core_price * NANO))
        if self.tenant and self.account is not None:
            self.account.counts.requests += 1

    def crashed(self) -> None:
        if self.charge is not None:
            self.charge.settle(0, 0)
        body = error_body("the gateway failed; its log says why")
        self.request.reply(*((500, body) if self.voice is None else self.voice.said(500, body)))

    def _worded(self, outcome: Outcome, voice: Voice) -> tuple[int, bytes]:
        """Status and body in the client's protocol; an answer that can't be put into it is the replica's failure."""
        try:
            return voice.said(outcome.status, outcome.body)
        except Garbage as error:
            outcome.status, outcome.error = 502, str(error)
            return voice.said(502, error_body(outcome.error))

    def _record(
        self, outcome: Outcome, seconds: float, inputs: msgspec.Raw | None, outputs: msgspec.Raw | None, owes: str
    ) -> msgspec.Struct:
        return Row(
            endpoint=self.endpoint, id=self.id, at=self.at, revision=outcome.revision, version=outcome.version,
            role="live", status=outcome.status, seconds=seconds, upstream=outcome.upstream, compute=outcome.compute,
            tries=outcome.tries, inputs=inputs, outputs=outputs, owes=owes, error=outcome.error, tenant=self.tenant,
            key=self.key, real=time.time() if self.desk.table.clock == "request" else 0.0, replica=self.replica,
            region=self.region, unit=unit(self.endpoint, self.split), failed=self.failed,
        )  # fmt: skip

    def over(self, outcome: Outcome) -> None:
        """Log the outcome; when that is written, answer; when that is sent, copy it to the mirror."""
        request, desk, route = self.request, self.desk, self.route
        route.traffic.inside -= 1
        if not outcome.is_answer:
            outcome.body = error_body(outcome.error)
        said = (outcome.status, outcome.body) if self.voice is None else self._worded(outcome, self.voice)
        inputs, outputs = _spliced(self.body_asked, outcome)
        seconds = time.perf_counter() - request.arrived
        owes = (
            route.mirror(self.id, outcome.revision, self.origin) if outcome.status == 200 and inputs is not None else ""
        )
        record = self._record(outcome, seconds, inputs, outputs, owes)
        self._settle_up(outcome.compute, outcome.upstream)
        copy = Copy(route.name, self.id, owes, self.at, inputs) if owes and inputs is not None else None

        def written(_: bool) -> None:
            overhead = (time.perf_counter() - request.arrived - outcome.upstream) * 1e6
            request.reply(
                *said,
                signed(self.shown, outcome.header, overhead)
                + (self.account.lines() if self.account is not None else b"")
                + (AGAIN if outcome.status in (429, 503) else b""),
            )
            if copy is not None:
                desk.mirror.pay(copy)

        place = desk.log.append(row(record), written)
        if copy is not None:
            desk.mirror.owe(copy, place)
        desk.metrics.of(route.name, outcome.revision, "live").add(outcome.status, seconds, outcome.compute)


def _spliced(asked: wire.Infer, outcome: Outcome) -> tuple[msgspec.Raw | None, msgspec.Raw | None]:
    """The request's inputs and the answer's outputs as they came, fit for a log line.

    Only an answered request's inputs are kept: the replica has then checked every byte of them.
    """
    if outcome.status != 200:
        return None, None
    try:
        return wire.one_line(asked.inputs), wire.one_line(wire.answered(outcome.body).outputs)
    except msgspec.MsgspecError as error:
        outcome.error = f"not logged: {error}"
        return None, None
