"""Reading and writing an artefact's folder, with its digest checked.

What this is: `manifest.json` to and from `Manifest`, `model.onnx` as the bytes that were promised, `model.gguf` as the
file that was, `model/` as the folder that was. Who calls it: packaging (writes), replica, gate and monitoring (read).
What it must never do: unpickle, or hand out a model whose digest differs from its manifest's.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import asdict
from pathlib import Path

import msgspec

from mainspring.artefacts.external import digest_of_external, read_external
from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.manifest import FOLDERS, FORMATS, LANGUAGE, Manifest
from mainspring.artefacts.settings import read_settings
from mainspring.artefacts.weights import check_weights
from mainspring.errors import ArtefactError, EnvironmentError_, InputError

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
WEIGHTS = "model.gguf"
FOLDER = "model"
DATATYPES = frozenset({"BOOL", "INT64", "FP64", "FP32", "BYTES"})

_AGAIN = "make the version again with `mainspring run`"
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


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
    wrong = wrong_with(manifest)
    if wrong:
        raise ArtefactError("artefact-broken", f"`{path}` is not usable: {wrong}", _AGAIN)


def wrong_with(manifest: Manifest) -> str:
    """What makes a manifest unusable, in a sentence; "" for nothing."""
    if manifest.format not in FORMATS:
        return f"its format `{manifest.format}` is not known"
    if bool(manifest.entry) != (manifest.format == "python"):
        return "`entry`, a class of the user's own, belongs to the format `python`"
    if manifest.format == "external":
        return _wrong_external(manifest)
    return _wrong_language(manifest) if manifest.format in LANGUAGE else _wrong_predictive(manifest)


def _wrong_external(manifest: Manifest) -> str:
    try:
        language = read_external(manifest.settings).language
    except InputError as error:
        return error.message
    if digest_of_external(manifest.settings) != manifest.digest:
        return "its settings are not those that its digest is of"
    if language:
        return "a language model has no inputs" if manifest.inputs else ""
    return _wrong_fields(manifest)


def _wrong_fields(manifest: Manifest) -> str:
    names = [field.name for field in manifest.inputs]
    unknown = {field.datatype for field in manifest.inputs} - DATATYPES
    if not names or len(set(names)) != len(names):
        return "its inputs are empty or have a name twice"
    return f"its datatype `{min(unknown)}` is not known" if unknown else ""


def _wrong_predictive(manifest: Manifest) -> str:
    wrong = _wrong_fields(manifest)
    numbers_only = manifest.format == "onnx" and not manifest.features
    if wrong:
        return wrong
    if manifest.format == "python":
        return _wrong_class(manifest)
    if numbers_only and any(field.datatype == "BYTES" for field in manifest.inputs):
        wrong = "it has text inputs but no `features` function that turns them into numbers"
    elif manifest.features and not (manifest.code and manifest.columns):
        wrong = "it names `features` without `code` and `columns`"
    elif manifest.settings:
        wrong = "it has settings, which are of language models"
    elif manifest.features and manifest.format != "onnx":
        wrong = f"`features` is of models in the format `onnx`, and it is in `{manifest.format}`"
    return wrong


def _wrong_class(manifest: Manifest) -> str:
    if not _ENTRY.fullmatch(manifest.entry):
        return f"its `entry: {manifest.entry[:60]}` is not `module:Class`"
    if not manifest.code or manifest.features:
        return "a class comes with the digest of its `code`, and without `features`"
    return ""


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
        what = "a language model" if manifest.format in LANGUAGE else f"a model in the format `{manifest.format}`"
        raise ArtefactError("artefact-unfit", f"`{folder}` holds {what}, which this runtime does not run")
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


def load_folder(folder: Path, manifest: Manifest) -> Path:
    """The folder of a model that is one, checked; raises `ArtefactError` when missing or not what was promised.

    `folder` is the artefact's. Every file is read once, in pieces (some 2 s for a gigabyte).
    """
    if manifest.format not in FOLDERS:
        message = f"`{folder}` holds a model in the format `{manifest.format}`, which is no folder"
        raise ArtefactError("artefact-unfit", message)
    inside = folder / FOLDER
    if digest_of_folder(inside, manifest.entry, manifest.code) != manifest.digest:
        raise ArtefactError(
            "artefact-changed",
            f"`{inside}` is not the model that its manifest describes: its digest differs from `{manifest.digest}`",
            "add it again with `mainspring models add`",
        )
    return inside


def load_chosen(folder: Path, digest: str) -> Manifest:
    """The manifest of an artefact that has to be a certain one; "" takes any. Raises `ArtefactError` for another."""
    manifest = load_manifest(folder)
    if digest not in ("", manifest.digest):
        message = f"`{folder}` holds `{manifest.digest}`, and not `{digest}`, which was chosen"
        raise ArtefactError("artefact-changed", message, "mainspring models list")
    return manifest


def check_model(folder: Path, manifest: Manifest) -> None:
    """See that an artefact's model is there and unchanged, whatever its format; raises `ArtefactError`."""
    if manifest.format == "onnx":
        load_model(folder, manifest)
    elif manifest.format == "gguf":
        load_weights(folder, manifest)
    elif manifest.format in FOLDERS:
        load_folder(folder, manifest)
