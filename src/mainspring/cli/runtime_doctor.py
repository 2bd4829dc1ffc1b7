"""What `mainspring runtime doctor NAME` finds: the machine, the environment, and what can be imported in there.

Who calls it: `cli/runtime.py`. What it must never do: repair anything by itself, or start a server.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import mainspring
from mainspring.cli.doctor import Finding
from mainspring.errors import InputError
from mainspring.replicas import environment, environment_install, environment_lock
from mainspring.replicas.environment import Installed
from mainspring.runtimes.descriptor import Runtime

PATIENCE = 300.0  # seconds that all imports may take: the largest server's need half a minute on a busy machine
SCORING = ("msgspec", "numpy", "onnxruntime")
"""With these in an environment it can score a version as Mainspring itself does."""

_LOOK = """
import importlib, importlib.metadata, json, sys, warnings
warnings.simplefilter("ignore")
server, *modules = sys.argv[1:]
found = {"version": "", "modules": [], "broken": {}}
try:
    found["version"] = importlib.metadata.version(server) if server else ""
    tops = importlib.metadata.packages_distributions()
    modules += sorted(name for name, by in tops.items() if name.isidentifier() and not name.startswith("_")
                      and server in [one.lower().replace("_", "-").replace(".", "-") for one in by])
except importlib.metadata.PackageNotFoundError:
    found["broken"][server] = "it is not there"
for module in modules:
    try:
        importlib.import_module(module)
    except BaseException as error:
        found["broken"][module] = f"{type(error).__name__}: {error}"[:300]
    else:
        found["modules"].append(module)
print("\\n" + json.dumps(found))
"""


def examine(one: Runtime) -> Iterator[Finding]:
    """What is there of a runtime, what is not, and the command that brings it."""
    lacking = environment.missing(one)
    for needed in one.needed:
        gone = needed in lacking
        why = f": {needed.why}" if needed.why else ""
        yield Finding(needed.name, "bad" if gone else "ok", f"not found{why}" if gone else "found", needed.install)
    if not one.runs:
        yield Finding(one.name, "waiting", f"this version does not start {one.title}", "mainspring runtime list")
    elif not one.environment:
        yield Finding("environment", "ok", "none of its own: it needs nothing besides Mainspring")
    else:
        yield from _environment(one)


def _environment(one: Runtime) -> Iterator[Finding]:
    by = environment_install.uv()
    yield Finding("installer", "ok" if by else "waiting", by or "pip", "uv is several times as fast: pip install uv")
    try:
        text = environment.requirements(one)
    except InputError as error:
        yield Finding("requirements", "bad", error.message, error.hint)
        return
    server, version = environment_lock.server(text)
    yield Finding("requirements", "ok", f"{len(environment_lock.pinned(text))} packages, {server} {version}")
    found = environment.find(one)
    if found is None:
        yield Finding("environment", "waiting", "not installed", f"mainspring runtime install {one.name}")
        return
    made = time.strftime("%Y-%m-%d", time.gmtime(found.made))
    yield Finding("environment", "ok", f"{found.bytes / 1e6:.0f} MB in {found.root}, made on {made}")
    yield from _imports(one, found, server, text)


def _imports(one: Runtime, found: Installed, server: str, text: str) -> Iterator[Finding]:
    """Whether the server, and what scores a version, can be imported in the environment."""
    again = f"mainspring runtime remove {one.name}; mainspring runtime install {one.name}"
    modules = ["mainspring.artefacts.score"] if set(SCORING) <= set(environment_lock.pinned(text)) else []
    try:
        seen = _look(found, [server, *modules])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield Finding("imports", "bad", f"{type(error).__name__}: {error}"[:300], again)
        return
    yield Finding("server", "ok" if seen["version"] else "bad", f"{one.title}: {server} {seen['version']}", again)
    for module, why in seen["broken"].items():
        yield Finding(f"import {module}", "bad", why, again)
    if seen["modules"]:
        yield Finding("imports", "ok", ", ".join(seen["modules"]))


def _look(found: Installed, words: list[str]) -> dict[str, dict[str, str]]:
    """Look from inside the environment. Raises `ValueError` when its interpreter ends without an answer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env = kept | {"PYTHONPATH": str(Path(mainspring.__file__).parents[1]), "DO_NOT_TRACK": "1",
                  "VLLM_NO_USAGE_STATS": "1", "BENTOML_DO_NOT_TRACK": "True"}  # fmt: skip
    done = subprocess.run([str(found.python), "-c", _LOOK, *words], env=env, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False)  # fmt: skip
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if not last.startswith("{"):
        raise ValueError(f"its interpreter ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    told: dict[str, dict[str, str]] = json.loads(last)
    return told
