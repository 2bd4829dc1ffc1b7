"""The secrets of a state folder, each a file that only its owner reads: made once, never shown.

    secrets/pepper     keys the hashes of tokens, so that `keys.json` alone is worth nothing
    secrets/upstream   what the gateway shows replicas, so that it is the only door to them
    keys.json          the tokens that exist, as hashes

Who calls it: the world, when it starts a replica or a gateway; whoever makes tokens. What it must never do: put a
secret into a command line, a log or an error.
"""

from __future__ import annotations

import secrets as chance
from pathlib import Path

from mainspring.worlds.local.shim import write_whole

FOLDER = "secrets"


def keys(state: Path) -> Path:
    """Where the tokens' hashes are; the file need not be there."""
    return state / "keys.json"


def pepper(state: Path) -> Path:
    """The pepper's file, made when it is not there. Raises `OSError`."""
    return _made(state / FOLDER / "pepper")


def upstream(state: Path) -> Path:
    """The file of what replicas ask the gateway for, made when it is not there. Raises `OSError`."""
    return _made(state / FOLDER / "upstream")


def _made(path: Path) -> Path:
    """A file of 64 hexadecimal digits: whole or not there, whatever is killed."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_whole(str(path), chance.token_hex(32).encode())
    return path
