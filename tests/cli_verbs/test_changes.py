"""People with keys of a role at the command line, and the change log, over the lives of a real controller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.cli import starting
from mainspring.cli.client import Client, NotUp
from mainspring.worlds.local import tokens
from tests.cli_verbs.conftest import controller, living, mainspring, told, until


def test_changes_and_roles_over_two_lives(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered outlives `kill -9`; the port stays; a key does what its role may, from any folder, by TCP."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    state = empty.parent / ".mainspring"
    starting.start(empty)
    client = Client(state)
    client.put("/v1/stack", client.get("/v1/stack")["text"].replace("50ms", "51ms"))
    made = {role: tokens.create(state, (), role, 0.0, role=role) for role in ("viewer", "admin")}
    address = controller(empty)["tcp"]
    ident = client.post("/v1/requests", {"verb": "pause", "target": "delay"})["id"]
    os.kill(controller(empty)["pid"], signal.SIGKILL)
    with pytest.raises(NotUp):
        while True:
            client.get("/v1/status")
    kept = {one["id"]: one for one in told(empty, "changes")}
    assert [one["what"] for one in kept.values()] == ["apply", "apply", "create key", "create key", "pause"]
    assert [one["outcome"] for one in kept.values()][:4] == ["accepted"] * 4
    assert kept[ident]["who"] == f"uid {os.getuid()} (socket)"
    page = mainspring(empty, "changes").stdout
    assert max(map(len, page.splitlines())) <= 80

    starting.start(empty)
    assert controller(empty)["tcp"] == address
    until(lambda: client.get("/v1/changes", limit=1000)[-1]["id"] == next(iter(kept)))
    assert {one["id"] for one in client.get("/v1/changes", limit=1000)} > set(kept)
    elsewhere = empty.parent.parent / "elsewhere" / "mainspring.yaml"
    elsewhere.parent.mkdir()

    def run(role: str, *words: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patched:
            patched.setenv("MAINSPRING_CONTROL", f"http://{address}")
            patched.setenv("MAINSPRING_TOKEN", made[role][1])
            return mainspring(elsewhere, *words)

    assert json.loads(run("viewer", "status", "-o", "json").stdout)["stack"]["name"] == "tiny"
    refused = run("viewer", "down")
    assert refused.returncode == 1
    assert "needs the role `admin`" in refused.stderr
    assert "--role admin" in refused.stderr
    down = run("admin", "down")
    assert down.returncode == 0, down.stderr
    until(lambda: living(state) == set())  # by TCP nobody knows which process to wait for
    last = told(empty, "changes")[-1]
    assert (last["what"], last["who"], last["outcome"]) == ("down", f"{made['admin'][0].id} (admin)", "accepted")
