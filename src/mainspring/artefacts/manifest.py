"""`manifest.json`: what a packaged model is, and what proves that it is unchanged.

An artefact is a folder: `manifest.json`, `model.onnx` or `model.gguf`, and for a predictive model `reference.json`.
Who writes it: the pipeline's packaging step. Who reads it: the replica, the gate, monitoring. Nothing in it is ever
unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Field:
    """One raw field that a request carries (or one column of the model's input, without `features`)."""

    name: str
    datatype: str  # Open Inference Protocol: BOOL, INT64, FP64, FP32, BYTES
    nullable: bool = True  # null (JSON) / NaN is allowed


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a packaged model is."""

    model: str
    run: str  # the run that made it
    format: str  # "onnx" | "gguf"
    digest: str  # "sha256:..." of model.onnx or model.gguf
    inputs: tuple[Field, ...]  # what a request carries
    output: str  # name of the output tensor that requests get: probability of the positive class
    features: str = ""  # "module:function" that makes the model's columns of the raw fields; "" for none
    code: str = ""  # digest of the code snapshot that `features` is imported from (folder code/<digest>)
    columns: tuple[str, ...] = ()  # the model's input columns, in order
    trained_from: float = 0.0  # event time of the first row trained on, POSIX seconds
    trained_until: float = 0.0  # event time after the last row trained on
    rows: int = 0  # rows trained on
    positive_rate: float = 0.0
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)  # of a language model: see `Settings`
    precision: str = ""  # of the weights, where it is not the training's own: "fp16", "int8", "q8_0"
    made_of: str = ""  # the digest of the model that this one's weights were converted from
    created_with: dict[str, str] = field(default_factory=dict)  # package: version
    schema: int = 1
