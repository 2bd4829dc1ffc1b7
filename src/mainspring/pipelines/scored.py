"""Scoring a table with a version in any format: in this process where that can be, else by a real replica.

What this is: `scorer`, which gives a value with a manifest and `score`. An ONNX model is scored here. A user's class
and an MLflow model are asked as clients ask them, of the process that serves them later: their libraries and their code
stay out of the gate's process. Who calls it: the built-in step `gate`.
What it must never do: unpickle, or leave the replica behind.
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mainspring.artefacts.columns import canonical_column
from mainspring.artefacts.load import load_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.score import Columns, Scorer
from mainspring.errors import EnvironmentError_, UserCodeError
from mainspring.pipelines.candidate import Served, serve
from mainspring.pipelines.job import Job

PATH = "/v2/models/-/infer"
BLOCK = 256  # rows of one request


class Scores(Protocol):
    """A version that scores rows."""

    manifest: Manifest

    def score(self, columns: Columns) -> npt.NDArray[np.float64]:
        """The score of each row, shape (n,); `columns` has all fields of the manifest. Raises `UserCodeError`."""


@contextmanager
def scorer(job: Job, artefact: Path, who: str) -> Iterator[Scores]:
    """A version, ready to score; `who` is "candidate" or "champion".

    Raises `ArtefactError` when it can't be started, or has a format without gates.
    """
    manifest = load_manifest(artefact)
    if manifest.format == "onnx":
        yield Scorer(artefact, job.code_root)
        return
    with serve(job, artefact, f"the {who}", f"{who}-table") as served:
        yield Asked(served, manifest)


class Asked:
    """A replica that scores a table in requests of `BLOCK` rows."""

    def __init__(self, served: Served, manifest: Manifest) -> None:
        self.manifest = manifest
        self._served = served

    def score(self, columns: Columns) -> npt.NDArray[np.float64]:
        """Ask for all rows, one block after another; see `Scores`."""
        fields = self.manifest.inputs
        whole = {field.name: _values(field, columns[field.name]) for field in fields}
        rows = len(next(iter(whole.values())))
        connection = self._served.connect()
        found: list[float] = []
        try:
            for at in range(0, rows, BLOCK):
                block = {name: values[at : at + BLOCK] for name, values in whole.items()}
                found += self._block(connection, block, min(BLOCK, rows - at))
        finally:
            connection.close()
        return np.array(found, dtype=np.float64)

    def _block(self, connection: http.client.HTTPConnection, block: dict[str, list[Any]], rows: int) -> list[float]:
        inputs = [
            {"name": field.name, "shape": [rows], "datatype": field.datatype, "data": block[field.name]}
            for field in self.manifest.inputs
        ]
        content = json.dumps({"inputs": inputs}).encode()
        try:
            connection.request("POST", PATH, content, {"content-type": "application/json"})
            response = connection.getresponse()
            told = response.read()
        except (OSError, http.client.HTTPException) as error:
            message = f"{self._served.name} gave no answer ({type(error).__name__})"
            raise EnvironmentError_("replica-silent", message, "mainspring doctor") from error
        if response.status != 200:
            said = told[:300].decode("utf-8", "replace")
            raise UserCodeError("gate-request", f"{self._served.name} answered `{response.status}`: {said}")
        try:
            data = json.loads(told)["outputs"][0]["data"]
            scores = [math.nan if one is None else float(one) for one in data]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserCodeError("gate-request", f"{self._served.name} answered something else than scores") from error
        if len(scores) != rows:
            raise UserCodeError("gate-request", f"{self._served.name} gave {len(scores)} scores for {rows} rows")
        return scores


def _values(field: Field, column: Any) -> list[Any]:
    """A column as JSON has it: null for what is missing."""
    values = canonical_column(column, field.datatype)
    if field.datatype == "BYTES":
        return list(values)
    kind = {"INT64": int, "BOOL": bool}.get(field.datatype, float)
    return [None if math.isnan(one) else kind(one) for one in values.tolist()]
