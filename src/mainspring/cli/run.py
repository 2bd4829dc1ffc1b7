"""`mainspring run`: run a pipeline now. Who calls it: `cli/main.py`. It only asks the controller."""

from __future__ import annotations

import re
import time

import click

from mainspring.cli.client import Client, ask
from mainspring.cli.output import Options, pass_options, talk
from mainspring.errors import MainspringError, ObjectiveNotMet


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
    shown = ""
    while True:
        row = next((r for r in client.get("/v1/runs") if r["id"] == ident), None)
        text = f"{ident}: {row['state']} {row['step']}".rstrip() if row else f"{ident}: starts"
        text = _held_up(client) or text
        if text != shown:
            talk(text)
            shown = text
        if row and row["state"] == "failed":
            raise MainspringError("run-failed", f"`{ident}` failed: {row['error']}", f"mainspring runs show {ident}")
        if row and row["state"] == "succeeded" and _judged(client, ident):
            return
        time.sleep(0.3)


def _held_up(client: Client) -> str:
    """What keeps the controller from going on, such as a full disk: it waits for a remedy, and says so here."""
    seen = client.get("/v1/status", counts="false")["conditions"]
    return next((f"held up: {re.sub(' [(][0-9]+ times.*', '', c['message'])}; see `mainspring doctor`" for c in seen
                 if c["about"] == "loop" and c["status"] == "false"), "")  # fmt: skip


def _judged(client: Client, ident: str) -> bool:
    """Say what the gates said, once they have. Raises `ObjectiveNotMet`."""
    verdict = next((r["value"] for r in client.get("/v1/records", kind="gate") if r["value"]["run"] == ident), None)
    if verdict is None:
        return False
    if not verdict["passed"]:
        message = f"version {verdict['version']} was refused: {verdict['note']}"
        raise ObjectiveNotMet("refused", message, f"mainspring gate {verdict['model']}@{verdict['version']}")
    talk(f"version {verdict['version']} passed: {verdict['note']}")
    return True
