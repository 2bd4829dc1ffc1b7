"""The local world with the real replica, gateway and run programs behind it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import RunSeen
from mainspring.pipelines.registry import Registry
from mainspring.pipelines.seen import prepare_run, read_run
from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.conformance import WorldConformance
from mainspring.worlds.local.world import Programs

from .parts import Here, here

STACK = """
mainspring: 1
stack: tiny
compute:
  laptop: {machine: this, price: $0.10/h}
orchestration: {where: laptop, control: act}
serving:
  delay: {model: delay@champion, runtime: onnx, truth: {field: late, within: 3d}}
pipelines:
  delay:
    produces: delay
    steps: {ingest: "tiny:ingest", train: "tiny:train"}
    gates: {auc: {at_least: 0.5, rows: last 14d}}
  failing:
    produces: failing
    steps: {ingest: "tiny:ingest", train: "tiny:broken"}
"""

MODULE = """
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression


def ingest(window):
    chance = np.random.default_rng(0)
    times = pd.date_range("2013-01-05", "2013-02-27", periods=600, tz="UTC").tz_localize(None)
    x = chance.normal(size=600)
    late = (x + chance.normal(size=600) > 0).astype(int)
    ids = [f"r{n}" for n in range(600)]
    return pd.DataFrame({"time": times, "id": ids, "late": late, "x": x})


def train(ingest):
    return LogisticRegression().fit(ingest[["x"]], ingest["late"])


def broken(ingest):
    raise ValueError("no rows today")
"""


class RealRuns:
    """Run folders as the pipelines write them."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def prepare(self, spec: StartRun) -> Path:
        """The folder."""
        return prepare_run(self.state, spec)

    def read(self, folder: Path) -> RunSeen:
        """What it says."""
        return read_run(folder)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with MLflow's tables made (some seconds), and the cache as the last test left it."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "cache").mkdir()
    registry = Registry(folder)
    registry.prepare()
    registry.versions()
    registry.close()
    return folder


@pytest.mark.slow
class TestRealPrograms(WorldConformance):
    """Everything real, MLflow's registry too. Runs after the first find their steps in the cache."""

    patience = 90.0
    tick = 0.1

    @pytest.fixture
    def world(self, tmp_path: Path, warm: Path) -> Iterator[Here]:
        """A fresh world with a tiny artefact and a tiny stack."""
        (tmp_path / "mainspring.yaml").write_text(STACK)
        (tmp_path / "tiny.py").write_text(MODULE)
        with here(tmp_path, Programs()) as found:
            tiny_artefact(found.artefact, found.state / "code")
            shutil.copytree(warm, found.state, dirs_exist_ok=True)
            found.world._runs = RealRuns(found.state)
            found.world._registry = registry = Registry(found.state)
            yield found
            registry.close()
            shutil.copytree(found.state / "cache", warm / "cache", dirs_exist_ok=True)
