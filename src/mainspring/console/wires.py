"""What the layers around the control API have in common: ASGI's types, and an answer of their own.

Who calls it: `doors.py`, `roles.py`. What it must never do: know who may come in.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


async def answer(send: Send, status: int, code: str, message: str, hint: str = "") -> None:
    """Answer with an error, in the form of the API's own."""
    body = json.dumps({"code": code, "message": message, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
