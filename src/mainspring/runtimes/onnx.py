"""ONNX Runtime, in Mainspring's own server."""

from __future__ import annotations

from mainspring.runtimes.descriptor import Runtime

ONNX = Runtime(
    "onnx", "ONNX Runtime", "predictive", runs=True, formats=("onnx",), weights="onnx",
    module="mainspring.replicas.onnx", batches=True,
)  # fmt: skip
