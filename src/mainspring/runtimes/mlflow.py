"""MLflow's `pyfunc`: a model of any flavour, in Mainspring's own server inside an environment of its own.

The server is a process of ours that runs in that environment, so that the libraries of a flavour never meet
Mainspring's. It speaks what the replicas of `onnx` speak.
"""

from __future__ import annotations

from mainspring.runtimes.descriptor import Command, Metrics, Model, Place, Runtime, Server


def _command(model: Model, place: Place) -> Command:
    said = {
        "--artefact": model.artefact, "--digest": model.digest, "--name": model.name,
        "--model": model.endpoint, "--version": model.version, "--code": model.code or place.work,
        "--host": place.host, "--port": place.ports["http"], "--threads": place.threads,
        "--batch-size": place.batch, "--batch-wait": place.wait,
    }  # fmt: skip
    argv = (place.python, "-m", "mainspring.replicas.mlflow", *(str(part) for pair in said.items() for part in pair))
    threads = {f"{library}_NUM_THREADS": str(place.threads) for library in ("OMP", "OPENBLAS", "MKL")}
    own = {
        "PYTHONPATH": place.source,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # compiled code beside the model would make it another artefact
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_TRACKING_URI": f"file://{place.work}/untracked",  # it has no business with a tracking server
    }
    return Command((*argv, *place.words), own | threads)


MLFLOW = Runtime(
    "mlflow", "MLflow pyfunc", "predictive", runs=True, formats=("mlflow",), weights="mlflow",
    server=Server(
        _command, live="/v2/health/live", ready=lambda _: "/v2/models/-/ready",
        metrics=Metrics(
            waiting="mainspring_replica_waiting", running="mainspring_replica_running",
            requests="mainspring_replica_requests_total", batches="mainspring_replica_batches_total",
        ),
    ),
    environment="mlflow", batches=True,
    note="the model's own libraries must be in the environment; a pickled model is served once it is marked as trusted",
)  # fmt: skip
