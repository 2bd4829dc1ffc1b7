"""What the registry says of a version's artefact: is it whole, is it what was promised, may it be loaded?

What this is: the look at an artefact's folder, cheap when nothing in it changed since the last one. Who calls it: the
registry. What it must never do: load a model, or let one be served that runs code of its own without a mark for
exactly that digest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.artefacts import folders
from mainspring.artefacts.executes import executes
from mainspring.artefacts.load import FOLDER, WEIGHTS, check_model, load_manifest
from mainspring.artefacts.manifest import FOLDERS, Manifest
from mainspring.errors import ArtefactError


@dataclass(frozen=True, slots=True)
class Vetted:
    """An artefact, looked at."""

    manifest: Manifest | None  # None: there is none that can be read
    wrong: str = ""  # why it can't be served
    runs: str = ""  # why it runs code when it is loaded; "": it does not
    trusted: bool = False  # it was marked as trusted, with this digest

    @property
    def servable(self) -> bool:
        """Whether a replica may load it."""
        return self.manifest is not None and not self.wrong


@dataclass(slots=True)
class Vetting:
    """Looks, and remembers how the files stood that were read through."""

    _known: dict[Path, tuple[Any, str]] = field(default_factory=dict)  # folder: how it stood, and what it runs

    def look(self, folder: Path, mark: str, name: str) -> Vetted:
        """Look at an artefact; `mark` is the digest that was trusted, `name` the version as people write it."""
        try:
            manifest = load_manifest(folder)
        except ArtefactError as error:
            return Vetted(None, error.message)
        try:
            runs = self.check(folder, manifest)
        except ArtefactError as error:
            return Vetted(manifest, error.message)
        trusted = mark == manifest.digest
        wrong = ""
        if runs and not trusted:
            how = "it was changed since it was trusted" if mark else "it is not trusted"
            wrong = f"{runs}, and {how}: `mainspring models trust {name}`"
        return Vetted(manifest, wrong, runs, trusted)

    def check(self, folder: Path, manifest: Manifest) -> str:
        """Compare an artefact's model with its digest, where its files changed since; gives what it runs.

        Raises `ArtefactError` when it is missing or another.
        """
        if manifest.format == "onnx":  # small, and read anew each time
            check_model(folder, manifest)
            return executes(manifest, folder)
        if manifest.format in FOLDERS:
            stands: Any = folders.stands(folder / FOLDER)
        else:
            stands = _stands(folder / WEIGHTS)
        now = (stands, manifest)
        before = self._known.get(folder)
        if before is not None and before[0] == now and stands:
            return before[1]
        check_model(folder, manifest)
        runs = executes(manifest, folder)
        self._known[folder] = (now, runs)
        return runs


def _stands(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)
