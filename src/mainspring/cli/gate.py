"""`mainspring gate`: the verdict of the gates on a version. Who calls it: `cli/main.py`."""

from __future__ import annotations

from typing import Any

import click

from mainspring.cli.client import Client
from mainspring.cli.output import Options, emit, pass_options, state, talk
from mainspring.errors import InputError, MainspringError, ObjectiveNotMet


@click.command()
@click.argument("version", metavar="MODEL@N")
@pass_options
def gate(options: Options, version: str) -> None:
    """Show what the gates said of MODEL@N. Exit status 3 when it was refused."""
    client = Client(options.state)
    model, number = split(version)
    seen = version_of(client, model, number)
    if not seen["verdict"]:
        message = f"version {number} of `{model}` has not been judged"
        raise MainspringError("not-judged", message, f"`mainspring models promote {model}@{number}` has it judged")
    verdicts = client.get("/v1/records", kind="gate")
    told = next((r["value"] for r in verdicts if r["key"] == f"{model}/{number}"), {"items": [], "note": seen["note"]})
    data = {"model": model, "version": number, "verdict": seen["verdict"], "note": seen["note"], "items": told["items"]}
    if options.output != "table":
        emit(data, options.output)
    else:
        for item in told["items"]:
            passed = bool(item.get("passed"))
            name = str(item.get("gate") or item.get("name") or "")
            click.echo(f"{state('ok' if passed else 'bad', name)}: {item.get('message', '')}")
    if seen["verdict"] != "passed":
        message = f"version {number} of `{model}` was refused: {seen['note']}"
        raise ObjectiveNotMet("refused", message, f"mainspring models show {model}")
    talk(f"version {number} of `{model}` passed")


def split(text: str) -> tuple[str, str]:
    """`MODEL@N` in its parts. Raises `InputError`."""
    model, _, number = text.partition("@")
    if not model or not number.isdigit():
        message = f"`{text}` is not a version: write `MODEL@N`, such as `delay@3`"
        raise InputError("bad-version", message, "mainspring models list")
    return model, number


def version_of(client: Client, model: str, number: str) -> dict[str, Any]:
    """A version as the registry shows it. Raises `InputError` that names those there are."""
    versions = client.get("/v1/versions")
    for seen in versions:
        if seen["model"] == model and seen["number"] == number:
            found: dict[str, Any] = seen
            return found
    known = ", ".join(f"`{v['model']}@{v['number']}`" for v in versions[-10:]) or "none yet"
    message = f"there is no version `{model}@{number}`; there are: {known}"
    raise InputError("no-such-version", message, "mainspring models list")
