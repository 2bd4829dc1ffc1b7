"""TensorFlow Serving: a SavedModel behind its REST API (v1).

No package index has the server itself: it comes from Google's own apt repository or in the image below. So this file
is held by a protocol double (`mainspring.testing.tfserving_server`), which was built from the published API and takes
the same words and the same layout of models; where it differs from the server, the server is right.
"""

from __future__ import annotations

from collections.abc import Mapping

from mainspring.runtimes.descriptor import Command, Metrics, Model, Needed, Place, Runtime, Server

PROGRAM = "tensorflow_model_server"
METRICS = "/monitoring/prometheus/metrics"


def _files(model: Model, place: Place) -> Mapping[str, bytes]:
    """What it is configured with: text protos, and the folder that versions are linked into."""
    batching = (
        f"max_batch_size {{ value: {place.batch} }}\n"
        f"batch_timeout_micros {{ value: {round(place.wait * 1e6)} }}\n"
        f"num_batch_threads {{ value: {place.threads} }}\n"
        "max_enqueued_batches { value: 1000 }\n"
    )
    monitoring = f'prometheus_config {{ enable: true path: "{METRICS}" }}\n'
    return {
        "batching.config": batching.encode(),
        "monitoring.config": monitoring.encode(),
        f"models/{model.name}/.mainspring": b"",  # makes the folder; what is no number is no version
    }


def _layout(model: Model, place: Place) -> Command:
    """Link the SavedModel in as a version: `models/NAME/VERSION`."""
    target = f"{place.work}/models/{model.name}/{model.version}"
    return Command(("ln", "-sfn", f"{model.artefact}/model", target))


def _command(model: Model, place: Place) -> Command:
    argv = (
        PROGRAM,
        "--port=0",  # no gRPC
        f"--rest_api_port={place.ports['http']}",
        f"--model_name={model.name}",
        f"--model_base_path={place.work}/models/{model.name}",
        "--enable_batching=true",
        f"--batching_parameters_file={place.work}/batching.config",
        f"--monitoring_config_file={place.work}/monitoring.config",
        f"--tensorflow_intra_op_parallelism={place.threads}",
        f"--tensorflow_inter_op_parallelism={place.threads}",
        # One that can't be loaded must end the server soon: its own way is five more tries, a minute apart.
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=0",  # a version is another replica here
        *place.words,
    )
    return Command(argv, {"TF_CPP_MIN_LOG_LEVEL": "1"})


TFSERVING = Runtime(
    "tfserving", "TensorFlow Serving", "predictive", runs=True, formats=("saved_model",), weights="saved_model",
    protocol="tfserving", image="tensorflow/serving:2.19.1", batches=True,
    server=Server(
        command=_command,
        live=METRICS,  # ports are opened once the models are loaded
        ready=lambda model: f"/v1/models/{model.name}/versions/{model.version}",
        files=_files,
        before=_layout,
        metrics=Metrics(
            path=METRICS, requests=":tensorflow:serving:request_count", batches=":tensorflow:core:graph_runs"
        ),
        patience=300.0,
    ),
    needed=(
        Needed(
            PROGRAM, "program",
            "install `tensorflow-model-server` from TensorFlow's own apt repository (docs/runtimes.md says how)",
            "no package index has it",
        ),
    ),
    note="the server listens on all addresses of its machine, and has no option for that: keep its port behind a fence",
)  # fmt: skip
