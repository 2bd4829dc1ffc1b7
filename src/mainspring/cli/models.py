"""`mainspring models`: list, show and promote versions; add and trust are files beside this one.

Who calls it: `cli/main.py`. It asks the controller, and reads what a version is made of from its artefact's manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mainspring.artefacts.load import load_manifest
from mainspring.cli.client import Client
from mainspring.cli.gate import GIVEN_UP, split, version_of
from mainspring.cli.models_add import add
from mainspring.cli.models_trust import cache, trust, untrust
from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.status import moment
from mainspring.errors import InputError, MainspringError, ObjectiveNotMet


@click.group()
def models() -> None:
    """Add, list, show, trust and promote versions of models."""


for _command in (add, trust, untrust, cache):
    models.add_command(_command)


@models.command("list")
@pass_options
def list_(options: Options) -> None:
    """List all versions of all models of the stack."""
    versions = Client(options.state).get("/v1/versions")
    if options.output != "table":
        emit(versions, options.output)
        return
    columns = ["version", "aliases", "verdict", "run", "created", "note"]
    emit([_row(v) for v in versions], "table", columns)


@models.command()
@click.argument("model")
@pass_options
def show(options: Options, model: str) -> None:
    """Show the versions of MODEL, or one version as MODEL@N."""
    client = Client(options.state)
    name, _, number = model.partition("@")
    if number:
        seen = version_of(client, *split(model))
        made = _made(seen)
        if options.output != "table":
            emit({**seen, **made}, options.output)
            return
        settings = {f"settings.{key}": value for key, value in made["settings"].items()}
        rest = {key: made[key] for key in ("format", "precision", "made_of") if made[key]}
        emit({**seen, "created": moment(seen["created"]) if seen["created"] else "<unknown>", **rest, **settings})
        return
    found = [v for v in client.get("/v1/versions") if v["model"] == name]
    if not found:
        raise InputError("no-such-model", f"there is no version of a model `{name}`", "mainspring models list")
    if options.output != "table":
        emit([{**v, **_made(v)} for v in found], options.output)
        return
    rows = [{**_row(v), **_in_short(_made(v))} for v in found]
    more = [key for key in ("precision", "settings") if any(row[key] for row in rows)]
    emit(rows, "table", ["version", "aliases", "verdict", "run", *(more or ["created", "note"])])


@models.command()
@click.argument("version", metavar="MODEL@N")
@pass_options
def promote(options: Options, version: str) -> None:
    """Have MODEL@N judged (if it was not) and, when it passes, rolled out; it becomes champion when that ends well."""
    client = Client(options.state)
    model, number = split(version)
    seen = version_of(client, model, number)
    if "champion" in seen["aliases"]:
        talk(f"version {number} of `{model}` is the champion already")
        return
    if seen["verdict"] == "refused":
        message = f"version {number} of `{model}` was refused: {seen['note']}"
        again = " --again" if GIVEN_UP in seen["note"] else ""
        raise ObjectiveNotMet("refused", message, f"mainspring gate {model}@{number}{again}")
    client.post(f"/v1/models/{model}/challenger", {"version": number})
    talk(f"version {number} of `{model}` is the challenger: `mainspring status` shows how it gets on")


def _made(seen: dict[str, Any]) -> dict[str, Any]:
    """What a version is made of, by its manifest; empty where that can't be read."""
    try:
        manifest = load_manifest(Path(seen["artefact"]))
    except MainspringError:
        return {"format": "", "precision": "", "made_of": "", "settings": {}}
    settings = dict(manifest.settings)
    return {
        "format": manifest.format, "precision": manifest.precision, "made_of": manifest.made_of, "settings": settings
    }  # fmt: skip


def _in_short(made: dict[str, Any]) -> dict[str, str]:
    """The same in a row: numbers before texts, which are cut off first where a line is full."""
    settings = sorted(made["settings"].items(), key=lambda pair: isinstance(pair[1], str))
    return {"precision": made["precision"], "settings": ", ".join(f"{key} {value}" for key, value in settings)}


def _row(seen: dict[str, Any]) -> dict[str, Any]:
    created = moment(seen["created"]) if seen["created"] else "<unknown>"
    verdict = seen["verdict"] or "not judged"
    return {
        "version": f"{seen['model']}@{seen['number']}",
        "aliases": seen["aliases"],
        "verdict": verdict if seen["servable"] else f"{verdict}, not servable",
        "run": seen["run"],
        "created": created,
        "note": seen["note"],
    }
