"""A person's file, read without trusting it: no device, no pipe, no more bytes than asked for.

What this is: one function. Who calls it: `fleet.py`, `calibrate.py`. What it must never do: block on what is no plain
file, or unpack without a bound.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO

from mainspring.errors import InputError


def first_bytes(path: Path, most: int, *, shown: str, code: str, hint: str, unpack: bool = False) -> bytes:
    """The first `most` bytes of a file called `shown`, decompressed with `unpack`; raises `InputError` with `code`."""
    if path.exists() and not path.is_file():
        raise InputError(code, f"`{shown}` is no plain file", hint)
    try:
        with path.open("rb") as file:
            source: IO[bytes] = gzip.GzipFile(fileobj=file) if unpack else file  # type: ignore[assignment]
            return source.read(most)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise InputError(code, f"`{shown}` can't be read: {said}", hint) from error
