"""A packaged model as a handler of TorchServe.

What this is: what `handler.py` of the model archive is made of; it runs in a worker process of TorchServe for each
copy of the model. Who calls it: TorchServe, with the requests that it has put together. What it must never do: let one
request fail its neighbours.

A request is `{"inputs": {FIELD: [values]}}`, its answer `{"predictions": [numbers]}`.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainspring.artefacts.score import Scorer
from mainspring.replicas.adapters.columns import of_columns
from mainspring.replicas.adapters.together import RequestError, together

SETTINGS = "serving.json"
"""A file of the archive: where code snapshots are, how many threads to use, and the file that says who is at work."""
BATCHES = "mainspring_batches_total"
READY = "ready"
"""A request with this in its query asks whether the model is loaded, and for nothing else."""
PHRASES = {400: "Bad Request", 500: "Internal Server Error"}


class PackagedHandler:
    """What TorchServe calls; a subclass in the archive's own module is what it looks for."""

    def initialize(self, context: Any) -> None:
        """Load the artefact that lies in the archive; `MainspringError` says why it can't be."""
        folder = Path(context.system_properties["model_dir"])
        said = json.loads((folder / SETTINGS).read_bytes())
        self._scorer = Scorer(folder, Path(said["code"]), said["threads"])
        self._busy = Path(said["busy"]).open("ab")  # noqa: SIM115  # held for the process's life

    def handle(self, requests: Sequence[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answer a batch. While it lasts the process holds a lock, by which the server's keeper sees it at work."""
        fcntl.flock(self._busy, fcntl.LOCK_SH)
        try:
            return self._answers(requests, context)
        finally:
            fcntl.flock(self._busy, fcntl.LOCK_UN)

    def _answers(self, requests: Sequence[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        read = [self._read(request) for request in requests]
        asked = [one for one in read if isinstance(one, dict)]
        scored = iter(together(self._scorer.score, asked))
        answers: list[dict[str, Any]] = []
        for at, one in enumerate(read):
            found = next(scored) if isinstance(one, dict) else one
            if isinstance(found, RequestError):
                context.set_response_status(found.status, PHRASES[found.status], at)
                kind = "BadRequestException" if found.status == 400 else "InternalServerException"
                answers.append({"code": found.status, "type": kind, "message": found.message})
            else:
                answers.append({READY: True} if found is None else {"predictions": found})
        if asked:
            context.metrics.add_counter(BATCHES, 1)
        return answers

    def _read(self, request: dict[str, Any]) -> dict[str, list[Any]] | RequestError | None:
        """The request's columns, what is wrong with it, or None where it only asks whether the model is there."""
        body = request.get("body", request.get("data"))
        if READY in request and not body:
            return None
        if not isinstance(body, dict) or set(body) != {"inputs"}:
            return RequestError(400, 'a request is JSON: {"inputs": {FIELD: [values]}}, with `content-type` saying so')
        try:
            return of_columns(body["inputs"], self._scorer.manifest.inputs)
        except RequestError as error:
            return error
