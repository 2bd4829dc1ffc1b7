"""The data plane: one door for all endpoints, by name, in the Open Inference Protocol v2.

    POST /v2/models/{endpoint}/infer        forwarded to a replica of the revision that the id falls on
    POST /v2/models/{endpoint}/feedback     outcomes that became known, by the ids of their predictions
    GET  /v2/models/{endpoint}[/ready]      what there is; /v2, /v2/health/live, /v2/health/ready
    GET  /metrics                           Prometheus text
    GET  /internal/quiesce?timeout=5        waits until copies owed by now are logged: {"quiet": true}

Who calls it: users' HTTP clients. What it must never do: decode a tensor, touch a database, or answer
before the record of the answer is written (as far as the disk allows).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from uuid import uuid4

import msgspec

from mainspring.facts.records import PredictionRecord, TruthRecord
from mainspring.gateway import wire
from mainspring.gateway.forward import Outcome, forward
from mainspring.gateway.log import Log
from mainspring.gateway.metrics import Metrics
from mainspring.gateway.mirror import Copy, Mirror
from mainspring.gateway.table import Endpoint, Table, chance
from mainspring.wire.http1 import TEXT, Request

log = logging.getLogger(__name__)

_AGAIN = b"retry-after: 1\r\n"
_encode = msgspec.json.Encoder().encode


class Gateway:
    """Answers for all endpoints of the table."""

    def __init__(self, table: Table, records: Log, mirror: Mirror, metrics: Metrics) -> None:
        self._table, self._log, self._mirror, self._metrics = table, records, mirror, metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._get: dict[bytes, Callable[[Request], object]] = {
            b"/v2": lambda r: r.reply(200, b'{"name":"mainspring","version":"1","extensions":[]}'),
            b"/v2/health/live": lambda r: r.reply(200, b'{"live":true}'),
            b"/v2/health/ready": self._ready,
            b"/metrics": self._metrics_page,
            b"/internal/quiesce": lambda r: self._begin(self._quiesce(r), r),
        }

    # --- which request this is

    def handle(self, request: Request) -> None:
        """Answer a request, now or later."""
        parts = request.path.split(b"/")
        if len(parts) in (4, 5) and parts[1] == b"v2" and parts[2] == b"models":
            self._model(request, parts[3], parts[4] if len(parts) == 5 else b"")
        elif request.path not in self._get:
            self._reject(request, 404, "path", "there is nothing at this path; try `/v2/models/ENDPOINT/infer`")
        elif request.method not in (b"GET", b"HEAD"):
            self._reject(request, 405, "method", "only `GET` is answered here", b"allow: GET\r\n")
        else:
            self._get[request.path](request)

    def _model(self, request: Request, name: bytes, what: bytes) -> None:
        endpoint = self._table.endpoints.get(name.decode("latin-1"))
        wanted = (b"POST",) if what in (b"infer", b"feedback") else (b"GET", b"HEAD")
        if endpoint is None and self._table.epoch is None:
            self._reject(request, 503, "no-routes", "there are no routes yet: the gateway has just started", _AGAIN)
        elif endpoint is None:
            there = ", ".join(f"`{known}`" for known in self._table.endpoints) or "none"
            shown = name.decode(errors="replace")
            self._reject(request, 404, "endpoint", f"there is no endpoint `{shown:.100}`; there is {there}")
        elif what not in (b"", b"ready", b"infer", b"feedback"):
            self._reject(request, 404, "path", "there is nothing at this path")
        elif request.method not in wanted:
            allow = b"allow: " + b", ".join(wanted) + b"\r\n"
            self._reject(request, 405, "method", f"this is a `{wanted[0].decode()}`", allow)
        elif what == b"infer":
            self._infer(request, endpoint)
        elif what == b"feedback":
            self._feedback(request, endpoint)
        elif what == b"ready":
            ready = any(not revision.is_empty for revision in endpoint.revisions.values())
            request.reply(200 if ready else 503, _encode({"name": endpoint.name, "ready": ready}))
        else:
            versions = [revision.version for revision in endpoint.revisions.values()]
            request.reply(200, _encode({"name": endpoint.name, "versions": versions, "platform": "mainspring",
                                        "inputs": [], "outputs": []}))  # fmt: skip

    def _reject(self, request: Request, status: int, reason: str, message: str, headers: bytes = b"") -> None:
        self._metrics.reject(reason)
        request.fail(status, message, headers)

    def _begin(self, work: object, request: Request) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._guarded(work, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: object, request: Request) -> None:
        try:
            await work  # type: ignore[misc]
        except Exception:  # a fault of ours costs one request, not the gateway
            log.exception("a request failed inside the gateway")
            request.fail(500, "the gateway failed; its log says why")

    # --- predictions

    def _infer(self, request: Request, endpoint: Endpoint) -> None:
        try:
            asked = wire.infer(request.body)
            given_id = asked.id or ""
            given_id.encode()  # half a surrogate pair has no place in a header or a log
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            said = (
                "NaN and Infinity are not JSON: write `null` for a missing value"
                if wire.names_nan(request.body, error)
                else str(error)
            )
            self._reject(request, 400, "body", f"not a request of the Open Inference Protocol: {said}")
            return
        if len(given_id) > wire.MAX_ID:
            self._reject(request, 400, "body", f"`id` has more than {wire.MAX_ID} characters")
            return
        inside = self._metrics.inflight.get(endpoint.name, 0)
        if inside >= endpoint.queue:
            message = f"`{endpoint.name}` has {inside} requests waiting, which is its `queue`"
            self._reject(request, 503, "queue", message, _AGAIN)
            return
        self._metrics.inflight[endpoint.name] = inside + 1
        given = asked.at() if self._table.clock == "request" else None
        at = given if given is not None else time.time()
        task = self._begin(self._predict(request, endpoint, asked, at), request)
        request.on_gone = task.cancel

    async def _predict(self, request: Request, endpoint: Endpoint, asked: wire.Infer, at: float) -> None:
        id = asked.id or uuid4().hex
        shown = wire.header_safe(id)
        name = endpoint.name
        try:
            u = chance(name, id)
            outcome = await forward(
                self._table, name, lambda e: e.choose(u), b"x-request-id: %b\r\n" % shown, request.body,
                endpoint.timeout,
            )  # fmt: skip
        except asyncio.CancelledError:
            self._metrics.gone += 1  # nobody saw an answer, so there is no record of one
            raise
        finally:
            self._metrics.inflight[name] -= 1
        self._answer(request, endpoint, asked, id, shown, at, outcome)

    def _answer(
        self, request: Request, endpoint: Endpoint, asked: wire.Infer, id: str, shown: bytes, at: float,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        """Log the outcome; when that is written, answer; when that is sent, copy it to the mirror."""
        inputs, outputs = _spliced(asked, outcome)
        seconds = time.perf_counter() - request.arrived
        owes = endpoint.mirror(id, outcome.revision) if outcome.status == 200 and inputs is not None else ""
        record = PredictionRecord(
            endpoint=endpoint.name, id=id, at=at, revision=outcome.revision, version=outcome.version, role="live",
            status=outcome.status, seconds=seconds, upstream=outcome.upstream, compute=outcome.compute,
            tries=outcome.tries, inputs=inputs, outputs=outputs, owes=owes, error=outcome.error,
        )  # fmt: skip
        copy = Copy(endpoint.name, id, owes, at, inputs) if owes and inputs is not None else None

        def written(_: bool) -> None:
            overhead = (time.perf_counter() - request.arrived - outcome.upstream) * 1e6
            request.reply(
                outcome.status,
                outcome.body,
                b"x-request-id: %b\r\nx-mainspring-revision: %b\r\nx-mainspring-overhead-us: %d\r\n%b"
                % (shown, outcome.header, overhead, _AGAIN if outcome.status == 503 else b""),
            )
            if copy is not None:
                self._mirror.pay(copy)

        place = self._log.append(_encode(record), written)
        if copy is not None:
            self._mirror.owe(copy, place)
        self._metrics.of(endpoint.name, outcome.revision, "live").add(outcome.status, seconds, outcome.compute)

    # --- outcomes

    def _feedback(self, request: Request, endpoint: Endpoint) -> None:
        try:
            told = wire.feedback(request.body).feedback
            lines = [_encode(self._truth(endpoint.name, one)) for one in told]
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            wanted = '{"feedback": [{"id": "...", "truth": {"NAME": 1}}]}'
            self._reject(request, 400, "feedback", f"not feedback: {error}; write `{wanted}`")
            return
        if len(told) > wire.MAX_FEEDBACK or any(len(one.id) > wire.MAX_ID or not one.id for one in told):
            message = f"at most {wire.MAX_FEEDBACK} outcomes a call, with ids of 1 to {wire.MAX_ID} characters"
            self._reject(request, 400, "feedback", message)
            return

        def written(whole: bool) -> None:
            if whole:
                self._metrics.feedback += len(told)
                request.reply(200, _encode({"accepted": len(told)}))
            else:
                self._reject(request, 503, "log", "the outcomes could not be written: is the disk full?", _AGAIN)

        if not lines:
            written(True)
            return
        for line in lines[:-1]:
            self._log.append(line)
        self._log.append(lines[-1], written)

    def _truth(self, endpoint: str, told: wire.Told) -> TruthRecord:
        given = wire.moment(told.at) if self._table.clock == "request" else None
        truth = {name: float(value) for name, value in told.truth.items()}
        return TruthRecord(endpoint, told.id, given if given is not None else time.time(), truth)

    # --- the rest

    def _ready(self, request: Request) -> None:
        ready = self._table.epoch is not None
        request.reply(200 if ready else 503, _encode({"ready": ready}))

    def _metrics_page(self, request: Request) -> None:
        extra = {
            "log_lost_total": self._log.lost,
            "log_written_total": self._log.written,
            "mirror_owed": self._mirror.owed,
            "routes_epoch": -1 if self._table.epoch is None else self._table.epoch,
        }
        request.reply(200, self._metrics.text(extra), kind=TEXT)

    async def _quiesce(self, request: Request) -> None:
        seconds = 5.0
        for pair in request.query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name == b"timeout":
                try:
                    seconds = min(max(float(value), 0.0), 600.0)
                except ValueError:
                    request.fail(400, "`timeout` is a number of seconds")
                    return
        quiet = await self._mirror.quiet(seconds)
        request.reply(200, _encode({"quiet": quiet, "owed": self._mirror.owed}))

    async def drain(self, seconds: float) -> None:
        """Let what has begun end, for at most `seconds`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)


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
