"""Reading and writing an artefact's folder, with its digest checked.

What this is: `manifest.json` to and from `Manifest`, `model.onnx` as the bytes that were promised, and `model.gguf`
as the file that was. Who calls it: packaging (writes), replica, gate and monitoring (read).
What it must never do: unpickle, or hand out a model whose digest differs from its manifest's.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

import msgspec

from mainspring.artefacts.manifest import Manifest
from mainspring.artefacts.settings import read_settings
from mainspring.artefacts.weights import check_weights
from mainspring.errors import ArtefactError, EnvironmentError_, InputError

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "model.gguf"
DATATYPES = frozenset({"BOOL", "INT64", "FP64", "FP32", "BYTES"})

_AGAIN = "make the version again with `mainspring run`"


def digest_of(content: bytes) -> str:
    """The digest of `model.onnx` as a manifest writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` whole or not at all; raises `EnvironmentError_` when the disk refuses."""
    text = msgspec.json.format(msgspec.json.encode(asdict(manifest)), indent=1)
    fresh = folder / f".{MANIFEST}.{os.getpid()}"
    try:
        with fresh.open("wb") as out:
            out.write(text + b"\n")
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(folder / MANIFEST)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise EnvironmentError_(
            "manifest-not-written", f"`{folder / MANIFEST}` cannot be written: {error.strerror}"
        ) from error


def load_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`; raises `ArtefactError` when it is missing, broken or of an unknown schema."""
    path = folder / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ArtefactError("artefact-missing", f"`{path}` cannot be read: {error.strerror}", _AGAIN) from error
    try:
        schema = msgspec.json.decode(raw, type=dict[str, object]).get("schema")
        if schema != SCHEMA:
            raise ArtefactError(
                "artefact-schema",
                f"`{path}` has schema `{schema}`; this version of Mainspring reads `{SCHEMA}`",
                "use the version of Mainspring that wrote it, or a newer one",
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArtefactError("artefact-broken", f"`{path}` is not a manifest: {error}", _AGAIN) from error
    _check(path, manifest)
    return manifest


def _check(path: Path, manifest: Manifest) -> None:
    if manifest.format == "onnx":
        wrong = _wrong_predictive(manifest)
    elif manifest.format == "gguf":
        wrong = _wrong_language(manifest)
    else:
        wrong = f"its format `{manifest.format}` is not known"
    if wrong:
        raise ArtefactError("artefact-broken", f"`{path}` is not usable: {wrong}", _AGAIN)


def _wrong_predictive(manifest: Manifest) -> str:
    names = [field.name for field in manifest.inputs]
    unknown = {field.datatype for field in manifest.inputs} - DATATYPES
    wrong = ""
    if not names or len(set(names)) != len(names):
        wrong = "its inputs are empty or have a name twice"
    elif unknown:
        wrong = f"its datatype `{min(unknown)}` is not known"
    elif not manifest.features and any(field.datatype == "BYTES" for field in manifest.inputs):
        wrong = "it has text inputs but no `features` function that turns them into numbers"
    elif manifest.features and not (manifest.code and manifest.columns):
        wrong = "it names `features` without `code` and `columns`"
    elif manifest.settings:
        wrong = "it has settings, which are of language models"
    return wrong


def _wrong_language(manifest: Manifest) -> str:
    if manifest.inputs or manifest.features or manifest.columns:
        return "a language model has no inputs, columns or `features`"
    try:
        read_settings(manifest.settings)
    except InputError as error:
        return error.message + (f" ({error.hint})" if error.hint else "")
    return ""


def load_model(folder: Path, manifest: Manifest) -> bytes:
    """The bytes of `model.onnx`; raises `ArtefactError` when missing or not what the manifest promised."""
    path = folder / MODEL
    if manifest.format != "onnx":
        raise ArtefactError("artefact-unfit", f"`{folder}` holds a language model, which this runtime does not run")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtefactError("artefact-missing", f"`{path}` cannot be read: {error.strerror}", _AGAIN) from error
    if digest_of(content) != manifest.digest:
        raise ArtefactError(
            "artefact-changed",
            f"`{path}` is not the model that its manifest describes: its digest differs from `{manifest.digest}`",
            _AGAIN,
        )
    return content


def load_weights(folder: Path, manifest: Manifest) -> Path:
    """The path of `model.gguf`, checked; raises `ArtefactError` when missing or not what the manifest promised.

    The file is read once, in pieces (some 0.2 s for 100 MB).
    """
    if manifest.format != "gguf":
        raise ArtefactError(
            "artefact-unfit", f"`{folder}` holds a model in the format `{manifest.format}`, not a language model"
        )
    path = folder / WEIGHTS
    check_weights(path, manifest.digest)
    return path
