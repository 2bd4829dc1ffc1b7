"""What MLServer, TorchServe and BentoML are started with: files and command lines, by example."""

from __future__ import annotations

import ast
import json
from dataclasses import replace

import pytest

from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Input, Model, Place, Server

MODEL = Model(
    "delay-3.2", "delay", "3", "onnx", "/artefacts/delay/3", "sha256:0", (Input("x", "FP64"), Input("y", "BYTES")),
    "late", "/code",
)  # fmt: skip
PORTS = {"http": 8001, "grpc": 8002, "metrics": 8003, "grpc-management": 8004}
PLACE = Place(
    work="/state/work", environment="/venv", python="/venv/bin/python", packages="/venv/lib", source="/work/source",
    ports=PORTS, threads=2, batch=16, wait=0.005, words=("--more",), key="s3cret",
)  # fmt: skip
NAMES = ("mlserver", "torchserve", "bentoml")


def server(name: str) -> Server:
    """How the keeper runs it."""
    found = runtimes()[name].server
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_on_a_command_line_or_in_a_file(name: str) -> None:
    """The gateway's key is nobody else's business; these servers ask for none."""
    kept = server(name)
    commands = [kept.command(MODEL, PLACE), *filter(None, [kept.before(MODEL, PLACE)])]
    assert not any("s3cret" in word for one in commands for word in (*one.argv, *one.env.values()))
    assert not any(b"s3cret" in content for content in kept.files(MODEL, PLACE).values())


@pytest.mark.parametrize("name", NAMES)
def test_more_words_are_passed_on_and_the_packages_are_the_environments(name: str) -> None:
    """`args` of the stack file go to the server; it imports Mainspring's source and no other package of ours."""
    command = server(name).command(MODEL, PLACE)
    assert command.argv[-1] == "--more"
    assert command.env["PYTHONPATH"] == "/work/source"


def test_mlserver_listens_on_loopback_and_batches_in_the_adapter() -> None:
    """Three ports of ours on 127.0.0.1; batch and wait are the adapter's; workers only for more than one instance."""
    files = {name: json.loads(content) for name, content in server("mlserver").files(MODEL, PLACE).items()}
    settings = files["settings.json"]
    assert (settings["host"], settings["http_port"], settings["parallel_workers"]) == ("127.0.0.1", 8001, 0)
    model = files["models/delay-3.2/model-settings.json"]
    assert model["name"] == "delay-3.2"
    assert model["parameters"]["extra"] == {"code": "/code", "threads": 2, "batch": 16, "wait": 0.005}
    assert [one["name"] for one in model["inputs"]] == ["x", "y"]
    two = json.loads(server("mlserver").files(MODEL, replace(PLACE, instances=2))["settings.json"])
    assert two["parallel_workers"] == 2


def test_torchserve_is_managed_over_a_socket_that_nobody_else_reaches() -> None:
    """No management port, no model API, no URL that it would fetch a model from; its workers and batches are set."""
    text = server("torchserve").files(MODEL, replace(PLACE, instances=3))["config.properties"].decode()
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert lines["inference_address"] == "http://127.0.0.1:8001"
    assert lines["management_address"] == "unix:/state/work/management.sock"
    assert lines["enable_model_api"] == "false"
    assert lines["allowed_urls"] == "file:///nowhere"
    loaded = json.loads(lines["models"])["delay-3.2"]["3"]
    assert (loaded["minWorkers"], loaded["maxWorkers"], loaded["batchSize"], loaded["maxBatchDelay"]) == (3, 3, 16, 5)
    assert [one.name for one in runtimes()["torchserve"].needed] == ["java"]


def test_a_bentos_service_is_python_with_our_batches() -> None:
    """The service that is written parses, has the batch size, and tells nobody that it is used."""
    kept = server("bentoml")
    files = kept.files(MODEL, PLACE)
    service = files["sources/service.py"].decode()
    ast.parse(service)
    assert "max_batch_size=16" in service
    assert 'name="delay-3.2"' in service
    assert "batchable" not in kept.files(MODEL, replace(PLACE, batch=1))["sources/service.py"].decode()
    command = kept.command(MODEL, PLACE)
    assert command.env["BENTOML_DO_NOT_TRACK"] == "True"
    assert command.argv[command.argv.index("--host") + 1] == "127.0.0.1"
