"""Which models run code of their own when they are loaded.

What this is: one pure question about a format and what is in its folder. Who calls it: the registry (such a version is
servable only when it was marked as trusted), `models add` and `models trust`, which say what will run.
What it must never do: load the model to find out, or take a doubtful case for a harmless one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mainspring.artefacts.folders import parts
from mainspring.artefacts.manifest import FORMATS, Manifest
from mainspring.artefacts.mlmodel import read_mlmodel
from mainspring.errors import ArtefactError

PICKLED = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"})
"""Endings of files that are, or may be, unpickled when they are loaded."""

_PAGE = 32_000_000  # bytes of a JSON page of a Hugging Face folder; tokenizers reach some 20 MB


def executes(manifest: Manifest, folder: Path) -> str:
    """Why the model in `folder` (an artefact's) runs code when it is loaded, as a sentence; "" when it does not.

    Raises `ArtefactError` when its folder can't be read.
    """
    if manifest.format == "python":
        return f"`{manifest.entry}` is Python code, which is imported and run when it is loaded"
    if manifest.format == "saved_model":
        return "a TensorFlow SavedModel is a program, which may read and write files when it is loaded and asked"
    inside = folder / FORMATS.get(manifest.format, "")
    if manifest.format == "mlflow":
        return _mlflow(inside)
    return _hub_folder(inside) if manifest.format == "safetensors" else ""


def _mlflow(folder: Path) -> str:
    page = read_mlmodel(folder)
    if page.flavours == ("onnx",) and page.loader in {"", "mlflow.onnx"} and not page.brings_code:
        return ""
    own = " and Python files that it brings are imported" if page.brings_code else ""
    flavour = page.flavours[0] if page.flavours else "python_function"
    how = "is unpickled" if _pickled(folder) else f"is loaded by `{page.loader or 'a module that it names'}`"
    return f"an MLflow model of flavour {flavour} {how} when it is loaded{own}"


def _pickled(folder: Path) -> bool:
    return any(Path(part.path).suffix.lower() in PICKLED for part in parts(folder))


def _hub_folder(folder: Path) -> str:
    """Custom code of a Hugging Face folder: files of Python, pages that name them, pickled weights."""
    for part in parts(folder):
        path = Path(part.path)
        if path.suffix == ".py":
            return f"it brings `{part.path}`, Python code of its own"
        if path.suffix.lower() in PICKLED:
            return f"it has `{part.path}`, which is unpickled when it is loaded"
        if path.suffix == ".json" and path.parent == Path() and path.name != "tokenizer.json":
            named = _names_code(folder / path)
            if named:
                return f"its `{part.path}` has `{named}`, which names Python code to be imported"
    return ""


def _names_code(path: Path) -> str:
    """The key of a page that names code, at any depth of sections; "" for none."""
    try:
        if path.stat().st_size > _PAGE:
            raise ArtefactError("artefact-broken", f"`{path}` has more than {_PAGE:,} bytes")
        page = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ArtefactError("artefact-missing", f"`{path}` cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ArtefactError("artefact-broken", f"`{path}` is not JSON: {error}") from error
    todo = [page]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            named = next((key for key in ("auto_map", "custom_pipelines", "trust_remote_code") if one.get(key)), "")
            if named:
                return named
            todo += list(one.values())
        elif isinstance(one, list):
            todo += [part for part in one if isinstance(part, dict | list)]
    return ""
