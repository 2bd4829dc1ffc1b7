"""`mainspring cost`: what it costs, and who used it. Who calls it: `cli/main.py`."""

from __future__ import annotations

import click

from mainspring.cli.client import Client
from mainspring.cli.output import Options, emit, pass_options, talk


@click.command()
@pass_options
def cost(options: Options) -> None:
    """Show what the stack has cost up to now, by endpoint and revision; the parts add up to the whole."""
    told = Client(options.state).get("/v1/cost")
    if options.output != "table":
        emit(told, options.output)
        return
    if told.get("dollars") is None:
        talk("nothing is known of the cost yet")
        return
    rows = [
        {
            "what": line["kind"] if not line["revision"] else f"{line['revision']} ({line['role']})",
            "seconds": round(line["seconds"], 1),
            "predictions": line["predictions"] or "",
            "dollars": f"{line['dollars']:.6f}",
            "per_1000": f"{line['dollars'] / line['predictions'] * 1000:.6f}" if line["predictions"] else "",
        }
        for line in told.get("lines", ())
    ]
    emit(rows, "table", ["what", "seconds", "predictions", "dollars", ("per 1000", "per_1000")])
    total = f"in all ${told['dollars']:.4f} at ${told['price_per_hour']:g}/h"
    if told.get("budget"):
        total += f"; the budget is ${told['budget']:g}"
    if told.get("per_thousand") is not None:
        total += f"; ${told['per_thousand']:.5f} per 1000 predictions, everything included"
    click.echo(total)
