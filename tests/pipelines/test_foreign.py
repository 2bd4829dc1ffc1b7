"""Versions that somebody's MLflow client registered, and marks of trust, in a real registry."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mainspring.artefacts.load import load_manifest
from mainspring.artefacts.manifest import Field
from mainspring.loop.snapshot import VersionSeen
from mainspring.pipelines import foreign
from mainspring.pipelines.registry import TRUSTED_TAG, Registry

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # MLflow's, as it logs


@dataclass
class Foreign:
    """A registry with version 2 of `late` by another client; `folder` is where its files were registered."""

    registry: Registry
    client: Any
    folder: Path

    def version(self, number: str = "2") -> VersionSeen:
        """A version as Mainspring sees it."""
        return next(v for v in self.registry.versions() if v.number == number)


def _log(uri: str, folder: Path) -> Path:
    """Log and register a model by MLflow's own API; gives the folder that its files are in."""
    import mlflow
    from mlflow import MlflowClient

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri, uri)
    rows = pd.DataFrame({"far": [0.1, 0.9, 0.4, 0.6], "carrier": [1, 2, 1, 2]})
    model = LogisticRegression().fit(rows, [0, 1, 0, 1])
    given = {"registered_model_name": "late", "serialization_format": "cloudpickle", "input_example": rows[:2]}
    try:
        with mlflow.start_run(experiment_id=client.create_experiment("e", artifact_location=folder.as_uri())):
            mlflow.sklearn.log_model(model, name="m", **given)
        return Path(client.get_model_version_download_uri("late", "1").removeprefix("file://"))
    finally:
        mlflow.set_tracking_uri(before)


@pytest.fixture(scope="session")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A state folder whose registry somebody logged a model into, and that model's folder."""
    folder = tmp_path_factory.mktemp("foreign")
    registry = Registry(folder / "state")
    registry.prepare()
    registry.close()
    return folder / "state", _log(f"sqlite:///{registry.database}", folder / "theirs")


@pytest.fixture
def theirs(logged: tuple[Path, Path], tmp_path: Path) -> Iterator[Foreign]:
    """A copy of it, with the model's files in a folder of their own."""
    shutil.copytree(logged[0], tmp_path / "state")
    folder = shutil.copytree(logged[1], tmp_path / "theirs")
    registry = Registry(tmp_path / "state")
    registry.prepare()
    from mlflow import MlflowClient

    uri = f"sqlite:///{registry.database}"
    client = MlflowClient(uri, uri)
    client.delete_model_version("late", "1")
    client.create_model_version("late", folder.as_uri())  # number 2
    yield Foreign(registry, client, folder)
    registry.close()


def test_what_mlflows_own_api_registers_is_found(logged: tuple[Path, Path]) -> None:
    """MLflow names such a version's source by a model's id; its files are looked for where they are."""
    registry = Registry(logged[0])
    (seen,) = registry.versions()
    assert (seen.format, seen.servable, Path(seen.artefact).name) == ("mlflow", False, "mlflow-1")
    assert registry.same("late", load_manifest(Path(seen.artefact))) == ""
    registry.close()


def test_a_version_of_somebody_elses_is_servable_once_it_is_trusted(theirs: Foreign) -> None:
    """Its manifest follows from its signature; it unpickles, so that it needs the mark of its digest."""
    seen = theirs.version()
    assert (seen.format, seen.output, seen.servable, seen.trusted) == ("mlflow", "prediction", False, False)
    assert seen.inputs == (("far", "FP64"), ("carrier", "INT64"))
    assert seen.note == (
        "an MLflow model of flavour sklearn is unpickled when it is loaded, and it is not trusted: "
        "`mainspring models trust late@2`"
    )
    manifest = load_manifest(Path(seen.artefact))
    assert manifest.inputs == (Field("far", "FP64"), Field("carrier", "INT64", nullable=False))
    assert "unpickled" in theirs.registry.runs_code(seen)

    theirs.registry.trust("late", "2", seen.digest)
    assert theirs.version().servable
    assert theirs.version().trusted
    assert theirs.client.get_model_version("late", "2").tags[TRUSTED_TAG] == seen.digest
    theirs.registry.trust("late", "2", "")
    theirs.registry.trust("late", "2", "")
    assert not theirs.version().servable


def test_a_changed_file_makes_the_mark_void(theirs: Foreign) -> None:
    """The version can't be served, whoever changed it, and a mark for another digest is none."""
    seen = theirs.version()
    theirs.registry.trust("late", "2", seen.digest)
    pickled = Path(seen.artefact) / "model" / "model.pkl"
    pickled.write_bytes(pickled.read_bytes() + b"more")
    changed = theirs.version()
    assert not changed.servable
    assert "its digest differs" in changed.note


def test_a_mark_for_another_digest_is_none(theirs: Foreign) -> None:
    """What was trusted is those very files."""
    theirs.registry.trust("late", "2", "sha256:" + "0" * 64)
    assert "it was changed since it was trusted" in theirs.version().note
    assert (theirs.version().trusted, theirs.version().servable) == (False, False)


def test_a_model_without_a_signature_is_told_how_to_get_one(theirs: Foreign) -> None:
    """It is listed, not servable, with the reason; the same from a new process."""
    (theirs.folder / "MLmodel").write_text("flavors: {sklearn: {}}")
    assert "has no signature" in theirs.version().note
    assert not theirs.version().servable
    again = Registry(theirs.registry.state)
    assert not again.versions()[0].servable
    again.close()


def test_looking_at_a_version_never_imports_or_loads_it(theirs: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that would run code when it is loaded does not, however often the registry looks."""
    ran = theirs.folder / "ran"
    (theirs.folder / "model.pkl").write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % str(ran).encode())
    before = set(sys.modules)
    seen = theirs.version()
    assert "unpickled" in seen.note
    assert not ran.exists()
    assert not {name for name in set(sys.modules) - before if name.startswith("mlflow.pyfunc")}


def test_a_large_foreign_model_is_added_by_hand(theirs: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle doesn't copy gigabytes: the note names the command that does."""
    monkeypatch.setattr(foreign, "LARGEST", 100)
    assert "mainspring models add late" in theirs.version().note
    assert not theirs.version().servable


def test_a_folder_with_a_link_in_it_is_not_taken_over(theirs: Foreign, tmp_path: Path) -> None:
    """A link out of the folder would make another file servable than the one that was registered."""
    (theirs.folder / "model.pkl").unlink()
    (theirs.folder / "model.pkl").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in theirs.version().note
    assert not theirs.version().servable


def test_a_version_that_is_nowhere_is_seen_as_that(theirs: Foreign) -> None:
    """A source in another place, a model whose run is gone: listed, and not servable."""
    theirs.client.create_model_version("late", "s3://bucket/model")
    theirs.client.create_model_version("late", "file:///nowhere/at/all")
    assert [v.servable for v in theirs.registry.versions()] == [False] * 3
