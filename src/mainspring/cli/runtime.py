"""`mainspring runtime`: the model servers that are known, and their environments. Who calls it: `cli/main.py`.

What this is: tables of `runtimes/` and of the cache of environments. What it must never do: start a server, or remove
an environment that is in use.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from mainspring.cli.doctor import report
from mainspring.cli.output import Options, emit, pass_options, state, talk
from mainspring.cli.runtime_doctor import examine
from mainspring.errors import InputError
from mainspring.replicas import environment, environment_lock
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Runtime

OWN = {"onnx": "onnxruntime", "llamacpp": "xllamacpp"}
"""The package that is the server, of runtimes in Mainspring's own environment."""


@click.group()
def runtime() -> None:
    """List, install, check and remove model servers, each in a virtual environment of its own."""


@runtime.command("list")
@pass_options
def list_(options: Options) -> None:
    """List all model servers: whether they are installed, their size, version, protocol and formats."""
    rows = [_row(one) for one in runtimes().values()]
    if options.output != "table":
        emit(rows, options.output)
        return
    shown = [{**row, "state": state(*_shown(row)), "size": _bytes(row["bytes"]), "version": row["version"] or "-"}
             for row in rows]  # fmt: skip
    emit(shown, "table", ["name", "state", "size", "version", "protocol", "formats"])
    for one in (one for one in runtimes().values() if one.runs):
        _say_needs(one)


@runtime.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_options
def install(options: Options, names: tuple[str, ...]) -> None:
    """Install model servers; one that is there is left as it is."""
    done: list[dict[str, Any]] = []
    for one in [_named(name) for name in names]:
        installed = made(one)
        _say_needs(one)
        done.append({"name": one.name, "folder": str(installed.root), "bytes": installed.bytes,
                     "python": str(installed.python)})  # fmt: skip
    emit(done if options.output != "table" else [{**row, "size": _bytes(row["bytes"])} for row in done],
         options.output, ["name", "size"])  # fmt: skip


@runtime.command()
@click.argument("name")
@pass_options
def doctor(options: Options, name: str) -> int:
    """Check what a model server needs, and when it is installed, whether it can be imported. Exit status 1 if not."""
    return report(list(examine(_named(name))), options)


@runtime.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option(
    "--unused", is_flag=True, help="Remove environments that no model server's requirements ask for any more."
)
@pass_options
def remove(options: Options, names: tuple[str, ...], *, unused: bool) -> None:
    """Remove the environments of model servers. One that a replica uses is refused, or left by `--unused`."""
    if unused == bool(names):
        raise InputError("what-to-remove", "say the NAMEs to remove, or `--unused`", "mainspring runtime list")
    known = runtimes()
    what: list[Runtime | Path] = [*environment.unused(list(known.values()))] if unused else [_named(n) for n in names]
    done: list[dict[str, Any]] = []
    for one in what:
        try:
            done.append({"name": one.name, "freed": environment.remove(one)})
        except InputError as error:
            if not unused or error.code != "in-use":
                raise
            talk(error.message)
    if options.output != "table":
        emit(done, options.output)
        return
    for row in done:
        talk(f"removed `{row['name']}`: {_bytes(row['freed'])} free; `uv cache clean` frees what uv keeps of it")
    if not done:
        talk("there is no environment that is not used")


def made(one: Runtime) -> environment.Installed:
    """Install a model server with its progress shown; one that is there is left as it is."""
    line = Line()
    try:
        return environment.install(one, line.tell)
    finally:
        line.close()


class Line:
    """Progress: on a terminal one line that changes, elsewhere a line for each."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.open = False

    def tell(self, text: str) -> None:
        """Show a line of progress."""
        if not self.live:
            talk(text)
            return
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r{text[:width]:<{width}}", err=True, nl=False)  # spaces: no control codes with NO_COLOR
        self.open = True

    def close(self) -> None:
        """Leave the last line standing."""
        if self.open:
            talk()


def _named(name: str) -> Runtime:
    """Find a runtime; an unknown one is an error that names the nearest."""
    known = runtimes()
    if name not in known:
        near = difflib.get_close_matches(name[:40], known, n=1)
        meant = f"; did you mean `{near[0]}`?" if near else ""
        raise InputError("no-such-runtime", f"there is no runtime `{name[:40]}`{meant}", "mainspring runtime list")
    return known[name]


def _say_needs(one: Runtime) -> None:
    for needed in environment.missing(one):
        talk(f"{one.name} needs {needed.name}: {needed.install}")


def _row(one: Runtime) -> dict[str, Any]:
    """All that the list knows of a runtime; `state` is for scripts."""
    found = environment.find(one) if one.runs and not (one.environment and not _locked(one)) else None
    lacks = [needed.name for needed in environment.missing(one)] if one.runs else []
    server, version = environment_lock.server(environment.requirements(one)) if _locked(one) else _own(one)
    ready = "elsewhere" if one.foreign else "installed" if found else "not installed"
    told = "planned" if not one.runs else "needs more" if lacks else ready
    return {
        "name": one.name, "title": one.title, "kind": one.kind, "state": told, "needs": lacks, "server": server,
        "version": version, "bytes": found.bytes if found and one.environment else 0, "protocol": one.protocol,
        "formats": list(one.formats), "folder": str(found.root) if found and one.environment else "", "note": one.note,
    }  # fmt: skip


def _locked(one: Runtime) -> bool:
    """Whether a runtime has a requirement set."""
    if not one.environment:
        return False
    try:
        return bool(environment.requirements(one))
    except InputError:
        return False


def _own(one: Runtime) -> tuple[str, str]:
    """The package that serves in Mainspring's own environment, and its version."""
    name = OWN.get(one.name, "")
    try:
        return name, importlib.metadata.version(name) if name else ""
    except importlib.metadata.PackageNotFoundError:
        return name, ""


def _shown(row: dict[str, Any]) -> tuple[str, str]:
    """A row's state as a glyph's kind and a word."""
    if row["state"] == "planned":
        return "left out", "planned"
    if row["server"] and not row["version"]:
        return "bad", "not installed"
    kinds = {"installed": "ok", "elsewhere": "ok", "needs more": "bad"}
    return kinds.get(row["state"], "waiting"), row["state"]


def _bytes(size: int) -> str:
    if not size:
        return "-"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
