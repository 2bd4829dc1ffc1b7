"""TorchServe's inference API, as clients ask it: there the handler says what a body is, and here the model's fields do.

An object of lists is columns, an object of single values is one row, a list is rows; so is what is under `inputs`,
which is how Mainspring's own handler is asked. The answer has the same shape: a list, a number, or `predictions`.
Who calls it: the gateway's door for it. Pure. What it must never do: take a body for something that it may not be.
"""

from __future__ import annotations

from typing import Any

from mainspring.wire.dialects import asked
from mainspring.wire.dialects.asked import Asked, document, from_columns, from_rows
from mainspring.wire.dialects.canonical import NotAsked, Served, encode

_KINDS = {
    400: "BadRequestException", 401: "InvalidKeyException", 403: "InvalidKeyException", 404: "ModelNotFoundException",
    405: "MethodNotAllowedException", 408: "RequestTimeoutException", 413: "RequestEntityTooLargeException",
    415: "UnsupportedMediaTypeException", 429: "TooManyRequestsException", 500: "InternalServerException",
    503: "ServiceUnavailableException",
}  # fmt: skip


def read(served: Served, body: bytes) -> Asked:
    """A request to `/predictions`; raises `NotAsked`."""
    said = document(body)
    names = {name for name, _ in served.inputs}
    if isinstance(said, dict) and set(said) == {"inputs"} and "inputs" not in names:
        return _read(served, said["inputs"], "predictions")
    return _read(served, said, "list")


def _read(served: Served, said: Any, form: str) -> Asked:
    if isinstance(said, list):
        return Asked(from_rows(served, said), form)
    if not isinstance(said, dict) or not said:
        raise NotAsked("the body is an object of columns, an object of single values, or a list of rows")
    are_lists = [isinstance(value, list) for value in said.values()]
    if all(are_lists):
        return Asked(from_columns(served, said), form)
    if any(are_lists):
        raise NotAsked("some inputs are lists and some are single values: send columns, or one row")
    return Asked(from_rows(served, [said]), "number" if form == "list" else form)


def write(form: str, body: bytes) -> bytes:
    """A canonical answer in the shape that was asked in; raises `Garbage`."""
    scores = asked.scores(body)
    if form == "number" and len(scores) == 1:
        return encode(scores[0])
    return encode({"predictions": scores} if form == "predictions" else scores)


def error(status: int, message: str) -> bytes:
    """An error's body."""
    kind = _KINDS.get(status) or _KINDS[400 if status < 500 else 500]
    return encode({"code": status, "type": kind, "message": message})
