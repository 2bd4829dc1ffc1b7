"""A class of the user's own (`load`, `predict`, `batch`), in Mainspring's own server and interpreter."""

from __future__ import annotations

from mainspring.runtimes.descriptor import Runtime

PYTHON = Runtime(
    "python", "your own Python class", "predictive", runs=True, formats=("python",), weights="python",
    module="mainspring.replicas.python", batches=True,
    note="the class sees what is installed beside Mainspring; its version is served once it was marked as trusted",
)  # fmt: skip
