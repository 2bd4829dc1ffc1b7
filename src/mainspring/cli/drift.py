"""`mainspring drift`: how far inputs and predictions have moved. Who calls it: `cli/main.py`."""

from __future__ import annotations

from typing import Any

import click

from mainspring.cli.client import Client
from mainspring.cli.output import Options, emit, pass_options, state, talk
from mainspring.cli.status import moment


@click.command()
@click.option("--all", "every", is_flag=True, help="All looks, not only the latest.")
@pass_options
def drift(options: Options, *, every: bool) -> None:
    """Show the latest look of each watch: what was found beside its calibrated threshold."""
    client = Client(options.state)
    records = [*client.get("/v1/records", kind="drift"), *client.get("/v1/records", kind="quality")]
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        latest[record["value"]["endpoint"], record["value"]["watch"]] = record
    shown = sorted(records, key=lambda r: float(r["at"])) if every else list(latest.values())
    if options.output != "table":
        emit(shown, options.output)
        return
    if not shown:
        talk("nothing was looked at yet: `monitoring.every` says how often")
        return
    rows = [row for record in shown for row in _rows(record)]
    emit(rows, "table", ["watch", "at", "feature", "value", "threshold", "state"])


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    value = record["value"]
    head = {"watch": value["watch"], "at": moment(record["at"])}
    if value.get("unknown"):
        return [{**head, "feature": "", "state": state("unknown", value["unknown"])}]
    fired = bool(value.get("fired"))
    word = state("bad" if fired else "ok", "fired" if fired else "steady")
    if not value.get("features"):
        return [{**head, "feature": "quality", "value": value.get("value"), "state": word}]
    rows = []
    for one in value["features"]:
        mine = state("bad", "over") if one["fired"] else state("ok", "within")
        rows.append({**head, "feature": one["feature"] or "prediction", "value": one["value"],
                     "threshold": one.get("threshold"), "state": mine})  # fmt: skip
    return rows
