"""`MLmodel`, the page that an MLflow model's folder has: read as data, with MLflow out of the way.

What this is: the flavours, what loads them, and the signature as our input fields. Who calls it: `models add`, the
registry (versions that somebody else registered), `executes.py`.
What it must never do: import mlflow, build objects from YAML tags, or load the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mainspring.artefacts.manifest import Field
from mainspring.errors import ArtefactError

PAGE = "MLmodel"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST = 4_000_000
"""Bytes of the page at most; a signature of a thousand columns takes some 60,000."""
WIDEST = 100_000
"""Columns of a matrix at most."""

_COLUMNS = {"boolean": "BOOL", "integer": "INT64", "long": "INT64", "float": "FP32", "double": "FP64",
            "string": "BYTES"}  # fmt: skip
_DTYPES = {"bool": "BOOL", "int8": "INT64", "int16": "INT64", "int32": "INT64", "int64": "INT64", "uint8": "INT64",
           "uint16": "INT64", "uint32": "INT64", "float32": "FP32", "float64": "FP64", "str": "BYTES",
           "object": "BYTES"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """What the page says."""

    flavours: tuple[str, ...]  # without python_function
    loader: str  # the module that python_function imports to load it; "" without that flavour
    brings_code: bool  # Python files of its own are put on the path
    inputs: tuple[Field, ...] = ()  # by its signature
    matrix: bool = False  # it takes one array of numbers, whose columns `inputs` are
    wanting: str = ""  # why there are no inputs, in a sentence


def is_mlflow(folder: Path) -> bool:
    """Whether a folder holds an MLflow model."""
    return (folder / PAGE).is_file()


def read_mlmodel(folder: Path) -> Described:
    """Read the page of a model's folder; raises `ArtefactError` when it is missing, too large or none."""
    path = folder / PAGE
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise ArtefactError("artefact-missing", f"`{path}` cannot be read: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise ArtefactError("artefact-broken", f"`{path}` has more than {LARGEST:,} bytes")
    try:
        page = yaml.load(raw, _LOADER)  # noqa: S506 (it is a safe one)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = (str(error).splitlines() or ["not YAML"])[0]
        raise ArtefactError("artefact-broken", f"`{path}` is not an MLflow model's page: {line}") from error
    flavours = page.get("flavors") if isinstance(page, dict) else None
    if not isinstance(flavours, dict) or not flavours:
        raise ArtefactError("artefact-broken", f"`{path}` names no flavours: not an MLflow model's page")
    _inside(path, flavours)
    _code_inside(path, flavours)
    function = flavours.get("python_function")
    loader = str(function.get("loader_module", "")) if isinstance(function, dict) else ""
    told = [one for one in flavours.values() if isinstance(one, dict)]
    code = any(one.get("code") or one.get("model_code_path") for one in told)
    inputs, matrix, wanting = _signature(page.get("signature"))
    named = tuple(sorted(str(name)[:100] for name in flavours if name != "python_function"))
    return Described(named, loader, bool(code), inputs, matrix, wanting)


def _inside(path: Path, flavours: Mapping[Any, Any]) -> None:
    """Refuse a page that points out of its folder."""
    for flavour in flavours.values():
        for key, value in flavour.items() if isinstance(flavour, dict) else ():
            pointed = key in {"data", "code", "model_path", "pickled_model", "env"}
            if pointed and isinstance(value, str) and (value.startswith("/") or ".." in PurePosixPath(value).parts):
                raise ArtefactError("folder-odd", f"`{path}`: `{key}: {value:.200}` points out of the model's folder")


def _code_inside(path: Path, flavours: Mapping[Any, Any]) -> None:
    """See that a model from code has its file: MLflow writes where it was saved, and reads the name alone."""
    for flavour in flavours.values():
        named = flavour.get("model_code_path") if isinstance(flavour, dict) else None
        if named and not (path.parent / PurePosixPath(str(named)).name).is_file():
            name = PurePosixPath(str(named)).name
            raise ArtefactError("artefact-broken", f"`{path}` names the code `{name:.100}`, which is not beside it")


def _signature(signature: object) -> tuple[tuple[Field, ...], bool, str]:
    """The input fields, whether they are a matrix's columns, and why there are none."""
    told = signature.get("inputs") if isinstance(signature, dict) else None
    if not told:
        return (), False, "its `MLmodel` has no signature, which says what a request carries"
    try:
        columns = json.loads(told) if isinstance(told, str) else told
        inputs, matrix = _fields(columns)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return (), False, f"its signature is not understood: {str(error)[:200]}"
    names = [field.name for field in inputs]
    if not names or len(set(names)) != len(names):
        return (), False, "its signature has no inputs, or a name twice"
    return inputs, matrix, ""


def _fields(columns: list[Mapping[str, Any]]) -> tuple[tuple[Field, ...], bool]:
    if len(columns) == 1 and columns[0]["type"] == "tensor" and not columns[0].get("name"):
        return _of_matrix(columns[0]["tensor-spec"]), True
    found = []
    for at, column in enumerate(columns):
        name = str(column.get("name") or f"x{at}")
        if column["type"] == "tensor":
            spec = column["tensor-spec"]
            if list(spec["shape"]) not in ([-1], [-1, 1]):
                raise ValueError(f"`{name}` has the shape `{spec['shape']}`, and a field is one value a row")
            datatype = _DTYPES.get(spec["dtype"])
        else:
            datatype = _COLUMNS.get(str(column["type"]))
        if datatype is None:
            raise ValueError(f"`{name}` has a type that no request carries: `{str(column['type'])[:60]}`")
        nullable = not column.get("required", True) or datatype in {"FP64", "FP32"}
        found.append(Field(name, datatype, nullable))
    return tuple(found), False


def _of_matrix(spec: Mapping[str, Any]) -> tuple[Field, ...]:
    shape, datatype = list(spec["shape"]), _DTYPES.get(spec["dtype"])
    if len(shape) != 2 or not isinstance(shape[1], int) or not 0 < shape[1] <= WIDEST or datatype is None:
        raise ValueError(f"one array of the shape `{shape}` and type `{spec['dtype']}`: not rows of fields")
    return tuple(Field(f"x{at}", datatype, datatype in {"FP64", "FP32"}) for at in range(shape[1]))
