"""Scoring rows with a packaged model: the one way from raw fields to a probability.

What this is: raw fields -> the user's `features` function -> columns -> ONNX Runtime -> probability.
Who calls it: the replica (requests), the gate and the pipeline (tables): the same code for both, so
that a request is scored as the same row was in training.
What it must never do: let a row's answer depend on its neighbours in the batch.

The only module that imports onnxruntime to answer requests. pandas is loaded when the manifest has `features`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from mainspring.artefacts import code
from mainspring.artefacts.columns import Columns, canonical_column, canonical_frame
from mainspring.artefacts.load import load_manifest, load_model
from mainspring.artefacts.manifest import Manifest
from mainspring.errors import ArtefactError, UserCodeError

Floats = npt.NDArray[np.float64]

__all__ = ["Columns", "Floats", "Scorer", "canonical_column", "canonical_frame"]

_CHUNK = 512  # rows in one call of the runtime
_PROBE = (2, 3, 7, 32, _CHUNK)


class Scorer:
    """A packaged model, ready to score.

    Raises `ArtefactError` when the artefact or its code is missing, changed or unfit, `UserCodeError`
    when its `features` function cannot be imported.
    """

    def __init__(self, artefact: Path, code_root: Path, threads: int = 1) -> None:
        self.manifest: Manifest = load_manifest(artefact)
        self._session = _session(load_model(artefact, self.manifest), threads, artefact)
        self._input = self._session.get_inputs()[0].name
        self._output = _probabilities(self._session, artefact)
        self._columns = self.manifest.columns or tuple(field.name for field in self.manifest.inputs)
        width = self._session.get_inputs()[0].shape[-1]
        if isinstance(width, int) and width != len(self._columns):
            raise ArtefactError(
                "artefact-unfit",
                f"`{artefact}`: the model takes {width} columns, its manifest has {len(self._columns)}",
            )
        self._features: Callable[[Any], Any] | None = None
        if self.manifest.features:
            self._features = code.load(code_root, self.manifest.code, self.manifest.features)
        self._together = self._rows_are_independent()

    def score(self, columns: Columns) -> Floats:
        """Probability of the positive class for each row, shape (n,).

        `columns` has all fields of the manifest, each of n values (None or NaN for null). Raises
        `UserCodeError` when `features` raises or returns something unusable.
        """
        return self._run(self.matrix(columns))

    def matrix(self, columns: Columns) -> npt.NDArray[np.float32]:
        """The model's input, shape (n, columns), made of raw fields as `score` takes them; raises as it does."""
        if self._features is None:
            types = {field.name: field.datatype for field in self.manifest.inputs}
            stacked = [canonical_column(columns[name], types.get(name, "FP64")) for name in self._columns]
            return np.ascontiguousarray(np.column_stack(stacked), dtype=np.float32)
        raw = canonical_frame(columns, self.manifest.inputs)
        try:
            made = self._features(raw)
        except Exception as error:
            raise UserCodeError(
                "features-raised", f"`{self.manifest.features}` raised {type(error).__name__}: {error}"
            ) from error
        return self._selected(made, len(raw))

    def _selected(self, made: Any, rows: int) -> npt.NDArray[np.float32]:
        name = self.manifest.features
        if len(made) != rows:
            raise UserCodeError("features-rows", f"`{name}` returned {len(made)} rows for {rows}")
        try:
            columns = list(self._columns)
            chosen = made if list(made.columns) == columns else made[columns]
            return np.ascontiguousarray(chosen.to_numpy(dtype=np.float32, na_value=np.nan))
        except KeyError as error:
            raise UserCodeError("features-columns", f"`{name}` returned no column {error.args[0]}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise UserCodeError("features-numbers", f"`{name}` returned what are not numbers: {error}") from error

    def _run(self, matrix: npt.NDArray[np.float32]) -> Floats:
        rows = len(matrix)
        step = _CHUNK if self._together else 1
        if 0 < rows <= step:
            return self._call(matrix)
        parts = [self._call(matrix[i : i + step]) for i in range(0, rows, step)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _call(self, matrix: npt.NDArray[np.float32]) -> Floats:
        scores = np.asarray(self._session.run([self._output], {self._input: matrix})[0])
        if scores.ndim > 1:
            scores = scores[:, -1]
        return scores.astype(np.float64)

    def _rows_are_independent(self) -> bool:
        """Whether the runtime gives a row the same bits in any batch.

        Trees do; a matrix product may sum in another order for another number of rows. Such a model is
        scored row by row (some 10 us each), so that batching never shows in an answer.
        """
        random = np.random.default_rng(20130101)
        shape = (max(_PROBE), len(self._columns))
        rows = (random.standard_normal(shape) * 10.0 ** random.integers(-2, 4, shape)).astype(np.float32)
        alone = np.concatenate([self._call(rows[i : i + 1]) for i in range(len(rows))])
        return all(
            np.array_equal(self._call(rows[at : at + size]), alone[at : at + size], equal_nan=True)
            for size in _PROBE
            for at in range(0, len(rows) - size + 1, max(size, 64))
        )


def _session(model: bytes, threads: int, artefact: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Threads that spin between batches would burn a core for nothing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        raise ArtefactError("artefact-unfit", f"ONNX Runtime cannot load `{artefact}`: {error}") from error


def _probabilities(session: ort.InferenceSession, artefact: Path) -> str:
    """The output that holds probabilities: the last one of floats."""
    for output in reversed(session.get_outputs()):
        if output.type in ("tensor(float)", "tensor(double)"):
            return str(output.name)
    raise ArtefactError(
        "artefact-unfit", f"`{artefact}` has no output of probabilities as a tensor", "export it with `zipmap=False`"
    )
