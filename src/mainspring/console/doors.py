"""The doors of the control API: a Unix socket for its owner, and loopback TCP for whoever has the token.

What this is: sockets, and one ASGI layer that lets a request in or says why not. Who calls it: `console/__main__.py`.
What it must never do: bind anything but loopback, let a web page of elsewhere in, or keep the token in the clear.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from mainspring.worlds.local.shim import write_whole

MAX_BODY = 2 * 1024 * 1024  # bytes; the largest is a stack file
HOSTS = ("localhost", "127.0.0.1")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Token:
    """A secret for one life of the controller: only a keyed hash of it stays in memory."""

    def __init__(self, file: Path) -> None:
        """Draw a token and write it to `file`, which only its owner can read. Raises `OSError`."""
        token = secrets.token_urlsafe(32)
        self._key = secrets.token_bytes(32)
        self._hash = self._of(token)
        write_whole(str(file), f"{token}\n".encode(), durable=False)  # mode 0600

    def _of(self, token: str) -> bytes:
        return hmac.new(self._key, token.encode("utf-8", "replace"), hashlib.sha256).digest()

    def fits(self, given: str) -> bool:
        """Whether this is the token; takes as long whatever is wrong with it."""
        return hmac.compare_digest(self._of(given), self._hash)


class Door:
    """The layer around the API: who may come in, and with how much."""

    def __init__(self, app: App, token: Token | None, port: int = 0) -> None:
        """`token` None: a door whose socket file says who may come in. `port`: of the TCP door."""
        self._app = app
        self._token = token
        self._names = {*HOSTS, *(f"{host}:{port}" for host in HOSTS)}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        await self._app(scope, _limited(receive), send)

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str, str] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in self._names:
            return 421, "bad-host", "the `Host` of this API is `localhost` or `127.0.0.1`"
        for origin in headers.get(b"origin", []):
            scheme, _, name = origin.decode("latin-1").lower().partition("://")
            if scheme != "http" or name not in self._names:
                return 403, "bad-origin", "pages of elsewhere may not use this API"
        if headers.get(b"sec-fetch-site", [b"none"])[0] not in (b"none", b"same-origin"):
            return 403, "bad-origin", "pages of elsewhere may not use this API"
        if self._token is not None and not self._token.fits(_bearer(headers)):
            return 401, "bad-token", "send `Authorization: Bearer TOKEN`; the token is in `.mainspring/control.token`"
        length = headers.get(b"content-length", [b"0"])[0]
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, "too-long", f"a body has {MAX_BODY} bytes at most"
        return None


def _bearer(headers: dict[bytes, list[bytes]]) -> str:
    given = headers.get(b"authorization", [b""])
    scheme, _, token = given[0].decode("latin-1").partition(" ")
    return token.strip() if len(given) == 1 and scheme.lower() == "bearer" else ""


def _limited(receive: Receive) -> Receive:
    """A body without a length is cut off where it gets too long."""
    left = MAX_BODY

    async def take() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if left < 0 else message

    return take


async def _answer(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"code": code, "message": message, "hint": ""}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def unix_door(path: Path) -> socket.socket:
    """A listening Unix socket that only its owner can connect to; works for folders of any length."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        door.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's own path may have some 100 bytes at most
        door.listen(256)
    except OSError:
        door.close()
        raise
    finally:
        os.umask(mask)
        os.close(folder)
    return door


def tcp_door() -> socket.socket:
    """A listening TCP socket on a free port of loopback."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.bind(("127.0.0.1", 0))
        door.listen(256)
    except OSError:
        door.close()
        raise
    return door
