"""The doors of the control API: a Unix socket for its owner, and loopback TCP for whoever has a token.

What this is: sockets, and one ASGI layer that finds out who asks, and lets the request in or says why not; what the
caller may do there is `roles.py`'s. Who calls it: `console/__main__.py`. What it must never do: bind anything but
loopback, let a web page of elsewhere in, keep a token in the clear, or believe a header about who asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Callable
from pathlib import Path

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mainspring.console.roles import CALLER
from mainspring.console.wires import App, Message, Receive, Send, answer
from mainspring.facts.changes import ROLES, Caller
from mainspring.gateway.tokens import Tokens
from mainspring.worlds.local.shim import write_whole

MAX_BODY = 2 * 1024 * 1024  # bytes; the largest is a stack file
HOSTS = ("localhost", "127.0.0.1")


class Token:
    """A secret for one life of the controller: only a keyed hash of it stays in memory."""

    def __init__(self, file: Path) -> None:
        """Draw a token and write it to `file`, which only its owner can read. Raises `OSError`."""
        token = secrets.token_urlsafe(32)
        self._key = secrets.token_bytes(32)
        self._hash = self._of(token.encode())
        write_whole(str(file), f"{token}\n".encode(), durable=False)  # mode 0600

    def _of(self, token: bytes) -> bytes:
        return hmac.new(self._key, token, hashlib.sha256).digest()

    def fits(self, given: bytes) -> bool:
        """Whether this is the token; takes as long whatever is wrong with it."""
        return hmac.compare_digest(self._of(given), self._hash)


class Peered(HttpToolsProtocol):
    """uvicorn's protocol for the Unix door: the client's address is the user whom the kernel says it is."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Ask the socket for the other side's user (SO_PEERCRED: pid, uid, gid)."""
        super().connection_made(transport)  # type: ignore[arg-type]
        with contextlib.suppress(OSError, AttributeError):
            own = transport.get_extra_info("socket")
            size = struct.calcsize("3i")
            _, uid, _ = struct.unpack("3i", own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            self.client = (f"uid {uid} (socket)", 0)


def by_socket(scope: Message, authorization: bytes | None) -> Caller:
    """Who comes by the Unix door: its file lets in its owner (and root) alone."""
    del authorization
    client = scope.get("client")
    return Caller(str(client[0]) if client else "owner (socket)", "admin")


class ByToken:
    """Who comes by the TCP door: the owner, who can read the token of this life, or a person with a key of a role."""

    def __init__(self, token: Token, keys: Tokens) -> None:
        self._token = token
        self._keys = keys

    def __call__(self, scope: Message, authorization: bytes | None) -> Caller | None:
        """Look the token up; the keys' files are looked at each time, so a key that is revoked is refused at once."""
        del scope
        given = authorization or b""
        if self._token.fits(given[7:].strip() if given[:7].lower() == b"bearer " else b""):
            return Caller("owner (control.token)", "admin")
        self._keys.look()
        key = self._keys.of(authorization)
        if key is None:
            return None
        role = next((role for role in ROLES if role == key.role and not key.endpoints), None)
        return Caller(f"{key.id} ({key.name})" if key.name else key.id, role)


class Door:
    """The layer around the API: who may come in, and with how much."""

    def __init__(self, app: App, who: Callable[[Message, bytes | None], Caller | None], port: int = 0) -> None:
        """`who`: tells from a request and its `Authorization` who asks; None: nobody. `port`: of the TCP door."""
        self._app = app
        self._who = who
        self._names = {*HOSTS, *(f"{host}:{port}" for host in HOSTS)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request through, with who asks in its scope, or answer it here."""
        if scope["type"] != "http":
            return  # no websockets; uvicorn is told to send no lifespan
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        refusal = self._foreign(headers) or _too_long(headers)
        given = headers.get(b"authorization", [])
        caller = None if refusal or len(given) > 1 else self._who(scope, given[0] if given else None)
        if refusal is not None:
            await answer(send, *refusal)
        elif caller is None:
            message = "send `Authorization: Bearer TOKEN`"
            hint = "the owner's is in `.mainspring/control.token`; `mainspring keys create --role viewer` makes others"
            await answer(send, 401, "bad-token", message, hint)
        else:
            await self._app({**scope, CALLER: caller}, _limited(receive), send)

    def _foreign(self, headers: dict[bytes, list[bytes]]) -> tuple[int, str, str] | None:
        """Why a request comes from elsewhere, if it does: another name of this machine, or a page of another site."""
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0].decode("latin-1").lower() not in self._names:
            return 421, "bad-host", "the `Host` of this API is `localhost` or `127.0.0.1`"
        for origin in headers.get(b"origin", []):
            scheme, _, name = origin.decode("latin-1").lower().partition("://")
            if scheme != "http" or name not in self._names:
                return 403, "bad-origin", "pages of elsewhere may not use this API"
        if headers.get(b"sec-fetch-site", [b"none"])[0] not in (b"none", b"same-origin"):
            return 403, "bad-origin", "pages of elsewhere may not use this API"
        return None


def _too_long(headers: dict[bytes, list[bytes]]) -> tuple[int, str, str] | None:
    length = headers.get(b"content-length", [b"0"])[0]
    if not length.isdigit() or len(length) > 20 or int(length) > MAX_BODY:
        return 413, "too-long", f"a body has {MAX_BODY} bytes at most"
    return None


def _limited(receive: Receive) -> Receive:
    """A body without a length is cut off where it gets too long."""
    left = MAX_BODY

    async def take() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if left < 0 else message

    return take


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


def tcp_door(port: int = 0) -> socket.socket:
    """A listening TCP socket of loopback: at `port` if that is free, else at any; 0: at any."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last controller's connections may linger
        try:
            door.bind(("127.0.0.1", port))
        except OSError:
            door.bind(("127.0.0.1", 0))
        door.listen(256)
    except OSError:
        door.close()
        raise
    return door
