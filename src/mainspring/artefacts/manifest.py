"""`manifest.json`: what a packaged model is, and what proves that it is unchanged.

An artefact is a folder: `manifest.json`, then what its format has (see `FORMATS`), and for a predictive model that a
pipeline made `reference.json`. Who writes it: the pipeline's packaging step, `models add`. Who reads it: the replica,
the gate, monitoring. Nothing in it is unpickled by Mainspring itself; a format whose server does so when it loads the
model is served only from a version that was marked as trusted (`executes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

FORMATS: dict[str, str] = {
    "onnx": "model.onnx",
    "gguf": "model.gguf",
    "safetensors": "model",  # a Hugging Face folder: config.json, the tokenizer's files, *.safetensors
    "mlflow": "model",  # an MLflow model folder: MLmodel, ...
    "saved_model": "model",  # a TensorFlow SavedModel: saved_model.pb, variables/, ...
    "python": "model",  # what the user's class loads; the class itself is a snapshot of code
    "external": "",  # a server that runs elsewhere: `settings` says where
}
"""Each format, and what of it lies beside `manifest.json`: a file, a folder (`model`), or nothing."""

LANGUAGE = frozenset({"gguf", "safetensors"})
"""Formats of language models: no inputs, `settings` instead."""

FOLDERS = frozenset(name for name, held in FORMATS.items() if held == "model")
"""Formats whose model is a folder."""


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
    format: str  # one of `FORMATS`
    digest: str  # "sha256:..." of the model's file, or of its folder (`folders.py`), or of where it is
    inputs: tuple[Field, ...]  # what a request carries
    output: str  # name of the output tensor that requests get: probability of the positive class
    features: str = ""  # "module:function" that makes the model's columns of the raw fields; "" for none
    code: str = ""  # digest of the code snapshot that `features` or `entry` is imported from (folder code/<digest>)
    columns: tuple[str, ...] = ()  # the model's input columns, in order
    trained_from: float = 0.0  # event time of the first row trained on, POSIX seconds
    trained_until: float = 0.0  # event time after the last row trained on
    rows: int = 0  # rows trained on
    positive_rate: float = 0.0
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)  # see `Settings`, `External`
    precision: str = ""  # of the weights, where it is not the training's own: "fp16", "int8", "q8_0"
    made_of: str = ""  # the digest of the model that this one's weights were converted from
    created_with: dict[str, str] = field(default_factory=dict)  # package: version
    schema: int = 1
    entry: str = ""  # "module:Class" of a model in the format `python`
