"""Logs of processes and runs, by name.

What this is: finding and reading log files of a state folder. Who calls it: `console/api.py`, `mainspring logs`.
What it must never do: open a file outside the state folder, whatever name it is asked for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mainspring.errors import InputError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,120}")
PIECE = 4 * 1024 * 1024  # bytes read at most


def names(state: Path) -> list[str]:
    """The names of all logs: `controller`, one for each process; and `RUN.STEP` for the steps of runs."""
    found = [file.stem for file in sorted((state / "logs").glob("*.log"))]
    steps = [f"{file.parent.parent.name}.{file.stem}" for file in sorted((state / "runs").glob("*/logs/*.log"))]
    return [name for name in (*found, *steps) if NAME.fullmatch(name)]


def path_of(state: Path, name: str) -> Path:
    """The file of a log; raises `InputError` that names those there are."""
    known = names(state)
    if name in known:
        direct = state / "logs" / f"{name}.log"
        run, _, step = name.rpartition(".")
        return direct if direct.exists() else state / "runs" / run / "logs" / f"{step}.log"
    shown = ", ".join(f"`{one}`" for one in known[:20]) or "none yet"
    raise InputError("no-such-log", f"there is no log `{name[:60]}`; there are: {shown}", "mainspring logs")


def tail(state: Path, name: str, lines: int) -> list[str]:
    """The last lines of a log."""
    with path_of(state, name).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - PIECE))
        text = file.read().decode("utf-8", "replace")
    return text.splitlines()[-lines:]
