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

from mainspring.facts.records import TruthRecord
from mainspring.gateway import binary, wire
from mainspring.gateway.admission import Admission
from mainspring.gateway.desk import AGAIN, Desk
from mainspring.gateway.exchange import Exchange
from mainspring.gateway.outcome import Outcome
from mainspring.gateway.prediction import Prediction
from mainspring.gateway.routing import Endpoint, Revision
from mainspring.gateway.tokens import Key
from mainspring.wire.http1 import Request, error_body

_METADATA = b"GET /v2/models/- HTTP/1.1\r\n"
_METADATA_SECONDS = 2.0
_encode = msgspec.json.Encoder().encode
_IDENTITY = (b"", b"identity")


class _Described(msgspec.Struct):
    """A replica's own metadata."""

    inputs: msgspec.Raw
    outputs: msgspec.Raw


_described = msgspec.json.Decoder(_Described).decode


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
        self.admission = Admission(desk, lambda _, message: error_body(message))
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
            self.admission.unknown(request, name)
        elif len(rest) > 1 or what not in (b"", b"ready", b"infer", b"feedback") or (version and what == b"feedback"):
            self.desk.reject(request, 404, "path", "there is nothing at this path")
        elif request.method not in wanted:
            allow = b"allow: " + b", ".join(wanted) + b"\r\n"
            self.desk.reject(request, 405, "method", f"this is a `{wanted[0].decode()}`", allow)
        elif route.auth and (key := self.admission.let_in(request, route)) is None:
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
        self.admission.admit(request, route, key, Prediction(desk, request, route, asked, body, fixed))

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
        known = known or next((_written(r) for r in there if r.served.inputs), None)
        asked = next((r for r in there if not r.is_empty and r.speech is None), None)
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


def _written(revision: Revision) -> _Described:
    """What the routes say of a revision's model."""
    served = revision.served
    inputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in served.inputs]
    output = {"name": served.output or "output", "datatype": "FP64", "shape": [-1]}
    return _Described(msgspec.Raw(_encode(inputs)), msgspec.Raw(_encode([output])))
