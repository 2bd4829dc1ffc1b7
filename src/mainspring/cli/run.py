"""`mainspring run`: run a pipeline now. Who calls it: `cli/main.py`. It only asks the controller."""

from __future__ import annotations

import re

import click

from mainspring.cli.client import Client, ask
from mainspring.cli.following import Row, hold_to, verdict_of
from mainspring.cli.output import Options, pass_options, talk


@click.command()
@click.argument("pipeline")
@click.option("--wait", is_flag=True, help="Wait for the run and for its verdict; Ctrl-C detaches.")
@pass_options
def run(options: Options, pipeline: str, *, wait: bool) -> None:
    """Run PIPELINE now, on all data so far. Exit status 3 when its gates refuse what it made."""
    client = Client(options.state)
    message = ask(client, "run", pipeline)
    talk(message)
    found = re.search(rf"{re.escape(pipeline)}-\d+", message)
    if not wait or found is None:
        return
    try:
        _watch(client, found.group())
    except KeyboardInterrupt:
        talk(f"detached; it goes on: `mainspring runs show {found.group()}`")


def _watch(client: Client, ident: str) -> None:
    """Follow the run to its verdict, and say that. Raises as `following` does."""

    def progress(row: Row | None) -> str:
        text = f"{ident}: {row['state']} {row['step']}".rstrip() if row else f"{ident}: starts"
        return _held_up(client) or text

    verdict = verdict_of(client, ident, progress)
    hold_to(verdict)
    talk(f"version {verdict['version']} passed: {verdict['note']}")


def _held_up(client: Client) -> str:
    """What keeps the controller from going on, such as a full disk: it waits for a remedy, and says so here."""
    seen = client.get("/v1/status", counts="false")["conditions"]
    return next((f"held up: {re.sub(' [(][0-9]+ times.*', '', c['message'])}; see `mainspring doctor`" for c in seen
                 if c["about"] == "loop" and c["status"] == "false"), "")  # fmt: skip
