"""Errors as OpenAI's API words them, whole and in mid-stream; engines' own errors are put into that shape.

Who calls it: the OpenAI door and its exchanges. What it must never do: let an engine's integer code, stack trace or
key reach a client.
"""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

_KINDS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "permission_denied"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    422: ("invalid_request_error", "invalid_request"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    431: ("invalid_request_error", "request_too_large"),
    500: ("server_error", "internal_error"),
    501: ("server_error", "not_supported"),
    502: ("server_error", "replica_failed"),
    503: ("server_error", "no_replica"),
    504: ("server_error", "timeout"),
}
_LONGEST = 2000  # characters of an engine's message
_CONTEXT = (
    "context length", "context size", "context_length", "exceed_context_size", "maximum context",
    "too large to process",  # llama.cpp of an embedding, with status 500
)  # fmt: skip


def kind(status: int) -> tuple[str, str]:
    """The type and code that stand for a status where nothing more is known."""
    return _KINDS.get(status) or (_KINDS[500] if status >= 500 else _KINDS[400])


def body(status: int, message: str, code: str = "", param: str | None = None) -> bytes:
    """The body of an error answer."""
    type_, usual = kind(status)
    return _encode({"error": {"message": message, "type": type_, "param": param, "code": code or usual}})


def event(status: int, message: str, code: str = "") -> bytes:
    """An error in mid-stream: the stream's one terminal event."""
    return b"data: " + body(status, message, code) + b"\n\n"


def answer_of(said: Any) -> tuple[int, bytes, str]:
    """Status, body and message for an error event that comes before anything else."""
    status, message, code, param = _read(said, 500)
    return status, body(status, message, code, param), message


def event_of(said: Any) -> bytes:
    """An engine's error event in OpenAI's shape."""
    status, message, code, param = _read(said, 500)
    return b"data: " + body(status, message, code, param) + b"\n\n"


def normalised(status: int, answer: bytes) -> tuple[int, bytes]:
    """An engine's error answer in OpenAI's shape, with the status to give it.

    A refusal of the gateway's own key is a fault of ours, so it is a 502 and not the client's 401.
    """
    if status in (401, 403):
        return 502, body(502, "the replica refused the gateway's key")
    try:
        said = _decode(answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        said = answer[:_LONGEST].decode(errors="replace")
    _, message, code, param = _read(said, status)
    if code == "context_length_exceeded" and status >= 500:
        status = 400
    return status, body(status, message, code, param)


def _read(said: Any, status: int) -> tuple[int, str, str, str | None]:
    """Status, message, code and parameter that an engine's error names."""
    found = said.get("error", said) if isinstance(said, dict) else said
    message: Any = ""
    code = ""
    param = None
    if isinstance(found, dict):
        given = found.get("code")
        if isinstance(given, int) and not isinstance(given, bool) and 400 <= given < 600:
            status = given
        elif isinstance(given, str):
            code = given[:64]
        message = found.get("message") or found.get("detail") or ""
        param = found.get("param")
    elif isinstance(found, str):
        message = found
    if not isinstance(message, str) or not message:
        message = "the replica failed without saying why"
    message = message[:_LONGEST]
    if any(words in message.lower() for words in _CONTEXT):
        code = "context_length_exceeded"
    return status, message, code, param if isinstance(param, str) else None
