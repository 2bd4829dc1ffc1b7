"""One small model in every format that a predictive runtime serves, for the conformance suite of runtimes.

What this is: the model `judge` of the fields `FIELDS`: a time of day, a number and a text that may be missing, and
`wait`: how many seconds the model takes, so that a test knows which requests are under way. Who calls it: the suite,
benchmarks, tests of runtimes. What it must never do: give other numbers in one format than in another.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring.artefacts import code
from mainspring.artefacts.external import digest_of_external
from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.load import MODEL, digest_of, load_manifest, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.testing.artefacts import tiny_artefact

NAME = "judge"
OUTPUT = "late"
FIELDS = (
    Field("hour", "INT64", nullable=False),
    Field("distance", "FP64"),
    Field("carrier", "BYTES"),
    Field("wait", "FP64"),
)
COLUMNS = ("evening", "far", "ua")
WEIGHTS = (0.9, 0.31, -0.7)
BIAS = -1.1
FAILS = 99
"""An hour that the model raises for."""

FEATURES = f"""
import time

import numpy as np
import pandas as pd


def features(rows: pd.DataFrame) -> pd.DataFrame:
    if (rows["hour"] == {FAILS}).any():
        raise ValueError("there is no such hour")
    seconds = float(rows["wait"].fillna(0.0).max())
    if seconds > 0:
        time.sleep(seconds)
    return pd.DataFrame(
        {{
            "evening": (rows["hour"] >= 17).astype("float64"),
            "far": np.log1p(rows["distance"].fillna(0.0).clip(lower=0.0)),
            "ua": (rows["carrier"] == "UA").astype("float64"),
        }},
        index=rows.index,
    )
"""
"""The source of its `features` function."""

CLASS = f'''
import time

import numpy as np


class Judge:
    """The same model as a user's own class."""

    batch = True

    def load(self, folder):
        self.weights = np.array((folder / "weights.txt").read_text().split(), dtype=np.float64)

    def predict(self, columns):
        hour, distance = np.asarray(columns["hour"]), np.asarray(columns["distance"], dtype=np.float64)
        if (hour == {FAILS}).any():
            raise ValueError("there is no such hour")
        seconds = float(np.nan_to_num(np.asarray(columns["wait"], dtype=np.float64)).max())
        if seconds > 0:
            time.sleep(seconds)
        far = np.log1p(np.clip(np.nan_to_num(distance), 0.0, None))
        united = np.array([name == "UA" for name in columns["carrier"]], dtype=np.float64)
        matrix = np.column_stack([(hour >= 17).astype(np.float64), far, united, np.ones(len(hour))])
        return 1.0 / (1.0 + np.exp(-(matrix @ self.weights)))
'''
"""The source of the class."""

ROWS: Mapping[str, Sequence[Any]] = {
    "hour": (5, 17, 23, 0, 12, 18, 7),
    "distance": (100.0, None, 2475.25, 0.0, -3.0, 1e6, 0.1),
    "carrier": ("UA", "AA", None, "", "UA", "Zürich 中", "ua"),
    "wait": (None, 0.0, None, 0.0, 0.0, None, 0.0),
}
"""Rows with all that a request may carry: missing numbers, missing and empty texts, and texts that are no ASCII."""


def onnx(folder: Path, code_root: Path, *, run: str = "judge-1", bias: float = BIAS) -> Manifest:
    """Write it in ONNX, with its `features` function."""
    return tiny_artefact(
        folder, code_root, features=FEATURES, fields=FIELDS, columns=COLUMNS, weights=WEIGHTS, bias=bias, model=NAME,
        run=run, output=OUTPUT,
    )  # fmt: skip


def plain(
    folder: Path, code_root: Path, model: str = "plain", weights: Sequence[float] = (0.5, -0.25, 0.125)
) -> Manifest:
    """Write a model of three numbers without `features`, `x0`..`x2`, in ONNX."""
    return tiny_artefact(
        folder, code_root, fields=tuple(Field(f"x{i}", "FP64") for i in range(len(weights))), weights=weights,
        model=model, run=f"{model}-1", output="score",
    )  # fmt: skip


def python(folder: Path, code_root: Path, source: str = CLASS, entry: str = "judge_class:Judge") -> Manifest:
    """Write it as a user's class."""
    inside = folder / "model"
    inside.mkdir(parents=True, exist_ok=True)
    (inside / "weights.txt").write_text(" ".join(str(one) for one in (*WEIGHTS, BIAS)), encoding="utf-8")
    with tempfile.TemporaryDirectory() as stack:
        module = entry.partition(":")[0]
        (Path(stack) / f"{module}.py").write_text(source, encoding="utf-8")
        snapshot = code.snapshot(Path(stack), module, code_root)
    manifest = Manifest(
        model=NAME, run="judge-python", format="python", digest=digest_of_folder(inside, entry, snapshot),
        inputs=FIELDS, output=OUTPUT, code=snapshot, entry=entry,
    )  # fmt: skip
    save_manifest(folder, manifest)
    return manifest


def saved_model(folder: Path) -> Manifest:
    """Write it as a SavedModel that the double of TensorFlow Serving serves: the ONNX lies in `assets.extra/`.

    The file `saved_model.pb` is there, and empty: an empty protocol buffer, of which the double reads nothing.
    """
    inside = folder / "model"
    extra = inside / "assets.extra"
    onnx(extra, extra / "code")
    (inside / "saved_model.pb").write_bytes(b"")
    manifest = Manifest(
        model=NAME, run="judge-saved", format="saved_model", digest=digest_of_folder(inside), inputs=FIELDS,
        output=OUTPUT,
    )  # fmt: skip
    save_manifest(folder, manifest)
    return manifest


def external(folder: Path, url: str, protocol: str, served_as: str = NAME, **more: str | float) -> Manifest:
    """Write it as a server elsewhere that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, str | int | float | bool] = {"url": url, "protocol": protocol, "model": served_as, **more}
    manifest = Manifest(
        model=NAME, run="judge-external", format="external", digest=digest_of_external(settings), inputs=FIELDS,
        output=OUTPUT, settings=settings,
    )  # fmt: skip
    save_manifest(folder, manifest)
    return manifest


def spoilt(good: Path, folder: Path) -> Path:
    """Write a copy that no server can load, though its digest is that of its files; gives `folder`."""
    shutil.copytree(good, folder)
    manifest = load_manifest(folder)
    if manifest.format == "onnx":
        (folder / MODEL).write_bytes(b"no model at all")
        digest = digest_of((folder / MODEL).read_bytes())
    else:
        inside = folder / "model"
        for path in sorted(inside.rglob("*")):
            if path.is_file() and path.name in ("weights.txt", "MLmodel", MODEL):
                path.write_text("no model at all", encoding="utf-8")
        digest = digest_of_folder(inside, manifest.entry, manifest.code)
    save_manifest(folder, replace(manifest, digest=digest))
    return folder


def expected(rows: Mapping[str, Sequence[Any]], bias: float = BIAS) -> list[float]:
    """The answers, by the arithmetic itself."""
    found = []
    for hour, distance, carrier in zip(rows["hour"], rows["distance"], rows["carrier"], strict=True):
        far = math.log1p(max(distance or 0.0, 0.0))
        logit = bias + WEIGHTS[0] * (hour >= 17) + WEIGHTS[1] * far + WEIGHTS[2] * (carrier == "UA")
        found.append(1.0 / (1.0 + math.exp(-logit)))
    return found


def request(rows: Mapping[str, Sequence[Any]], fields: Sequence[Field] = FIELDS, id: str = "") -> bytes:
    """A canonical request: one tensor of shape [n] for each field, in the Open Inference Protocol's JSON."""
    inputs = [
        {"name": one.name, "shape": [len(rows[one.name])], "datatype": one.datatype, "data": list(rows[one.name])}
        for one in fields
    ]
    return json.dumps(({"id": id} if id else {}) | {"inputs": inputs}).encode()


def row(hour: int = 5, distance: float | None = 100.0, carrier: str | None = "UA", wait: float = 0.0) -> bytes:
    """A canonical request of one row."""
    return request({"hour": [hour], "distance": [distance], "carrier": [carrier], "wait": [wait]})
