"""`mainspring rollout status -w`: a rollout followed until it ends.

What this is: looks again and again; redraws in place on a terminal, else a line for each change, or a JSON line.
Who calls it: `rollout.py`. What it must never do: change anything: Ctrl-C detaches, and the rollout goes on.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from mainspring.cli.output import Options, plain, talk
from mainspring.cli.rollout_told import ENDS
from mainspring.cli.rollout_tree import line, tree
from mainspring.cli.status import moment
from mainspring.errors import ObjectiveNotMet

Json = dict[str, Any]
Look = Callable[[], tuple[list[Json], bool, list[Json]]]
"""Gives the rollouts under way, whether the loop has anything to do, and the records of those that have ended."""
EVERY = 1.0  # seconds between looks
MINUTE = 60.0
AGAIN = 3  # looks that find no rollout and a loop with nothing to do, until it is believed


def watch(look: Look, options: Options, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show rollouts until those that were seen have ended, or none comes.

    Raises `ObjectiveNotMet` when one was given up.
    """
    live = options.output == "table" and sys.stdout.isatty()
    show = _Drawn(options.color) if live else _Said(options.output)
    seen: dict[tuple[str, str, float], Json] = {}
    idle = 0
    while True:
        found, busy, ended = look()
        show(found)
        seen |= {_key(one): one for one in found}
        gone = [one for key, one in seen.items() if key not in {_key(f) for f in found}]
        idle = 0 if found or busy else idle + 1
        if seen and not found:
            _end([_ending(one, ended) for one in gone], options)
            return
        if idle >= AGAIN:
            talk("no rollout is under way")
            return
        sleep(EVERY)


def _key(one: Json) -> tuple[str, str, float]:
    return one["endpoint"], one["candidate"], one["began"]


def _ending(one: Json, ended: Sequence[Json]) -> Json:
    """How a rollout that is gone ended: its record, or that nobody said."""
    for record in reversed(ended):
        value = record["value"]
        mine = value.get("endpoint") in (one["endpoint"], None) and str(value.get("version")) == one["candidate"]
        if mine and value["kind"] in ENDS and record["at"] >= one["began"]:
            return {"endpoint": one["endpoint"], "candidate": one["candidate"], "at": record["at"], **value}
    message = f"the rollout of version {one['candidate']} of `{one['endpoint']}` is gone"
    return {"endpoint": one["endpoint"], "candidate": one["candidate"], "at": None, "kind": "gone", "message": message}


def _end(endings: Sequence[Json], options: Options) -> None:
    for ending in endings:
        if options.output == "table":
            click.echo(ending["message"])
        else:
            _line(ending, options.output)
    lost = [one for one in endings if one["kind"] == "aborted"]
    if lost:
        name = lost[0]["endpoint"]
        message = f"the rollout of version `{lost[0]['candidate']}` behind `{name}` was given up"
        raise ObjectiveNotMet("rollout-aborted", message, f"mainspring rollout report {name}")


def _line(data: Any, fmt: str) -> None:
    if fmt == "yaml":
        import yaml

        click.echo("---\n" + yaml.safe_dump(plain(data), sort_keys=False, allow_unicode=True).rstrip())
        return
    click.echo(json.dumps(plain(data), ensure_ascii=False, allow_nan=False))


class _Said:
    """A line for each change; of counts alone a line a minute, but where data was asked for."""

    def __init__(self, fmt: str) -> None:
        self._fmt = fmt
        self._last: dict[tuple[str, str, float], Any] = {}
        self._at: dict[tuple[str, str, float], float] = {}

    def __call__(self, found: list[Json]) -> None:
        """Say what is new."""
        for one in found:
            same = _place(one) if self._fmt == "table" else _still(one)
            at = float(one["judged"] or 0.0)
            quiet = self._fmt != "table" or at < self._at.get(_key(one), 0.0) + MINUTE
            if self._last.get(_key(one)) == same and quiet:
                continue
            self._last[_key(one)], self._at[_key(one)] = same, at
            if self._fmt == "table":
                when = f"{moment(one['judged'])}  " if one["judged"] is not None else ""
                click.echo(f"{when}{line(one)}")
            else:
                _line(one, self._fmt)
        sys.stdout.flush()


def _place(one: Json) -> Json:
    """Where a rollout is, without counts."""
    checks = {check["name"]: check["state"] for check in one["checks"]}
    return {"checks": checks} | {
        key: one[key] for key in ("number", "wave", "ready", "paused", "verdict", "how", "risk")
    }


def _still(one: Json) -> Json:
    """A rollout without what changes while nothing happens: the clock."""
    return {key: value for key, value in one.items() if key not in {"elapsed", "left", "judged", "message"}}


def _within(text: str, columns: int) -> str:
    """A line that a terminal does not break: it would be two, and the next drawing begin in the wrong place."""
    bare = click.unstyle(text)
    return text if len(bare) <= columns else f"{bare[: columns - 1]}…"


class _Drawn:
    """The trees, drawn over the last ones."""

    def __init__(self, color: bool) -> None:
        self._color = color
        self._height = 0

    def __call__(self, found: list[Json]) -> None:
        """Draw: up to where the last drawing began, everything below cleared, and the new one there."""
        text = "\n\n".join(tree(one, color=self._color) for one in found) or "no rollout is under way yet"
        size = shutil.get_terminal_size()
        room = size.lines - 2
        lines = [_within(line, size.columns) for line in text.split("\n")]
        if len(lines) > room > 1:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines: a higher window shows them"]
        back = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        sys.stdout.write(back + "\n".join([*lines, "Ctrl-C detaches; the rollout goes on", ""]))
        sys.stdout.flush()
        self._height = len(lines) + 1
