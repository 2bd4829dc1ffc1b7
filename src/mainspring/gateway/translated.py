"""A prediction that is asked for in another protocol than the Open Inference Protocol.

What this is: the way that TensorFlow Serving's and TorchServe's doors share: the request becomes one of the Open
Inference Protocol, and goes the same way as any: token, tenants, limits, queue, version, record, mirror. Who calls it:
those doors. What it must never do: treat a request otherwise because of the words it was asked in.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from mainspring.gateway import wire
from mainspring.gateway.admission import Admission
from mainspring.gateway.desk import Desk
from mainspring.gateway.prediction import Prediction
from mainspring.gateway.routing import Endpoint
from mainspring.gateway.tokens import Key
from mainspring.wire.dialects import NotAsked, Served
from mainspring.wire.dialects.asked import Asked, message
from mainspring.wire.http1 import Request

_encode = msgspec.json.Encoder().encode
_IDENTITY = (b"", b"identity")


class ClientProtocol(Protocol):
    """What clients say and are told: a `..._client` file of `wire/dialects`."""

    def read(self, served: Served, body: bytes) -> Asked:
        """A request; raises `NotAsked`."""

    def write(self, form: str, body: bytes) -> bytes:
        """A canonical answer in the client's shape; raises `Garbage`."""

    def error(self, status: int, message: str) -> bytes:
        """An error's body."""


class Told:
    """How one answer is put."""

    __slots__ = ("_form", "_protocol")

    def __init__(self, protocol: ClientProtocol, form: str) -> None:
        self._protocol, self._form = protocol, form

    def said(self, status: int, body: bytes) -> tuple[int, bytes]:
        """Status and body for the client; raises `Garbage`."""
        if status == 200:
            return 200, self._protocol.write(self._form, body)
        return status, self._protocol.error(status, message(body))


class Translated:
    """Lets requests in one protocol in, and on their way."""

    def __init__(self, desk: Desk, protocol: ClientProtocol) -> None:
        self.desk, self._protocol = desk, protocol
        self.admission = Admission(desk, protocol.error)

    def route(self, request: Request, name: bytes, version: str, method: bytes) -> tuple[Endpoint, Key | None] | None:
        """The endpoint, and the key that it was asked with; None: the request is refused."""
        route, admission = self.desk.table.endpoints.get(name.decode("latin-1")), self.admission
        key = None
        if route is None:
            admission.unknown(request, name)
        elif request.method != method and not (method == b"GET" and request.method == b"HEAD"):
            shown = method.decode()
            admission.reject(request, 405, "method", f"this is a `{shown}`", b"allow: %b\r\n" % method)
        elif route.auth and (key := admission.let_in(request, route)) is None:
            return None
        elif route.is_language:
            words = f"`{route.name}` is a language model, and text has no meaning here: ask `/v1/chat/completions`"
            admission.reject(request, 400, "kind", words)
        elif version and version not in {revision.version for revision in route.revisions.values()}:
            admission.reject(request, 404, "version", f"`{route.name}` has no version `{version:.100}` here")
        else:
            return route, key
        return None

    def predict(self, request: Request, name: bytes, version: str) -> None:
        """Answer a prediction, later."""
        found = self.route(request, name, version, b"POST")
        if found is None:
            return
        route, key = found
        if request.headers.get(b"content-encoding", b"").lower() not in _IDENTITY:
            words = "compressed bodies are not taken: send the body as it is"
            self.admission.reject(request, 415, "encoding", words)
            return
        try:
            asked = self._protocol.read(served(route, version), request.body)
        except NotAsked as error:
            self.admission.reject(request, error.status, "body", error.message)
            return
        id = self.desk.given_id(request).decode()
        infer = wire.Infer(msgspec.Raw(asked.inputs), id or None)
        body = b'{"id":%b,"inputs":%b}' % (_encode(id), asked.inputs) if id else b'{"inputs":%b}' % asked.inputs
        fixed = route.of_version(version) if version else ""
        told = Told(self._protocol, asked.form)
        self.admission.admit(request, route, key, Prediction(self.desk, request, route, infer, body, fixed, told))


def served(route: Endpoint, version: str) -> Served:
    """What an endpoint takes: the fields of the version that is asked, or of the one with most of the traffic."""
    there = [one for one in route.routes.revisions if version in {"", one.version}]
    there.sort(key=lambda one: (bool(one.inputs), one.weight))
    return route.revisions[there[-1].name].served if there else Served(route.name)
