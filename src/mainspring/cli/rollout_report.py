"""`mainspring rollout report`: how a rollout went, in the terminal and as a page. Who calls it: `rollout.py`.

What it must never do: change anything, or show a figure that no record has.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mainspring.cli.client import Client
from mainspring.cli.output import WIDTH, Options, emit, state, table, talk
from mainspring.cli.rollout_told import LEFT_OUT, choose, gathered
from mainspring.cli.rollout_tree import count, number, seconds_of
from mainspring.cli.status import length, moment
from mainspring.errors import EnvironmentError_

Json = Mapping[str, Any]
STATES = {"promoted": "ok", "aborted": "bad", "under way": "progressing"}


def show(options: Options, client: Client, what: str | None, page: Path | None) -> None:
    """Write the report of one rollout; with a file, the page too. Raises `InputError` when there is none."""
    told = gathered(choose(client.get("/v1/records", kind="rollout"), what), client.get("/v1/records", kind="gate"))
    if options.output != "table":
        emit(told, options.output)
    else:
        click.echo(text(told, color=options.color))
    if page is not None:
        from mainspring.cli.rollout_page import page as drawn

        try:
            page.write_text(drawn(told), encoding="utf-8")
        except OSError as error:
            message = f"`{page}` cannot be written: {error.strerror or error}"
            raise EnvironmentError_("page-not-written", message, "mainspring rollout report --html FILE") from error
        talk(f"the page is `{page}`")


def text(told: Json, *, color: bool = False) -> str:
    """A report in 80 columns."""
    verdict = state(STATES.get(told["verdict"], "waiting"), told["verdict"], color=color)
    head = f"{told['endpoint']}: {heading(told)}"
    when = f"{moment(told['began'])} to {moment(told['at'])} UTC, {length(told['at'] - told['began'])}"
    parts = ["\n".join([head, when, _wrapped(f"{verdict}: {told['message']}")])]
    parts += [_wrapped(f"RISK TAKEN  {risk}") for risk in told["risks"]]
    if told["stages"]:
        parts.append(
            "STAGES\n" + table(stage_rows(told), ["stage", "share", "lasted", "requests", "errors", "outcome"])
        )
    if told["last"]:
        parts.append("VERSIONS\n" + table(arm_rows(told), list(arm_rows(told)[0])))
    if told["checks"]:
        parts.append("CHECKS (as they stood last)\n" + _checks(told))
    if told["gates"]:
        lines = [
            f"{state('ok' if g['passed'] else 'bad', g['name'], color=color)}: {g['message']}" for g in told["gates"]
        ]
        parts.append("\n".join(["GATES BEFORE IT", *map(_wrapped, lines)]))
    if told["soak"]:
        parts.append("\n".join(["WHAT IT COULD FIND OUT", *(_wrapped(line) for line in told["soak"])]))
    return "\n\n".join(parts)


def _wrapped(line: str) -> str:
    return "\n    ".join(textwrap.wrap(line, WIDTH - 4))


def heading(told: Json) -> str:
    """What was rolled out."""
    what = f"version {told['version']}" if told["change"] == "version" else f"settings of {told['version']}"
    return f"{what} of {told['model']} against {told['control']}"


def stage_rows(told: Json) -> list[dict[str, str]]:
    """Each stage or wave as words."""
    rows = []
    for one in told["stages"]:
        row = {
            "stage": f"{one['kind']}" + (f", wave {one['wave']}" if one["wave"] else ""),
            "share": f"{one['share'] * 100:.3g}%" if one["share"] is not None else "?",
            "lasted": length(one["ended"] - one["began"]),
            "requests": count(one["requests"]),
            "errors": count(one["errors"]),
        }
        nothing = ("share", "lasted", "requests", "errors") if one["outcome"] == LEFT_OUT else ()
        rows.append({**row, **dict.fromkeys(nothing, "–"), "outcome": one["outcome"]})
    return rows


def arm_rows(told: Json) -> list[dict[str, str]]:
    """Both versions as they stood last, side by side; what was mirrored in a row of its own."""
    last = told["last"]
    streams = last["first_p95"] is not None or last["control_first_p95"] is not None
    rows = [
        {
            "version": f"{told[name]}, {word}",
            "requests": count(last[f"{old}requests"]),
            "errors": share(last[f"{old}errors"], last[f"{old}requests"]),
            "p50": seconds_of(last[f"{old}p50"]),
            "p95": seconds_of(last[f"{old}p95"]),
        }
        | ({"first p95": seconds_of(last[f"{old}first_p95"])} if streams else {})
        for name, word, old in (("version", "new", ""), ("control", "old", "control_"))
    ]
    if last["mirrored"]:
        said = {"version": "new, mirrored", "requests": count(last["mirrored"])}
        rows.append(said | {"errors": share(last["mirrored_errors"], last["mirrored"])})
    return rows


def share(errors: float | None, requests: float | None) -> str:
    """Errors and their share: `3 (0.41 %)`; `?` where nobody knows."""
    if errors is None or not requests:
        return count(errors)
    return f"{errors:,.0f} ({errors / requests * 100:.2g} %)"


def check_rows(told: Json) -> list[dict[str, str]]:
    """Each check as words."""
    return [
        {
            "check": one["name"],
            "state": one["state"],
            "evidence": f"{number(one['evidence'])} of {number(one['threshold'])}" if one["threshold"] else "no bound",
            "certainty": f"{number(one['certainty'])} of {number(one['wanted'])}" if one["wanted"] else "not promised",
            "message": one["message"],
        }
        for one in told["checks"]
    ]


def _checks(told: Json) -> str:
    rows = check_rows(told)
    shown = table(rows, ["check", "state", "evidence", "certainty"]).split("\n")
    lines = [shown[0]]
    for line, row in zip(shown[1:], rows, strict=True):
        lines.append(line)
        lines += [f"  {part}" for part in textwrap.wrap(row["message"], WIDTH - 2)]
    return "\n".join(lines)
