"""The door of the Open Inference Protocol v2: predictions, outcomes that became known, and what there is.

    POST /v2/models/{endpoint}[/versions/{v}]/infer   forwarded to a replica of the revision that the id falls on
    POST /v2/models/{endpoint}/feedback               outcomes and ratings, by the ids of the answers
    GET  /v2/models/{endpoint}[/versions/{v}][/ready]

Who calls it: the gateway's server. What it must never do: decode a tensor (but of the binary extension, to make it
JSON), touch a database, or answer before the record of the answer is written (as far as the disk allows).
"""

from __future__ import annotations

import time

import msgspec

from mainspring.decide.limits import NANO
from mainspring.facts.records import TruthRecord
from mainspring.gateway import binary, wire
from mainspring.gateway.accounts import Account, Charge, Refusal
from mainspring.gateway.desk import AGAIN, LEFT, Desk, signed, start, unit
from mainspring.gateway.exchange import OVER, Exchange, Outcome
from mainspring.gateway.ledger import LedgerError
from mainspring.gateway.log import Row, row
from mainspring.gateway.mirror import Copy
from mainspring.gateway.refused import limit_words
from mainspring.gateway.routing import Asked, Endpoint, Revision, chance
from mainspring.gateway.tokens import Key
from mainspring.wire.http1 import Request, error_body

LINE = b"POST /v2/models/-/infer HTTP/1.1\r\n"
_METADATA = b"GET /v2/models/- HTTP/1.1\r\n"
_METADATA_SECONDS = 2.0
_encode = msgspec.json.Encoder().encode
_IDENTITY = (b"", b"identity")


class _Described(msgspec.Struct):
    """A replica's own metadata."""

    inputs: msgspec.Raw
    outputs: msgspec.Raw


_described = msgspec.json.Decoder(_Described).decode


class Prediction(Exchange):
    """One live request to a predictive endpoint."""

    is_live = True
    __slots__ = ("account", "at", "body_asked", "charge", "desk", "id", "key", "region", "request", "shown", "split")

    def __init__(
        self, desk: Desk, request: Request, route: Endpoint, body_asked: wire.Infer, body: bytes, fixed: str
    ) -> None:
        self.desk, self.request, self.body_asked = desk, request, body_asked
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
        self.request.fail(500, "the gateway failed; its log says why")

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
                outcome.status,
                outcome.body,
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


class _Metadata(Exchange):
    """A question to a replica: which inputs and outputs does the model have?"""

    __slots__ = ("door", "request")

    def __init__(self, door: OipDoor, request: Request, route: Endpoint, revision: Revision) -> None:
        super().__init__(door.desk.hub, route, _METADATA, b"", b"", _METADATA_SECONDS, revision.name)
        self.door, self.request = door, request
        request.on_gone = self.gone

    def crashed(self) -> None:
        self.request.fail(500, "the gateway failed; its log says why")

    def over(self, outcome: Outcome) -> None:
        described = None
        if outcome.status == 200:
            try:
                described = _described(outcome.body)
            except (msgspec.MsgspecError, RecursionError):
                described = None
        if described is not None and self.revision is not None:
            self.door.metadata[self.revision.name] = described
        self.door.describe(self.request, self.route, described)


class OipDoor:
    """Answers for predictive endpoints."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.metadata: dict[str, _Described] = {}  # by revision

    def handle(self, request: Request, parts: list[bytes]) -> None:
        """Answer a request for `/v2/models/...`; `parts` are what follows."""
        name, rest = parts[0], parts[1:]
        version = ""
        if len(rest) >= 2 and rest[0] == b"versions":
            version, rest = rest[1].decode("latin-1"), rest[2:]
        what = rest[0] if rest else b""
        route = self.desk.table.endpoints.get(name.decode("latin-1"))
        key = None
        wanted = (b"POST",) if what in (b"infer", b"feedback") else (b"GET", b"HEAD")
        if route is None:
            self._unknown(request, name)
        elif len(rest) > 1 or what not in (b"", b"ready", b"infer", b"feedback") or (version and what == b"feedback"):
            self.desk.reject(request, 404, "path", "there is nothing at this path")
        elif request.method not in wanted:
            allow = b"allow: " + b", ".join(wanted) + b"\r\n"
            self.desk.reject(request, 405, "method", f"this is a `{wanted[0].decode()}`", allow)
        elif route.auth and (key := self._let_in(request, route)) is None:
            return
        elif version and version not in {revision.version for revision in route.revisions.values()}:
            self.desk.reject(request, 404, "version", f"`{route.name}` has no version `{version:.100}` here")
        elif what == b"infer":
            self._infer(request, route, version, key)
        elif what == b"feedback":
            self._feedback(request, route)
        elif what == b"ready":
            ready = any(not r.is_empty for r in route.revisions.values() if version in {"", r.version})
            request.reply(200 if ready else 503, _encode({"name": route.name, "ready": ready}))
        else:
            self._metadata(request, route, version)

    def _unknown(self, request: Request, name: bytes) -> None:
        desk = self.desk
        if desk.table.epoch is None:
            message = "there are no routes yet: the gateway has just started"
            desk.reject(request, 503, "no-routes", message, AGAIN)
            return
        there = ", ".join(f"`{known}`" for known, e in desk.table.endpoints.items() if not e.auth) or "none"
        shown = name.decode(errors="replace")
        desk.reject(request, 404, "endpoint", f"there is no endpoint `{shown:.100}`; there is {there}")

    def _let_in(self, request: Request, route: Endpoint) -> Key | None:
        key = self.desk.tokens.of(request.headers.get(b"authorization"))
        if key is not None and route.name in key.endpoints:
            if not route.routes.tenants or key.tenant in route.routes.tenants:
                return key
            self.desk.reject(request, 403, "tenant", f"this key's tenant may not use `{route.name}` (any more)")
            return None
        message = f"`{route.name}` asks for a token: send `Authorization: Bearer ...` with one that is good for it"
        self.desk.reject(request, 401, "token", message, b"www-authenticate: Bearer\r\n")
        return None

    # --- predictions

    def _infer(self, request: Request, route: Endpoint, version: str, key: Key | None) -> None:
        desk = self.desk
        if route.is_language:
            desk.reject(request, 400, "kind", f"`{route.name}` is a language model: ask `/v1/chat/completions`")
            return
        if request.headers.get(b"content-encoding", b"").lower() not in _IDENTITY:
            desk.reject(request, 415, "encoding", "compressed bodies are not taken: send the body as it is")
            return
        body = request.body
        try:
            header = request.headers.get(b"inference-header-content-length")
            if header is not None:
                body = binary.to_json(body, header)
            asked = wire.infer(body)
            given_id = asked.id or ""
            given_id.encode()  # half a surrogate pair has no place in a header or a log
        except binary.NotTensors as error:
            desk.reject(request, 400, "body", str(error))
            return
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            said = (
                "NaN and Infinity are not JSON: write `null` for a missing value"
                if wire.names_nan(body, error)
                else str(error)
            )
            desk.reject(request, 400, "body", f"not a request of the Open Inference Protocol: {said}")
            return
        if len(given_id) > wire.MAX_ID:
            desk.reject(request, 400, "body", f"`id` has more than {wire.MAX_ID} characters")
            return
        fixed = route.of_version(version) if version else ""
        self._admit(request, route, key, Prediction(desk, request, route, asked, body, fixed))

    def _admit(self, request: Request, route: Endpoint, key: Key | None, one: Prediction) -> None:
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
                desk.reject(request, 503, "queue", route.full(), route.again())
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
            self.desk.reject(request, 503, "ledger", "limits can't be counted at present: `fail` is `closed`", AGAIN)
            return None
        if isinstance(charge, Refusal):
            said = limit_words(charge)
            account.counts.refuse(charge.limit.what)
            self.desk.reject(request, said.status, "limit", said.message, account.lines() + said.again)
            return None
        return charge

    # --- outcomes

    def _feedback(self, request: Request, route: Endpoint) -> None:
        desk = self.desk
        try:
            told = wire.feedback(request.body).feedback
            lines = [_encode(self._truth(route.name, one)) for one in told]
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            wanted = '{"feedback": [{"id": "...", "truth": {"NAME": 1}}]}'
            desk.reject(request, 400, "feedback", f"not feedback: {error}; write `{wanted}`")
            return
        faults = (fault for one in told if (fault := one.fault()))
        message = f"{len(told)} outcomes in a call, and at most {wire.MAX_FEEDBACK} are taken"
        message = next(faults, "") if len(told) <= wire.MAX_FEEDBACK else message
        if message:
            desk.reject(request, 400, "feedback", message)
            return

        def written(whole: bool) -> None:
            if whole:
                desk.metrics.feedback += len(told)
                request.reply(200, _encode({"accepted": len(told)}))
            else:
                desk.reject(request, 503, "log", "the outcomes could not be written: is the disk full?", AGAIN)

        if not lines:
            written(True)
            return
        for line in lines[:-1]:
            desk.log.append(line)
        desk.log.append(lines[-1], written)

    def _truth(self, endpoint: str, told: wire.Told) -> TruthRecord:
        given = wire.moment(told.at) if self.desk.table.clock == "request" else None
        truth = {name: float(value) for name, value in told.truth.items()}
        return TruthRecord(endpoint, told.id, given if given is not None else time.time(), truth)

    # --- what there is

    def _metadata(self, request: Request, route: Endpoint, version: str) -> None:
        there = [r for r in route.revisions.values() if version in {"", r.version}]
        known = next((self.metadata[r.name] for r in there if r.name in self.metadata), None)
        asked = next((r for r in there if not r.is_empty), None)
        if known is None and asked is not None and not route.is_language:
            _Metadata(self, request, route, asked).start()
        else:
            self.describe(request, route, known)

    def describe(self, request: Request, route: Endpoint, known: _Described | None) -> None:
        """Say what a model takes and gives, as far as that is known."""
        nothing = msgspec.Raw(b"[]")
        said = {
            "name": route.name,
            "versions": list(dict.fromkeys(revision.version for revision in route.revisions.values())),
            "platform": "mainspring",
            "inputs": known.inputs if known is not None else nothing,
            "outputs": known.outputs if known is not None else nothing,
        }
        request.reply(200, _encode(said))


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
