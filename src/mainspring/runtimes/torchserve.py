"""TorchServe, with Mainspring's adapter as the handler of its model archive.

What this is: the configuration and the command line that TorchServe is started with. What it must never do: leave its
management API within reach of others.

TorchServe's tokens are of its own making, for requests as for management, so a gateway could not show them. Its
management API listens on a Unix socket in a folder that only its user may enter, and models can't be registered over
any API once it runs. Its launcher is not used: it refuses a second server on a machine, and leaves Java behind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from mainspring.runtimes.descriptor import Command, Metrics, Model, Needed, Place, Runtime, Server

ADAPTERS = "mainspring.replicas.adapters"
LARGEST = 64 * 2**20
"""Bytes of a request, and of an answer."""
QUIET = 0.3
"""Seconds beyond a batch's wait without work, after which it is taken for idle when it is to end."""


def archive(model: Model) -> str:
    """The model archive's file name."""
    return f"{model.name}.mar"


def _short(place: Place) -> str:
    """The folder of its sockets: its own, and those that it talks to its workers by."""
    return place.short or place.work


def _delay(place: Place) -> int:
    """Milliseconds that a batch waits for company."""
    return max(1, math.ceil(place.wait * 1000))


def models(model: Model, place: Place) -> str:
    """What is loaded as it starts, with its workers and batches, as JSON on one line."""
    said = {
        "defaultVersion": True,
        "marName": archive(model),
        "minWorkers": place.instances,
        "maxWorkers": place.instances,
        "batchSize": place.batch,
        "maxBatchDelay": _delay(place),
        "responseTimeout": 600,
        "startupTimeout": 120,
    }
    return json.dumps({model.name: {model.version: said}})


def config(model: Model, place: Place) -> str:
    """`config.properties`."""
    host, ports = place.host, place.ports
    lines = {
        "inference_address": f"http://{host}:{ports['http']}",
        "management_address": f"unix:{_short(place)}/management.sock",
        "metrics_address": f"http://{host}:{ports['metrics']}",
        "grpc_inference_address": host,
        "grpc_inference_port": ports["grpc"],
        "grpc_management_address": host,
        "grpc_management_port": ports["grpc-management"],
        "disable_token_authorization": "true",
        "enable_model_api": "false",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "allowed_urls": "file:///nowhere",
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",
        "number_of_netty_threads": 2,
        "netty_client_threads": 2,
        "job_queue_size": 1000,
        "max_request_size": LARGEST,
        "max_response_size": LARGEST,
        "load_models": archive(model),
        "models": models(model, place),
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _environment(place: Place) -> dict[str, str]:
    return {
        "PATH": f"{place.environment}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": place.source,
        "TMPDIR": f"{_short(place)}/temporary",
        "LOG_LOCATION": f"{place.work}/logs",
        "METRICS_LOCATION": f"{place.work}/logs",
        "OMP_NUM_THREADS": str(place.threads),
    }


def _files(model: Model, place: Place) -> Mapping[str, bytes]:
    return {"config.properties": config(model, place).encode(), "log4j2.xml": LOGGING.encode(), "temporary/.keep": b""}


def _archive(model: Model, place: Place) -> Command:
    argv = (
        place.python, "-m", f"{ADAPTERS}.torchserve_archive", "--name", model.name, "--version", model.version,
        "--artefact", model.artefact, "--code", model.code or place.work, "--threads", str(place.threads),
    )  # fmt: skip
    return Command(argv, _environment(place))


def _command(_: Model, place: Place) -> Command:
    argv = (
        place.python, "-m", f"{ADAPTERS}.torchserve_run", f"{place.work}/busy", str(QUIET + _delay(place) / 1000),
        "java", f"-Dmodel_server_home={place.packages}", f"-Djava.io.tmpdir={_short(place)}/temporary",
        f"-Dlog4j.configurationFile=file://{place.work}/log4j2.xml", "-XX:+UseSerialGC", "-Xmx512m",
        "-cp", f"{place.packages}/ts/frontend/*", "org.pytorch.serve.ModelServer",
        "--python", place.python, "-f", f"{place.work}/config.properties", "-s", f"{place.work}/store", "-ncs",
        *place.words,
    )  # fmt: skip
    return Command(argv, _environment(place))


LOGGING = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="warn">
  <Appenders>
    <Console name="console" target="SYSTEM_ERR">
      <PatternLayout pattern="%d{ISO8601} [%-5p] %t %c{1} - %m%n"/>
    </Console>
  </Appenders>
  <Loggers>
    <Root level="warn"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""
"""What goes to the replica's log: warnings, not a line for each request."""

TORCHSERVE = Runtime(
    "torchserve", "TorchServe", "predictive", runs=True, formats=("onnx",), weights="onnx",
    environment="torchserve", protocol="torchserve", batches=True, instances=True,
    image="pytorch/torchserve:0.12.0-cpu",
    needed=(Needed("java", "program", "apt-get install default-jre-headless", "its front end runs on Java"),),
    server=Server(
        command=_command, files=_files, before=_archive, ports=("http", "metrics", "grpc", "grpc-management"),
        live="/ping", ready=lambda _: "/ping",  # it passes no query on to a handler; the warm-up waits for the model
        metrics=Metrics(
            port="metrics", requests="ts_inference_requests_total", failed="Requests5XX",
            batches="mainspring_batches_total",
        ),
        patience=180.0, grace=20.0,
    ),
    note="its management API is on a Unix socket in the replica's own folder; models change by a rollout only",
)  # fmt: skip
