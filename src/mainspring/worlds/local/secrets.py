"""The secrets of a state folder, each a file that only its owner reads: made once, never shown.

    secrets/pepper     keys the hashes of tokens, so that `keys.json` alone is worth nothing
    secrets/upstream   what the gateway shows replicas, so that it is the only door to them
    keys.json          the tokens that exist, as hashes

Who calls it: the world, when it starts a replica or a gateway; whoever makes tokens. What it must never do: put a
secret into a command line, a log or an error.
"""

from __future__ import annotations

import contextlib
import os
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
    """A file of 64 hexadecimal digits: whole or not there, whatever is killed, and one whoever makes it beside us."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f"{path.name}.{chance.token_hex(8)}")
        write_whole(str(draft), chance.token_hex(32).encode())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)  # unlike a rename it never replaces what another process made meanwhile
        finally:
            draft.unlink(missing_ok=True)
    return path
