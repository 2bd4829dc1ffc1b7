"""The door of TensorFlow Serving's REST API, for predictive endpoints.

    POST /v1/models/{endpoint}[/versions/{v}]:predict     rows (`instances`) or columns (`inputs`)
    GET  /v1/models/{endpoint}[/versions/{v}]             which versions are there
    GET  /v1/models/{endpoint}[/versions/{v}]/metadata    what the model takes and gives

Who calls it: the gateway's server. What it must never do: take a path of OpenAI's API, which shares its beginning.
"""

from __future__ import annotations

import re

from mainspring.gateway.desk import Desk
from mainspring.gateway.routing import Endpoint
from mainspring.gateway.translated import Translated, served
from mainspring.wire.dialects import tfserving_client
from mainspring.wire.http1 import Request

_PATH = re.compile(rb"/v1/models/([^/:]+)(?:/(versions|labels)/([^/:]+))?(?::([a-zA-Z]*)|(/metadata))?")


class TfServingDoor:
    """Answers for predictive endpoints."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._translated = Translated(desk, tfserving_client)
        self._reject = self._translated.admission.reject

    def handle(self, request: Request) -> bool:
        """Answer a request for `/v1/models/...`; False when it is none of this API's."""
        found = _PATH.fullmatch(request.path)
        if found is None:
            return False
        name, kind, given, verb, metadata = found.groups()
        if kind is None and verb is None and metadata is None:
            route = self._desk.table.endpoints.get(name.decode("latin-1"))
            if route is None or route.is_language:
                return False
        version = given.decode("latin-1") if given else ""
        if kind == b"labels":
            self._reject(request, 404, "path", "versions have no labels here: ask `/versions/N`, or none")
        elif verb == b"predict":
            self._translated.predict(request, name, version)
        elif verb is not None:
            self._reject(request, 404, "path", f"there is no `:{verb.decode()}` here, only `:predict`")
        else:
            self._tell(request, name, version, metadata=metadata is not None)
        return True

    def _tell(self, request: Request, name: bytes, version: str, *, metadata: bool) -> None:
        found = self._translated.route(request, name, version, b"GET")
        if found is not None:
            route, _ = found
            body = tfserving_client.metadata(served(route, version)) if metadata else _status(route, version)
            request.reply(200, body)


def _status(route: Endpoint, version: str) -> bytes:
    ready: dict[str, bool] = {}
    for revision in route.revisions.values():
        if version in {"", revision.version}:
            ready[revision.version] = ready.get(revision.version, False) or not revision.is_empty
    return tfserving_client.status(ready)
