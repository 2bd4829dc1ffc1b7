"""`mainspring explain PATH`: what a place in the stack file means.

What this is: a verb. Who calls it: `cli/main.py`. What it must never do: read a stack file.
"""

from __future__ import annotations

import click

from mainspring.cli.output import Options, emit, pass_options
from mainspring.stack.explain import describe
from mainspring.stack.explain import explain as explained


@click.command()
@click.argument("path", default="")
@pass_options
def explain(options: Options, path: str) -> None:
    """Say what PATH means, such as `serving.rollout`: its unit, default, example and keys. Names may be left out."""
    if options.output == "table":
        emit(explained(path).rstrip("\n"))
    else:
        emit(describe(path), options.output)
