"""Tokens that requests show: made, listed, rotated and revoked in `keys.json`, where only their hashes are kept.

What this is: the file's one writer; every change is whole, written down in `key-changes.jsonl` first, and under a
lock, so that two people can't lose one. The gateway and the control API's door read the file by themselves, so a token
is revoked within a second though no controller runs. A token has 256 random bits: a fast keyed hash (HMAC-SHA256 under
the state folder's pepper) is right for it, as it would not be for a password (NIST SP 800-63B, section 5.1.1). Who
calls it: `mainspring keys`.
What it must never do: keep a token, or write one anywhere but into the hands of who asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets as chance
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mainspring.decide.limits import Limit
from mainspring.errors import EnvironmentError_, InputError
from mainspring.worlds.local import journal, secrets
from mainspring.worlds.local.shim import write_whole

PREFIX = "ms_"


@dataclass(frozen=True, slots=True)
class Key:
    """A token that exists, without the token."""

    id: str  # "k3"
    hash: str
    endpoints: tuple[str, ...]
    name: str = ""  # whose it is
    expires: float | None = None  # POSIX seconds
    created: float = 0.0
    tenant: str = ""  # of the endpoints' `tenants`; "" where they have none
    limits: tuple[Limit, ...] = ()  # of its own, over all its endpoints
    context: int = 0  # tokens of one request, its answer included; 0: no limit of its own
    role: str = ""  # of the control API (`facts.changes.ROLES`); such a key has no endpoints, tenant or limits


def listed(state: Path) -> tuple[Key, ...]:
    """All tokens of a state folder, oldest first. Raises `EnvironmentError_` when the file can't be read as one."""
    return _read(state)[0]


def _read(state: Path) -> tuple[tuple[Key, ...], int]:
    """All tokens, and how many were ever made: an id is never used twice, so a bill of `k3` is one key's."""
    path = secrets.keys(state)
    try:
        raw = json.loads(path.read_bytes())
        found = tuple(_key(one) for one in raw["keys"])
        highest = max((int(key.id[1:]) for key in found if key.id[1:].isdecimal()), default=0)
        return found, max(highest, int(raw.get("made", 0)))
    except FileNotFoundError:
        return (), 0
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EnvironmentError_(
            "keys-unreadable",
            f"`{path}` can't be read: {error}",
            "bring it back from a backup, or remove it and make new keys",
        ) from error


def _key(one: dict[str, Any]) -> Key:
    limits = tuple(Limit(**limit) for limit in one.get("limits", ()))
    return Key(**{**one, "endpoints": tuple(one["endpoints"]), "limits": limits})


def create(
    state: Path, endpoints: tuple[str, ...], name: str, now: float, expires: float | None = None, **more: Any
) -> tuple[Key, str]:
    """Make a token for some endpoints, or for the control API.

    `more`: `tenant`, `limits`, `context`, `role`, as `Key` has them. Returns what is kept of it, and the token, which
    nobody can show again. Raises `EnvironmentError_`.
    """
    like = Key("", "", endpoints, name, expires, now, **more)
    if bool(like.role) == bool(endpoints) or (like.role and (like.tenant or like.limits or like.context)):
        raise ValueError("a key is for endpoints, with a tenant and limits, or for the control API, with a role")
    with _alone(state):
        there, made = _read(state)
        with journal.recorded(state, "create key", f"k{made + 1}", _told(like)):
            return _issue(state, there, made, like)


def rotate(state: Path, id: str, now: float, overlap: float) -> tuple[Key, str]:
    """Make a token that may do what another one may, which is good for `overlap` more seconds.

    The new one ends when the old one would have. Returns what is kept of the new one, and the token. Raises
    `InputError` when there is none of that id, or when it has expired: what is good for nothing has no heir.
    """
    with _alone(state):
        there, made = _read(state)
        old = _named(there, id)
        if old.expires is not None and old.expires <= now:
            raise InputError(
                "key-expired", f"key `{old.id}` has expired", f"mainspring keys create {' '.join(old.endpoints)}"
            )
        ends = now + overlap if old.expires is None else min(old.expires, now + overlap)
        leaving = {old: replace(old, expires=ends)} if overlap > 0 else {}
        rest = tuple(leaving.get(one, one) for one in there if one != old or leaving)
        heir = replace(old, created=now)
        with journal.recorded(state, "rotate key", old.id, f"k{made + 1} in its place: {_told(heir)}"):
            return _issue(state, rest, made, heir)


def revoke(state: Path, id: str) -> Key:
    """Take a token back. Raises `InputError` when there is none of that id."""
    with _alone(state):
        there, made = _read(state)
        found = _named(there, id)
        with journal.recorded(state, "revoke key", found.id, _told(found)):
            _write(state, tuple(key for key in there if key != found), made)
    return found


def _told(key: Key) -> str:
    """What a key may do, in short, for the change log."""
    parts = [f"role {key.role}" if key.role else ", ".join(key.endpoints), key.name]
    parts += [f"tenant {key.tenant}" if key.tenant else "", f"{len(key.limits)} limits" if key.limits else ""]
    return "; ".join(part for part in parts if part)


def _issue(state: Path, others: tuple[Key, ...], made: int, like: Key) -> tuple[Key, str]:
    """Write one more token beside the others, with what `like` says of it but an id and a hash of its own."""
    token = PREFIX + chance.token_urlsafe(32)
    key = replace(like, id=f"k{made + 1}", hash=_hash(state, token))
    _write(state, (*others, key), made + 1)
    return key, token


def _named(there: tuple[Key, ...], id: str) -> Key:
    found = next((key for key in there if key.id == id), None)
    if found is None:
        known = ", ".join(f"`{key.id}`" for key in there) or "none"
        raise InputError("no-such-key", f"there is no key `{id[:40]}`; there is {known}", "mainspring keys list")
    return found


def _hash(state: Path, token: str) -> str:
    pepper = bytes.fromhex(secrets.pepper(state).read_text(encoding="ascii").strip())
    return hmac.new(pepper, token.encode(), hashlib.sha256).hexdigest()


def _write(state: Path, keys: tuple[Key, ...], made: int) -> None:
    content = json.dumps({"made": made, "keys": [asdict(key) for key in keys]}, indent=1).encode()
    write_whole(str(secrets.keys(state)), content)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the keys' lock; every trouble with the disk is told as such."""
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(state / "keys.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
    except OSError as error:
        raise EnvironmentError_(
            "keys-not-written", f"`{secrets.keys(state)}` can't be written: {error.strerror}"
        ) from error
