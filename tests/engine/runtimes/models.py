"""Models for the tests of real servers: a classifier as ONNX and as an MLflow model, the judge as pyfunc."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier

from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.load import MODEL, digest_of, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.pipelines.export import to_onnx
from mainspring.testing import runtime_artefacts as judge

COLUMNS = tuple(f"x{i}" for i in range(6))
FIELDS = tuple(Field(name, "FP64", nullable=False) for name in COLUMNS)
PYFUNC = f"""
import time

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Judge(PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["hour"] == {judge.FAILS}).any():
            raise ValueError("there is no such hour")
        seconds = float(model_input["wait"].fillna(0.0).max())
        if seconds > 0:
            time.sleep(seconds)
        far = np.log1p(model_input["distance"].astype("float64").fillna(0.0).clip(lower=0.0))
        logit = {judge.BIAS} + {judge.WEIGHTS[0]} * (model_input["hour"] >= 17) + {judge.WEIGHTS[1]} * far
        logit = logit + {judge.WEIGHTS[2]} * (model_input["carrier"] == "UA").astype("float64")
        return (1.0 / (1.0 + np.exp(-logit.astype("float64")))).to_numpy()


set_model(Judge())
"""
"""The judge as a pyfunc model whose code is a file."""


def fitted() -> GradientBoostingClassifier:
    """A classifier of six numbers on a grid that single precision holds, so that no split is a question of rounding."""
    random = np.random.default_rng(7)
    rows = random.integers(-40, 40, (600, len(COLUMNS))) / 4
    late = (rows[:, 0] + rows[:, 1] * (rows[:, 2] > 0) - 0.5 * rows[:, 3] + random.normal(0, 3, 600)) > 0
    return GradientBoostingClassifier(n_estimators=40, random_state=1).fit(
        pd.DataFrame(rows, columns=COLUMNS), late * 1
    )


def rows(count: int, seed: int = 11) -> np.ndarray[Any, Any]:
    """Rows of the same grid that it was not fitted on."""
    return np.random.default_rng(seed).integers(-60, 60, (count, len(COLUMNS))) / 4


def as_onnx(folder: Path, model: Any, name: str = "delay") -> Manifest:
    """Write the classifier as an artefact in ONNX."""
    folder.mkdir(parents=True)
    content = to_onnx(model, len(COLUMNS))
    (folder / MODEL).write_bytes(content)
    manifest = Manifest(
        model=name,
        run=folder.name,
        format="onnx",
        digest=digest_of(content),
        inputs=FIELDS,
        output="late",
        columns=COLUMNS,
    )
    save_manifest(folder, manifest)
    return manifest


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def as_pyfunc(folder: Path, model: Any, name: str = "pyfunc") -> Manifest:
    """Write the classifier as an artefact that is an MLflow model of the flavour scikit-learn."""
    folder.mkdir(parents=True)
    with _quiet():
        import mlflow
        from mlflow.models import infer_signature

        example = pd.DataFrame(rows(4), columns=COLUMNS)
        mlflow.sklearn.save_model(
            model, folder / "model", signature=infer_signature(example, model.predict_proba(example)),
            pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"], serialization_format="cloudpickle",
        )  # fmt: skip
    return _mlflow(folder, name, FIELDS)


def judge_as_pyfunc(folder: Path) -> Manifest:
    """Write the judge as an artefact that is an MLflow model."""
    folder.mkdir(parents=True)
    with _quiet():
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        source = folder / "judge_pyfunc.py"
        source.write_text(PYFUNC, encoding="utf-8")
        types = {"INT64": "long", "FP64": "double", "BYTES": "string"}
        inputs = Schema([ColSpec(types[one.datatype], one.name, required=not one.nullable) for one in judge.FIELDS])
        mlflow.pyfunc.save_model(
            folder / "model", python_model=str(source), pip_requirements=["numpy"],
            signature=ModelSignature(inputs=inputs, outputs=Schema([ColSpec("double")])),
        )  # fmt: skip
        source.unlink()
    return _mlflow(folder, judge.NAME, judge.FIELDS)


def _mlflow(folder: Path, name: str, fields: tuple[Field, ...]) -> Manifest:
    manifest = Manifest(
        model=name,
        run=folder.name,
        format="mlflow",
        digest=digest_of_folder(folder / "model"),
        inputs=fields,
        output="late",
    )
    save_manifest(folder, manifest)
    return manifest
