"""One scikit-learn model under every predictive runtime of one real stack: through the gateway all answer the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tests.engine.rolling import Scene
from tests.engine.runtimes import machine as here
from tests.engine.runtimes import models

from mainspring.pipelines.registry import Registry
from mainspring.testing import runtime_artefacts as judge
from mainspring.testing.serving import call

pytestmark = pytest.mark.engine

SAME = 1e-5
QUICK = ("onnx", "triton", "mlserver")
ALL = (*QUICK, "torchserve", "bentoml", "mlflow")
PATIENCE = 240.0  # seconds until all servers of a stack are ready


def stack(folder: Path, names: Sequence[str], model: Any) -> Scene:
    """A stack with one endpoint for each runtime, whose model is registered, gated elsewhere, and the champion."""
    state = folder / ".mainspring"
    models.as_onnx(state / "artefacts" / "delay" / "delay-1", model)
    models.as_pyfunc(state / "artefacts" / "pyfunc" / "pyfunc-1", model)
    registry = Registry(state)
    registry.prepare()
    try:
        for name in ("delay", "pyfunc"):
            number = registry.register(name, f"{name}-1")
            if name == "pyfunc":
                version = next(one for one in registry.versions() if one.model == name)
                registry.trust(name, number, version.digest)
            registry.set_alias(name, "champion", number)
    finally:
        registry.close()
    serving = {
        f"by-{name}": {
            "model": "pyfunc@champion" if name == "mlflow" else "delay@champion", "runtime": name,
            "objective": {"p95": "1s"},
        }
        for name in names
    }  # fmt: skip
    spec = {
        "mainspring": 1, "stack": "agree", "compute": {"here": {"machine": "this", "price": "$0.10/h"}},
        "orchestration": {"where": "here", "gateway": {"port": 0}}, "serving": serving,
    }  # fmt: skip
    scene = Scene(folder / "mainspring.yaml", "delay", f"by-{names[0]}")
    scene.path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return scene


def wanted(model: Any, table: Any) -> list[float]:
    """What scikit-learn itself says."""
    found: list[float] = model.predict_proba(pd.DataFrame(table, columns=models.COLUMNS))[:, 1].tolist()
    return found


def agrees(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Bring the stack up, and compare; a generator so that what was started is always ended."""
    for name in names:
        here.installed(name)
    model = models.fitted()
    scene = stack(folder, names, model)
    try:
        scene.up()
        ready = lambda: all(  # noqa: E731  # asked again and again
            call(scene.control.gateway(), "GET", f"/v2/models/by-{name}/ready").status == 200 for name in names
        )
        scene.until("all servers to be ready", ready, PATIENCE)
        for count in (1, 7, 64):
            table = models.rows(count, seed=count)
            columns = {name: table[:, at].tolist() for at, name in enumerate(models.COLUMNS)}
            body = judge.request(columns, models.FIELDS, id=f"r-{count}")
            for name in names:
                reply = call(scene.control.gateway(), "POST", f"/v2/models/by-{name}/infer", body, timeout=60)
                assert reply.status == 200, f"{name}: {reply}\n{scene.tell()}"
                said = reply.json()
                assert said["outputs"][0]["data"] == pytest.approx(wanted(model, table), abs=SAME), name
                assert said["id"] == f"r-{count}", name
        yield
        doors(scene.control.gateway(), names, model)
    finally:
        scene.clear()


def doors(gateway: str, names: Sequence[str], model: Any) -> None:
    """A client of TensorFlow Serving or TorchServe gets the same from each, whoever answers behind."""
    table = models.rows(3, seed=5)
    instances = [dict(zip(models.COLUMNS, row.tolist(), strict=True)) for row in table]
    numbers = pytest.approx(wanted(model, table), abs=SAME)
    for name in names:
        body = json.dumps({"instances": instances}).encode()
        reply = call(gateway, "POST", f"/v1/models/by-{name}:predict", body, timeout=60)
        assert reply.json()["predictions"] == numbers, f"{name}: {reply}"
        told = call(gateway, "POST", f"/predictions/by-{name}", json.dumps(instances).encode(), timeout=60)
        assert told.status == 200, f"{name}: {told}"


@pytest.mark.light
def test_the_quick_ones_agree(tmp_path: Path) -> None:
    """ONNX Runtime, Triton and MLServer."""
    assert len(list(agrees(tmp_path / "stack", QUICK))) == 1


def test_all_agree(tmp_path: Path) -> None:
    """TorchServe, BentoML and MLflow's pyfunc, too."""
    assert len(list(agrees(tmp_path / "stack", ALL))) == 1
