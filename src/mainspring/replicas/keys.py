"""The key that requests to a replica must bring, from the file that the command line names.

Who calls it: replicas that are asked for one. What it must never do: show the key.
"""

from __future__ import annotations

from pathlib import Path

from mainspring.errors import EnvironmentError_, InputError

LONGEST = 4_096
"""Characters of a key."""


def read_key(path: Path | None) -> str:
    """The key in a file, "" without one; raises `EnvironmentError_` when it can't be read, `InputError` for no key."""
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise EnvironmentError_("key-file", f"`{path}` cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError("bad-key", f"`{path}` holds no key: it is not ASCII") from error
    if not key or len(key) > LONGEST or not key.isprintable() or " " in key:
        raise InputError("bad-key", f"`{path}` holds no key: one word of at most {LONGEST:,} printable characters")
    return key
