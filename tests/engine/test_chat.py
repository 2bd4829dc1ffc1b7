"""The chat demo with small numbers, all of it real: replicas, gates, canary, `kill -9`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mainspring.cli.control_client import Control
from mainspring.cli.starting import leftover
from mainspring.testing.faults import kill, same_mainspring

pytestmark = pytest.mark.engine

PATIENCE = 420.0  # seconds; a quiet machine of two cores takes under half of it


def test_the_chat_demo_does_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Better settings are promoted by a canary, leaky ones refused, a killed replica comes back; one end for each."""
    place = tmp_path / "chat"
    argv = [sys.executable, "-m", "mainspring.cli.main", "demo", "chat", "--folder", str(place)]
    argv += ["--rate", "0.8", "--steady", "3"]
    env = {k: v for k, v in same_mainspring().items() if k != "PYTHONDONTWRITEBYTECODE"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
            check=False,
        )  # fmt: skip
    finally:
        _clear(place)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    with capsys.disabled():
        print(f"\nthe chat demo: {took:.0f} s, {report['requests']} requests, {report['failed']} failed")
    assert [v["outcome"] for v in report["versions"]] == ["promoted", "promoted", "refused"]
    assert [g["name"] for g in report["versions"][2]["gates"] if not g["passed"]] == ["evals.safety"]
    assert report["one_terminal_event_each"], report["terminal_events"]
    by_phase = {phase["phase"]: phase["by_version"] for phase in report["phases"]}
    assert {"1", "2"} <= set(by_phase["canary of version 2"])
    assert set(by_phase["version 3 is judged"]) == {"2"}, "a refused version saw a user"
    assert not _failed_away_from_the_kill(report), "a request failed that the kill had nothing to do with"
    assert report["back_at"] > report["killed_at"]
    assert (place / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not leftover(place / ".mainspring"), "something runs on"


def _failed_away_from_the_kill(report: dict) -> list[dict]:  # type: ignore[type-arg]
    """Failed requests that were over before the kill, or began after the killed replica was back."""
    return [
        a for a in report["answers"]
        if a["error"] and not (a["end"] >= report["killed_at"] and a["due"] <= report["back_at"])
    ]  # fmt: skip


def _clear(place: Path) -> None:
    """Leave no process behind, however the test ended."""
    control = Control(place / "mainspring.yaml")
    if (place / ".mainspring").is_dir() and control.is_up():
        control.down()
    for entry in os.listdir("/proc"):
        try:
            ours = entry.isdigit() and str(place).encode() in Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        if ours and int(entry) != os.getpid():
            kill(int(entry))
