"""Scoring rows with an MLflow model, by MLflow's own `pyfunc`.

What this is: raw fields -> what the model's signature asks for -> `predict` -> a number for each row. Who calls it:
`__main__`, in the environment of the `mlflow` runtime. What it must never do: load a model whose digest is not the one
that was trusted: loading may unpickle, which runs whatever the file says.

Beside the registry, the only module that imports mlflow, and it does so only after the digest was checked.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.artefacts.answers import Floats, finite
from mainspring.artefacts.columns import Columns, typed_column
from mainspring.artefacts.load import load_folder, load_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.artefacts.mlmodel import read_mlmodel
from mainspring.errors import ArtefactError, EnvironmentError_, UserCodeError

log = logging.getLogger(__name__)

_PINNED = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([A-Za-z0-9.!+_-]+)")
_LABEL = 'log it with `pyfunc_predict_fn="predict_proba"`, so that it answers with probabilities'
_DOCTOR = "mainspring runtime doctor mlflow"
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class PyfuncScorer:
    """An MLflow model, loaded and ready to score.

    `digest` is the one that was trusted. Raises `ArtefactError` when the artefact is missing, changed, or another one;
    `EnvironmentError_` when the environment lacks a package; `UserCodeError` when the model can't be loaded.
    """

    def __init__(self, artefact: Path, digest: str) -> None:
        self.manifest: Manifest = load_manifest(artefact)
        if self.manifest.format != "mlflow":
            raise ArtefactError("artefact-unfit", f"`{artefact}` holds no MLflow model, but `{self.manifest.format}`")
        if self.manifest.digest != digest:
            message = (
                f"`{artefact}` is not the model that was trusted: `{self.manifest.digest}`, not `{digest or 'none'}`"
            )
            raise ArtefactError("artefact-changed", message, "mainspring models list")
        folder = load_folder(artefact, self.manifest)
        self._matrix = read_mlmodel(folder).matrix
        self._model = _loaded(folder)
        self._types = _types(self._model)

    def score(self, columns: Columns) -> Floats:
        """What the model predicts for each row, shape (n,); of several columns the last.

        `columns` has all fields of the manifest, each of n values (None or NaN for null). Raises `UserCodeError` when
        the model raises, or returns what are not n finite numbers.
        """
        fields = self.manifest.inputs
        arrays = {one.name: self._cast(one.name, typed_column(columns[one.name], one)) for one in fields}
        rows = len(next(iter(arrays.values())))
        try:
            found = self._model.predict(self._given(arrays))
        except Exception as error:  # of MLflow, of the flavour's library, or of the user's own class
            message = f"the model raised {type(error).__name__}: {_line(error)}"
            raise UserCodeError("model-raised", message) from error
        return finite("the model", found, rows, label=_LABEL)

    def _cast(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A column in the type that the signature has for it."""
        wanted = self._types.get(name)
        if wanted is None or wanted.kind not in "biuf" or values.dtype == wanted:
            return values
        if wanted.kind in "biu" and values.dtype.kind == "f":
            if not np.isfinite(values).all():
                return values  # nulls: MLflow itself says whether the column may have them
            if wanted.kind != "b" and (values != np.trunc(values)).any():
                raise UserCodeError("model-input", f"the field `{name}` has fractions, and the model asks for {wanted}")
        return values.astype(wanted)

    def _given(self, arrays: dict[str, npt.NDArray[Any]]) -> Any:
        """What `predict` takes: a matrix, where the signature says so, else a frame."""
        if self._matrix:
            dtype = next(iter(self._types.values()), np.dtype(np.float64))
            return np.column_stack(list(arrays.values())).astype(dtype, copy=False)
        import pandas as pd

        return pd.DataFrame(arrays, copy=False)


def _loaded(folder: Path) -> Any:
    """The model, by `pyfunc`; what it was saved with, and here is not, is said first."""
    _say_what_differs(folder)
    os.environ.update(_QUIET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow import pyfunc

            return pyfunc.load_model(str(folder), suppress_warnings=True)
    except (Exception, SystemExit) as error:
        lacking = _lacking(error)
        if lacking:
            message = f"the model needs the package `{lacking}`, which the environment `mlflow` lacks"
            raise EnvironmentError_("mlflow-package", message, _DOCTOR) from error
        message = f"MLflow can't load `{folder}`: {type(error).__name__}: {_line(error)}"
        raise UserCodeError("mlflow-load", message, _DOCTOR) from error


def _lacking(error: BaseException | None) -> str:
    """The package whose absence is at the root of an error; "" where it is something else."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return ""


def _types(model: Any) -> dict[str, np.dtype[Any]]:
    """The type of each column by the signature; of a matrix one entry. Empty without a signature."""
    schema = model.metadata.get_input_schema()
    if schema is None:
        return {}
    if schema.is_tensor_spec():
        return {str(spec.name or ""): np.dtype(spec.type) for spec in schema.inputs}
    found = {}
    for at, spec in enumerate(schema.inputs):
        to_numpy = getattr(spec.type, "to_numpy", None)
        if to_numpy is not None:
            found[spec.name or f"x{at}"] = np.dtype(to_numpy())
    return found


def _say_what_differs(folder: Path) -> None:
    """Log which packages the model was saved with that are not here, or are in another version: it may still do."""
    try:
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return  # it says nothing
    for line in lines:
        pinned = _PINNED.match(line)
        if pinned is None or pinned[1].lower() == "mlflow":
            continue
        try:
            here = importlib.metadata.version(pinned[1])
        except importlib.metadata.PackageNotFoundError:
            log.warning("the model was saved with %s %s, which is not here", pinned[1], pinned[2])
            continue
        if here != pinned[2]:
            log.warning("the model was saved with %s %s; here is %s", pinned[1], pinned[2], here)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
