"""Small real artefacts of the formats `python`, `mlflow` and `external`, for tests of whoever serves or lists them.

What it must never do: mark anything as trusted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mainspring.artefacts import code
from mainspring.artefacts.external import digest_of_external
from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.load import FOLDER, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.settings import Value

NUMBERS = tuple(Field(f"x{at}", "FP64") for at in range(4))
"""Four fields of numbers."""


def class_artefact(
    folder: Path,
    code_root: Path,
    source: str,
    entry: str = "own_model:Model",
    fields: Sequence[Field] = NUMBERS,
    files: Mapping[str, bytes] | None = None,
    output: str = "late",
) -> Manifest:
    """Write an artefact of a user's class to `folder`: `source` is its module, `files` what `load` finds."""
    inside = folder / FOLDER
    inside.mkdir(parents=True)
    for name, content in (files or {}).items():
        (inside / name).write_bytes(content)
    module = entry.partition(":")[0]
    with tempfile.TemporaryDirectory() as stack:
        (Path(stack) / f"{module}.py").write_text(source, encoding="utf-8")
        digest = code.snapshot(Path(stack), module, code_root)
    manifest = Manifest(
        model="delay", run="own-1", format="python", digest=digest_of_folder(inside, entry, digest),
        inputs=tuple(fields), output=output, code=digest, entry=entry,
    )  # fmt: skip
    save_manifest(folder, manifest)
    return manifest


def sklearn_artefact(
    folder: Path, model: Any, rows: Any, fields: Sequence[Field] = NUMBERS, output: str = "late", **more: Any
) -> Manifest:
    """Write an artefact of a fitted scikit-learn model, saved by MLflow, with its signature taken from `rows`.

    `more`: what `mlflow.sklearn.save_model` is told besides, such as `pyfunc_predict_fn`.
    """
    import mlflow.models
    import mlflow.sklearn

    folder.mkdir(parents=True)
    inside = folder / FOLDER
    signature = mlflow.models.infer_signature(rows)
    mlflow.sklearn.save_model(model, str(inside), signature=signature, serialization_format="cloudpickle", **more)
    manifest = Manifest(
        model="delay", run="own-1", format="mlflow", digest=digest_of_folder(inside), inputs=tuple(fields),
        output=output,
    )  # fmt: skip
    save_manifest(folder, manifest)
    return manifest


def external_artefact(folder: Path, settings: Mapping[str, Value], fields: Sequence[Field] = NUMBERS) -> Manifest:
    """Write an artefact that says where a model is served; with `protocol: openai` it has no fields."""
    folder.mkdir(parents=True)
    language = settings.get("protocol") == "openai"
    manifest = Manifest(
        model="delay", run="own-1", format="external", digest=digest_of_external(settings),
        inputs=() if language else tuple(fields), output="" if language else "late", settings=dict(settings),
    )  # fmt: skip
    save_manifest(folder, manifest)
    return manifest
