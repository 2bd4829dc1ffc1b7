"""The class that `docs/runtimes.md` shows: it scores, and the commands around it serve it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mainspring.artefacts.class_score import ClassScorer
from mainspring.artefacts.manifest import Field
from mainspring.testing.own_models import class_artefact

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8").split("## Your own Python class", 1)[1]
[SOURCE, *_] = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
[CONSOLE, *_] = re.findall(r"^```console\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
[WEIGHTS] = re.findall(r"^`(\{.*?\})`\.", SECTION, re.MULTILINE)
[SERVING] = re.findall(r"`serving: (\{.*?\}\})`", SECTION)
EXPECTED = [1 / (1 + np.exp(2.0 - 0.2 * np.log1p(500.5) - 1)), 1 / (1 + np.exp(2.0))]


def test_the_class_scores(tmp_path: Path) -> None:
    """The class of the page is one, and gives the numbers that its lines say."""
    fields = (Field("hour", "INT64"), Field("distance", "FP64"))
    files = {"weights.json": WEIGHTS.encode()}
    class_artefact(tmp_path / "a", tmp_path / "code", SOURCE, "late:Late", fields, files)
    found = ClassScorer(tmp_path / "a", tmp_path / "code").score({"hour": [18, 9], "distance": [500.5, None]})
    assert found.tolist() == pytest.approx(EXPECTED)
    assert len([line for line in SOURCE.splitlines() if line.strip()]) <= 10


@pytest.mark.slow
def test_the_commands_serve_it(tmp_path: Path) -> None:
    """The page's commands, typed in a folder with the page's files, answer with the class's numbers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "bin").mkdir()
    shell = tmp_path / "bin" / "mainspring"
    shell.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mainspring.cli.main "$@"\n')
    shell.chmod(0o755)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.json").write_text(WEIGHTS)
    (tmp_path / "late.py").write_text(SOURCE)
    (tmp_path / "mainspring.yaml").write_text(
        "mainspring: 1\nstack: own\ncompute: {here: {machine: this}}\n"
        f"orchestration: {{where: here, gateway: {{port: {port}}}}}\nserving: {SERVING}\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}

    def say(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    add, up, ask = (part.replace("8080", port) for part in CONSOLE.removeprefix("$ ").split("\n$ "))
    try:
        assert say(add.splitlines()[0]).strip() == add.splitlines()[1] == "late@1"
        say(up)
        assert json.loads(say(ask))["outputs"][0]["data"] == pytest.approx(EXPECTED)
    finally:
        say("mainspring down")
