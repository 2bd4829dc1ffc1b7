"""The door of TorchServe's inference API, for predictive endpoints.

    POST /predictions/{endpoint}[/{version}]    columns, one row, or a list of rows

Who calls it: the gateway's server. What it must never do: manage models: what is served is the stack file's to say.
"""

from __future__ import annotations

from mainspring.gateway.desk import Desk
from mainspring.gateway.translated import Translated
from mainspring.wire.dialects import torchserve_client
from mainspring.wire.http1 import Request


class TorchServeDoor:
    """Answers for predictive endpoints."""

    def __init__(self, desk: Desk) -> None:
        self._translated = Translated(desk, torchserve_client)

    def handle(self, request: Request, parts: list[bytes]) -> None:
        """Answer a request for `/predictions/...`; `parts` are what follows."""
        reject = self._translated.admission.reject
        if len(parts) > 2 or not all(parts):
            reject(request, 404, "path", "there is nothing at this path; try `/predictions/ENDPOINT`")
        elif request.headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
            reject(request, 415, "encoding", "forms are not taken: send the JSON itself as the body")
        else:
            self._translated.predict(request, parts[0], parts[1].decode("latin-1") if len(parts) > 1 else "")
