"""Artefacts: what is loaded is what was promised, and rows are scored alike in training and serving."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mainspring.artefacts.load import load_manifest, load_model, save_manifest
from mainspring.artefacts.manifest import Field
from mainspring.artefacts.score import Scorer, canonical_frame
from mainspring.errors import ArtefactError, UserCodeError
from mainspring.testing.artefacts import RAW, tiny_artefact


def test_manifest_comes_back(tmp_path: Path) -> None:
    """A saved manifest loads as it was, and the model's bytes are verified."""
    manifest = tiny_artefact(tmp_path / "a", tmp_path / "code", features=True)
    assert load_manifest(tmp_path / "a") == manifest
    assert load_model(tmp_path / "a", manifest)


def test_what_is_not_right_is_refused(tmp_path: Path) -> None:
    """Missing, half-written, foreign, future and tampered artefacts are typed errors."""
    folder = tmp_path / "a"
    with pytest.raises(ArtefactError, match="cannot be read"):
        load_manifest(folder)
    manifest = tiny_artefact(folder, tmp_path / "code")
    good = (folder / "manifest.json").read_bytes()
    for bad in (good[:50], b"[]", b"\xff", b'{"schema": 1}', good.replace(b'"schema": 1', b'"schema": 99')):
        (folder / "manifest.json").write_bytes(bad)
        with pytest.raises(ArtefactError):
            load_manifest(folder)
    for change in (
        {"format": "pickle"},
        {"inputs": ()},
        {"inputs": (Field("a", "FP16"),)},
        {"inputs": (Field("a", "BYTES"),)},
    ):
        save_manifest(folder, replace(manifest, **change))
        with pytest.raises(ArtefactError):
            load_manifest(folder)
    save_manifest(folder, manifest)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"x")
    with pytest.raises(ArtefactError, match="digest"):
        Scorer(folder, tmp_path / "code")


def test_unfit_model_is_refused(tmp_path: Path) -> None:
    """A model with another number of columns than its manifest is refused at load."""
    folder = tmp_path / "a"
    manifest = tiny_artefact(folder, tmp_path / "code")
    save_manifest(folder, replace(manifest, columns=("x0",)))
    with pytest.raises(ArtefactError, match="4 columns"):
        Scorer(folder, tmp_path / "code")


@pytest.mark.parametrize("features", [False, True])
def test_batches_equal_rows_alone(tmp_path: Path, features: bool) -> None:
    """A row gets the same bits alone, in a batch, and in another place of the batch."""
    tiny_artefact(tmp_path / "a", tmp_path / "code", features=features)
    scorer = Scorer(tmp_path / "a", tmp_path / "code")
    random = np.random.default_rng(1)
    n = 100
    if features:
        columns = {
            "hour": random.integers(0, 24, n),
            "distance": random.uniform(0, 3000, n),
            "carrier": random.choice(["UA", "AA"], n),
        }
    else:
        columns = {f"x{i}": random.standard_normal(n) for i in range(4)}
    together = scorer.score(columns)
    assert together.dtype == np.float64
    assert together.shape == (n,)
    assert np.ptp(together) > 0.05
    alone = np.concatenate([scorer.score({k: v[i : i + 1] for k, v in columns.items()}) for i in range(n)])
    backwards = scorer.score({k: v[::-1] for k, v in columns.items()})[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)


def test_the_expected_number(tmp_path: Path) -> None:
    """The score is the model's own probability of the positive class."""
    tiny_artefact(tmp_path / "a", tmp_path / "code", weights=(1, 2, 3, 4), bias=-1)
    score = Scorer(tmp_path / "a", tmp_path / "code").score({"x0": [1.0], "x1": [0.0], "x2": [0.0], "x3": [0.5]})
    assert score[0] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-6)


def test_request_frame_equals_training_frame() -> None:
    """Lists with None, as from a request, and a table of pandas dtypes make one and the same frame."""
    table = pd.DataFrame(
        {
            "carrier": pd.Series(["UA", None, "B6"], dtype="str"),
            "hour": pd.Series([1, 2, 3], dtype="int32"),
            "distance": pd.Series([1.5, None, 7], dtype="Float64"),
            "extra": 1,
        }
    )
    request = {"hour": [1, 2, 3], "distance": [1.5, None, 7], "carrier": ["UA", None, "B6"]}
    one, two = canonical_frame(table, RAW), canonical_frame(request, RAW)
    pd.testing.assert_frame_equal(one, two)
    assert [str(t) for t in one.dtypes] == ["float64", "float64", "object"]
    assert one["carrier"][1] is None
    assert list(canonical_frame(table, RAW, index=[7, 8, 9]).index) == [7, 8, 9]
    numbers = canonical_frame({"hour": [1], "distance": [None]}, RAW[:2])
    assert [str(t) for t in numbers.dtypes] == ["float64", "float64"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('no such airport')", "no such airport"),
        ("return rows[['hour']]", "evening"),
        ("return rows.head(0)", "returned 0 rows"),
        ("return rows.assign(evening='x', far=1.0, ua=1.0)", "not numbers"),
    ],
)
def test_users_function_fails(tmp_path: Path, body: str, says: str) -> None:
    """A features function that raises or returns junk is a user-code error that says what."""
    tiny_artefact(tmp_path / "a", tmp_path / "code", features=f"def features(rows):\n    {body}\n")
    scorer = Scorer(tmp_path / "a", tmp_path / "code")
    with pytest.raises(UserCodeError, match=says):
        scorer.score({"hour": [1], "distance": [1.0], "carrier": ["UA"]})
