"""BentoML: a bento is built from the registered model, and served.

What this is: the sources of the bento and the command line that it is served with. What it must never do: tell anybody
outside of the machine that it is used.

BentoML learns by itself how long a batch is worth waiting for, so an endpoint's `wait` is not passed on: its
`max_latency_ms` is no wait but a limit, beyond which it refuses requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mainspring.runtimes.descriptor import Command, Metrics, Model, Place, Runtime, Server

ADAPTERS = "mainspring.replicas.adapters"
SOURCES = "sources"
LATENCY = 60_000
"""Milliseconds after which BentoML gives a request of a batch up; the gateway's own limits are well below."""
TIMEOUT = 600
"""Seconds after which it gives up any request."""

_SERVICE = '''\
from pathlib import Path
from typing import Any

import bentoml

from mainspring.replicas.adapters.bentoml_service import PackagedModel


@bentoml.service(
    name={name}, workers={workers}, traffic={{"timeout": {timeout}}}, logging={{"access": {{"enabled": False}}}}
)
class Model(PackagedModel):
    def __init__(self) -> None:
        super().__init__(Path(__file__).resolve().parent)

    @bentoml.api({batching})
    def predict(self, rows: list[Any]) -> list[Any]:
        """Rows, each a list of values in the order of the model's inputs; a number for each."""
        return self.answers(rows)
'''


def tag(model: Model) -> str:
    """The bento: its name and its version."""
    return f"{model.name}:{model.version}"


def service(model: Model, place: Place) -> str:
    """`service.py`."""
    batching = f"batchable=True, max_batch_size={place.batch}, max_latency_ms={LATENCY}" if place.batch > 1 else ""
    return _SERVICE.format(name=json.dumps(model.name), workers=place.instances, timeout=TIMEOUT, batching=batching)


def bentofile(model: Model) -> str:
    """`bentofile.yaml`; JSON is YAML."""
    said = {
        "service": "service:Model",
        "name": model.name,
        "labels": {"mainspring-model": model.endpoint, "mainspring-digest": model.digest},
        "include": ["service.py", "serving.json", "model/*"],
        "python": {"lock_packages": False},
    }
    return json.dumps(said, indent=1)


def _environment(place: Place) -> dict[str, str]:
    return {
        "PATH": f"{place.environment}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": place.source,
        "BENTOML_HOME": f"{place.work}/home",
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": str(place.threads),
    }


def _files(model: Model, place: Place) -> Mapping[str, bytes]:
    return {
        f"{SOURCES}/service.py": service(model, place).encode(),
        f"{SOURCES}/bentofile.yaml": bentofile(model).encode(),
        "home/.keep": b"",
    }


def _build(model: Model, place: Place) -> Command:
    argv = (
        place.python, "-m", f"{ADAPTERS}.bentoml_build", "--sources", SOURCES, "--version", model.version,
        "--artefact", model.artefact, "--code", model.code or place.work, "--threads", str(place.threads),
    )  # fmt: skip
    return Command(argv, _environment(place))


def _command(model: Model, place: Place) -> Command:
    argv = (
        f"{place.environment}/bin/bentoml", "serve", tag(model), "--host", place.host,
        "--port", str(place.ports["http"]), *place.words,
    )  # fmt: skip
    return Command(argv, _environment(place))


BENTOML = Runtime(
    "bentoml", "BentoML", "predictive", runs=True, formats=("onnx",), weights="onnx",
    environment="bentoml", protocol="bentoml", batches=True, instances=True,
    server=Server(
        command=_command, files=_files, before=_build, live="/livez", ready=lambda _: "/readyz",
        metrics=Metrics(
            running="bentoml_service_request_in_progress", requests="bentoml_service_request_total",
            batches="bentoml_service_adaptive_batch_size_count",
        ),
        patience=120.0, grace=20.0,
    ),
    note="how long a batch waits for company is learnt by BentoML: the endpoint's `wait` is not passed on",
)  # fmt: skip
