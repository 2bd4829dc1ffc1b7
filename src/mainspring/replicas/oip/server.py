"""The replica's HTTP side: Open Inference Protocol v2 over one scorer.

Who calls it: `serving.py`. What it must never do: fail as a whole because of one request.
`/v2/models/-/...` means the model that is here, whatever its name; the gateway uses it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from mainspring.artefacts.manifest import Manifest
from mainspring.errors import MainspringError
from mainspring.replicas.oip.batcher import Batcher, Job, Result
from mainspring.replicas.oip.protocol import BadRequest, Reader, answer, are_numbers
from mainspring.wire.http1 import TEXT, Request

if TYPE_CHECKING:
    from mainspring.replicas.oip.serving import Scores

log = logging.getLogger(__name__)

_DUMMY = {"BOOL": False, "INT64": 0, "FP64": 0.0, "FP32": 0.0, "BYTES": ""}


def warm_up(scorer: Scores) -> None:
    """Score one row of nulls, so that the first request finds all loaded; a failure is only logged."""
    row = {f.name: [None if f.nullable else _DUMMY[f.datatype]] for f in scorer.manifest.inputs}
    try:
        for _ in range(2):
            scorer.score(row)
    except Exception as error:  # a row of nulls need not make sense to the user's function
        log.info("the warm-up row was not scored: %s", error)


class Replica:
    """Answers requests for one model version; `program` and `platform` are what its metadata say of the server."""

    def __init__(
        self, manifest: Manifest, batcher: Batcher, model: str, version: str, *, program: str, platform: str
    ) -> None:
        self._manifest = manifest
        self._batcher = batcher
        self._model, self._version = model, version
        self._program, self._platform = program, platform
        self._reader = Reader(manifest)
        self._counts = dict.fromkeys((200, 400, 500), 0)
        self._made = 0

    def handle(self, request: Request) -> None:
        """Answer a request, now or when its batch is done."""
        parts = request.path.strip(b"/").split(b"/")
        if parts[:2] == [b"v2", b"models"] and len(parts) >= 3:
            self._model_request(request, parts[2:])
        elif request.method not in (b"GET", b"HEAD"):
            request.fail(405 if parts[0] in (b"v2", b"metrics") else 404, "only `GET` is answered here")
        elif parts == [b"v2"]:
            request.reply(200, _json({"name": self._program, "version": "1", "extensions": []}))
        elif parts == [b"v2", b"health", b"live"]:
            request.reply(200, b'{"live":true}')
        elif parts == [b"v2", b"health", b"ready"]:
            request.reply(200, b'{"ready":true}')
        elif parts == [b"metrics"]:
            request.reply(200, self._metrics(), kind=TEXT)
        else:
            request.fail(404, "there is nothing at this path")

    def _model_request(self, request: Request, parts: list[bytes]) -> None:
        name, rest = parts[0], parts[1:]
        if name not in (b"-", self._model.encode()):
            request.fail(404, f"there is no model `{name.decode(errors='replace'):.100}` here")
            return
        if rest[:1] == [b"versions"] and len(rest) >= 2:
            if rest[1] != self._version.encode():
                request.fail(404, f"there is no version `{rest[1].decode(errors='replace'):.100}` here")
                return
            rest = rest[2:]
        if rest == [b"infer"]:
            if request.method == b"POST":
                self._infer(request)
            else:
                request.fail(405, "`infer` is a `POST`", b"allow: POST\r\n")
        elif rest in ([], [b"ready"]) and request.method in (b"GET", b"HEAD"):
            request.reply(200, self._metadata() if not rest else _json({"name": self._model, "ready": True}))
        else:
            request.fail(404, "there is nothing at this path")

    def _infer(self, request: Request) -> None:
        try:
            given, rows, columns = self._reader.read(request.body)
        except BadRequest as error:
            self._counts[400] += 1
            request.fail(400, str(error))
            return
        id = given or request.headers.get(b"x-request-id", b"").decode("latin-1")
        if not id:
            self._made += 1
            id = f"{self._model}-{self._version}-{self._made}"

        def done(result: Result) -> None:
            self._answer(request, id, result)

        self._batcher.add(Job(columns, rows, done))

    def _answer(self, request: Request, id: str, result: Result) -> None:
        scores, seconds = result
        charged = b"x-mainspring-compute-us: %d\r\n" % round(seconds * 1e6)
        if isinstance(scores, list) and are_numbers(scores):
            self._counts[200] += 1
            request.reply(200, answer(self._model, self._version, id, self._manifest.output, scores), charged)
            return
        self._counts[500] += 1
        if isinstance(scores, MainspringError):
            message = scores.message
        elif isinstance(scores, Exception):
            log.error("a request was not scored", exc_info=scores)
            message = f"the model failed: {type(scores).__name__}"
        else:
            message = "the model gave no number for this request"
        request.fail(500, message, charged)

    def _metadata(self) -> bytes:
        inputs = [{"name": f.name, "datatype": f.datatype, "shape": [-1]} for f in self._manifest.inputs]
        output = {"name": self._manifest.output, "datatype": "FP64", "shape": [-1]}
        return _json(
            {
                "name": self._model,
                "versions": [self._version],
                "platform": self._platform,
                "inputs": inputs,
                "outputs": [output],
            }
        )

    def _metrics(self) -> bytes:
        lines = [f'mainspring_replica_requests_total{{status="{k}"}} {v}' for k, v in self._counts.items()]
        lines += [
            f"mainspring_replica_batches_total {self._batcher.batches}",
            f"mainspring_replica_compute_seconds_total {self._batcher.compute:.6f}",
            f"mainspring_replica_waiting {self._batcher.waiting}",
            f"mainspring_replica_running {self._batcher.running}",
        ]
        return "".join(f"{line}\n" for line in lines).encode()


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
