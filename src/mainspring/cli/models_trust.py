"""`mainspring models trust | untrust | cache`: which versions may run code when they are loaded; what was downloaded.

What this is: marks in the registry of the state folder, with and without a controller, written down in the change log
like those of keys. Who calls it: `cli/models.py`.
What it must never do: mark anything but the digest that was looked at, or mark unasked.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from mainspring.cli.gate import split
from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.status import moment
from mainspring.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from mainspring.loop.snapshot import VersionSeen
    from mainspring.pipelines.registry import Registry


@click.command()
@click.argument("version", metavar="MODEL@N")
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_options
def trust(options: Options, version: str, *, yes: bool) -> None:
    """Say what MODEL@N runs when it is loaded, and let it: it is served only after that.

    The mark is the digest of what is there now: when a file of it changes, the mark is void.
    """
    model, number = split(version)
    registry = opened(options)
    try:
        seen = version_in(registry, model, number)
        trusted(options, registry, seen, yes=yes)
    finally:
        registry.close()


@click.command()
@click.argument("version", metavar="MODEL@N")
@pass_options
def untrust(options: Options, version: str) -> None:
    """Take the mark of MODEL@N away. Where it runs code when loaded, it is served no more."""
    from mainspring.worlds.local import journal

    model, number = split(version)
    registry = opened(options)
    try:
        version_in(registry, model, number)
        with journal.recorded_alone(options.state, "untrust", f"{model}@{number}", "", "mlflow.db"):
            registry.trust(model, number, "")
    finally:
        registry.close()
    talk(f"version {number} of `{model}` has no mark of trust")


@click.command()
@click.option("--clear", is_flag=True, help="Remove all that no process is downloading.")
@pass_options
def cache(options: Options, *, clear: bool) -> None:
    """Show which models were downloaded to this machine, or remove them; versions keep their own files."""
    from mainspring.artefacts.sources.cache import Cache

    kept = Cache()
    if clear:
        freed = kept.clear()
        talk(f"{freed:,} bytes removed from `{kept.root}`")
        return
    rows: list[dict[str, Any]] = [
        {"digest": one.digest, "size": one.size, "since": one.since, "source": one.source} for one in kept.listed()
    ]
    if options.output != "table":
        emit(rows, options.output)
        return
    if not rows:
        talk(f"nothing is kept in `{kept.root}`")
    shown = [{**row, "size": f"{row['size']:,}", "since": moment(row["since"]), "digest": row["digest"][:23] + "…"}
             for row in rows]  # fmt: skip
    emit(shown, "table", ["digest", "size", "since", "source"])


def opened(options: Options) -> Registry:
    """The registry of the state folder, made when there is none yet."""
    from mainspring.pipelines.registry import Registry

    registry = Registry(options.state)
    if not registry.database.exists():
        talk("making the registry (once; some seconds)")
        registry.prepare()
    return registry


def version_in(registry: Registry, model: str, number: str) -> VersionSeen:
    """A version of the registry. Raises `InputError` when there is none."""
    seen = next((v for v in registry.versions() if (v.model, v.number) == (model, number)), None)
    if seen is None:
        raise InputError("no-such-version", f"there is no version `{model}@{number}`", "mainspring models list")
    return seen


def trusted(options: Options, registry: Registry, seen: VersionSeen, *, yes: bool) -> None:
    """Say what a version runs, ask, mark it. Raises `ArtefactError` when it can't be read at all."""
    from mainspring.worlds.local import journal

    name = f"{seen.model}@{seen.number}"
    if not seen.digest:
        raise ArtefactError("artefact-unfit", f"`{name}` can't be served at all: {seen.note}", "mainspring models list")
    runs = registry.runs_code(seen)
    if not runs:
        talk(f"`{name}` runs no code of its own when it is loaded: it needs no mark")
        return
    if seen.trusted:
        talk(f"`{name}` is trusted already")
        return
    talk(f"{name} ({seen.format}, {seen.digest[:23]}…): {runs}")
    talk("that code may do whatever the user who runs the replica may do")
    agree(f"Trust {name}?", f"mainspring models trust {name} --yes", yes=yes)
    with journal.recorded_alone(options.state, "trust", name, f"{seen.digest} {runs}", "mlflow.db"):
        registry.trust(seen.model, seen.number, seen.digest)
    talk(f"`{name}` is trusted, as long as its digest is {seen.digest}")


def agree(question: str, hint: str, *, yes: bool) -> None:
    """Ask a question whose answer is no unless somebody says yes. Raises `InputError` when there is nobody."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody-to-ask", "there is nobody to ask: the input is no terminal", hint)
    click.confirm(question, default=False, abort=True, err=True)
