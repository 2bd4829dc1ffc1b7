"""Seldon's MLServer, with Mainspring's adapter as the class of its models.

What this is: the settings files and the command line that MLServer is started with. What it must never do: listen on
anything but the loopback address.

One copy of a model runs in the server's own process; more of them run in MLServer's parallel workers, each of which
puts requests together by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mainspring.runtimes.descriptor import Command, Metrics, Model, Place, Runtime, Server

ADAPTER = "mainspring.replicas.adapters.mlserver_model.PackagedModel"
MODELS = "models"
"""The folder below `Place.work` with a folder of settings for each model."""


def settings(place: Place) -> dict[str, object]:
    """`settings.json`: of the server."""
    return {
        "debug": False,
        "host": place.host,
        "http_port": place.ports["http"],
        "grpc_port": place.ports["grpc"],
        "metrics_port": place.ports["metrics"],
        "parallel_workers": place.instances if place.instances > 1 else 0,
        "environments_dir": f"{place.work}/environments",
        "metrics_dir": f"{place.work}/metrics",
        "gzip_enabled": False,
        "server_name": "mlserver",
    }


def model_settings(model: Model, place: Place) -> dict[str, object]:
    """`model-settings.json`: of one model."""
    return {
        "name": model.name,
        "implementation": ADAPTER,
        "platform": "onnx_onnxv1",
        "inputs": [{"name": one.name, "datatype": one.datatype, "shape": [-1, 1]} for one in model.inputs],
        "outputs": [{"name": model.output, "datatype": "FP64", "shape": [-1, 1]}],
        "parameters": {
            "uri": model.artefact,
            "version": model.version,
            # MLServer's own keys for batches would put its batcher before the adapter's check of a request.
            "extra": {"code": model.code, "threads": place.threads, "batch": place.batch, "wait": place.wait},
        },
    }


def _files(model: Model, place: Place) -> Mapping[str, bytes]:
    return {
        "settings.json": json.dumps(settings(place), indent=1).encode(),
        f"{MODELS}/{model.name}/model-settings.json": json.dumps(model_settings(model, place), indent=1).encode(),
    }


def _command(_: Model, place: Place) -> Command:
    env = {"PYTHONPATH": place.source, "OTEL_SDK_DISABLED": "true"}
    return Command((f"{place.environment}/bin/mlserver", "start", place.work, *place.words), env)


MLSERVER = Runtime(
    "mlserver", "MLServer", "predictive", runs=True, formats=("onnx",), weights="onnx",
    environment="mlserver", protocol="oip", batches=True, instances=True,
    image="seldonio/mlserver:1.7.1",
    server=Server(
        command=_command, files=_files, ports=("http", "grpc", "metrics"),
        live="/v2/health/live", ready=lambda model: f"/v2/models/{model.name}/ready",
        metrics=Metrics(
            port="metrics", running="rest_server_requests_in_progress", requests="model_infer_request_success_total",
            failed="model_infer_request_failure_total", batches="mainspring_batches_total",
        ),
        patience=90.0, grace=15.0,
    ),
    note="with `instances` above 1 its models run in parallel workers, each of which batches by itself",
)  # fmt: skip
