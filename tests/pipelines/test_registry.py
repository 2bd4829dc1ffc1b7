"""MLflow: what we write is what any client sees, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.errors import ArtefactError
from mainspring.pipelines.registry import Registry, shortened
from tests.pipelines.conftest import Product


def test_versions_and_aliases_by_a_plain_client(trained: Product) -> None:
    """A run becomes one version however often it is registered; a plain client and we see the same."""
    registry = Registry(trained.state)
    registry.prepare()
    assert registry.changed()
    assert not registry.changed()
    number = registry.register("late", "late-1")
    assert registry.changed()
    assert registry.register("late", "late-1") == number == "1"
    registry.record_verdict("late", number, "passed", "Brier fine", '{"rows": 275}')
    registry.set_alias("late", "champion", number)
    registry.set_alias("late", "champion", number)

    from mlflow import MlflowClient

    plain = MlflowClient(tracking_uri=f"sqlite:///{trained.state}/mlflow.db")
    version = plain.get_model_version_by_alias("late", "champion")
    assert (str(version.version), version.tags["mainspring.verdict"]) == ("1", "passed")
    run = plain.get_run(version.run_id)
    assert run.data.params["train.strength"] == "1.0"
    assert run.info.status == "FINISHED"
    assert len(run.data.params["data.trips"]) == 64
    assert "mean" in run.data.metrics

    plain.set_registered_model_alias("late", "challenger", "1")
    plain.create_model_version("late", "s3://somewhere/else")
    plain.create_registered_model("theirs")
    assert registry.aliases() == {"late": {"champion": "1", "challenger": "1"}, "theirs": {}}
    registry.set_alias("late", "challenger", "")
    registry.set_alias("late", "challenger", "")
    ours, foreign = registry.versions()
    assert (ours.run, ours.verdict, ours.servable, ours.note) == ("late-1", "passed", True, "Brier fine")
    assert Path(ours.artefact) == (trained.state / "artefacts" / "late" / "late-1").resolve()
    assert (foreign.run, foreign.servable) == ("", False)
    assert registry.aliases()["late"] == {"champion": "1"}

    listed = {run.seen.id: run for run in registry.runs()}["late-1"]
    assert (listed.version, listed.verdict, listed.cause) == ("1", "passed", "asked by a test")
    assert listed.params == {"train.strength": "1.0"}
    assert set(listed.data) == {"trips"}


def test_run_without_artefact_is_refused(tmp_path: Path) -> None:
    """A version is only made of a run that has a sound artefact."""
    registry = Registry(tmp_path)
    with pytest.raises(ArtefactError):
        registry.register("late", "late-77")


def test_a_long_verdict_keeps_its_numbers() -> None:
    """A tag has room for so much: sentences go first, then numbers; what is kept is always JSON."""
    items = [{"name": f"evals.e{n}", "passed": True, "message": "long " * 50, "numbers": {"a": 0.5}} for n in range(20)]
    whole = json.dumps({"passed": True, "items": items})
    assert json.loads(shortened(whole, 10_000))["items"] == items
    short = json.loads(shortened(whole, 4_500))
    assert short["items"][19] == {"name": "evals.e19", "passed": True, "numbers": {"a": 0.5}}
    assert json.loads(shortened(whole, 900))["items"][0] == {"name": "evals.e0", "passed": True}
    assert json.loads(shortened(whole, 100)) == {"passed": True, "items": []}
    assert shortened("something else", 5) == "somet"
