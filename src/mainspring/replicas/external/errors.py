"""The forwarder's own errors, in the shape of the protocol that it forwards; pure.

Who calls it: the forwarder. What it must never do: word what the server itself has answered.
"""

from __future__ import annotations

import msgspec

from mainspring.wire.http1 import error_body

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error",
    503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip


def worded(protocol: str, status: int, message: str) -> bytes:
    """The body of an error."""
    if protocol == "openai":
        kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": None}})
    if protocol == "torchserve":
        return msgspec.json.encode({"code": status, "type": "ForwardingException", "message": message})
    return error_body(message)
