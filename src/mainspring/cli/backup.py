"""`mainspring backup`: save the controller's memory to one file, up or down. Who calls it: `cli/main.py`."""

from __future__ import annotations

from pathlib import Path

import click

from mainspring.cli.client import Client, NotUp
from mainspring.cli.output import Options, pass_options, talk
from mainspring.errors import InputError


@click.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@pass_options
def backup(options: Options, target: Path) -> None:
    """Save what the controller remembers (`state.db`) to FILE, which must not be there yet. It goes on meanwhile.

    Artefacts, runs and predictions are plain files in `.mainspring/`, and are copied by any means.
    """
    target = target.absolute()
    try:
        Client(options.state).post("/v1/backup", {"to": str(target)})
    except NotUp:
        _copy(options.state, target)
    talk(f"saved to `{target}`; `mainspring restore {target}` brings it back")


def _copy(state: Path, target: Path) -> None:
    """Nobody is up: copy the file under the folder's lock."""
    from mainspring.store.sqlite import SqliteStore
    from mainspring.worlds.local.folder import LocalFolder

    if not (state / "state.db").exists():
        raise InputError("nothing-to-save", f"there is no state in `{state}`", "mainspring up")
    with LocalFolder(state):
        store = SqliteStore(state / "state.db")
        try:
            store.backup(target)
        finally:
            store.close()
