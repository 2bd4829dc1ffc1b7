"""`mainspring rollout`: see and steer the rollout of a new version. Who calls it: `cli/main.py`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import click

from mainspring.cli.client import Client, ask
from mainspring.cli.output import WIDTH, Options, emit, pass_options, talk
from mainspring.cli.rollout_told import ENDS
from mainspring.cli.status import moment
from mainspring.errors import InputError

LATEST = 5
"""Rollouts that have ended and are listed."""


@click.group()
def rollout() -> None:
    """See, steer and report a rollout, and work out beforehand what it can find out."""


@rollout.command("status")
@click.argument("endpoint", required=False)
@click.option("-w", "--watch", "watched", is_flag=True, help="Follow it until it ends; 3 when it is given up.")
@pass_options
def status(options: Options, endpoint: str | None, *, watched: bool) -> None:
    """Show the rollout of ENDPOINT (or of all): stages, both versions, each check, what it waits for, how long still.

    A bar is how far evidence has come, on a log scale. `e 3.1 of 33`: a version within its bounds gets to 33 with a
    chance of 1 in 33 at most, however often one looks; there it is given up. `sure 2.4 of 20`: at 20 its promise is
    certain to 95 %.
    """
    client = Client(options.state)
    if watched:
        from mainspring.cli.rollout_watch import watch

        _named(client.get("/v1/status", counts="false"), endpoint)
        watch(lambda: _look(client, endpoint), options)
        return
    told = client.get("/v1/status", counts="false")
    _named(told, endpoint)
    found = _of(told["rollouts"], endpoint)
    if options.output != "table":
        emit(found, options.output)
        return
    _show(found, color=options.color)
    if not found:
        talk("no rollout is under way")
        for waiting in told["waiting"]:
            if endpoint is not None and waiting["what"] == f"endpoint/{endpoint}":
                click.echo(f"waits: {waiting['why']}")
    ended = [r for r in client.get("/v1/records", kind="rollout", but="look") if r["value"]["kind"] in (*ENDS, "first")]
    if ended:
        lines = [f"{moment(record['at'])}  {record['value']['message']}" for record in ended[-LATEST:]]
        lines = ["\n    ".join(textwrap.wrap(line, WIDTH - 4)) for line in lines]
        click.echo("\n".join(["\nENDED" if found else "ENDED", *(f"  {line}" for line in lines)]))


def _look(client: Client, endpoint: str | None) -> tuple[list[dict[str, Any]], bool, list[dict[str, Any]]]:
    """What is watched: the rollouts, whether the loop is at work, and how those that ended did."""
    told = client.get("/v1/status", counts="false")
    found = _of(told["rollouts"], endpoint)
    records = [] if found else client.get("/v1/records", kind="rollout", but="look")
    return found, not told["quiet"], records


def _of(rollouts: list[dict[str, Any]], endpoint: str | None) -> list[dict[str, Any]]:
    return [one for one in rollouts if endpoint in (None, one["endpoint"])]


def _named(told: dict[str, Any], endpoint: str | None) -> None:
    """Refuse an endpoint that is not there."""
    names = [e["name"] for e in told["endpoints"]]
    if endpoint is not None and endpoint not in names:
        known = ", ".join(f"`{n}`" for n in names) or "none"
        message = f"there is no endpoint `{endpoint[:60]}`; there are: {known}"
        raise InputError("no-such-endpoint", message, "mainspring status")


def _show(found: list[dict[str, Any]], *, color: bool) -> None:
    from mainspring.cli.rollout_tree import tree

    for number, one in enumerate(found):
        click.echo(("\n" if number else "") + tree(one, color=color))


@rollout.command("report")
@click.argument("what", metavar="ENDPOINT|MODEL@N", required=False)
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with plots.")
@pass_options
def report(options: Options, what: str | None, page: Path | None) -> None:
    """Report a rollout, at its end or so far: what was done when, what was found, why it ended so.

    Of ENDPOINT: its latest; of MODEL@N: that of the version. Without: the latest of all.
    """
    from mainspring.cli import rollout_report

    rollout_report.show(options, Client(options.state), what, page)


@rollout.command("soak")
@click.argument("endpoint")
@click.option("--share", metavar="5%", help="Of the requests.  [default: as in the stack file]")
@click.option("--for", "span", metavar="2h", help="How long.  [default: as in the stack file]")
@click.option("--in", "region", metavar="REGION", help="Only requests of this region.")
@click.option("--rate", metavar="500k/day", help="Requests in all.  [default: as seen of late, or the file's traffic]")
@click.option("--objective", metavar="99.9%", help="What is promised.  [default: as in the stack file]")
@click.option("--errors", "usual", metavar="0.1%", help="What usually fails.  [default: what may]")
@pass_options
def soak(options: Options, /, endpoint: str, **said: str | None) -> None:
    """Work out what the stages of ENDPOINT's rollout can find out, and how long that takes: before it begins.

    With --share or --for: one canary as said, whatever the stack file has.
    """
    from mainspring.cli import rollout_soak

    rollout_soak.show(options, endpoint, said)


def _steer(verb: str, text: str) -> None:
    @click.argument("endpoint")
    @click.option("--why", metavar="TEXT", help="The reason, kept with the event and in `mainspring changes`.")
    @pass_options
    def steer(options: Options, endpoint: str, why: str | None, *, stage: bool = False) -> None:
        args: dict[str, Any] = {"why": why} if why else {}
        if stage:
            args["stage"] = True
        client = Client(options.state)
        _named(client.get("/v1/status", counts="false"), endpoint)
        talk(ask(client, verb, endpoint, args))

    if verb == "promote":
        steer = click.option("--stage", is_flag=True, help="Only end this stage: go on to the next.")(steer)
    rollout.command(verb, help=text)(steer)


for _verb, _text in {
    "pause": "Hold the rollout of ENDPOINT where it is. Evidence still gives it up.",
    "resume": "Let a paused rollout go on.",
    "promote": "Make the candidate the champion now, or with --stage let it go on to the next stage.",
    "abort": "Give the candidate up; the champion takes all requests.",
    "undo": "Go back to the last good version: give a rollout up, or swap champion and previous.",
}.items():
    _steer(_verb, _text)
