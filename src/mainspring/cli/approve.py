"""`mainspring approve`: let a step begin that `control: suggest` holds back. Who calls it: `cli/main.py`."""

from __future__ import annotations

import click

from mainspring.cli.client import Client, ask
from mainspring.cli.output import Options, emit, pass_options, talk


@click.command()
@click.argument("step", required=False)
@pass_options
def approve(options: Options, step: str | None) -> None:
    """Let STEP begin. Without a step: those that wait for approval."""
    client = Client(options.state)
    if step is not None:
        talk(ask(client, "approve", step))
        return
    waiting = client.get("/v1/plan")["waiting"]
    held = [w for w in waiting if w["what"].startswith("approval/")]
    rows = [{"step": w["what"].removeprefix("approval/"), "what": w["why"]} for w in held]
    if not rows:
        talk("nothing waits for approval")
    emit(rows, options.output, ["step", "what"])
