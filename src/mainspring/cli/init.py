"""`mainspring init [FOLDER]`: a small stack that works, to start from.

What this is: a verb. Who calls it: `cli/main.py`. What it must never do: overwrite a file.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click

from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.stack.init import starter, write


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@pass_options
def init(options: Options, folder: Path) -> None:
    """Write a starter stack into FOLDER (default: here): a stack file, a model in Python, a small data set."""
    written = write(folder, starter(datetime.now(timezone.utc).date()))
    emit([str(path) for path in written], options.output)
    where = "" if folder == Path() else f"cd {folder} && "
    talk(f"\nnext: {where}mainspring up")
