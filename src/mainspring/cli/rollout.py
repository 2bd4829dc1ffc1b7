"""`mainspring rollout`: see and steer the rollout of a new version. Who calls it: `cli/main.py`."""

from __future__ import annotations

import click

from mainspring.cli.client import Client, ask
from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.status import length, moment
from mainspring.errors import InputError


@click.group()
def rollout() -> None:
    """See, pause, resume, promote, abort or undo a rollout."""


@rollout.command("status")
@click.argument("endpoint", required=False)
@pass_options
def status(options: Options, endpoint: str | None) -> None:
    """Show the rollout of ENDPOINT (or of all): its stages, where it is, and how the last ones ended."""
    client = Client(options.state)
    told = client.get("/v1/status")
    names = [e["name"] for e in told["endpoints"]]
    if endpoint is not None and endpoint not in names:
        known = ", ".join(f"`{n}`" for n in names) or "none"
        message = f"there is no endpoint `{endpoint}`; there are: {known}"
        raise InputError("no-such-endpoint", message, "mainspring status")
    found = [r for r in told["rollouts"] if endpoint in (None, r["endpoint"])]
    if options.output != "table":
        emit(found, options.output)
        return
    if not found:
        talk("no rollout is under way")
    for one in found:
        _show(one)
        for waiting in told["waiting"]:
            if waiting["what"] == f"endpoint/{one['endpoint']}":
                click.echo(f"waits: {waiting['why']}")
    ended = [r for r in client.get("/v1/records", kind="rollout") if r["value"]["kind"] != "stage"]
    for record in ended[-5:]:
        click.echo(f"{moment(record['at'])}  {record['value']['message']}")


def _show(one: dict[str, object]) -> None:
    talk(f"{one['endpoint']}: version {one['candidate']} against version {one['control']}")
    rows = []
    stages: list[dict[str, object]] = one["stages"]  # type: ignore[assignment]  # JSON
    for number, stage in enumerate(stages, 1):
        here = number == one["number"]
        passed = f"{length(float(str(one['elapsed'])))} passed" if one["ready"] else "gets ready"
        words = "paused" if one["paused"] else passed
        rows.append(
            {
                "stage": stage["kind"],
                "share": f"{float(str(stage['share'])):.0%}",
                "for": length(float(str(stage["seconds"]))),
                "state": words if here else "done" if number < int(str(one["number"])) else "to come",
            }
        )
    emit(rows, "table", ["stage", "share", "for", "state"])


def _steer(verb: str, text: str) -> None:
    @rollout.command(verb, help=text)
    @click.argument("endpoint")
    @pass_options
    def steer(options: Options, endpoint: str) -> None:
        talk(ask(Client(options.state), verb, endpoint))


for _verb, _text in {
    "pause": "Hold the rollout of ENDPOINT where it is.",
    "resume": "Let a paused rollout go on.",
    "promote": "Make the candidate the champion now.",
    "abort": "Give the candidate up; the champion takes all requests.",
    "undo": "Go back to the last good version: give a rollout up, or swap champion and previous.",
}.items():
    _steer(_verb, _text)
