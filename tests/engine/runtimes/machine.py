"""What a machine has of the runtimes, and what was seen of them: shared by this folder's tests and its `conftest.py`.

An environment that is not there is installed (once for all stacks of the machine). What can't be had is skipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mainspring.artefacts.load import WEIGHTS, load_manifest, save_manifest
from mainspring.artefacts.weights import digest_of_file
from mainspring.errors import EnvironmentError_
from mainspring.replicas import environment
from mainspring.replicas.environment_lock import requirements, server
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Runtime
from mainspring.testing.artefacts import smollm2
from mainspring.testing.serving import call

RESULTS = Path(__file__).parents[3] / "build" / "compatibility"
ABSENT: dict[str, str] = {}
"""Runtimes that this machine lacks something for: what, and the command that brings it."""
SEEN: dict[str, dict[str, Any]] = {}
"""By runtime: its title, version, protocol, and how each test ended."""


def installed(name: str) -> Runtime:
    """A runtime whose environment is there; skips, and remembers why, where the machine lacks something."""
    runtime = runtimes()[name]
    lacks = environment.missing(runtime)
    if lacks:
        absent(name, f"`{lacks[0].name}` is not on this machine", lacks[0].install)
    try:
        environment.install(runtime, print)
    except EnvironmentError_ as error:
        absent(name, error.message, error.hint or f"mainspring runtime install {name}")
    return runtime


def absent(name: str, why: str, command: str) -> None:
    """Skip what needs a runtime that can't be had here, loudly."""
    ABSENT[name] = f"{why}: {command}"
    pytest.skip(f"runtime `{name}`: {ABSENT[name]}")


def weights() -> Path:
    """The weights of the small language model; skips where they are not installed."""
    try:
        return smollm2()
    except EnvironmentError_ as error:
        absent("llamacpp", error.message, error.hint)
        raise


def note(name: str, *, title: str = "", **more: str) -> None:
    """Remember what a server says of itself."""
    runtime = runtimes().get(name)
    seen = SEEN.setdefault(name, {"tests": {}})
    seen.update({key: value for key, value in more.items() if value})
    seen["title"] = title or (runtime.title if runtime else name)
    if runtime is not None:
        seen["protocol"] = seen.get("protocol") or runtime.protocol
        if runtime.environment:
            seen["package"] = " ".join(server(requirements(runtime)))


def spoilt_weights(good: Path, folder: Path) -> Path:
    """A language model whose digest is right, and whose file is no GGUF; gives `folder`."""
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(b"GGUF" + b"\0" * 64)
    save_manifest(folder, replace(load_manifest(good), digest=digest_of_file(folder / WEIGHTS)))
    return folder


def post(address: str, path: str) -> int:
    """The status of an empty POST."""
    return call(address, "POST", path, b"{}", {"content-type": "application/json"}, 60.0).status
