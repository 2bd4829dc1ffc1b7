"""A tiny product in a temporary folder, and its runs as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import RunSeen
from mainspring.pipelines.seen import prepare_run, read_run

DAY = 86400.0
BEGAN = 1_356_998_400.0  # 2013-01-01
ROWS_A_DAY = 20

STACK = """
mainspring: 1
stack: tiny
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  late:
    model: late@champion
    truth: {field: late}
pipelines:
  late:
    produces: late
    data: {trips: trips.csv}
    steps:
      ingest: trips:ingest
      features: trips:features
      train: {run: trips:train, timeout: 60s, with: {strength: 1.0}}
      validate: trips:validate
    gates:
      brier: {no_worse_by: 0.05, rows: last 14d}
      auc: {at_least: 0.55}
      groups: {sides: {column: side, differ_at_most: 0.5, min_rows: 20}}
      checks: {calm: {run: "trips:calm"}}
monitoring: {every: 7d}
"""

CODE = '''
"""The tiny product's own code."""
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression


def ingest(trips: pd.DataFrame) -> pd.DataFrame:
    return trips.assign(time=pd.to_datetime(trips["time"], utc=True))


def features(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {"far": np.log1p(rows["distance"].fillna(0)), "left": (rows["side"] == "left").astype(float)}, index=rows.index
    )


def train(features: pd.DataFrame, ingest: pd.DataFrame, strength: float, seed: int) -> LogisticRegression:
    print("train", len(ingest), ingest["time"].max().date(), int(ingest["late"].isna().sum()))
    return LogisticRegression(C=strength, random_state=seed).fit(features, ingest["late"].astype(int))


def validate(train, features, ingest) -> dict:
    print("validate", len(ingest), ingest["time"].min().date(), ingest["time"].max().date())
    return {"mean": float(train.predict_proba(features)[:, 1].mean())}


def calm(predictions, rows):
    return len(predictions) == len(rows), f"{len(rows)} rows"
'''


def trips(days: int = 60, *, late: str = "") -> str:
    """`ROWS_A_DAY` rows a day as CSV, from a rule and a fixed sequence; one in 50 outcomes is not known."""
    import numpy as np

    random = np.random.default_rng(7)
    lines = ["id,time,late,distance,side"]
    for row in range(days * ROWS_A_DAY):
        moment = np.datetime64(int(BEGAN + (row + 0.5) * DAY / ROWS_A_DAY), "s")
        distance, side = random.exponential(30), random.choice(["left", "right"])
        chance = 1 / (1 + np.exp(2.5 - 0.06 * distance - (side == "left")))
        outcome = late or ("" if row % 50 == 17 else str(int(random.random() < chance)))
        shown = "" if row % 40 == 3 else f"{distance:.3f}"
        lines.append(f"t{row},{moment}Z,{outcome},{shown},{side}")
    return "\n".join(lines) + "\n"


@dataclass
class Product:
    """A stack in a folder with a state folder beside it."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / ".mainspring"

    def write(self, **files: str) -> None:
        """Replace files: `code`, `stack`, `data`."""
        names = {"code": "trips.py", "stack": "mainspring.yaml", "data": "trips.csv"}
        for key, text in files.items():
            (self.folder / names[key]).write_text(text)

    def prepare(self, run: str, attempt: int = 1, **spec: object) -> Path:
        """Write the specification of a run of the first 40 days."""
        given = {"since": None, "until": BEGAN + 40 * DAY, "champion": "", "first": True, **spec}
        return prepare_run(self.state, StartRun(run, attempt, "late", "asked by a test", **given))  # type: ignore[arg-type]

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the host of a prepared run."""
        arguments = ["--run", str(folder), "--state", str(self.state), "--stack", str(self.folder / "mainspring.yaml")]
        with (folder / "host.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mainspring.pipelines.host", *arguments], env=dict(os.environ), stderr=log
            )

    def run(self, run: str, attempt: int = 1, **spec: object) -> RunSeen:
        """Do a run to its end."""
        folder = self.prepare(run, attempt, **spec)
        process = self.start(folder)
        try:
            status = process.wait(timeout=120)
        finally:
            process.kill()
        seen = read_run(folder)
        assert status == (0 if seen.state == "succeeded" else 1), (folder / "host.log").read_text()
        return seen

    def log(self, run: str, step: str) -> str:
        """What a step said."""
        return (self.state / "runs" / run / "logs" / f"{step}.log").read_text()


def states(seen: RunSeen) -> dict[str, str]:
    """How each step stands."""
    return {step.name: step.state for step in seen.steps}


@pytest.fixture
def product(tmp_path: Path) -> Product:
    """A tiny product of this test's own."""
    made = Product(tmp_path)
    made.write(code=CODE, stack=STACK, data=trips())
    return made


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Product:
    """A tiny product whose first run `late-1` has ended; tests only read it, or add runs with names of their own."""
    made = Product(tmp_path_factory.mktemp("trained"))
    made.write(code=CODE, stack=STACK, data=trips())
    made.run("late-1")
    return made


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for something that another process does."""
    import time

    def wait(holds: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it did not come"
            time.sleep(0.01)

    return wait
