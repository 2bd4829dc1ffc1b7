"""The manual: `explain`, the JSON schema and the starter say what the models say."""

from __future__ import annotations

import ast
import csv
import json
from datetime import date
from pathlib import Path

import pytest

from mainspring.errors import InputError
from mainspring.stack import fields
from mainspring.stack.explain import describe, explain, reference
from mainspring.stack.init import DAYS, ROWS_A_DAY, starter, write
from mainspring.stack.load import check
from mainspring.stack.notes import notes
from mainspring.stack.schema import DIALECT, json_schema


def everywhere(place: fields.Place = fields.ROOT) -> list[fields.Place]:
    """All places of the file."""
    found = [place]
    for _, child in place.children():
        found += everywhere(child)
    entry = place.entry()
    return found + (everywhere(entry) if entry and entry.section else [])


@pytest.mark.parametrize("place", everywhere(), ids=lambda place: place.path or "root")
def test_every_place_is_explained(place: fields.Place) -> None:
    """Each key has a docstring and is explained in 80 columns, with or without the names."""
    assert place.doc, f"{place.path} has no docstring"
    text = explain(place.path)
    assert text.startswith(place.path or "mainspring.yaml")
    assert all(len(line) <= 80 for line in text.splitlines())
    if place.path == "compute.NAME":
        return  # `compute` has keys of its own beside the names
    short = ".".join(piece for piece in place.path.split(".") if piece not in ("NAME", "N"))
    assert describe(short)["keys"].keys() == describe(place.path)["keys"].keys()


def test_names_may_be_given_starred_or_left_out() -> None:
    """`serving.delay.batch`, `serving.*.batch` and `serving.batch` are one place."""
    assert explain("serving.delay.batch") == explain("serving.*.batch") == explain("serving.batch")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("serving.rolout", "mainspring explain serving.rollout"),
        ("servin", "mainspring explain serving"),
        ("serving.delay.batch.sise", "mainspring explain serving.delay.batch.size"),
        ("cost.budget.x.y", "mainspring explain cost.budget"),
        ("x" * 10_000, "mainspring explain"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, hint: str) -> None:
    """An unknown path names the nearest that is there."""
    with pytest.raises(InputError) as caught:
        explain(path)
    assert caught.value.hint == hint
    assert len(caught.value.message) < 300


def test_defaults_are_written_as_a_person_would() -> None:
    """Defaults come out in the file's own units."""
    assert describe("serving.batch.wait")["default"] == "2ms"
    assert describe("orchestration.restarts")["default"] == "5 per 10m"
    assert describe("monitoring.every")["default"] == "1d"
    assert describe("pipelines.gates.brier.confidence")["default"] == "95%"
    assert describe("serving.rollout")["default"] == [{"canary": "10%", "for": "1h"}, {"all": "100%"}]
    assert describe("serving.model")["required"]


def test_the_schema_is_of_its_dialect_and_complete() -> None:
    """The schema is draft 2020-12, JSON, closed to unknown keys, and describes every key."""
    schema = json_schema()
    assert schema["$schema"] == DIALECT
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["required"] == ["mainspring", "stack", "compute", "orchestration"]
    for name, definition in schema["$defs"].items():
        parts = [definition, *definition.get("anyOf", [])]
        properties = next((part["properties"] for part in parts if "properties" in part), None)
        assert properties, name
        assert all(entry.get("description") for entry in properties.values()), name
    assert {option.get("type") for option in schema["$defs"]["StepSpec"]["anyOf"]} == {"string", "object"}


def test_the_starter_is_a_right_stack(tmp_path: Path) -> None:
    """What `init` writes is valid, functions included, has nothing to note, and enough rows to hold some out."""
    files = starter(date(2024, 3, 1))
    paths = write(tmp_path / "new", files)
    assert [path.name for path in paths] == list(files)
    document = check(paths[0])
    assert notes(document.stack) == ()
    ast.parse(files["model.py"])
    rows = list(csv.DictReader(files["parcels.csv"].splitlines()))
    assert len(rows) == DAYS * ROWS_A_DAY
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert rows[-1]["time"].startswith("2024-02-29")
    assert 0.1 < sum(int(row["late"]) for row in rows) / len(rows) < 0.6


def test_the_starter_s_model_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter's own functions make a model that clears the starter's own gate on rows it was not trained on."""
    pandas = pytest.importorskip("pandas")
    metrics = pytest.importorskip("sklearn.metrics")
    write(tmp_path, starter(date(2024, 3, 1)))
    scope: dict[str, object] = {"__name__": "starter"}
    exec(compile((tmp_path / "model.py").read_text(), "model.py", "exec"), scope)
    rows = scope["ingest"](pandas.read_csv(tmp_path / "parcels.csv"))
    features = scope["features"](rows)
    cut = len(rows) - 14 * ROWS_A_DAY
    model = scope["train"](rows[:cut], features[:cut])
    score = model.predict_proba(features[cut:].to_numpy())[:, 1]
    assert metrics.roc_auc_score(rows["late"][cut:], score) > 0.65
    truth = rows["late"][cut:]
    assert metrics.brier_score_loss(truth, score) < truth.mean() * (1 - truth.mean())


def test_the_starter_overwrites_nothing(tmp_path: Path) -> None:
    """A file that is there stops `init` before anything is written."""
    (tmp_path / "model.py").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        write(tmp_path, starter(date(2024, 3, 1)))
    assert "model.py" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert (tmp_path / "model.py").read_text(encoding="utf-8") == "mine"


def test_the_page_is_what_the_models_say() -> None:
    """`docs/stack-file.md` ends with the reference as `make docs` writes it."""
    page = Path(__file__).parents[2] / "docs" / "stack-file.md"
    assert page.read_text(encoding="utf-8").endswith(reference()), "run `make docs`"
