"""`mainspring validate`: read the stack file, show every problem at once; `mainspring schema` for editors.

What this is: two verbs. Who calls it: `cli/main.py`. What it must never do: import the user's code, or change anything.
"""

from __future__ import annotations

from pathlib import Path

import click

from mainspring.cli.output import Options, emit, pass_options, state, talk
from mainspring.stack.load import check
from mainspring.stack.notes import notes
from mainspring.stack.resolve import revision
from mainspring.stack.schema import json_schema


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--schema", is_flag=True, help="Print the JSON schema instead.")
@pass_options
def validate(options: Options, *, path: Path | None, schema: bool) -> None:
    """Read the stack file and show every problem in it, each with its place and the nearest valid key.

    PATH is a stack file or its folder.
    """
    options.at(path)
    if schema:
        emit(json_schema(), "json")
        return
    stack = check(options.file).stack
    told = notes(stack)
    data = {
        "file": str(options.file),
        "stack": stack.stack,
        "revision": revision(stack),
        "endpoints": list(stack.serving),
        "pipelines": list(stack.pipelines),
        "notes": [{"path": note.path, "message": note.message} for note in told],
    }
    if options.output != "table":
        emit(data, options.output)
        return
    for note in told:
        talk(f"note: {note}")
    emit(f"{state('ok', color=options.color)}  {options.file}: stack `{stack.stack}`, revision {data['revision']}")


@click.command()
@pass_options
def schema(options: Options) -> None:
    """Print the stack file's JSON schema (draft 2020-12)."""
    emit(json_schema(), "yaml" if options.output == "yaml" else "json")
