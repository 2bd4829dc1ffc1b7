"""`mainspring gate` as a CI runs it: a version that somebody registered, judged alone, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.pipelines.registry import Registry
from mainspring.testing.artefacts import tiny_artefact
from tests.cli_verbs import tiny
from tests.cli_verbs.conftest import kill_all, mainspring, told
from tests.pipelines.conftest import BEGAN, DAY, ROWS_A_DAY

STACK = f"""\
{tiny.STACK}\
      auc: {{at_least: 0.55}}
      latency: {{p95: 1s}}
      inputs: {{distance: 0..3000}}
"""


def trips(days: int = 40) -> str:
    """Rows whose lateness grows with the distance."""
    import numpy as np

    random = np.random.default_rng(3)
    lines = ["id,time,late,hour,distance,carrier"]
    for row in range(days * ROWS_A_DAY):
        moment = np.datetime64(int(BEGAN + (row + 0.5) * DAY / ROWS_A_DAY), "s")
        distance = random.exponential(400)
        late = int(random.random() < distance / (distance + 400))
        lines.append(f"t{row},{moment}Z,{late},{random.integers(0, 24)},{min(distance, 3000):.1f},UA")
    return "\n".join(lines) + "\n"


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Path]:
    """A stack with a champion, and a version 2 that nobody has judged."""
    folder = tmp_path / "stack"
    state = folder / ".mainspring"
    state.mkdir(parents=True, mode=0o700)
    (folder / "trips.csv").write_text(trips())
    (folder / "trips.py").write_text(tiny.CODE)
    (folder / "mainspring.yaml").write_text(STACK)
    registry = Registry(state)
    registry.prepare()
    for run in ("given-1", "given-2"):
        tiny_artefact(state / "artefacts" / "delay" / run, state / "code", model="delay", run=run, features=True)
        number = registry.register("delay", run)
    registry.record_verdict("delay", "1", "passed", "given", "{}")
    registry.set_alias("delay", "champion", "1")
    registry.close()
    assert number == "2"
    yield folder / "mainspring.yaml"
    kill_all(state)


def test_a_version_is_judged_alone(registered: Path) -> None:
    """Progress on stderr, verdicts on stdout, status 0; then as JSON; again; refused with status 3; kept when down."""
    away = mainspring(registered, "gate", "delay@2")
    assert away.returncode == 1
    assert "hint: mainspring up" in away.stderr
    assert mainspring(registered, "up", "--yes").returncode == 0

    done = mainspring(registered, "gate", "delay@2")
    assert done.returncode == 0, done.stderr
    assert "run delays-1 judges delay@2" in done.stderr
    assert "version 2 of `delay` passed" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0].split()[-1] for line in lines] == ["auc", "latency", "inputs.rows", "inputs.probes"]

    shown = mainspring(registered, "gate", "delay@2", "-o", "json")
    assert shown.returncode == 0
    first = json.loads(shown.stdout)
    assert (first["verdict"], first["run"], first["champion"]) == ("passed", "delays-1", "1")
    assert all(item["numbers"] for item in first["items"])
    assert "run delays" not in shown.stderr  # nothing is run for a verdict that is there

    registered.write_text(STACK.replace("at_least: 0.55", "at_least: 0.99"))
    assert mainspring(registered, "up", "--yes").returncode == 0
    refused = mainspring(registered, "gate", "delay@2", "--again", "-o", "json")
    assert refused.returncode == 3, refused.stderr
    second = json.loads(refused.stdout)
    assert (second["verdict"], second["run"]) == ("refused", "delays-2")
    assert "was refused" in refused.stderr
    assert "hint: mainspring runs show delays-2" in refused.stderr

    versions = {v["number"]: v for v in told(registered, "models", "list")}
    assert versions["2"]["verdict"] == "refused"
    assert versions["1"]["aliases"] == ["champion"]
    assert told(registered)["rollouts"] == []
    assert mainspring(registered, "gate", "delay@9").returncode == 2
    assert mainspring(registered, "gate", "delay").returncode == 2
    assert mainspring(registered, "gate", "delay@2", "--timeout", "soon").returncode == 2

    assert mainspring(registered, "down").returncode == 0
    kept = mainspring(registered, "gate", "delay@2", "-o", "json")
    assert kept.returncode == 3
    assert {item["name"] for item in json.loads(kept.stdout)["items"]} == {item["name"] for item in second["items"]}
    assert mainspring(registered, "gate", "delay@2", "--again").returncode == 1
