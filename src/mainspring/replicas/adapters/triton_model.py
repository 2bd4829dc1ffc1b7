"""A packaged model as a model of Triton's Python backend.

What this is: what `model.py` of the model repository is made of; it runs in a process of its own for each instance,
inside Triton's environment. Who calls it: Triton's stub. What it must never do: let one request fail its neighbours.

Numbers come as FP64, where NaN is null; texts as bytes, where one NUL is null (the gateway's dialect `triton`).
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mainspring.artefacts.manifest import Field
from mainspring.artefacts.score import Scorer
from mainspring.errors import MainspringError
from mainspring.replicas.adapters.together import Columns, RequestError, check_nulls, together

NO_TEXT = b"\0"
"""What stands for a missing text."""


class Adapter:
    """What Triton calls; a subclass by the name `TritonPythonModel` is what it looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artefact that the model's configuration names; `MainspringError` says why it can't be."""
        self._triton: Any = importlib.import_module("triton_python_backend_utils")  # is only there in the stub
        said = {key: one["string_value"] for key, one in json.loads(args["model_config"])["parameters"].items()}
        try:
            self._scorer = Scorer(Path(said["artefact"]), Path(said["code"]), int(said["threads"]))
        except MainspringError as error:
            print(f"error: {error.message}", file=sys.stderr, flush=True)
            raise
        self._fields = self._scorer.manifest.inputs

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, which Triton has put together."""
        read = [self._read(request) for request in requests]
        scored = iter(together(self._scorer.score, [one for one in read if not isinstance(one, RequestError)]))
        return [self._response(one if isinstance(one, RequestError) else next(scored)) for one in read]

    def _read(self, request: Any) -> Columns | RequestError:
        get = self._triton.get_input_tensor_by_name
        try:
            columns = {field.name: values(field, get(request, field.name).as_numpy()) for field in self._fields}
            check_nulls(columns, self._fields)
        except RequestError as error:
            return error
        except UnicodeDecodeError as error:
            return RequestError(400, f"a text is not UTF-8: {error.reason}")
        return columns

    def _response(self, scores: list[float] | RequestError) -> Any:
        import numpy as np

        if isinstance(scores, RequestError):
            kind = self._triton.TritonError
            code = kind.INVALID_ARG if scores.status == 400 else kind.INTERNAL
            return self._triton.InferenceResponse(error=kind(scores.message, code))
        tensor = np.asarray(scores, dtype=np.float64).reshape(-1, 1)
        return self._triton.InferenceResponse([self._triton.Tensor(self._scorer.manifest.output, tensor)])


def values(field: Field, tensor: Any) -> list[Any]:
    """The rows of a tensor [n, 1], as `Scorer` takes them: None for null. Raises `UnicodeDecodeError`."""
    flat = tensor.reshape(-1).tolist()
    if field.datatype == "BYTES":
        return [None if one == NO_TEXT else one.decode() for one in flat]
    return [None if one != one else one for one in flat]  # noqa: PLR0124  # NaN is what differs from itself
