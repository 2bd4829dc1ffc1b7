"""NVIDIA Triton Inference Server, with Mainspring's adapter on its Python backend.

What this is: the model repository and the command line that Triton is started with. What it must never do: leave a
way to load code into the server to whoever reaches its port.

Triton's HTTP API can load a model whose code is in the request, write log files and map shared memory, and it knows no
secret that isn't on its command line. So these parts are closed for everybody: they ask for a header with a value
that no header can have. A server of one model loads it as it starts; a shared one is told through a Unix socket in a
folder that only its user may enter.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping

from mainspring.runtimes.descriptor import Command, Input, Metrics, Model, Needed, Place, Runtime, Server, Sharing

ROWS = 65_536
"""Most rows of one request. How many Triton puts together itself is `preferred_batch_size`."""
CONTROL = "control"
"""The folder of the socket that a shared server is told through; paths of sockets must be short, so it is relative."""
SOCKET = f"unix:{CONTROL}/grpc"
PORT = 1
"""Triton adds one to any address: the socket's name is `grpc:1`."""
CLOSED = "--http-restricted-api=model-repository,shared-memory,trace,logging:x-closed=\n"
ADAPTERS = "mainspring.replicas.adapters"
_PYTHON = f"libpython{sys.version_info[0]}.{sys.version_info[1]}"

_MODEL = """\
import sys

sys.path.append({source!r})
from mainspring.replicas.adapters.triton_model import Adapter


class TritonPythonModel(Adapter):
    pass
"""
"""The stub's interpreter heeds no PYTHONPATH."""


def text(value: str) -> str:
    r"""A string of protobuf's text format; bytes outside plain ASCII are escaped.

    >>> text('a"b')
    '"a\\042b"'
    """
    plain = set(range(0x20, 0x7F)) - {0x22, 0x5C}
    return '"' + "".join(chr(one) if one in plain else f"\\{one:03o}" for one in value.encode()) + '"'


def _tensor(field: Input) -> str:
    # Numbers are FP64 whatever they are: a missing one is NaN, and the model makes float64 of them anyway.
    kind = "TYPE_STRING" if field.datatype == "BYTES" else "TYPE_FP64"
    return f"input {{ name: {text(field.name)} data_type: {kind} dims: [ 1 ] }}"


def config(model: Model, place: Place) -> str:
    """`config.pbtxt` of a model."""
    said = {"artefact": model.artefact, "code": model.code, "threads": str(place.threads)}
    lines = [
        f"name: {text(model.name)}",
        'backend: "python"',
        f"max_batch_size: {ROWS}",
        f"version_policy {{ specific {{ versions: [ {number(model.version)} ] }} }}",
        *(_tensor(field) for field in model.inputs),
        f"output {{ name: {text(model.output)} data_type: TYPE_FP64 dims: [ 1 ] }}",
        f"instance_group [ {{ kind: KIND_CPU count: {place.instances} }} ]",
        *(f"parameters {{ key: {text(key)} value {{ string_value: {text(value)} }} }}" for key, value in said.items()),
    ]
    if place.batch > 1:
        delay = round(place.wait * 1e6)
        batching = f"preferred_batch_size: [ {place.batch} ] max_queue_delay_microseconds: {delay}"
        lines.append(f"dynamic_batching {{ {batching} }}")
    return "\n".join(lines) + "\n"


def number(version: str) -> int:
    """The version's folder: Triton wants a number from 1."""
    return int(version) if version.isascii() and version.isdecimal() and 0 < int(version) < 2**31 else 1


def folder(name: str) -> str:
    """Where a model's files are."""
    return f"models/{name}"


def _files(model: Model, place: Place) -> Mapping[str, bytes]:
    root = folder(model.name)
    return {
        f"{root}/config.pbtxt": config(model, place).encode(),
        f"{root}/{number(model.version)}/model.py": _MODEL.format(source=place.source).encode(),
    }


def memory_prefix(place: Place) -> str:
    """What the server's regions of shared memory are called: its own, so that it can clear up after its last life."""
    return "mainspring-" + hashlib.sha256(place.work.encode()).hexdigest()[:12]


def _environment(place: Place) -> dict[str, str]:
    return {
        "PATH": f"{place.environment}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LD_LIBRARY_PATH": f"{place.packages}/nvidia_pytriton.libs",
        "PYTHONPATH": place.source,
    }


def _adapter(place: Place, name: str, *words: str) -> Command:
    return Command((place.python, "-m", f"{ADAPTERS}.{name}", *words), _environment(place))


def _before(_: Model | None, place: Place) -> Command:
    return _adapter(place, "triton_layout", place.packages, place.work, memory_prefix(place))


def _start(place: Place, *words: str) -> Command:
    ports, host = place.ports, place.host
    argv = (
        f"{place.packages}/pytriton/tritonserver/bin/tritonserver",
        "--model-repository=models", "--backend-directory=backends",
        f"--backend-config=python,shm-region-prefix-name={memory_prefix(place)}",
        f"--http-address={host}", f"--http-port={ports['http']}",
        f"--metrics-address={host}", f"--metrics-port={ports['metrics']}", "--allow-gpu-metrics=false",
        "--log-info=false", "--exit-timeout-secs=5", CLOSED, *words, *place.words,
    )  # fmt: skip
    return Command(argv, _environment(place))


def _command(_: Model, place: Place) -> Command:
    return _start(place, "--allow-grpc=false", "--model-control-mode=none")


def _shared(place: Place) -> Command:
    return _start(place, f"--grpc-address={SOCKET}", f"--grpc-port={PORT}", "--model-control-mode=explicit")


def _told(what: str, name: str, place: Place) -> Command:
    return _adapter(place, "triton_control", what, name, f"{SOCKET}:{PORT}")


TRITON = Runtime(
    "triton", "NVIDIA Triton", "predictive", runs=True, formats=("onnx",), weights="onnx",
    environment="triton", protocol="triton", batches=True, instances=True, shared=True,
    image="nvcr.io/nvidia/tritonserver:24.10-py3",
    needed=(
        Needed(f"{_PYTHON}.so.1.0", "library", f"apt-get install {_PYTHON}", "its Python backend is linked to it"),
    ),
    server=Server(
        command=_command, files=_files, before=_before, ports=("http", "metrics"),
        live="/v2/health/live", ready=lambda model: f"/v2/models/{model.name}/ready",
        metrics=Metrics(
            port="metrics", waiting="nv_inference_pending_request_count", requests="nv_inference_request_success",
            failed="nv_inference_request_failure", batches="nv_inference_exec_count",
        ),
        patience=90.0, grace=10.0,
        sharing=Sharing(
            command=_shared, load=lambda name, place: _told("load", name, place),
            unload=lambda name, place: _told("unload", name, place), folder=folder,
        ),
        workers=lambda name: f"{folder(name)}/",
    ),
    note="models run in its Python backend, where ONNX Runtime scores them: packages bring no other backend",
)  # fmt: skip
