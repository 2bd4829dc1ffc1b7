"""`mainspring events`: what happened, and why. Who calls it: `cli/main.py`. It only asks the controller."""

from __future__ import annotations

import time
from typing import Any

import click

from mainspring.cli.client import Client
from mainspring.cli.output import Options, emit, pass_options
from mainspring.cli.status import moment, times

_LEVELS = {"info": " ", "warning": "!", "error": "✖"}


@click.command()
@click.option("--follow", is_flag=True, help="Go on as things happen; Ctrl-C ends.")
@click.option("-n", "limit", type=click.IntRange(1, 5000), default=50, show_default=True, help="How many.")
@pass_options
def events(options: Options, *, follow: bool, limit: int) -> None:
    """Show what happened, oldest first. An event that came again is one, counted."""
    client = Client(options.state)
    found = client.get("/v1/events", limit=limit)[::-1]
    if options.output != "table":
        emit(found, options.output)
        return
    for event in found:
        click.echo(_line(event))
    seen = {event["key"]: event["count"] for event in found}
    while follow:
        time.sleep(0.5)
        for event in client.get("/v1/events", limit=limit)[::-1]:
            if event["key"] not in seen:
                click.echo(_line(event))
            seen[event["key"]] = event["count"]


def _line(event: dict[str, Any]) -> str:
    mark = _LEVELS.get(event["level"], " ")
    return f"{moment(event['last'])} {mark} {event['about']}: {event['message']}{times(event)}"
