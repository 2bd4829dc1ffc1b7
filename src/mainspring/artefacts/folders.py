"""A model that is a folder: what is in it, and the one digest that proves it unchanged.

The digest is the SHA-256 of one line a file, `path NUL sha256-of-its-content NEWLINE`, sorted by the bytes of the
path (relative, with `/`). Of a user's class the line `NUL entry NUL module:Class NUL digest-of-its-code NEWLINE` comes
first, so that other code is another version. Empty folders, times and modes don't count.
Who calls it: `load.py`, `models add`, the registry, the cache of downloads.
What it must never do: follow a link, read what is no regular file, or step out of the folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mainspring.errors import ArtefactError

FILES, DEPTH = 100_000, 32
"""Most files of a model, and most folders in each other."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a folder, and how it stands: what changes when its content does."""

    path: str  # relative, with "/"
    size: int  # bytes
    stands: tuple[int, ...]  # inode, times of the last change in nanoseconds


def parts(folder: Path) -> tuple[Part, ...]:
    """Every file in `folder`, by path. Raises `ArtefactError` for a link, a device, an odd name, or too much."""
    found: list[Part] = []
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise ArtefactError("folder-odd", f"`{folder}` is no folder")
        _walk(folder, "", found, 0)
    except OSError as error:
        message = f"`{error.filename or folder}` cannot be read: {error.strerror}"
        raise ArtefactError("artefact-missing", message) from error
    return tuple(sorted(found, key=lambda part: part.path.encode()))


def _walk(folder: Path, above: str, found: list[Part], depth: int) -> None:
    if depth > DEPTH:
        raise ArtefactError("folder-odd", f"`{folder}`: more than {DEPTH} folders in each other")
    with os.scandir(folder) as entries:
        for entry in entries:
            _named(folder, entry.name)
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                _walk(folder / entry.name, f"{above}{entry.name}/", found, depth + 1)
            elif stat.S_ISREG(status.st_mode):
                stands = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
                found.append(Part(above + entry.name, status.st_size, stands))
            else:
                what = "a link" if stat.S_ISLNK(status.st_mode) else "no regular file"
                message = f"`{folder / entry.name}` is {what}: a model's folder holds plain files and folders only"
                raise ArtefactError("folder-odd", message, "copy it with `cp -rL`, then add the copy")
            if len(found) > FILES:
                raise ArtefactError("folder-odd", f"`{folder}` has more than {FILES:,} files")


def _named(folder: Path, name: str) -> None:
    if not name.isprintable() or "\\" in name:
        raise ArtefactError("folder-odd", f"`{folder}` has a file of the odd name `{name!r:.100}`")


def stands(folder: Path) -> tuple[Part, ...]:
    """How all files stand, empty when that can't be told: equal to an earlier answer when nothing was changed."""
    try:
        return parts(folder)
    except ArtefactError:
        return ()


def digest_of_folder(folder: Path, entry: str = "", code: str = "") -> str:
    """The digest of a folder as a manifest writes it; raises `ArtefactError` as `parts` does.

    `entry` and `code`: of a user's class, and the digest of the snapshot that it is in.
    """
    return digest_of_files({part.path: folder / part.path for part in parts(folder)}, entry, code)


def digest_of_files(files: Mapping[str, Path], entry: str = "", code: str = "") -> str:
    """The digest of a folder that would have these files, by their paths in it. Raises `ArtefactError`."""
    total = hashlib.sha256()
    if entry:
        total.update(f"\0entry\0{entry}\0{code}\n".encode())
    for path in sorted(files, key=str.encode):
        total.update(f"{path}\0{digest_of_part(files[path])}\n".encode())
    return "sha256:" + total.hexdigest()


def digest_of_part(path: Path) -> str:
    """The SHA-256 of one file, in hexadecimal, read in pieces and never through a link. Raises `ArtefactError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ArtefactError("folder-odd", f"`{path}` is no regular file")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtefactError("artefact-missing", f"`{path}` cannot be read: {error.strerror}") from error
