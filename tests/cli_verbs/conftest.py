"""Real controllers on real folders, and no process left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mainspring.testing.served import served, stack_file

Tell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registered model: made once, copied for each test."""
    folder = tmp_path_factory.mktemp("given") / "stack"
    folder.mkdir()
    served(folder)
    return folder


@pytest.fixture
def stack(given: Path, tmp_path: Path) -> Iterator[Path]:
    """A stack file of one's own, whose processes are killed in the end."""
    folder = tmp_path / "stack"
    shutil.copytree(given, folder)
    yield folder / "mainspring.yaml"
    kill_all(folder / ".mainspring")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """A stack file without any state, whose processes are killed in the end."""
    path = stack_file(tmp_path / "empty")
    yield path
    kill_all(path.parent / ".mainspring")


def mainspring(stack: Path, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """One command line, as a person runs it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-m", "mainspring.cli.main", *arguments],
        cwd=stack.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def told(stack: Path, verb: str = "status", *more: str) -> Any:
    """What a verb says, as data."""
    done = mainspring(stack, verb, *more, "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def controller(stack: Path) -> dict[str, Any]:
    """What the controller says of itself."""
    value: dict[str, Any] = json.loads((stack.parent / ".mainspring" / "controller.json").read_bytes())
    return value


def living(state: Path) -> set[int]:
    """Processes with this state folder in their command line, or in that of their shim."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes()
                dead = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
                if str(state.parent).encode() in line and not dead:
                    found.add(int(entry.name))
    return found


def kill_all(state: Path) -> None:
    """Kill whatever runs for a state folder: the controller first, so that it starts nothing anew."""
    for _ in range(3):
        for pid in sorted(living(state)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something, by looking."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
