"""Will this flight be more than 15 minutes late, or cancelled?

Plain functions, one a step of the pipeline; `mainspring.yaml` names them. Each asks for what it needs by the
names of its parameters: a source of data, an earlier step, or a value of `with`. Nothing here knows Mainspring.

All moments are in UTC. A flight's moment is its scheduled departure; everything a row holds was known two
hours before that, but for `late`, which is the outcome.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import brier_score_loss, roc_auc_score

WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
TEXTS = ["carrier", "origin", "dest"]
NUMBERS = ["weekday", "sched_dep_time", "sched_arr_time", "distance", "seats", "plane_year", *WEATHER]
FIELDS = [*TEXTS, *NUMBERS]
"""What a request carries."""


def ingest(flights: pd.DataFrame, weather: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    """Join flights, planes and the weather two hours before departure; one row a flight, in order of time."""
    hour = pd.to_datetime(flights["time_hour"], utc=True)  # the scheduled hour, in UTC as the file gives it
    day = pd.to_datetime(flights[["year", "month", "day"]])  # the day in New York, which passengers call the date
    table = pd.DataFrame(
        {
            "time": hour + pd.to_timedelta(flights["minute"], unit="min"),
            "id": _ids(flights, day),
            "late": _late(flights),
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "weekday": day.dt.day_of_week,
            "sched_dep_time": flights["sched_dep_time"],
            "sched_arr_time": flights["sched_arr_time"],
            "distance": flights["distance"].astype("float64"),
            "tailnum": flights["tailnum"],
            "seen": hour - pd.Timedelta(hours=2),
        }
    )
    planes = planes[["tailnum", "seats", "year"]].rename(columns={"year": "plane_year"})
    planes = planes.astype({"seats": "float64", "plane_year": "float64"})
    weather = weather[["origin", *WEATHER]].assign(seen=pd.to_datetime(weather["time_hour"], utc=True))
    weather = weather.drop_duplicates(["origin", "seen"])
    table = table.merge(planes.drop_duplicates("tailnum"), how="left", on="tailnum")
    table = table.merge(weather, how="left", on=["origin", "seen"])
    return table[["time", "id", "late", *FIELDS]].sort_values(["time", "id"], ignore_index=True)


def _ids(flights: pd.DataFrame, day: pd.Series) -> pd.Series:
    """Name each flight, such as `2013-03-01-UA-1545-EWR-0515`."""
    number, departs = flights["flight"].astype("str"), flights["sched_dep_time"].astype("str").str.zfill(4)
    return day.dt.strftime("%Y-%m-%d-") + flights["carrier"] + "-" + number + "-" + flights["origin"] + "-" + departs


def _late(flights: pd.DataFrame) -> pd.Series:
    """A cancelled flight is late; one that was sent elsewhere (it left, and has no arrival delay) is not."""
    return ((flights["arr_delay"] > 15) | flights["dep_time"].isna()).astype("int64")


def check(ingest: pd.DataFrame) -> dict[str, float]:
    """Stop a bad data set before anything is trained on it."""
    problems = []
    if len(ingest) < 10_000:
        problems.append(f"only {len(ingest)} flights; at least 10,000 are needed")
    if not ingest["id"].is_unique:
        problems.append(f"{int(ingest['id'].duplicated().sum())} flights have the same id as another")
    if not 0.02 < ingest["late"].mean() < 0.9:
        problems.append(f"{ingest['late'].mean():.1%} of the flights are late, which cannot be")
    if not ingest["temp"].dropna().between(-40, 130).all():
        problems.append("temperatures are not in degrees Fahrenheit")
    missing = ingest[FIELDS].isna().mean()
    problems += [f"{share:.0%} of `{field}` is missing" for field, share in missing.items() if share > 0.4]
    if problems:
        raise ValueError("; ".join(problems))
    return {"flights": float(len(ingest)), "late": float(ingest["late"].mean()), "missing": float(missing.max())}


def features(rows: pd.DataFrame) -> pd.DataFrame:
    """Make the model's columns of raw fields, row by row: for training, and for each request.

    A replica calls this on a few rows a thousand times a second, hence NumPy within and one frame at the end.
    """
    out = np.empty((len(rows), len(FIELDS)), dtype=np.float32)
    for place, field in enumerate(FIELDS):
        column = rows[field].to_numpy()
        out[:, place] = _letters(column) if field in TEXTS else column
    for place in _CLOCKS:  # 1545 is 15:45
        hours = np.floor(out[:, place] / 100)
        out[:, place] -= 40 * hours
    return pd.DataFrame(out, columns=_COLUMNS, index=rows.index, copy=False)


_COLUMNS = pd.Index(FIELDS)
_CLOCKS = [FIELDS.index("sched_dep_time"), FIELDS.index("sched_arr_time")]
_PLACES = np.array([65536, 256, 1], dtype=np.float32)


def _letters(texts: np.ndarray) -> np.ndarray:
    """Number codes of up to three letters in alphabetical order, known or not; a missing one is NaN."""
    known = [text.encode("ascii", "replace") if isinstance(text, str) else b"" for text in texts.tolist()]
    letters = np.array(known, dtype="S3").view(np.uint8).reshape(-1, 3)
    numbers = letters.astype(np.float32) @ _PLACES  # below 2**24: exact
    return np.where(numbers > 0, numbers, np.nan)


def train(
    features: pd.DataFrame,
    ingest: pd.DataFrame,
    seed: int,
    iterations: int = 100,
    leaves: int = 31,
    learning_rate: float = 0.1,
    min_samples_leaf: int = 200,
    l2: float = 10.0,
) -> HistGradientBoostingClassifier:
    """Fit boosted trees, which take missing values as they are.

    The defaults were chosen in January and February alone: large leaves and a penalty were better on each of three
    later fortnights than the library's own (`benchmarks/flights_policies.py --search`).
    """
    model = HistGradientBoostingClassifier(
        max_iter=iterations,
        max_leaf_nodes=leaves,
        learning_rate=learning_rate,
        min_samples_leaf=min_samples_leaf,
        l2_regularization=l2,
        early_stopping=False,
        random_state=seed,
    )
    return model.fit(features.to_numpy(dtype=np.float32), ingest["late"].to_numpy())


def validate(train: Any, features: pd.DataFrame, ingest: pd.DataFrame) -> dict[str, float]:
    """Measure the model on rows that it was not trained on."""
    late, score = ingest["late"].to_numpy(), train.predict_proba(features.to_numpy(dtype=np.float32))[:, 1]
    brier, plain = brier_score_loss(late, score), float(np.var(late))
    return {
        "rows": float(len(late)),
        "late": float(late.mean()),
        "predicted": float(score.mean()),
        "auc": float(roc_auc_score(late, score)),
        "brier": float(brier),
        "brier_skill": 1 - float(brier) / plain,
    }
