"""`mainspring restore`: bring a backup back, while nothing is up. Who calls it: `cli/main.py`."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import click

from mainspring.cli.output import Options, pass_options, talk
from mainspring.facts.changes import change
from mainspring.store import files
from mainspring.worlds.local import journal
from mainspring.worlds.local.folder import LocalFolder


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@pass_options
def restore(options: Options, source: Path) -> None:
    """Bring back what `backup` saved to FILE. Only while nothing is up; the present state is kept beside it."""
    files.check_backup(source)
    with LocalFolder(options.state):
        told = change(secrets.token_hex(8), time.time(), journal.person("mainspring restore"), "restore", str(source))
        kept = files.restore(options.state / "state.db", source, told)
    talk(f"`{source}` is the state now" + (f"; the last one is kept as `{kept}`" if kept else ""))
    talk("`mainspring up` goes on from it")
