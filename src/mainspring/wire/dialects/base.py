"""What a dialect is: three small functions, and what all of them need to read a foreign answer.

Who calls it: each dialect's file; `spoken`, which drives them. What it must never do: believe an answer: numbers are
checked one by one, and there are as many as rows were sent.
"""

from __future__ import annotations

import math
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from mainspring.wire.dialects.canonical import Column, Failed, Garbage, Rows, Served, encode

JSON = b"content-type: application/json\r\n"
_MOST_WORDS = 2000  # characters of a server's own message


class _Predictions(msgspec.Struct, gc=False):
    predictions: list[float]


_predictions = msgspec.json.Decoder(_Predictions).decode
_numbers = msgspec.json.Decoder(list[float]).decode
_decode = msgspec.json.Decoder().decode
EXPECTED = (msgspec.MsgspecError, UnicodeError, RecursionError)


class Dialect(Protocol):
    """How one kind of server is asked, and what its answer means. Pure."""

    def line(self, served: Served) -> bytes:
        """The request line, with its end."""

    def body(self, served: Served, rows: Rows) -> bytes:
        """The body of a request; raises `NotAsked` where this server has no words for it."""

    def scores(self, served: Served, body: bytes, count: int) -> list[float]:
        """The numbers in an answer with status 200, one a row; raises `Garbage`, or `Failed`."""


def post(path: str) -> bytes:
    """A request line."""
    return f"POST {path} HTTP/1.1\r\n".encode()


def named(model: str) -> str:
    """A model's name as part of a path."""
    return quote(model, safe="")


def parsed(body: bytes) -> Any:
    """An answer's JSON; raises `Garbage`."""
    try:
        return _decode(body)
    except EXPECTED:
        raise Garbage("the replica's answer is not JSON") from None


def numbers(raw: bytes | msgspec.Raw) -> list[float] | None:
    """A flat list of numbers, the quick way; None when it is something else."""
    try:
        return _numbers(raw)
    except EXPECTED:
        return None


def column(values: Any, output: str, count: int) -> list[float]:
    """The last number of each row: `values` is a list of numbers, of lists, or of objects with `output`.

    Raises `Garbage`, or `Failed` where a row says that it is the failure of the whole request.
    """
    if not isinstance(values, list):
        raise Garbage("the replica's answer has no list of predictions")
    if len(values) != count:
        raise Garbage(f"the replica answered {len(values)} rows, and was asked for {count}")
    return [_number(value, output) for value in values]


def _number(value: Any, output: str, depth: int = 0) -> float:
    if type(value) is float or type(value) is int:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    elif isinstance(value, list) and value and depth < 4:
        return _number(value[-1], output, depth + 1)
    elif isinstance(value, dict) and depth < 4:
        if output in value or (len(value) == 1 and "error" not in value):
            return _number(value[output] if output in value else next(iter(value.values())), output, depth + 1)
        if "error" in value:
            raise Failed(said(value), _status(value))
    raise Garbage(f"the replica answered with `{str(value)[:60]}`, which is not a number")


def _status(value: dict[str, Any]) -> int:
    status = value.get("status")
    return status if isinstance(status, int) and 400 <= status < 600 else 500


def predictions(served: Served, body: bytes, count: int) -> list[float]:
    """The numbers of `{"predictions": [...]}` or of a bare list."""
    try:
        quick: list[float] | None = _predictions(body).predictions
    except EXPECTED:
        quick = numbers(body)
    if (found := checked(quick, count)) is not None:
        return found
    whole: Any = parsed(body)
    return column(whole.get("predictions") if isinstance(whole, dict) else whole, served.output, count)


def checked(scores: list[float] | None, count: int) -> list[float] | None:
    """A flat list of numbers, if it has as many as there are rows; raises `Garbage` where it has not."""
    if scores is not None and len(scores) != count:
        raise Garbage(f"the replica answered {len(scores)} rows, and was asked for {count}")
    return scores


def with_nan(one: Column) -> bytes:
    """Numbers or truth values as a list that is JSON but for its missing values, which are the word NaN."""
    return one.raw.replace(b"null", b"NaN")


def object_of(rows: Rows) -> bytes:
    """What each row is put into where it is an object by the names of the fields."""
    names = [encode(one.name).replace(b"%", b"%%") for one in rows.columns]
    return b"{%b}" % b",".join([name + b":%b" for name in names])


def list_of(rows: Rows) -> bytes:
    """What each row is put into where it is a list."""
    return b"[%b]" % b",".join([b"%b"] * len(rows.columns))


def said(answer: Any) -> str:
    """The message in a server's error, whatever shape it has."""
    found = answer
    for _ in range(4):
        if isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail", "msg") if found.get(key)), "")
        elif isinstance(found, list) and found:
            found = found[0]
    if not isinstance(found, str) or not found.strip():
        return "the replica failed without saying why"
    return found.strip()[:_MOST_WORDS]


def error(status: int, body: bytes) -> tuple[int, str]:
    """The status and the message for the client, of an answer that is an error.

    What is the gateway's doing (its key, its path) is no fault of the client's: a 502.
    """
    try:
        message = said(_decode(body))
    except EXPECTED:
        message = body[:_MOST_WORDS].decode(errors="replace").strip() or "the replica failed without saying why"
    if status == 422:  # what FastAPI says of a body that does not fit
        return 400, message
    if status in (401, 403):
        return 502, "the replica refused the gateway's key"
    if 400 < status < 500 and status not in (408, 413, 429):
        return 502, f"the replica answered with status {status}: {message}"
    if status not in _KNOWN:
        return 502, f"the replica answered with status {status}: {message}"
    return status, message


_KNOWN = frozenset((400, 408, 413, 429, 500, 501, 502, 503, 504))
