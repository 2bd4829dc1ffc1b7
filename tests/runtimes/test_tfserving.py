"""What TensorFlow Serving is started with: its published flags and layout, by example."""

from __future__ import annotations

from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Input, Model, Place

TFSERVING = runtimes()["tfserving"]
MODEL = Model(
    "delay-3", "delay", "3", "saved_model", "/artefacts/delay/3", "sha256:0", (Input("x", "FP64"),), "late"
)  # fmt: skip
PLACE = Place(
    work="/state/work", environment="/venv", python="/venv/bin/python", packages="/venv/lib", source="/src",
    ports={"http": 8501}, threads=2, batch=16, wait=0.005, words=("--verbose=1",), key="s3cret",
)  # fmt: skip


def test_the_command_has_its_flags() -> None:
    """One model by name and base path, REST on a port of ours, no gRPC, no retries that take minutes."""
    assert TFSERVING.server is not None
    command = TFSERVING.server.command(MODEL, PLACE)
    assert command.argv[0] == "tensorflow_model_server"
    assert {
        "--port=0", "--rest_api_port=8501", "--model_name=delay-3", "--model_base_path=/state/work/models/delay-3",
        "--enable_batching=true", "--max_num_load_retries=0",
    } <= set(command.argv)  # fmt: skip
    assert command.argv[-1] == "--verbose=1"
    assert not any("s3cret" in word for word in command.argv)


def test_the_files_are_its_text_protos() -> None:
    """Batch size, its timeout in microseconds, and where metrics are."""
    assert TFSERVING.server is not None
    files = TFSERVING.server.files(MODEL, PLACE)
    assert b"max_batch_size { value: 16 }" in files["batching.config"]
    assert b"batch_timeout_micros { value: 5000 }" in files["batching.config"]
    assert b'path: "/monitoring/prometheus/metrics"' in files["monitoring.config"]
    assert files["models/delay-3/.mainspring"] == b""


def test_the_layout_has_a_folder_with_a_number() -> None:
    """The SavedModel of the artefact is version 3 below the base path."""
    assert TFSERVING.server is not None
    linked = TFSERVING.server.before(MODEL, PLACE)
    assert linked is not None
    assert linked.argv[-2:] == ("/artefacts/delay/3/model", "/state/work/models/delay-3/3")
    assert TFSERVING.server.ready(MODEL) == "/v1/models/delay-3/versions/3"


def test_what_no_package_brings_is_said() -> None:
    """The program is named, with the way to it; and that it listens on all addresses."""
    [needed] = TFSERVING.needed
    assert needed.name == "tensorflow_model_server"
    assert "apt" in needed.install
    assert "all addresses" in TFSERVING.note
