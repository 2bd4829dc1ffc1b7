"""What a new user can do wrong, on the stack that `mainspring init` writes; every process is real."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli_verbs.conftest import kill_all, mainspring, told, until

pytestmark = pytest.mark.engine

FIELDS = ("distance_km", "weight_kg", "rain_mm")
FITS = "    model = make_pipeline"


@contextlib.contextmanager
def starter(folder: Path) -> Iterator[Path]:
    """The starter, up with its first version; its processes are killed in the end."""
    path = folder / "mainspring.yaml"
    assert mainspring(path, "init").returncode == 0
    text = path.read_text().replace("  where: laptop\n", "  where: laptop\n  gateway: {port: 0}\n")
    path.write_text(text.replace("timeout: 5m", "timeout: 2s"))
    try:
        up = mainspring(path, "up", "--yes")
        assert up.returncode == 0, up.stderr
        yield path
    finally:
        kill_all(path.parent / ".mainspring")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A starter for all tests that leave it as it was."""
    with starter(tmp_path_factory.mktemp("starter")) as path:
        yield path


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A starter of one's own, to be damaged."""
    with starter(tmp_path) as path:
        yield path


def ask(stack: Path, body: str = "") -> tuple[int, str]:
    """The endpoint's answer to a request; to a good one when none is given."""
    columns = [{"name": name, "datatype": "FP64", "shape": [1], "data": [1.0]} for name in FIELDS]
    connection = http.client.HTTPConnection(told(stack)["gateway"]["address"], timeout=10)
    try:
        connection.request("POST", "/v2/models/delay/infer", body or json.dumps({"inputs": columns}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("raise ValueError('bad strength')", "step `train` raised `ValueError: bad strength` at `model.py:"),
        ("import time; time.sleep(60)", "step `train` timed out after `2s`"),
        ("import no_such_package", "No module named 'no_such_package'"),
    ],
    ids=["raises", "hangs", "misses a module"],
)
def test_a_bad_step_fails_its_run_alone(stack: Path, line: str, says: str) -> None:
    """`run --wait` says what was wrong and where to look, that place exists, and the endpoint goes on answering."""
    model = stack.parent / "model.py"
    good = model.read_text()
    assert FITS in good
    model.write_text(good.replace(FITS, f"    {line}\n{FITS}"))
    try:
        done = mainspring(stack, "run", "delay", "--wait")
    finally:
        model.write_text(good)
    assert done.returncode == 1, done.stdout + done.stderr
    assert says in done.stderr
    hint = done.stderr.rpartition("hint: mainspring ")[2].split()
    shown = mainspring(stack, *hint)
    assert shown.returncode == 0
    assert "its log: `mainspring logs " in shown.stdout + shown.stderr
    assert ask(stack)[0] == 200


def test_a_request_that_does_not_fit_is_told_why(stack: Path) -> None:
    """Inputs that are missing are named; for NaN it says what to write instead; the next request is answered."""
    one = json.dumps({"inputs": [{"name": FIELDS[0], "datatype": "FP64", "shape": [1], "data": [1.0]}]})
    assert ask(stack, one) == (400, '{"error":"these inputs are missing: `weight_kg`, `rain_mm`"}')
    status, said = ask(stack, one.replace("1.0", "NaN"))
    assert status == 400
    assert "write `null` for a missing value" in said
    assert ask(stack)[0] == 200


def test_a_damaged_memory_is_put_aside(own: Path) -> None:
    """A torn predictions segment and a state.db of junk: `up` names both ways on, and the champion answers again."""
    assert ask(own)[0] == 200
    assert mainspring(own, "down").returncode == 0
    state = own.parent / ".mainspring"
    segment = max(state.glob("segments/*.jsonl"))
    segment.write_bytes(segment.read_bytes()[:-17])
    junk = b"junk" * 2048
    (state / "state.db").write_bytes(junk)
    refused = mainspring(own, "up", "--yes")
    assert refused.returncode == 1
    assert "state.db` is damaged" in refused.stderr
    assert "mainspring restore FILE" in refused.stderr
    assert "mainspring up" in refused.stderr
    assert [file.read_bytes() for file in state.glob("state.db.damaged-*")] == [junk]
    again = mainspring(own, "up", "--yes")
    assert again.returncode == 0, again.stderr
    until(lambda: ask(own)[0] == 200)
    models = mainspring(own, "models", "list").stdout
    assert "champion" in models
