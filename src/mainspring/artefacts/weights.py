"""`model.gguf`, looked at before an engine maps it.

What this is: the checks that need no engine (header, length, digest) and the text of the chat template.
Who calls it: `artefacts/load.py`, and the replica that puts a system text into the template.
What it must never do: read the whole file into memory, or pass a file on whose header makes no sense.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from pathlib import Path

from mainspring.errors import ArtefactError, InputError
from mainspring.facts.gguf import from_header
from mainspring.facts.gguf_header import HEADER, STRING, TEXT

_TEMPLATE = b"tokenizer.chat_template"
_AGAIN = "make the version again with `mainspring run`"


def digest_of_file(path: Path) -> str:
    """The digest of a file as a manifest writes it, read in pieces. Raises `OSError`."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(path: Path, digest: str) -> None:
    """See that `path` is a whole GGUF file with `digest`; raises `ArtefactError` when it is missing or is not."""
    try:
        with path.open("rb") as file:
            shape, _ = from_header(file)
        size = path.stat().st_size
        if size < shape.stored:
            raise ArtefactError(
                "artefact-broken",
                f"`{path}` has {size:,} bytes, and its header lists tensors of `{int(shape.stored):,}`",
                _AGAIN,
            )
        found = digest_of_file(path)
    except OSError as error:
        raise ArtefactError("artefact-missing", f"`{path}` cannot be read: {error.strerror}", _AGAIN) from error
    except InputError as error:
        raise ArtefactError("artefact-broken", f"`{path}` is not usable: {error.message}", _AGAIN) from error
    if found != digest:
        raise ArtefactError(
            "artefact-changed",
            f"`{path}` is not the model that its manifest describes: its digest differs from `{digest}`",
            _AGAIN,
        )


def chat_template(path: Path) -> str:
    """The chat template that a checked GGUF file carries, whole; "" for none. Raises `OSError`.

    The key is searched for as the format writes it, since a template is longer than what the header's reader keeps
    of a string. A file that holds these bytes elsewhere first fools only itself: the template is its own either way.
    """
    key = struct.pack("<Q", len(_TEMPLATE)) + _TEMPLATE + struct.pack("<I", TEXT)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(key, 0, HEADER)
        if at < 0 or at + len(key) + 8 > len(view):
            return ""
        start = at + len(key) + 8
        (length,) = struct.unpack("<Q", view[start - 8 : start])
        if length > STRING or start + length > len(view):
            return ""
        return view[start : start + length].decode("utf-8", errors="replace")
