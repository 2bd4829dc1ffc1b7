"""Stand-in programs: they speak the command lines and files of the real ones, and need the standard library only."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any


def write(path: str, value: object) -> None:
    """Write JSON whole."""
    with open(path + ".tmp-x", "w") as file:
        json.dump(value, file)
    os.replace(path + ".tmp-x", path)


def read(path: str) -> dict[str, Any]:
    """Read JSON; {} when there is none."""
    try:
        with open(path) as file:
            found: dict[str, Any] = json.load(file)
            return found
    except (OSError, ValueError):
        return {}


def serve(options: argparse.Namespace, each_turn: Callable[[], None]) -> None:
    """Listen, announce, and turn until a SIGTERM."""
    door = socket.create_server(("127.0.0.1", int(options.port or 0)))
    host, port = door.getsockname()
    write(options.announce, {"address": f"{host}:{port}", "pid": os.getpid()})
    while True:
        each_turn()
        time.sleep(0.02)


def replica(options: argparse.Namespace) -> None:
    """A replica; what it does may be in the artefact."""
    how = read(os.path.join(options.artefact, "manifest.json")).get("how", "")
    if how == "broken":
        raise ValueError("no such model")
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how == "parent":
        if os.fork() == 0:
            time.sleep(60)
        os.environ["CHILD"] = "1"
    if how == "stranger" and os.fork() == 0:
        os.setsid()
        write(os.path.join(options.artefact, "stranger.json"), {"pid": os.getpid()})
        time.sleep(60)
    if how == "environment":
        write(os.path.join(options.artefact, "environment.json"), dict(os.environ))
    serve(options, lambda: None)


def gateway(options: argparse.Namespace) -> None:
    """A gateway that acknowledges."""
    seen = [None]

    def look() -> None:
        epoch = read(options.routes).get("epoch")
        if epoch is not None and epoch != seen[0]:
            seen[0] = epoch
            path = os.path.join(options.acks, options.name + ".json")
            write(path, {"epoch": epoch, "pid": os.getpid(), "boot": "b"})

    serve(options, look)


def run(options: argparse.Namespace) -> None:
    """A run: its pipeline's name says how it goes."""
    spec = read(os.path.join(options.run, "spec.json"))
    write(os.path.join(options.run, "state.json"), {"attempt": spec["attempt"]})
    time.sleep(0.3)
    result = {"attempt": spec["attempt"], "state": "succeeded", "artefact": options.run, "digest": "sha256:1"}
    if spec["pipeline"] == "failing":
        result = {"attempt": spec["attempt"], "state": "failed", "error": "ValueError: no rows"}
    if spec["pipeline"] == "vanishing":
        sys.exit("MemoryError: gone")
    write(os.path.join(options.run, "result.json"), result)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    for name in (
        *("artefact", "name", "model", "version", "code", "announce", "threads", "batch-size", "batch-wait", "port"),
        *("routes", "acks", "segments", "run", "state", "stack", "keys", "pepper", "upstream-key", "processes"),
    ):
        parser.add_argument(f"--{name}")
    parser.add_argument("--workers-share", action="store_true")
    given = parser.parse_known_args()[0]
    {"replica": replica, "gateway": gateway, "run": run}[given.what](given)
