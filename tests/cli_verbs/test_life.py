"""The life of a stack: up, killed, up again, changed, down; every process is real."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.cli_verbs.conftest import controller, living, mainspring, told, until

ROW = [{"name": f"x{i}", "datatype": "FP64", "shape": [1], "data": [1.0]} for i in range(4)]


def predict(address: str, ident: str) -> int:
    """Ask the gateway for one prediction: the HTTP status."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("POST", "/v2/models/delay/infer", json.dumps({"id": ident, "inputs": ROW}))
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_a_life(stack: Path) -> None:
    """Up, kill -9, it still answers; up again adopts the processes; a changed file is applied; down leaves nothing."""
    up = mainspring(stack, "up", "--yes")
    assert up.returncode == 0, up.stderr
    assert "ready: http://127.0.0.1:" in up.stderr
    before = told(stack)
    address = before["gateway"]["address"]
    assert predict(address, "a") == 200

    os.kill(controller(stack)["pid"], signal.SIGKILL)
    until(lambda: mainspring(stack, "status").returncode == 1)
    down = mainspring(stack, "status")
    assert "no controller is up" in down.stderr
    assert "mainspring up" in down.stderr
    assert predict(address, "b") == 200

    assert mainspring(stack, "up", "--yes").returncode == 0
    after = told(stack)
    pids = {p["name"]: p["pid"] for p in before["processes"]}
    assert {p["name"]: p["pid"] for p in after["processes"]} == pids
    assert after["gateway"]["address"] == address
    assert predict(address, "c") == 200
    until(lambda: told(stack)["predictions"]["delay"]["requests"] == 3)

    again = mainspring(stack, "up", "--yes", "--detach")
    assert again.returncode == 0
    assert "already up" in again.stderr

    stack.write_text(stack.read_text().replace("p95: 50ms", "p95: 60ms"))
    changed = mainspring(stack, "up", "--yes", "--detach")
    assert changed.returncode == 0, changed.stderr
    assert "serving.delay.objective.p95" in changed.stdout
    assert told(stack)["endpoints"][0]["objective"]["p95"] == pytest.approx(0.06)

    done = mainspring(stack, "down")
    assert done.returncode == 0, done.stderr
    assert living(stack.parent / ".mainspring") == set()
    assert mainspring(stack, "down").returncode == 1


def test_sigterm_leaves_everything_alive(stack: Path) -> None:
    """A controller that is asked to end does so, and what it started goes on answering."""
    assert mainspring(stack, "up", "--yes").returncode == 0
    seen = told(stack)
    pid = controller(stack)["pid"]
    os.kill(pid, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert not (stack.parent / ".mainspring" / "control.sock").exists()
    assert all(Path(f"/proc/{p['pid']}").exists() for p in seen["processes"])
    assert predict(seen["gateway"]["address"], "d") == 200


def test_a_port_in_use_is_said_at_once(empty: Path) -> None:
    """The gateway's port is looked at before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        empty.write_text(empty.read_text().replace("port: 0", f"port: {port}"))
        done = mainspring(empty, "up", "--yes")
    assert done.returncode == 1
    assert f"port `{port}` is in use" in done.stderr
    assert "orchestration.gateway.port" in done.stderr
    assert not (empty.parent / ".mainspring" / "controller.lock").exists()


def test_a_folder_that_cannot_be_written_is_said_at_once(empty: Path) -> None:
    """A state folder that cannot be made is an error with a remedy; `doctor` finds it too."""
    (empty.parent / ".mainspring").write_text("in the way")
    done = mainspring(empty, "up", "--yes")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "hint: " in done.stderr


def test_a_bad_stack_starts_nothing(empty: Path) -> None:
    """Every problem is shown, exit status 2, and no state folder is made."""
    empty.write_text(empty.read_text().replace("serving:", "servin:").replace("machine: this", "machine: that"))
    done = mainspring(empty, "up", "--yes")
    assert done.returncode == 2
    assert done.stderr.count("error: ") >= 2
    assert not (empty.parent / ".mainspring").exists()


def test_nobody_to_ask(empty: Path) -> None:
    """Without a terminal and without --yes nothing is done."""
    done = mainspring(empty, "up")
    assert done.returncode == 2
    assert "mainspring up --yes" in done.stderr
    assert "machine/here" in done.stdout


@pytest.mark.parametrize(
    "words",
    ["status", "events", "run delay", "runs list", "models list", "gate delay@1", "rollout status",
     "rollout pause delay", "drift", "cost", "approve", "down"],
)  # fmt: skip
def test_each_verb_says_that_nothing_is_up(empty: Path, words: str) -> None:
    """When no controller is up, the verb says so and names the command that brings it up."""
    done = mainspring(empty, *words.split())
    assert done.returncode == 1
    assert "no controller is up" in done.stderr
    assert "hint: mainspring up" in done.stderr


def test_plan_without_a_controller_shows_all(empty: Path) -> None:
    """`plan` shows what `up` would do, with its monthly cost."""
    done = mainspring(empty, "plan")
    assert done.returncode == 0, done.stderr
    assert "$73.05" in done.stdout
    assert "endpoint/delay" in done.stdout
