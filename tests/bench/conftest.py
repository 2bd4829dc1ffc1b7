"""A stand-in server for each test that asks for one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainspring.testing.serving import Process, call

Start = Callable[..., Process]
SERVER = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a stand-in with these options; its address is `.address`."""
    started: list[Process] = []

    def begin(*options: object) -> Process:
        name = f"stand-in-{len(started)}"
        announce, log = tmp_path / f"{name}.json", tmp_path / f"{name}.log"
        command = [sys.executable, str(SERVER), "--announce", str(announce), *map(str, options)]
        with log.open("wb") as out:
            popen = subprocess.Popen(command, stdout=out, stderr=out)
        process = Process(name, command, announce, log, popen)
        started.append(process)
        process.wait_ready()
        return process

    yield begin
    for process in started:
        process.popen.kill()
        process.popen.wait()


def seen(server: Process) -> list[dict]:
    """What a stand-in was asked, in order."""
    return call(server.address, "GET", "/seen").json()
