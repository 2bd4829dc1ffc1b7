"""`mainspring changes`: who changed what, when, and how it ended.

What this is: the change log, asked of the controller, or read from the state folder while none is up. Who calls it:
`cli/main.py`. What it must never do: change anything, or show more than was recorded.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from mainspring.cli.client import Client, NotUp
from mainspring.cli.output import Options, emit, pass_options, plain, talk
from mainspring.cli.status import moment
from mainspring.errors import InputError


@click.command()
@click.option("--since", metavar="7d", help="Only of the time since.  [default: all]")
@click.option("--who", default="", metavar="anna", help="Only of those whose id or name has this in it.")
@click.option("-n", "limit", type=click.IntRange(1, 5000), default=50, show_default=True, help="How many, the latest.")
@pass_options
def changes(options: Options, *, since: str | None, who: str, limit: int) -> None:
    """Show who changed what, oldest first: stacks applied, things asked for, keys made and revoked.

    Names in WHO are proven: a user of this machine, or the holder of a key. Times are UTC.
    """
    begin = _begin(since)
    try:
        found = Client(options.state).get("/v1/changes", since=begin, who=who or None, limit=limit)
    except NotUp:
        found = _kept(options.state, begin, who, limit)
    found = found[::-1]
    if options.output != "table":
        emit(found, options.output)
        return
    if not found:
        talk("nobody has changed anything" if since is None and not who else "nothing of that kind was changed")
        return
    why = ["why"] if any(one["detail"] for one in found) else []
    emit([_row(one) for one in found], "table", ["when", "who", "what", "target", *why, "outcome"])
    for one in found[-3:]:  # a table has no room for what was said to it
        if one["outcome"] in {"refused", "failed"}:
            talk(f"{moment(one['at'])} {one['what']} {one['target']}: {one['message']}")


def _begin(since: str | None) -> float:
    from mainspring.stack.units import seconds

    try:
        return 0.0 if since is None else max(0.0, time.time() - seconds(since))
    except ValueError as error:
        raise InputError("bad-time", f"--since: {error}", "mainspring changes --since 7d") from error


def _row(one: dict[str, Any]) -> dict[str, str]:
    outcome = one["outcome"] or "not known"
    return {
        "when": moment(one["at"]),
        "outcome": outcome,
        "why": _why(one["detail"]) or " ",
        **{key: one[key] or " " for key in ("who", "what", "target")},
    }


def _why(detail: str) -> str:
    """What was said to it, the reason in few words: `one stage: quick`, `version=4`."""
    rest, _, reason = detail.partition("why=")
    said = (rest.replace("stage=True", "one stage").strip(), reason)
    return ": ".join(part for part in said if part)


def _kept(state: Path, since: float, who: str, limit: int) -> list[dict[str, Any]]:
    """The log as the state folder has it; without one there is nobody to ask."""
    from mainspring.store import changelog
    from mainspring.worlds.local import journal

    if not state.is_dir():
        raise NotUp(state)
    asked = changelog.read_file(state / "state.db", since, limit, who)
    return [plain(one) for one in journal.with_keys(asked, state, since, limit, who)]
