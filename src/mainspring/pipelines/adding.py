"""A model that was made elsewhere becomes a version: what it is, an artefact folder, an entry in the registry.

What this is: `plan` says what a source's files are and what their manifest would be; `place` makes the artefact. Who
calls it: `models add`. What it must never do: load or import the model, take a guess where a wrong one would be
served, or leave half an artefact.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mainspring.artefacts import folders
from mainspring.artefacts.external import External, digest_of_external
from mainspring.artefacts.load import FOLDER, MANIFEST, save_manifest, wrong_with
from mainspring.artefacts.manifest import FOLDERS, FORMATS, LANGUAGE, Field, Manifest
from mainspring.artefacts.mlmodel import is_mlflow, read_mlmodel
from mainspring.artefacts.weights import check_weights, digest_of_file
from mainspring.errors import ArtefactError, InputError
from mainspring.facts.onnx_file import read_graph
from mainspring.pipelines.files import disk_error, link, new_folder
from mainspring.pipelines.foreign import OUTPUT, copy_folder, same

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_FIELD = re.compile(r"(?P<name>[^:,\s][^:,]{0,199}?)(:(?P<type>[A-Z0-9]+)(?P<null>\?)?)?")
_MAGIC = b"GGUF"
_INPUTS = "name them: --inputs age:FP64,city:BYTES"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person said of a model."""

    model: str
    format: str = ""  # "": by what is there
    inputs: tuple[Field, ...] = ()
    output: str = ""
    entry: str = ""  # "module:Class"
    code: str = ""  # the digest of the snapshot that it is in
    external: External | None = None


def plan(wish: Wish, path: Path | None, digest: str = "") -> Manifest:
    """The manifest of what is at `path` (None: elsewhere); `digest` is that of its content.

    Raises `InputError` when what is there is no model, or more must be said of it, `ArtefactError` when it is unsound.
    """
    if not _NAME.fullmatch(wish.model):
        message = f"`{wish.model[:100]}` is no name of a model: letters, digits, `_`, `.` and `-`, at most 100"
        raise InputError("bad-model-name", message)
    kind = _format(wish, path)
    made = Manifest(wish.model, "", kind, digest, wish.inputs, wish.output)
    if kind == "external":
        made = _external(wish, made)
    elif kind == "python":
        held = folders.digest_of_files(_files(path), wish.entry, wish.code)
        made = replace(made, digest=held, entry=wish.entry, code=wish.code, output=wish.output or OUTPUT)
    elif kind == "onnx":
        made = _onnx(made, _of(path, kind, "*.onnx"))
    elif kind == "mlflow":
        made = _mlflow(made, _folder(path, kind))
    elif kind == "gguf":
        made = replace(made, digest=digest_of_file(_of(path, kind, "*.gguf")))
        check_weights(_of(path, kind, "*.gguf"), made.digest)
    elif kind == "saved_model":
        _folder(path, kind)
        made = replace(made, output=wish.output or OUTPUT)
    else:
        _hub_folder(_folder(path, kind))
    wrong = wrong_with(made)
    if wrong:
        raise InputError("model-unfit", f"`{wish.model}` can't be added: {wrong}", _hint(made))
    return made


def place(manifest: Manifest, path: Path | None, state: Path, *, own: bool = False) -> Path:
    """The artefact folder of a manifest, made the first time.

    `own`: the files at `path` are nobody else's to change, so that links to them will do instead of copies. Raises
    `ArtefactError` when what is at `path` was changed since, `EnvironmentError_` when the disk refuses.
    """
    mark = manifest.digest.removeprefix("sha256:")[:16]
    base = state / "artefacts" / manifest.model
    final = base / f"added-{mark}"
    for turn in range(2, 1000):  # the same weights with other inputs are another version
        if not (final / MANIFEST).exists() or same(final, manifest):
            break
        final = base / f"added-{mark}-{turn}"
    if (final / MANIFEST).exists():
        return final
    try:
        with new_folder(final, "added") as fresh:
            _fill(fresh, manifest, path, link if own else shutil.copyfile)
            save_manifest(fresh, manifest)
    except OSError as error:
        raise disk_error(error, f"the artefact of `{manifest.model}` cannot be made") from error
    return final


def fields(text: str) -> tuple[Field, ...]:
    """Read `age:FP64,city:BYTES?`; FP64 where no type is said, `?` where null is allowed. Raises `InputError`.

    >>> fields("age,city:BYTES")[1]
    Field(name='city', datatype='BYTES', nullable=True)
    """
    found = []
    for part in text.split(",") if text else ():
        match = _FIELD.fullmatch(part.strip())
        if match is None:
            raise InputError("bad-inputs", f"`{part.strip()[:60]}` is no input such as `age:FP64`", _INPUTS)
        datatype = match["type"] or "FP64"
        nullable = bool(match["null"]) or datatype in {"FP64", "FP32", "BYTES"}
        found.append(Field(match["name"], datatype, nullable))
    return tuple(found)


# --- what it is


def _format(wish: Wish, path: Path | None) -> str:
    if wish.format and wish.format not in FORMATS:
        known = ", ".join(f"`{one}`" for one in FORMATS)
        raise InputError("bad-format", f"`{wish.format[:40]}` is no format; there are: {known}")
    if wish.external is not None or path is None:
        guessed = "external" if wish.external is not None else "python" if wish.entry else ""
    else:
        guessed = "python" if wish.entry else guess(path)
    if wish.format and guessed in {"python", "external"} and guessed != wish.format:
        raise InputError("bad-format", f"`--format {wish.format}` and what else was said don't go together")
    found = wish.format or guessed
    if not found:
        message = f"`{path}` is no model in a format that is known"
        raise InputError(
            "unknown-format",
            message,
            "there are: *.onnx, *.gguf, MLmodel, saved_model.pb, or config.json and safetensors",
        )
    return found


def guess(path: Path) -> str:
    """The format of what is at `path`, by its files; "" for none of ours."""
    if path.is_file():
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
        return "gguf" if magic == _MAGIC else "onnx" if path.suffix.lower() == ".onnx" else ""
    if is_mlflow(path):
        return "mlflow"
    if (path / "saved_model.pb").is_file():
        return "saved_model"
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return "safetensors"
    alone = [kind for kind in ("onnx", "gguf") if len(list(path.glob(f"*.{kind}"))) == 1]
    return alone[0] if len(alone) == 1 else ""


def _of(path: Path | None, kind: str, pattern: str) -> Path:
    """The one file of a format at a path, or in the folder there."""
    if path is None:
        raise InputError("source-missing", f"a model in the format `{kind}` is a file", "mainspring models add --help")
    if path.is_file():
        return path
    found = sorted(path.glob(pattern))
    if len(found) != 1:
        raise InputError("unknown-format", f"`{path}` has {len(found)} files `{pattern}`: name the one that is meant")
    return found[0]


def _folder(path: Path | None, kind: str) -> Path:
    if path is None or not path.is_dir():
        raise InputError("unknown-format", f"a model in the format `{kind}` is a folder, and `{path}` is none")
    return path


def _onnx(made: Manifest, path: Path) -> Manifest:
    """Inputs and output of an ONNX file that takes one matrix of numbers, a column a field."""
    graph = read_graph(path.read_bytes())
    if len(graph.inputs) != 1:
        names = ", ".join(f"`{name}`" for name in list(graph.inputs)[:5]) or "none"
        message = f"`{path.name}` has the inputs {names}: served is a model that takes one matrix, a column a field"
        raise InputError("onnx-inputs", message, "export it with one input of shape [rows, columns]")
    ((name, sizes),) = graph.inputs.items()
    width = sizes[-1] if len(sizes) == 2 else None
    inputs = made.inputs
    if isinstance(width, int) and 0 < width <= 100_000:
        inputs = inputs or tuple(Field(f"x{at}", "FP64") for at in range(width))
        if len(inputs) != width:
            raise InputError(
                "onnx-inputs", f"`{path.name}` takes {width} columns, and {len(inputs)} are named", _INPUTS
            )
    elif len(sizes) != 2:
        message = f"the input `{name}` of `{path.name}` has the shape {list(sizes)}: no matrix"
        raise InputError("onnx-inputs", message, "export it with one input of shape [rows, columns]")
    elif not inputs:
        raise InputError("onnx-inputs", f"`{path.name}` doesn't say how many columns it takes", _INPUTS)
    digest = "sha256:" + folders.digest_of_part(path)
    return replace(made, digest=digest, inputs=inputs, output=made.output or OUTPUT)


def _mlflow(made: Manifest, path: Path) -> Manifest:
    page = read_mlmodel(path)
    if not (made.inputs or page.inputs):
        raise InputError("mlflow-no-inputs", f"`{path}`: {page.wanting}", _INPUTS)
    return replace(made, inputs=made.inputs or page.inputs, output=made.output or OUTPUT)


def _hub_folder(path: Path) -> None:
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        message = f"`{path}` has no config.json beside *.safetensors"
        raise InputError("unknown-format", message, "pickled weights are never loaded: convert them to safetensors")


def _external(wish: Wish, made: Manifest) -> Manifest:
    if wish.external is None:
        raise InputError("external-nowhere", "a model that is served elsewhere needs `--url` and `--protocol`")
    settings = wish.external.settings()
    output = "" if wish.external.language else made.output or OUTPUT
    return replace(made, digest=digest_of_external(settings), settings=settings, output=output)


def _files(path: Path | None) -> dict[str, Path]:
    """The files of a class's folder: those of a folder, one file, or none."""
    if path is None:
        return {}
    if path.is_file():
        return {path.name: path}
    return {part.path: path / part.path for part in folders.parts(path)}


def _hint(made: Manifest) -> str:
    if made.format in LANGUAGE:
        return "a language model has no `--inputs`"
    return _INPUTS


# --- where it goes


def _fill(fresh: Path, manifest: Manifest, path: Path | None, put: Callable[[Path, Path], object]) -> None:
    """Put the model's files into an artefact's folder, and see that they are what the manifest says."""
    held = FORMATS[manifest.format]
    if manifest.format in FOLDERS:
        if path is not None and path.is_dir():
            copy_folder(path, fresh / FOLDER, put)
        else:
            (fresh / FOLDER).mkdir()
            for name, file in _files(path).items():
                put(file, fresh / FOLDER / name)
        found = folders.digest_of_folder(fresh / FOLDER, manifest.entry, manifest.code)
    elif held:
        put(_of(path, manifest.format, f"*.{manifest.format}"), fresh / held)
        found = "sha256:" + folders.digest_of_part(fresh / held)
    else:
        return
    if found != manifest.digest:
        raise ArtefactError("artefact-changed", f"`{path}` was changed while it was added", "add it again")
