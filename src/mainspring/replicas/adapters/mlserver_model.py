"""A packaged model as a model of Seldon's MLServer.

What this is: the class that `model-settings.json` names; it runs in MLServer's process, or in each of its parallel
workers. Who calls it: MLServer. What it must never do: let one request fail its neighbours.

Requests are checked before MLServer's adaptive batcher sees them: it joins tensors by their names without a look at
what else is in the batch. So the batcher stands behind this class's `predict`, not before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlserver  # type: ignore[import-not-found]  # is only there in the server's environment
from mlserver import types
from mlserver.batching.adaptive import AdaptiveBatcher  # type: ignore[import-not-found]
from mlserver.errors import MLServerError  # type: ignore[import-not-found]

from mainspring.artefacts.manifest import Field
from mainspring.artefacts.score import Scorer
from mainspring.errors import MainspringError
from mainspring.replicas.adapters.columns import of_columns
from mainspring.replicas.adapters.mlserver_counts import batches
from mainspring.replicas.adapters.together import RequestError, together

FAULT = "mainspring_fault"
"""The output that carries why a row has no score, from the batch to the request that the row came from."""


class PackagedModel(mlserver.MLModel):  # type: ignore[misc]
    """What MLServer loads and asks."""

    async def load(self) -> bool:
        """Load the artefact; raises `MLServerError` with the reason, which ends the server as it starts."""
        extra = self.settings.parameters.extra
        try:
            self._scorer = Scorer(Path(self.settings.parameters.uri), Path(extra["code"]), extra["threads"])
        except MainspringError as error:
            raise MLServerError(error.message, 500) from error
        self._fields = self._scorer.manifest.inputs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._batcher = AdaptiveBatcher(_Settings(self._answer, extra["batch"], extra["wait"]))
        self._batches = batches().labels(self.name)
        return True

    async def unload(self) -> bool:
        """Forget the model; what is being scored ends first."""
        if hasattr(self, "_thread"):
            await asyncio.to_thread(self._thread.shutdown)
        return True

    async def predict(self, payload: Any) -> Any:
        """Answer one request; raises `MLServerError` (400 for what the manifest does not allow)."""
        try:
            request = checked(payload, self._fields, self._scorer.manifest.output)
        except RequestError as error:
            raise MLServerError(error.message, error.status) from None
        # Shielded: in MLServer's batcher one request that is given up fails the others of its batch.
        answer = await asyncio.shield(self._batcher.predict(request))
        scores, faults = answer.outputs
        for fault in faults.data:
            if fault:
                status, _, message = fault.partition(" ")
                raise MLServerError(message, int(status))
        return types.InferenceResponse(
            id=payload.id, model_name=self.name, model_version=self.version, outputs=[scores]
        )

    async def _answer(self, merged: Any) -> Any:
        """Score a batch, whose requests are one after the other in each tensor."""
        columns = {one.name: list(one.data) for one in merged.inputs}
        loop = asyncio.get_running_loop()
        scores, faults = await loop.run_in_executor(self._thread, self._scored, columns)
        self._batches.inc()
        shape = [len(scores), 1]
        outputs = [
            types.ResponseOutput(name=self._scorer.manifest.output, shape=shape, datatype="FP64", data=scores),
            types.ResponseOutput(name=FAULT, shape=shape, datatype="BYTES", data=faults),
        ]
        return types.InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)

    def _scored(self, columns: dict[str, list[Any]]) -> tuple[list[float], list[str]]:
        """Scores and faults of all rows: each row alone where they can't be scored together."""
        rows = len(next(iter(columns.values())))
        [whole] = together(self._scorer.score, [columns])
        if not isinstance(whole, RequestError):
            return whole, [""] * rows
        each = together(self._scorer.score, [{name: [v[at]] for name, v in columns.items()} for at in range(rows)])
        scores = [0.0 if isinstance(one, RequestError) else one[0] for one in each]
        faults = [f"{one.status} {one.message}" if isinstance(one, RequestError) else "" for one in each]
        return scores, faults


class _Settings:
    """What MLServer's batcher wants to know of a model."""

    def __init__(self, predict: Any, batch: int, wait: float) -> None:
        self.predict = predict
        self.settings = SimpleNamespace(max_batch_size=batch, max_batch_time=wait)


def checked(payload: Any, fields: Sequence[Field], output: str) -> Any:
    """The request with one flat tensor a field, in the manifest's order; raises `RequestError`."""
    for wanted in payload.outputs or ():
        if wanted.name != output:
            raise RequestError(400, f"there is no output `{wanted.name:.100}`; there is `{output}`")
    given: dict[str, Any] = {}
    kinds = {field.name: field.datatype for field in fields}
    for tensor in payload.inputs:
        if tensor.name in given:
            raise RequestError(400, f"the input `{tensor.name:.100}` is given twice")
        if tensor.datatype != kinds.get(tensor.name, tensor.datatype):
            raise RequestError(400, f"the input `{tensor.name}` is {kinds[tensor.name]}, not `{tensor.datatype}`")
        given[tensor.name] = _flat(tensor)
    columns = of_columns(given, fields)
    rows = len(next(iter(columns.values())))
    inputs = [
        types.RequestInput(name=field.name, datatype=field.datatype, shape=[rows, 1], data=columns[field.name])
        for field in fields
    ]
    return types.InferenceRequest(inputs=inputs)


def _flat(tensor: Any) -> list[Any]:
    data, shape = tensor.data.root, tensor.shape
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise RequestError(400, f"the input `{tensor.name:.100}` has shape {shape}; it is [n] or [n, 1]")
    if isinstance(data, list) and data and isinstance(data[0], list):
        if not all(isinstance(row, list) and len(row) == 1 for row in data):
            raise RequestError(400, f"the input `{tensor.name:.100}` has data that does not fit its shape {shape}")
        data = [row[0] for row in data]
    if not isinstance(data, list) or len(data) != shape[0]:
        raise RequestError(400, f"the input `{tensor.name:.100}` has data that does not fit its shape {shape}")
    return data
