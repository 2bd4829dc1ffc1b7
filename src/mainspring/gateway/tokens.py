"""Bearer tokens: which endpoints a caller may use. The file holds keyed hashes, never a token.

What this is: `keys.json` and the pepper beside it, looked at as often as the routes, so that a revoked key ends within
a second. Who calls it: the gateway's doors. What it must never do: keep a token where it could be written out, forget
the last good file because a new one is broken, or take a file that has gone for "no keys are needed".
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from pathlib import Path

import msgspec

from mainspring.decide.limits import Limit

log = logging.getLogger(__name__)

_LONGEST = 256  # bytes of a token
_REMEMBERED = 4096


class Key(msgspec.Struct, frozen=True):
    """One key as the file holds it."""

    id: str
    hash: str
    endpoints: tuple[str, ...] = ()
    name: str = ""
    expires: float | None = None  # POSIX seconds
    tenant: str = ""  # whose it is, of the endpoints' `tenants`
    limits: tuple[Limit, ...] = ()  # of its own, over all endpoints
    context: int = 0  # tokens of one request, its answer included; 0: no limit of its own
    role: str = ""  # of the control API, whose door reads this too; such a key has no endpoints


class _Keys(msgspec.Struct):
    keys: list[Key]


_decode = msgspec.json.Decoder(_Keys).decode


class Tokens:
    """The keys of now. Without files there are none, and whatever asks for a token refuses all."""

    def __init__(self, keys: Path | None, pepper: Path | None) -> None:
        self._paths = (keys, pepper)
        self._seen: object = None
        self._by_hash: dict[str, Key] = {}
        self._pepper = b""
        self._salts: dict[str, str] = {}
        self._known: dict[bytes, Key] = {}  # by the whole header: a good token is hashed once; in memory only
        self.look()

    def look(self) -> None:
        """Take over the files if they are new and good."""
        keys, pepper = self._paths
        if keys is None or pepper is None:
            return
        seen = tuple(map(_stamp, (keys, pepper)))
        if seen == self._seen:
            return
        self._seen = seen
        try:
            secret = bytes.fromhex(pepper.read_text().strip())
            found = {key.hash.lower(): key for key in _decode(keys.read_bytes()).keys}
        except FileNotFoundError as error:
            if self._by_hash:
                log.warning("`%s` has gone, the last good keys stay", error.filename)
            return  # nobody has made a key yet
        except (OSError, ValueError, msgspec.MsgspecError):
            log.warning("`%s` and its pepper are not good key files, the last good ones stay", keys)
            return
        self._pepper, self._by_hash, self._known, self._salts = secret, found, {}, {}

    def salt(self, whose: str) -> str:
        """A text of a tenant's own, which tells nobody whose it is."""
        found = self._salts.get(whose)
        if found is None:
            if len(self._salts) >= _REMEMBERED:
                self._salts.clear()
            text = b"salt\0" + whose.encode("utf-8", "surrogatepass")
            found = self._salts[whose] = hmac.digest(self._pepper, text, hashlib.sha256).hex()[:32]
        return found

    def of(self, authorization: bytes | None) -> Key | None:
        """The key that an `Authorization` header names; None when it names none that is good now."""
        if authorization is None or len(authorization) > _LONGEST + 7 or authorization[:7].lower() != b"bearer ":
            return None
        known = self._known.get(authorization)
        if known is None:
            if not self._pepper:
                return None
            # The look-up is by a keyed hash: what its time tells about a hash tells nothing about a token.
            token = authorization[7:].strip()
            known = self._by_hash.get(hmac.digest(self._pepper, token, hashlib.sha256).hex())
            if known is None:
                return None
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[authorization] = known
        if known.expires is not None and time.time() >= known.expires:
            return None
        return known


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ino, found.st_size)
