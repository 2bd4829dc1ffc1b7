"""A starter stack that works: one file, one model in Python, sixty days of made-up data.

What this is: the files of `mainspring init`, as text; all pure but `write`. Who calls it: the CLI's `init`; tests.
What it must never do: overwrite a file, or make different data for the same day.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from mainspring.errors import EnvironmentError_, InputError
from mainspring.stack.schema import json_schema

DAYS = 60
ROWS_A_DAY = 50
SCHEMA = "mainspring.schema.json"
KEPT = 14  # days at the end that the first version is not trained on, or there is nothing to judge a second one by
FIRST_TO = "2000-01-01"  # stands for the last day that it is trained on

STACK = f"""\
# yaml-language-server: $schema={SCHEMA}
# parcels: will this parcel arrive late?
mainspring: 1
stack: parcels

compute:                          # 1  what there is
  laptop: {{machine: this, price: $0.10/h}}

orchestration:                    # 2  where it runs, and how far it may go alone
  where: laptop
  control: act                    #    watch | suggest | act

serving:                          # 3  what answers
  delay:
    model: delay@champion
    truth: {{field: late, within: 7d}}
    objective: {{p95: 50ms, availability: 99.9%}}
    rollout:                      #    a new version walks down this list
      - {{mirror: 100%, for: 10m}}
      - {{canary: 10%, for: 10m, otherwise: proceed}}  # 99.9% takes 3,800 answers to be sure of
      - {{all: 100%}}
    abort: {{errors: 5%}}

pipelines:                        # 4  how a version is made
  delay:
    produces: delay
    data: {{parcels: parcels.csv}}
    first: {{to: {FIRST_TO}}}       #    the two weeks after it judge your first change
    steps:                        #    plain functions; parameters are filled by name
      ingest: model:ingest
      features: model:features
      train: {{run: model:train, timeout: 5m, with: {{strength: 1.0}}}}
    gates:                        #    what a version must pass before it sees traffic
      auc: {{at_least: 0.60, rows: last 14d}}
      brier: {{no_worse_by: 0.005, rows: last 14d}}
      latency: {{p95: 50ms}}
    retrain: {{when: [inputs, worse], at_most: 4 per month, cooldown: 1d}}

monitoring:                       # 5  what to watch
  every: 1d
  drift:
    inputs: {{features: [distance_km, weight_kg, rain_mm]}}
  quality:
    worse: {{brier_skill: below 2%, over: 14d}}

cost:                             # 6  what it may spend
  budget: $10/month
"""

MODEL = '''\
"""Will this parcel arrive late? One function a step; `mainspring.yaml` names them."""

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FIELDS = ["distance_km", "weight_kg", "rain_mm"]


def ingest(parcels: pd.DataFrame) -> pd.DataFrame:
    """One row a parcel: when it was sent, its id, whether it came late, and what was known by then."""
    return parcels.assign(time=pd.to_datetime(parcels["time"], utc=True), id=parcels["id"].astype(str))


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Turn raw fields into numbers; the same function is used for training and for each request."""
    return rows[FIELDS].astype("float32")


def train(ingest: pd.DataFrame, features: pd.DataFrame, strength: float = 1.0):
    """Fit the model."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength))
    return model.fit(features.to_numpy(), ingest["late"].to_numpy())
'''


def _uniform(*key: object) -> float:
    """A number in [0, 1) that depends on its key alone."""
    digest = hashlib.sha256(":".join(str(one) for one in key).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _parcels(until: date) -> Iterator[str]:
    yield "time,id,late,distance_km,weight_kg,rain_mm"
    first = datetime.combine(until - timedelta(days=DAYS), datetime.min.time(), timezone.utc)
    for day in range(DAYS):
        rain = max(0.0, 12 * _uniform("rain", day) - 5)
        for row in range(ROWS_A_DAY):
            sent = first + timedelta(days=day, seconds=int((row + _uniform("sent", day, row)) * 86400 / ROWS_A_DAY))
            distance = 20 + 780 * _uniform("distance", day, row) ** 2
            weight = 0.2 + 20 * _uniform("weight", day, row) ** 3
            log_odds = -2.4 + 0.004 * distance + 0.05 * weight + 0.25 * rain
            late = int(_uniform("late", day, row) < 1 / (1 + math.exp(-log_odds)))
            name = f"p{day:02d}-{row:03d}"
            yield f"{sent:%Y-%m-%dT%H:%M:%SZ},{name},{late},{distance:.1f},{weight:.2f},{rain:.1f}"


def starter(until: date) -> dict[str, str]:
    """The starter's files by name; the data's last day is the one before `until`."""
    return {
        "mainspring.yaml": STACK.replace(FIRST_TO, f"{until - timedelta(days=KEPT + 1):%Y-%m-%d}"),
        "model.py": MODEL,
        "parcels.csv": "\n".join(_parcels(until)) + "\n",
        SCHEMA: json.dumps(json_schema(), indent=1) + "\n",
    }


def write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files into a folder, which is made if need be; all or none. Returns their paths.

    Raises `InputError` when one of them is there already, `EnvironmentError_` when the folder can't be written.
    """
    for name in files:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise InputError("init-exists", f"`{folder / name}` is there already", "mainspring init OTHER-FOLDER")
    done: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (folder / name).open("x", encoding="utf-8") as file:
                done.append(folder / name)
                file.write(text)
    except OSError as error:
        for path in done:
            path.unlink(missing_ok=True)
        said = error.strerror or str(error)
        raise EnvironmentError_(
            "init-failed", f"`{folder}` can't be written: {said}", "mainspring init OTHER-FOLDER"
        ) from error
    return done
