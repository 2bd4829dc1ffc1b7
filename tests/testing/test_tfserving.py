"""The double of TensorFlow Serving answers as the published API says; examples are the documentation's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainspring.artefacts.manifest import Field
from mainspring.replicas.kept.keeper import free_ports
from mainspring.testing import runtime_artefacts as judge
from mainspring.testing import tfserving_server
from mainspring.testing.faults import wait_until
from mainspring.testing.serving import Reply, call
from mainspring.testing.tfserving_json import BadRequest, answer, read

X = [Field("x", "FP64")]
TWO = [Field("tag", "BYTES"), Field("signal", "INT64")]


def test_rows_of_one_input_are_values() -> None:
    """`half_plus_three`'s example, and its token for a missing float."""
    assert read(b'{"instances": [1.0,2.0,5.0]}', X) == (True, {"x": [1.0, 2.0, 5.0]})
    assert read(b'{"instances": [[1.0],[NaN]]}', X) == (True, {"x": [1.0, None]})


def test_rows_and_columns_of_several_inputs() -> None:
    """Objects a row, or an object of columns; binary texts are base64."""
    wanted = {"tag": ["foo", "bar"], "signal": [1, 3]}
    assert read(b'{"instances": [{"tag": "foo", "signal": 1}, {"tag": "bar", "signal": 3}]}', TWO) == (True, wanted)
    assert read(b'{"inputs": {"tag": [["foo"], ["bar"]], "signal": [[1], [3]]}}', TWO) == (False, wanted)
    assert read(b'{"inputs": {"tag": [{"b64": "Zm9v"}], "signal": [1]}}', TWO)[1]["tag"] == ["foo"]


def test_one_output_has_no_name() -> None:
    """`predictions` for rows, `outputs` for columns."""
    assert json.loads(answer([3.5, 4.0], in_rows=True)) == {"predictions": [3.5, 4.0]}
    assert json.loads(answer([3.5], in_rows=False)) == {"outputs": [3.5]}


@pytest.mark.parametrize(("body", "says"), [
    (b"", "The document is empty"),
    (b"{", "JSON Parse error"),
    (b"[]", "Is not object"),
    (b"{}", "Missing 'inputs' or 'instances' key"),
    (b'{"inputs": {}, "instances": []}', "only one of"),
    (b'{"instances": []}', "No values in 'instances' array"),
    (b'{"instances": [1]}', "plain list"),
    (b'{"instances": [{"tag": "a"}]}', "keys must be equal to: signal,tag"),
    (b'{"instances": [{"tag": "a", "signal": 1.5}]}', "Type: Number is not of expected type: int64"),
    (b'{"inputs": {"tag": ["a"]}}', "Missing named input: signal in 'inputs' object."),
    (b'{"inputs": {"tag": [null], "signal": [1]}}', "JSON Value: null Type: Null is not of expected type: string"),
    (b'{"signature_name": "other", "instances": [1]}', 'Serving signature name: "other" not found'),
])  # fmt: skip
def test_what_it_refuses(body: bytes, says: str) -> None:
    """In its own words."""
    with pytest.raises(BadRequest, match=r".") as raised:
        read(body, TWO)
    assert says in str(raised.value)


class Running:
    """The double as a process, started as the server is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(("http",))["http"]
        program = tfserving_server.install(folder / "bin")
        words = [str(program), "--port=0", f"--rest_api_port={self.port}", "--model_name=judge",
                 f"--model_base_path={folder / 'models'}", "--file_system_poll_wait_seconds=1"]  # fmt: skip
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(words, stderr=self.log, env=os.environ)

    def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """One request."""
        return call(f"127.0.0.1:{self.port}", method, path, None if body is None else json.dumps(body).encode())

    def answers(self) -> bool:
        """Whether it serves."""
        try:
            return self.ask("GET", "/v1/models/judge").status == 200
        except OSError:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """The double with version 1 of the judge."""
    judge.saved_model(tmp_path / "one")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "1").symlink_to(tmp_path / "one" / "model")
    found = Running(tmp_path)
    try:
        wait_until(found.answers, "the double to serve", 30.0)
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        found.log.close()


@pytest.mark.slow
def test_the_process_as_documented(running: Running) -> None:
    """Status, metadata, predict, its 404s, a next version that takes over, and a quiet end."""
    status = running.ask("GET", "/v1/models/judge").json()
    row = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert status == {"model_version_status": [row]}
    told = running.ask("GET", "/v1/models/judge/metadata").json()
    inputs = told["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["carrier"]["dtype"] == "DT_STRING"
    instance = {"hour": 18, "distance": 10.0, "carrier": "UA", "wait": 0.0}
    said = running.ask("POST", "/v1/models/judge:predict", {"instances": [instance]}).json()
    assert said["predictions"] == pytest.approx(judge.expected({"hour": [18], "distance": [10.0], "carrier": ["UA"]}))
    missing = running.ask("POST", "/v1/models/half:predict", {"instances": [1.0]})
    assert (missing.status, missing.json()) == (404, {"error": "Servable not found for request: Latest(half)"})
    assert running.ask("POST", "/v1/models/judge/versions/7:predict", {"instances": [1.0]}).status == 404
    assert running.ask("GET", "/v1/models/half").json() == {"error": "Could not find any versions of model half"}
    (running.folder / "models" / "2").symlink_to(running.folder / "one" / "model")
    wait_until(lambda: running.ask("GET", "/v1/models/judge/versions/2").status == 200, "version 2", 10.0)
    states = {
        one["version"]: one["state"] for one in running.ask("GET", "/v1/models/judge").json()["model_version_status"]
    }
    assert states == {"2": "AVAILABLE", "1": "END"}
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0


def test_unknown_words_and_a_folder_without_a_model(tmp_path: Path) -> None:
    """A flag that the server does not have ends it with 255; a version that is no SavedModel with 1, in words."""
    program = str(tfserving_server.install(tmp_path / "bin"))
    assert subprocess.run([program, "--nonsense=1"], capture_output=True, check=False, timeout=60).returncode == 255
    (tmp_path / "models" / "1").mkdir(parents=True)
    began = time.monotonic()
    done = subprocess.run(
        [program, f"--model_base_path={tmp_path / 'models'}", "--rest_api_port=0", "--model_name=judge"],
        capture_output=True, check=False, timeout=60, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Could not find SavedModel .pb or .pbtxt" in done.stderr
    assert time.monotonic() - began < 60
