"""Downloads, kept once on a machine under the digest of what they are.

    <root>/sha256-<hex>/content/NAME     a file or a folder, read-only
    <root>/sha256-<hex>/about.json       where it came from, its size, when
    <root>/.work/<key>/                  a download that is under way: its lock, its part

`root` is $MAINSPRING_MODELS, or mainspring/models in the user's cache folder. Who calls it: `fetch.py`,
`models cache`. What it must never do: give out what is not what its digest says, or let two processes download the
same thing side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.artefacts.folders import digest_of_folder, digest_of_part, parts
from mainspring.artefacts.sources.limits import Tell
from mainspring.errors import EnvironmentError_, MainspringError

VARIABLE = "MAINSPRING_MODELS"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ENTRY = re.compile(r"sha256-([0-9a-f]{64})")
_LOOK = 0.2  # seconds between two looks at a lock


@dataclass(frozen=True, slots=True)
class Kept:
    """One download that is kept."""

    digest: str
    source: str  # as it is shown: without a query
    size: int  # bytes
    since: float  # real time, POSIX seconds


def root() -> Path:
    """Where downloads are kept."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mainspring" / "models"


def digest_of(path: Path) -> str:
    """The digest of a file or a folder. Raises `ArtefactError`."""
    return digest_of_folder(path) if path.is_dir() else "sha256:" + digest_of_part(path)


class Cache:
    """The downloads of a machine."""

    def __init__(self, folder: Path | None = None) -> None:
        self.root = folder or root()

    def get(self, digest: str) -> Path | None:
        """What has this digest, read through and found to be that; None when there is none."""
        entry = self._entry(digest)
        with contextlib.suppress(OSError, StopIteration, MainspringError):
            content = next((entry / "content").iterdir())
            if digest_of(content) == digest:
                return content
            self._remove(entry)
        return None

    def keep(self, path: Path, digest: str, name: str, source: str) -> Path:
        """Move a download that is whole to its place; gives it. Raises `OSError`."""
        there = self.get(digest)
        if there is not None:
            return there
        fresh = path.parent / "kept"
        shutil.rmtree(fresh, ignore_errors=True)
        (fresh / "content").mkdir(parents=True)
        path.rename(fresh / "content" / name)
        size = _read_only(fresh / "content" / name)
        about = {"source": source, "size": size, "since": time.time()}
        (fresh / "about.json").write_text(json.dumps(about), encoding="utf-8")
        entry = self._entry(digest)
        with contextlib.suppress(OSError):
            fresh.rename(entry)  # another process may have been faster: its content is the same
        found = self.get(digest)
        if found is None:
            raise EnvironmentError_("cache-odd", f"`{entry}` cannot be kept", "mainspring models cache --clear")
        return found

    def listed(self) -> tuple[Kept, ...]:
        """All that is kept, by digest."""
        found = []
        for entry in sorted(self.root.glob("sha256-*")):
            match = _ENTRY.fullmatch(entry.name)
            if match is None:
                continue
            about = read(entry / "about.json")
            size, since = about.get("size"), about.get("since")
            found.append(
                Kept(f"sha256:{match[1]}", str(about.get("source", "")), size if isinstance(size, int) else 0,
                     float(since) if isinstance(since, int | float) else 0.0)
            )  # fmt: skip
        return tuple(found)

    def clear(self) -> int:
        """Remove everything that no process is downloading; gives the bytes of whole and half downloads."""
        freed = 0
        for entry in self.root.glob("sha256-*"):
            freed += _size(entry)
            self._remove(entry)
        for work in (self.root / ".work").glob("*"):
            with contextlib.suppress(OSError), (work / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                freed += _size(work)
                shutil.rmtree(work, ignore_errors=True)
        return freed

    @contextlib.contextmanager
    def work(self, url: str, tell: Tell) -> Iterator[Path]:
        """A folder for one download, which no other process has meanwhile; waits for one that does.

        What an earlier process left there is still there. Raises `OSError`.
        """
        folder = self.root / ".work" / hashlib.sha256(url.encode()).hexdigest()[:32]
        while True:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (folder / "lock").open("a") as lock:
                _wait(lock, tell)
                if _stands(lock, folder / "lock"):  # not cleared away while this waited
                    yield folder
                    return

    def _entry(self, digest: str) -> Path:
        if not DIGEST.fullmatch(digest):
            raise ValueError(digest)
        return self.root / digest.replace(":", "-")

    def _remove(self, entry: Path) -> None:
        """Take an entry away: under another name first, so that nobody finds half of it."""
        gone = self.root / f".gone-{os.getpid()}-{entry.name}"
        with contextlib.suppress(OSError):
            entry.rename(gone)
        for folder, _, _ in os.walk(gone):
            os.chmod(folder, 0o700)
        shutil.rmtree(gone, ignore_errors=True)


def read(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one when there is none."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _wait(lock: Any, tell: Tell) -> None:
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                tell("another process downloads it: waiting", 0, None)
                told = True
            time.sleep(_LOOK)


def _stands(lock: Any, path: Path) -> bool:
    try:
        return os.fstat(lock.fileno()).st_ino == path.stat().st_ino
    except OSError:
        return False


def _read_only(path: Path) -> int:
    """Take away the right to write to what is kept, which artefacts are links to; gives its bytes."""
    if path.is_file():
        path.chmod(0o444)
        return path.stat().st_size
    found = parts(path)
    for part in found:
        (path / part.path).chmod(0o444)
    return sum(part.size for part in found)


def _size(folder: Path) -> int:
    return sum(one.lstat().st_size for one in folder.rglob("*") if one.is_file() and not one.is_symlink())
