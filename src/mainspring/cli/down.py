"""`mainspring down`: stop everything; nothing is deleted. Who calls it: `cli/main.py`."""

from __future__ import annotations

import click

from mainspring.cli import starting
from mainspring.cli.client import NotUp
from mainspring.cli.control_client import Control
from mainspring.cli.output import Options, pass_options, talk


@click.command()
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait for the end.")
@pass_options
def down(options: Options, *, timeout: float) -> None:
    """Stop everything that `up` started, and wait until it has ended. Nothing is deleted."""
    if not starting.stop(options.state, timeout, talk):
        if not starting.leftover(options.state):
            raise NotUp(options.state)
        talk("the controller is gone, but what it started still runs; another one is started to stop it")
        Control(options.file).down(timeout)
    talk("everything has stopped; the state is kept: `mainspring up` goes on from here")
