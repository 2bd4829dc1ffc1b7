"""`mainspring doctor`: check this machine and this stack, with a remedy for each trouble.

What this is: a list of small checks, each of which looks and says. Who calls it: `cli/main.py`. What it must never
do: repair anything by itself, or stop at the first trouble.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from mainspring.cli import starting
from mainspring.cli.client import Client, NotUp
from mainspring.cli.output import Options, emit, pass_options, state
from mainspring.errors import EnvironmentError_, MainspringError

NEEDED = ("click", "pydantic", "pyyaml", "msgspec", "httptools", "numpy", "onnxruntime", "mlflow-skinny", "sqlalchemy",
          "fastapi", "uvicorn", "fsspec", "pandas", "pyarrow")  # fmt: skip
EXTRA = ("scikit-learn", "skl2onnx")
LITTLE = 1 << 30  # bytes of free disk under which to worry


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    state: str  # "ok" | "waiting" (worth knowing) | "bad"
    found: str
    remedy: str = ""


@click.command()
@pass_options
def doctor(options: Options) -> int:
    """Check Python, packages, the stack file, port, folder, disk, controller. Exit status 1 when something is bad."""
    return report([finding for check in CHECKS for finding in _safely(check, options)], options)


def report(findings: list[Finding], options: Options) -> int:
    """Write findings; the exit status, which is 1 when one is bad."""
    if options.output != "table":
        emit([asdict(f) for f in findings], options.output)
    else:
        for f in findings:
            click.echo(f"{state(f.state, f.check, color=options.color)}: {f.found}")
            if f.remedy and f.state != "ok":
                click.echo(f"    {f.remedy}")
    return 1 if any(f.state == "bad" for f in findings) else 0


def _safely(check: Callable[[Options], Iterator[Finding]], options: Options) -> list[Finding]:
    name = check.__name__.strip("_")
    try:
        return list(check(options))
    except MainspringError as error:
        return [Finding(name, "bad", error.message, error.hint)]
    except Exception as error:
        return [Finding(name, "bad", f"{type(error).__name__}: {error}", "mainspring doctor --debug")]


def _python(_: Options) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if fine else "bad", version, "Python 3.11 or later is needed")


def _packages(_: Options) -> Iterator[Finding]:
    missing = [name for name in NEEDED if not _version(name)]
    found = ", ".join(f"{name} {_version(name)}" for name in ("mlflow-skinny", "onnxruntime", "pandas"))
    yield Finding("packages", "bad" if missing else "ok", f"missing: {', '.join(missing)}" if missing else found,
                  f"pip install {' '.join(missing)}")  # fmt: skip
    absent = [name for name in EXTRA if not _version(name)]
    if absent:
        yield Finding("scikit-learn", "waiting", f"not installed: {', '.join(absent)}",
                      "to train scikit-learn models: pip install 'mainspring[sklearn]'")  # fmt: skip


def _llamacpp(options: Options) -> Iterator[Finding]:
    """What language models on this machine need; silent where the stack has none."""
    import ctypes.util

    from mainspring.stack.load import check

    if not any(one.runtime == "llamacpp" for one in check(options.file).stack.serving.values()):
        return
    version = _version("xllamacpp")
    yield Finding("llama.cpp", "ok" if version else "bad", version or "not installed",
                  "pip install 'mainspring[llamacpp]'")  # fmt: skip
    threads = ctypes.util.find_library("gomp")
    yield Finding("libgomp", "ok" if threads else "bad", threads or "not installed", "apt-get install libgomp1")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _stack(options: Options) -> Iterator[Finding]:
    from mainspring.stack.load import check

    stack = check(options.file).stack
    found = f"{len(stack.serving)} endpoint(s), {len(stack.pipelines)} pipeline(s)"
    yield Finding("stack", "ok", f"`{options.file}`: {found}")
    port = stack.orchestration.gateway.port
    if stack.serving and port:
        try:
            Client(options.state).get("/v1/stack")
        except NotUp:
            starting.port_free(port)
            yield Finding("port", "ok", f"port {port} is free")


def _folder(options: Options) -> Iterator[Finding]:
    from mainspring.worlds.local.folder import NETWORK, file_system

    place = options.state if options.state.exists() else options.folder
    kind = file_system(place)
    network = kind in NETWORK
    what = kind or "a file system of unknown kind"
    yield Finding("file system", "bad" if network else "ok", f"`{place}` is on {what}",
                  "put the stack on a local disk: locks and SQLite are not safe on this one")  # fmt: skip
    writable = os.access(place, os.W_OK | os.X_OK)
    yield Finding("folder", "ok" if writable else "bad", f"`{place}` can{'' if writable else 'not'} be written",
                  f"chmod u+rwx {place}")  # fmt: skip
    free = shutil.disk_usage(place).free
    yield Finding("disk", "ok" if free >= LITTLE else "bad", f"{free / (1 << 30):.1f} GiB free",
                  f"free some space: du -sh {place}/*")  # fmt: skip


def _controller(options: Options) -> Iterator[Finding]:
    from mainspring.worlds.local.folder import holder

    began = time.perf_counter()
    try:
        told = Client(options.state).get("/v1/status")
    except NotUp:
        pid = holder(Path(options.state))
        if pid:
            message = f"process {pid} holds the folder and does not answer"
            raise EnvironmentError_("controller-silent", message, f"mainspring logs controller; kill {pid}") from None
        yield Finding("controller", "waiting", "not up", "mainspring up")
        return
    took = time.perf_counter() - began
    yield Finding("controller", "ok", f"answers in {took * 1000:.0f} ms, cycle {told['cycle']}")
    if told["trouble"]:
        yield Finding("loop", "bad", told["trouble"]["message"], told["trouble"]["hint"])
    if not told["registry"]:
        yield Finding("registry", "bad", "MLflow's database does not answer", "mainspring logs controller")
    for condition in told["conditions"]:
        if condition["status"] == "false" and condition["about"] != "loop":
            yield Finding(condition["about"], "waiting", condition["message"], "mainspring status")


CHECKS = (_python, _packages, _stack, _llamacpp, _folder, _controller)
