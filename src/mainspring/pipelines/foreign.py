"""A version that somebody's MLflow client registered: an MLflow model without a manifest of ours.

What this is: the manifest that follows from its `MLmodel` page, in an artefact folder of our own whose files are links
to those that were registered (copies where the file system has no links). Who calls it: the registry.
What it must never do: import mlflow, load or import the model, or write into the folder that was registered.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from mainspring.artefacts import folders
from mainspring.artefacts.load import FOLDER, MANIFEST, load_manifest, save_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.artefacts.mlmodel import is_mlflow, read_mlmodel
from mainspring.errors import ArtefactError, EnvironmentError_, MainspringError
from mainspring.pipelines.files import disk_error, link, new_folder

LARGEST = 2 * 1024**3
"""Bytes of a folder that is taken over in the middle of a cycle; a larger one is added by hand."""

OUTPUT = "prediction"


def is_foreign(folder: Path) -> bool:
    """Whether a version's folder holds an MLflow model that has no manifest of ours."""
    return not (folder / MANIFEST).exists() and is_mlflow(folder)


def derived(folder: Path, model: str, digest: str) -> Manifest:
    """The manifest of an MLflow model; raises `ArtefactError` when its page does not say what a request carries."""
    page = read_mlmodel(folder)
    if not page.inputs:
        hint = "log it with `signature=` or `input_example=`, or add it with `mainspring models add … --inputs`"
        raise ArtefactError("mlflow-no-inputs", f"`{folder}`: {page.wanting}", hint)
    return Manifest(model=model, run="", format="mlflow", digest=digest, inputs=page.inputs, output=OUTPUT)


def adopted(folder: Path, state: Path, model: str, number: str) -> Path:
    """The artefact folder of a foreign version, made the first time. Raises `ArtefactError`, `EnvironmentError_`."""
    final = state / "artefacts" / _safe(model) / f"mlflow-{_safe(number)}"
    if (final / MANIFEST).is_file():
        return final
    found = folders.parts(folder)
    size = sum(part.size for part in found)
    if size > LARGEST:
        hint = f"mainspring models add {model} {folder}"
        raise ArtefactError("folder-large", f"`{folder}` has {size:,} bytes: it is added by hand (`{hint}`)", hint)
    try:
        with new_folder(final, "mlflow") as fresh:
            copy_folder(folder, fresh / FOLDER)
            digest = folders.digest_of_folder(fresh / FOLDER)
            save_manifest(fresh, derived(fresh / FOLDER, model, digest))
    except OSError as error:
        raise disk_error(error, f"version {number} of `{model}` cannot be taken over") from error
    return final


def copy_folder(source: Path, target: Path, put: Callable[[Path, Path], object] = link) -> None:
    """Make `target` a folder with the same files, each by `put`. Raises `ArtefactError`, `OSError`."""
    target.mkdir(parents=True)
    for part in folders.parts(source):
        place = target / part.path
        place.parent.mkdir(parents=True, exist_ok=True)
        put(source / part.path, place)


def folder_of(source: Path, state: Path, model: str, number: str) -> Path:
    """The artefact folder of a version whose source is `source`: that folder itself, or what was made of it.

    Raises `ArtefactError` when an MLflow model can't be taken over.
    """
    if source == Path() or not is_foreign(source):
        return source
    try:
        return adopted(source, state, model, number)
    except EnvironmentError_ as error:  # this version alone can't be served
        raise ArtefactError(error.code, error.message, error.hint) from error


def same(folder: Path, manifest: Manifest) -> bool:
    """Whether an artefact has this very manifest, whatever run made it."""
    try:
        found = load_manifest(folder)
    except MainspringError:
        return False
    told = ("model", "format", "digest", "inputs", "output", "features", "code", "columns", "settings", "entry")
    return all(getattr(found, name) == getattr(manifest, name) for name in told)


def _safe(name: str) -> str:
    """A name as one part of a path."""
    part = quote(name, safe=" ")
    return part if part.strip(". ") and len(os.fsencode(part)) < 200 else f"_{part[:150]}"
