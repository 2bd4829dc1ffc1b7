"""A replay through `Control`; backup and restore; verbs of a running stack."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mainspring.cli.control_client import Control
from mainspring.errors import Conflict
from tests.cli_verbs.conftest import controller, kill_all, mainspring, told

MARCH = 1362096000.0
DAY = 86400.0


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller's Python finds this checkout, as an installed one would."""
    import sys

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))


@pytest.mark.usefixtures("paths")
def test_a_replay_moves_and_resumes(stack: Path) -> None:
    """The clock goes where it is put, never back, and a controller that was killed goes on where it was."""
    control = Control(stack, MARCH)
    control.ensure_up()
    assert control.clock() == MARCH
    assert control.gateway().startswith("127.0.0.1:")
    control.advance(MARCH + DAY)
    assert control.clock() == MARCH + DAY
    assert control.status()["live"] == "1"
    with pytest.raises(Conflict):
        control.client.post("/v1/clock", {"to": MARCH})
    control.advance(MARCH)  # a replay that resumes: only waits
    os.kill(controller(stack)["pid"], signal.SIGKILL)
    control.advance(MARCH + 2 * DAY)
    assert control.clock() == MARCH + 2 * DAY
    assert control.records("rollout")[0]["value"]["kind"] == "first"
    control.down()
    control.ensure_up()
    assert control.clock() == MARCH + 2 * DAY
    control.down()


def test_the_verbs_of_a_running_stack(stack: Path, tmp_path: Path) -> None:
    """Each verb answers with what there is, and with the right exit status."""
    assert mainspring(stack, "up", "--yes").returncode == 0
    assert mainspring(stack, "plan").returncode == 0
    assert told(stack, "models", "list")[0]["aliases"] == ["champion"]
    assert told(stack, "cost")["dollars"] >= 0
    assert [row["kind"] for row in told(stack, "cost", "--by", "endpoint")][-2:] in ([], ["training", "idle"])
    assert told(stack, "runs", "list") == []
    assert {"controller", "gateway-0"} <= {row["name"] for row in told(stack, "logs")}
    assert "controller" in mainspring(stack, "logs", "nix").stderr
    assert mainspring(stack, "logs", "../state.db").returncode == 2
    assert mainspring(stack, "gate", "delay@1").returncode == 1
    assert mainspring(stack, "gate", "delay@9").returncode == 2
    undo = mainspring(stack, "rollout", "undo", "delay")
    assert undo.returncode == 1
    assert "no previous version" in undo.stderr
    page = mainspring(stack, "status").stdout
    assert max(len(line) for line in page.splitlines()) <= 80
    assert all(row["state"] != "bad" for row in told(stack, "doctor"))

    saved = tmp_path / "saved.db"
    assert mainspring(stack, "backup", str(saved)).returncode == 0
    assert mainspring(stack, "backup", str(saved)).returncode == 2
    busy = mainspring(stack, "restore", str(saved))
    assert busy.returncode == 1
    assert "holds the state folder" in busy.stderr
    os.kill(controller(stack)["pid"], signal.SIGKILL)
    kill_all(stack.parent / ".mainspring")
    restored = mainspring(stack, "restore", str(saved))
    assert restored.returncode == 0, restored.stderr
    assert mainspring(stack, "up", "--yes").returncode == 0
    assert told(stack)["endpoints"][0]["champion"] == "1"
    assert mainspring(stack, "down").returncode == 0
