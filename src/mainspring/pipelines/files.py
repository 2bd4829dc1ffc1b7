"""Files that are there whole or not at all.

Who calls it: everything in this package that writes what another process reads.
What it must never do: leave a half-written file under its final name.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mainspring.errors import EnvironmentError_

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; raises `OSError`."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; keys sorted, numbers that JSON lacks (NaN) as null."""
    write_whole(path, json.dumps(value, sort_keys=True, indent=1, default=str, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read JSON; None when the file is missing or is none."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def link(source: Path, target: Path) -> None:
    """The same bytes under another name: a hard link where the file system lets it, else a copy. Raises `OSError`."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(final: Path, mark: str) -> Iterator[Path]:
    """Fill a temporary folder beside `final`; it becomes `final` when the block ends well.

    When `final` is there by then (another process made it), that one stays. `mark` is in the temporary
    name, so that the leftovers of a killed run can be found.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".tmp-{mark}-", dir=final.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        _sync(fresh)
        try:
            fresh.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def sweep(folder: Path, mark: str) -> None:
    """Remove what a killed run left half-made in `folder`."""
    for left in folder.glob(f".tmp-{mark}-*"):
        shutil.rmtree(left, ignore_errors=True)


def disk_error(error: OSError, what: str) -> EnvironmentError_:
    """Tell an error of the disk to a person."""
    code = "disk-full" if error.errno in _FULL else "disk-error"
    hint = "free some space, then `mainspring up` again" if code == "disk-full" else "`mainspring doctor`"
    return EnvironmentError_(code, f"{what}: {error.strerror or error}: `{error.filename or ''}`", hint)
