"""An MLflow model as a replica: its signature decides what `predict` gets, and nothing untrusted is unpickled."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.load import save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.mlmodel import read_mlmodel
from mainspring.errors import ArtefactError, EnvironmentError_, UserCodeError
from mainspring.replicas.mlflow.pyfunc import PyfuncScorer
from mainspring.runtimes.descriptor import Model, Place
from mainspring.runtimes.mlflow import MLFLOW
from mainspring.testing.own_models import NUMBERS, sklearn_artefact
from mainspring.testing.serving import Process, Site, call, infer_body, post_all

PATH = "/v2/models/-/infer"
ROWS = np.random.default_rng(3).normal(size=(200, 4)).round(3)
LATE = (ROWS[:, 0] - ROWS[:, 2] > 0).astype(int)
FRAME = pd.DataFrame(ROWS, columns=[one.name for one in NUMBERS])
COLUMNS: dict[str, Any] = {name: FRAME[name].tolist() for name in FRAME.columns}

MODEL = """
import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Own(PythonModel):
    def predict(self, context, model_input, params=None):
        return BODY


set_model(Own())
"""
"""A pyfunc model whose code is a file."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """MLflow warns of much that is no concern of ours when a model is saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Any]:
    """An artefact of a logistic regression that answers with probabilities, its manifest, and the model."""
    folder = tmp_path_factory.mktemp("mlflow") / "a"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression().fit(FRAME, LATE)
        manifest = sklearn_artefact(folder, model, FRAME, pyfunc_predict_fn="predict_proba", pip_requirements=[
            "scikit-learn==0.0.1", "no-such-package==1.2.3", "numpy"])  # fmt: skip
    return folder, manifest, model


def pyfunc_artefact(folder: Path, body: str, columns: list[tuple[str, str, bool]], **more: Any) -> Manifest:
    """An artefact of `MODEL`: `columns` are (name, MLflow's type, required); its manifest is read from its page."""
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    folder.mkdir(parents=True)
    source = folder / "own_pyfunc.py"
    source.write_text(MODEL.replace("BODY", body), encoding="utf-8")
    signature = more.pop("signature", None)
    if signature is None:
        schema = Schema([ColSpec(kind, name, required=required) for name, kind, required in columns])
        signature = ModelSignature(inputs=schema, outputs=Schema([ColSpec("double")]))
    pyfunc.save_model(str(folder / "model"), python_model=str(source), signature=signature,
                      pip_requirements=["numpy"], **more)  # fmt: skip
    return described(folder)


def described(folder: Path) -> Manifest:
    """Write the manifest that follows from the model's page."""
    inside = folder / "model"
    manifest = Manifest(model="delay", run="own-1", format="mlflow", digest=digest_of_folder(inside),
                        inputs=read_mlmodel(inside).inputs, output="late")  # fmt: skip
    save_manifest(folder, manifest)
    return manifest


def scorer(folder: Path, body: str, columns: list[tuple[str, str, bool]], **more: Any) -> PyfuncScorer:
    """The scorer of a pyfunc model with this body."""
    return PyfuncScorer(folder, pyfunc_artefact(folder, body, columns, **more).digest)


# --- answers


def test_answers_equal_the_model(made: tuple[Path, Manifest, Any]) -> None:
    """One row or many, scores are the model's own probabilities of the last class."""
    folder, manifest, model = made
    one = PyfuncScorer(folder, manifest.digest)
    expected = model.predict_proba(FRAME)[:, 1]
    assert np.abs(one.score(COLUMNS) - expected).max() < 1e-12
    assert abs(one.score({k: v[:1] for k, v in COLUMNS.items()})[0] - expected[0]) < 1e-12


def test_columns_have_the_signatures_types(tmp_path: Path) -> None:
    """Each column comes in the type that the signature has, so that MLflow's own check of it passes."""
    columns = [("i", "integer", True), ("l", "long", True), ("f", "float", True), ("d", "double", True),
               ("b", "boolean", True), ("s", "string", True), ("o", "double", False)]  # fmt: skip
    body = "[sum(map(ord, ' '.join(str(t) for t in model_input.dtypes[['i', 'l', 'f', 'd', 'b']])))] * len(model_input)"
    one = scorer(tmp_path / "a", body, columns)
    given = {"i": [1], "l": [2**53 + 1], "f": [0.5], "d": [0.25], "b": [True], "s": ["x"], "o": [None]}
    wanted = "int32 int64 float32 float64 bool"
    assert one.score(given).tolist() == [float(sum(map(ord, wanted)))]


def test_large_integers_are_exact(tmp_path: Path) -> None:
    """A `long` beyond 2**53 reaches the model as it was sent."""
    one = scorer(tmp_path / "a", "(model_input['l'] % 10).to_numpy()", [("l", "long", True)])
    assert one.score({"l": [2**53 + 1, 12]}).tolist() == [3.0, 2.0]


def test_a_matrix(tmp_path: Path) -> None:
    """A model whose signature is one array gets an array, its columns in the manifest's order."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    tensor = Schema([TensorSpec(np.dtype(np.float32), (-1, 3))])
    body = "model_input[:, 0] * 100 + model_input[:, 1] * 10 + model_input[:, 2]"
    one = scorer(tmp_path / "a", body, [], signature=ModelSignature(inputs=tensor))
    assert [field.name for field in one.manifest.inputs] == ["x0", "x1", "x2"]
    assert one.score({"x2": [3, 6], "x1": [2, 5], "x0": [1, 4]}).tolist() == [123.0, 456.0]


def test_labels_are_told_how_to_become_numbers(tmp_path: Path) -> None:
    """A classifier of words is told how to log it so that it answers with probabilities."""
    model = LogisticRegression().fit(FRAME, np.where(LATE, "late", "on time"))
    manifest = sklearn_artefact(tmp_path / "a", model, FRAME, pip_requirements=["scikit-learn"])
    one = PyfuncScorer(tmp_path / "a", manifest.digest)
    with pytest.raises(UserCodeError, match=r"`the model` returned `'.*'`, which is not a number") as error:
        one.score(COLUMNS)
    assert 'pyfunc_predict_fn="predict_proba"' in error.value.message


def test_fractions_are_not_cut_off(tmp_path: Path) -> None:
    """An integer column that is given fractions is refused, not rounded; a null in it is refused by MLflow."""
    folder = tmp_path / "a"
    manifest = pyfunc_artefact(folder, "model_input['l'].to_numpy()", [("l", "long", True)])
    fields = (Field("l", "FP64"),)  # of a manifest made by hand
    save_manifest(folder, Manifest(**{**{k: getattr(manifest, k) for k in manifest.__slots__}, "inputs": fields}))
    one = PyfuncScorer(folder, manifest.digest)
    assert one.score({"l": [1.0, 2.0]}).tolist() == [1.0, 2.0]
    with pytest.raises(UserCodeError, match="`l` has fractions"):
        one.score({"l": [1.5]})
    with pytest.raises(UserCodeError, match="the model raised"):
        one.score({"l": [None]})


# --- trust, and what is missing


def test_only_the_trusted_digest_is_loaded(made: tuple[Path, Manifest, Any], tmp_path: Path) -> None:
    """Another digest, a changed file and another format are refused before the pickle is touched."""
    folder, manifest, _ = made
    ran = tmp_path / "ran"
    shutil.copytree(folder, tmp_path / "a")
    with pytest.raises(ArtefactError, match="is not the model that was trusted"):
        PyfuncScorer(tmp_path / "a", "sha256:" + "0" * 64)
    evil = f"cos\nsystem\n(S'touch {ran}'\ntR."
    (tmp_path / "a" / "model" / "model.pkl").write_text(evil)
    with pytest.raises(ArtefactError, match="its digest differs"):
        PyfuncScorer(tmp_path / "a", manifest.digest)
    assert not ran.exists()
    changed = described(tmp_path / "a")
    with pytest.raises(ArtefactError, match="is not the model that was trusted"):
        PyfuncScorer(tmp_path / "a", manifest.digest)
    assert not ran.exists()
    with pytest.raises(UserCodeError):  # trusted, so it runs: what was refused above does run when it is not
        PyfuncScorer(tmp_path / "a", changed.digest)
    assert ran.exists()


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """A model that imports what the environment lacks says which package, and which command tells more."""
    folder = tmp_path / "a"
    pyfunc_artefact(folder, "1", [("x", "double", True)])
    [code] = (folder / "model").rglob("own_pyfunc.py")
    code.write_text("import no_such_library_at_all\n" + code.read_text())
    manifest = described(folder)
    with pytest.raises(EnvironmentError_, match="needs the package `no_such_library_at_all`") as error:
        PyfuncScorer(folder, manifest.digest)
    assert error.value.hint == "mainspring runtime doctor mlflow"


def test_other_versions_are_told(made: tuple[Path, Manifest, Any], caplog: pytest.LogCaptureFixture) -> None:
    """What the model was saved with and is not here, or in another version, is in the log; it is loaded anyway."""
    folder, manifest, _ = made
    with caplog.at_level(logging.INFO):
        PyfuncScorer(folder, manifest.digest)
    assert "saved with scikit-learn 0.0.1; here is" in caplog.text
    assert "saved with no-such-package 1.2.3, which is not here" in caplog.text


# --- the process


@pytest.fixture(scope="module")
def served(made: tuple[Path, Manifest, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Its process, in this interpreter, which has MLflow too."""
    folder, manifest, _ = made
    with Site(tmp_path_factory.mktemp("site")) as site:
        words = ["mainspring.replicas.mlflow", "--artefact", str(folder), "--name", "delay-1-0", "--model", "delay",
                 "--version", "1", "--code", str(site.folder / "code"), "--digest", manifest.digest]  # fmt: skip
        process = site.start("delay-1-0", words)
        process.wait_ready(60)
        yield process


def test_the_process(served: Process, made: tuple[Path, Manifest, Any]) -> None:
    """It speaks what an ONNX replica speaks, in batches; a row that the model can't score fails alone."""
    expected = made[2].predict_proba(FRAME)[:, 1]
    bodies = [infer_body({name: COLUMNS[name][at] for name in COLUMNS}, f"r{at}") for at in range(60)]
    bodies[7] = infer_body(dict.fromkeys(COLUMNS), "bad")
    replies = asyncio.run(post_all(lambda: served.address, PATH, bodies, at_once=20))
    assert [reply.status for reply in replies] == [500 if at == 7 else 200 for at in range(60)]
    assert "the model raised ValueError" in replies[7].json()["error"]
    found = [reply.json()["outputs"][0]["data"][0] for at, reply in enumerate(replies) if at != 7]
    assert np.abs(np.array(found) - np.delete(expected[:60], 7)).max() < 1e-12
    metrics = call(served.address, "GET", "/metrics").body.decode()
    assert int(metrics.split("batches_total ")[1].split()[0]) < 60
    assert call(served.address, "GET", "/v2/models/delay/ready").status == 200


@pytest.mark.parametrize(("said", "says"), [(("--digest", "sha256:00"), "which was chosen"), ((), "that was trusted")])
def test_another_digest_ends_it(
    made: tuple[Path, Manifest, Any], tmp_path: Path, said: tuple[str, ...], says: str
) -> None:
    """The process ends with status 2 when the digest is not the trusted one, or none was given."""
    with Site(tmp_path / "site") as site:
        words = ["mainspring.replicas.mlflow", "--artefact", str(made[0]), "--name", "d-1-0", "--model", "d",
                 "--version", "1", "--code", str(site.folder), *said]  # fmt: skip
        process = site.start("d-1-0", words)
        assert process.popen.wait(30) == 2
        assert says in process.log.read_text()


def test_the_descriptor() -> None:
    """The command names the trusted digest, the port and Mainspring's source, and turns telemetry off."""
    assert MLFLOW.server is not None
    model = Model(
        name="delay-3", endpoint="delay", version="3", format="mlflow", artefact="/a", digest="sha256:1", code="/code"
    )
    place = Place("/w", "/e", "/e/bin/python", "/e/lib", "/src", {"http": 81}, threads=2, batch=8, wait=0.01)
    command = MLFLOW.server.command(model, place)
    assert command.argv[:3] == ("/e/bin/python", "-m", "mainspring.replicas.mlflow")
    said = dict(zip(command.argv[3::2], command.argv[4::2], strict=True))
    assert said["--digest"] == "sha256:1"
    assert said["--port"] == "81"
    assert said["--batch-size"] == "8"
    assert command.env["PYTHONPATH"] == "/src"
    assert command.env["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert said["--model"] == "delay"  # clients see the endpoint's name, whatever the revision
    assert MLFLOW.server.ready(model) == "/v2/models/-/ready"
    assert json.dumps(said).count("token") == 0
