"""`mainspring logs`: what a process said.

What this is: the files of logs, read where they are, so that it also works when the controller does not. Who calls
it: `cli/main.py`. What it must never do: open a file outside the state folder.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.worlds.local import logs as files


@click.command()
@click.argument("name", required=False)
@click.option("-f", "follow", is_flag=True, help="Go on as it grows; Ctrl-C ends.")
@click.option("-n", "lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many lines.")
@click.option("--file", "stack", type=click.Path(path_type=Path), help="The stack file.  [default: mainspring.yaml]")
@pass_options
def logs(options: Options, name: str | None, *, follow: bool, lines: int, stack: Path | None) -> None:
    """Show the last lines of NAME's log: `controller`, a process of `mainspring status`, or RUN.STEP.

    Without a name: which logs there are.
    """
    if stack is not None:
        options.file = stack
    if name is None:
        found = [{"name": one} for one in files.names(options.state)]
        if not found:
            talk("no logs yet: `mainspring up`")
        emit(found, options.output, ["name"])
        return
    file = files.path_of(options.state, name)
    for line in files.tail(options.state, name, lines):
        click.echo(line)
    if follow:
        _follow(file)


def _follow(file: Path) -> None:
    """Show what is added; a file that was put aside is read to its end, then the new one from its start."""
    while True:
        with file.open("rb") as reader:
            reader.seek(0, 2)
            while True:
                line = reader.readline()
                if line:
                    click.echo(line.decode("utf-8", "replace"), nl=False)
                    continue
                try:
                    if file.stat().st_size < reader.tell():
                        break
                except OSError:
                    break
                time.sleep(0.2)
        time.sleep(0.2)
