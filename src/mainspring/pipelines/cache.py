"""Outputs of steps by what made them: a step whose code, parameters and inputs are the same is not run again.

An entry is a folder `cache/<key>/` with `entry.json` (kind, file, digest, notes) and the value's file or files.
It is made under another name and renamed when whole, so a killed step leaves nothing that looks finished.
Who calls it: the host (is it there?) and the step's own process (load, put).
What it must never do: hand out a file whose digest is not the one noted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.errors import EnvironmentError_
from mainspring.pipelines import values
from mainspring.pipelines.files import digest_file, new_folder, read_json, write_json
from mainspring.pipelines.values import Saved

FORMAT = 1  # raised when the same function and inputs would be kept differently
LIMIT = 10 << 30  # bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished output."""

    key: str
    folder: Path
    saved: Saved
    notes: dict[str, Any]  # what the step noted of its output: plain values

    @property
    def path(self) -> Path:
        """The value's file."""
        return self.folder / self.saved.file


def key_of(parts: dict[str, Any]) -> str:
    """Name an output by everything that it depends on (plain values)."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class Cache:
    """The folder of outputs."""

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run

    def get(self, key: str) -> Entry | None:
        """The entry, or None; a broken one is taken away."""
        folder = self.folder / key
        raw = read_json(folder / "entry.json")
        try:
            saved = Saved(raw["kind"], raw["file"], raw["digest"])
            entry = Entry(key, folder, saved, raw["notes"])
        except (KeyError, TypeError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        if not entry.path.exists():
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder)  # the oldest unused go first
        return entry

    def put(self, key: str, value: Any, notes: dict[str, Any], who: str) -> None:
        """Keep a value (in the step's process)."""
        self.put_files(key, lambda folder: values.save(value, folder, who), notes)

    def put_files(self, key: str, make: Callable[[Path], Saved], notes: dict[str, Any]) -> None:
        """Keep what `make` writes into a folder; it returns which file is the value."""
        with new_folder(self.folder / key, self.run) as fresh:
            saved = make(fresh)
            write_json(
                fresh / "entry.json",
                {"kind": saved.kind, "file": saved.file, "digest": saved.digest, "notes": notes},
            )

    def load(self, key: str) -> Any:
        """Read a value back, its digest checked (in a step's process). A damaged entry is taken away."""
        return values.load(self.checked(key).saved, self.folder / key)

    def checked(self, key: str) -> Entry:
        """The entry, after checking its file against the digest. Raises `EnvironmentError_` when it is damaged."""
        entry = self.get(key)
        if entry is None or digest_file(entry.path) != entry.saved.digest:
            shutil.rmtree(self.folder / key, ignore_errors=True)
            raise EnvironmentError_(
                "cache-damaged",
                f"`{self.folder / key}` is not what was written there; it has been taken away",
                "run again: the step is then repeated",
            )
        return entry

    def prune(self, keep: AbstractSet[str], limit: int = LIMIT) -> None:
        """Take the entries that were used longest ago away until `limit` bytes are left; never one of `keep`."""
        found: list[tuple[float, int, Path]] = []
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name != "data" and not folder.name.startswith("."):
                size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                found.append((folder.stat().st_mtime, size, folder))
        total = sum(size for _, size, _ in found)
        for _, size, folder in sorted(found):
            if total <= limit:
                return
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size
