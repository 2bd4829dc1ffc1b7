"""Following a run from its start to the verdict of its gates.

What this is: the waiting that verbs which begin a run have in common. Who calls it: `run`, `quantize`.
What it must never do: begin anything, or judge: the verdict is the loop's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mainspring.cli.client import Client
from mainspring.cli.output import talk
from mainspring.errors import MainspringError, ObjectiveNotMet

Row = dict[str, Any]


def verdict_of(client: Client, ident: str, progress: Callable[[Row | None], str]) -> Row:
    """Wait for a run and its verdict; `progress` puts its row into words, which are said when they change.

    Raises `MainspringError` when the run fails.
    """
    shown = ""
    while True:
        row = next((r for r in client.get("/v1/runs") if r["id"] == ident), None)
        text = progress(row)
        if text != shown:
            talk(text)
            shown = text
        if row and row["state"] == "failed":
            raise MainspringError("run-failed", f"`{ident}` failed: {row['error']}", f"mainspring runs show {ident}")
        if row and row["state"] == "succeeded":
            records = client.get("/v1/records", kind="gate")
            verdict: Row | None = next((r["value"] for r in records if r["value"]["run"] == ident), None)
            if verdict is not None:
                return verdict
        time.sleep(0.3)


def hold_to(verdict: Row) -> None:
    """Raise `ObjectiveNotMet` when the gates refused what was made."""
    if not verdict["passed"]:
        message = f"version {verdict['version']} was refused: {verdict['note']}"
        raise ObjectiveNotMet("refused", message, f"mainspring gate {verdict['model']}@{verdict['version']}")
