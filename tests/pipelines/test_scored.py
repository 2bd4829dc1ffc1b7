"""Gates over versions whose answers only a real replica has: the same numbers as for the same model in ONNX."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mainspring.artefacts import code
from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.load import load_manifest, save_manifest
from mainspring.artefacts.manifest import Manifest
from tests.pipelines.conftest import BEGAN, DAY, Product

SAME = """
import numpy as np
from pathlib import Path


class Same:
    batch = True

    def load(self, folder: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"))

    def predict(self, columns):
        sides = np.array([side == "left" for side in columns["side"]], dtype=np.float32)
        far = np.log1p(np.nan_to_num(columns["distance"]).astype(np.float32))
        return self.session.run(None, {self.session.get_inputs()[0].name: np.column_stack([far, sides])})[-1][:, -1]
"""


@pytest.mark.parametrize("what", ["candidate", "champion"])
def test_a_class_is_judged_like_the_model_that_it_wraps(trained: Product, tmp_path: Path, what: str) -> None:
    """Scored through its replica, on the same held-out rows, it has the loss that ONNX has; as a champion too."""
    onnx = trained.state / "artefacts" / "late" / "late-1"
    mine = tmp_path / "mine"
    (mine / "model").mkdir(parents=True)
    (mine / "model" / "model.onnx").write_bytes((onnx / "model.onnx").read_bytes())
    (trained.folder / "same.py").write_text(SAME)
    snapshot, entry = code.snapshot(trained.folder, "same", trained.state / "code"), "same:Same"
    before = load_manifest(onnx)
    digest = digest_of_folder(mine / "model", entry, snapshot)
    manifest = Manifest("late", "", "python", digest, before.inputs, "p", code=snapshot, entry=entry)
    save_manifest(mine, manifest)
    sides = {"candidate": str(mine), "champion": str(onnx)}
    if what == "champion":
        sides = {"candidate": str(onnx), "champion": str(mine)}
    number = {"candidate": 21, "champion": 22}[what]
    seen = trained.run(f"late-{number}", first=False, until=BEGAN + 55 * DAY, **sides)
    assert seen.state == "succeeded", seen.error
    assert seen.gate is not None
    assert seen.gate.rows > 100
    assert math.isclose(seen.gate.auc, seen.gate.champion_auc, abs_tol=1e-6)
    for day in seen.gate.days:
        assert math.isclose(day.candidate, day.champion, rel_tol=1e-4)


def test_a_format_without_gates_says_so(trained: Product, tmp_path: Path) -> None:
    """A server elsewhere is not asked for a table: the run fails with the reason, and there is no verdict."""
    from mainspring.artefacts.external import digest_of_external

    settings: dict[str, str | int | float | bool] = {"url": "https://h.example", "protocol": "tfserving"}
    inputs = load_manifest(trained.state / "artefacts" / "late" / "late-1").inputs
    save_manifest(
        tmp_path, Manifest("late", "", "external", digest_of_external(settings), inputs, "p", settings=settings)
    )
    seen = trained.run("late-23", first=False, until=BEGAN + 40 * DAY, candidate=str(tmp_path))
    assert seen.state == "failed"
    assert "in the format `external`" in seen.error
