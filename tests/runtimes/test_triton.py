"""Triton's descriptor: the model repository and the command line, by example; what must never be in them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mainspring.runtimes.descriptor import Input, Model, Place, Wishes, complaints, read_words, words
from mainspring.runtimes.triton import CLOSED, TRITON, config, memory_prefix, number, text

MODEL = Model(
    name="delay-3.2", endpoint="delay", version="3", format="onnx", artefact="/a/b c", digest="sha256:0",
    inputs=(Input("hour", "INT64", nullable=False), Input("distance", "FP32"), Input('so "called"', "BYTES")),
    output="late", code="/code",
)  # fmt: skip
PLACE = Place(
    work="/state/work", environment="/env", python="/env/bin/python", packages="/env/lib/site-packages",
    source="/state/work/source", ports={"http": 1001, "metrics": 1002}, threads=2, batch=16, wait=0.003, instances=2,
    words=("--http-thread-count=2",), key="s3cret",
)  # fmt: skip
SERVER = TRITON.server
assert SERVER is not None
SHARING = SERVER.sharing
assert SHARING is not None


def test_configuration() -> None:
    """One tensor a field; batches, delay, instances and threads as the stack file has them."""
    assert config(MODEL, PLACE).splitlines() == [
        'name: "delay-3.2"',
        'backend: "python"',
        "max_batch_size: 65536",
        "version_policy { specific { versions: [ 3 ] } }",
        'input { name: "hour" data_type: TYPE_FP64 dims: [ 1 ] }',
        'input { name: "distance" data_type: TYPE_FP64 dims: [ 1 ] }',
        'input { name: "so \\042called\\042" data_type: TYPE_STRING dims: [ 1 ] }',
        'output { name: "late" data_type: TYPE_FP64 dims: [ 1 ] }',
        "instance_group [ { kind: KIND_CPU count: 2 } ]",
        'parameters { key: "artefact" value { string_value: "/a/b c" } }',
        'parameters { key: "code" value { string_value: "/code" } }',
        'parameters { key: "threads" value { string_value: "2" } }',
        "dynamic_batching { preferred_batch_size: [ 16 ] max_queue_delay_microseconds: 3000 }",
    ]


def test_a_batch_of_one_is_no_batching() -> None:
    """`batch: 1` asks for each request alone."""
    assert "dynamic_batching" not in config(MODEL, replace(PLACE, batch=1))


@pytest.mark.parametrize(
    ("value", "wanted"), [("a", '"a"'), ('"\\', '"\\042\\134"'), ("\n", '"\\012"'), ("é", '"\\303\\251"')]
)
def test_texts_can_t_end_early(value: str, wanted: str) -> None:
    """No name of a field or a folder ends its string in the configuration."""
    assert text(value) == wanted


@pytest.mark.parametrize(("version", "wanted"), [("3", 3), ("0", 1), ("champion", 1), ("99999999999", 1), ("٣", 1)])
def test_versions_are_numbers(version: str, wanted: int) -> None:
    """Triton's folders of versions are numbers from 1; what is none becomes 1, as there is one version a model."""
    assert number(version) == wanted


def test_files_find_mainspring() -> None:
    """The model's code is the adapter, found in the folder that has nothing but Mainspring in it."""
    files = SERVER.files(MODEL, PLACE)
    assert set(files) == {"models/delay-3.2/config.pbtxt", "models/delay-3.2/3/model.py"}
    code = files["models/delay-3.2/3/model.py"].decode()
    assert "sys.path.append('/state/work/source')" in code
    compile(code, "model.py", "exec")


@pytest.mark.parametrize("command", [SERVER.command(MODEL, PLACE), SHARING.command(PLACE)])
def test_command(command) -> None:
    """It listens on loopback only, has no secret in its words, and takes the user's own words last."""
    said = " ".join(command.argv)
    assert "s3cret" not in said
    assert "s3cret" not in str(command.env)
    assert "--http-address=127.0.0.1 --http-port=1001 --metrics-address=127.0.0.1 --metrics-port=1002" in said
    assert command.argv[-1] == "--http-thread-count=2"
    assert CLOSED in command.argv
    assert command.env["PATH"].startswith("/env/bin:")


def test_what_loads_code_is_closed() -> None:
    """The header that opens the repository's API would need a line break in its value, which no header has."""
    _, _, value = CLOSED.rpartition("=")
    assert value == "\n"
    assert "model-repository" in CLOSED


def test_who_may_load() -> None:
    """A server of one model takes no orders; a shared one takes them through a socket below its folder."""
    alone, shared = SERVER.command(MODEL, PLACE).argv, SHARING.command(PLACE).argv
    assert "--model-control-mode=none" in alone
    assert "--allow-grpc=false" in alone
    assert "--model-control-mode=explicit" in shared
    assert "--grpc-address=unix:control/grpc" in shared
    assert SHARING.load("m", PLACE).argv[-3:] == ("load", "m", "unix:control/grpc:1")
    assert SHARING.unload("m", PLACE).argv[-3:] == ("unload", "m", "unix:control/grpc:1")


def test_the_processes_of_a_model_are_its_own() -> None:
    """No model's processes are taken for those of another whose name begins alike."""
    assert SERVER.workers is not None
    assert SERVER.workers("delay-3") not in f"stub /w/{SHARING.folder('delay-3.2')}/3/model.py"
    assert SERVER.workers("delay-3") in f"stub /w/{SHARING.folder('delay-3')}/3/model.py"
    assert memory_prefix(PLACE) != memory_prefix(replace(PLACE, work="/other"))


def test_wishes() -> None:
    """It holds several copies and is shared; the keeper reads both again."""
    wishes = Wishes(instances=2, share=True, args=("--http-thread-count=2",))
    assert complaints(TRITON, wishes) == []
    found = read_words(words(TRITON, wishes))
    assert (found.instances, found.share, found.rest) == (2, True, ("--http-thread-count=2",))
    assert [key for key, _ in complaints(TRITON, Wishes(slots=3))] == ["slots"]
