"""`mainspring cost`: what it costs, and who used it.

What this is: the bill up to now, or what some days cost, divided; as a table or as CSV for FinOps tools. Who calls
it: `cli/main.py`. What it must never do: divide or round money by itself, except to show fewer digits.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from mainspring.cli.client import Client
from mainspring.cli.output import Column, Options, emit, pass_options, talk
from mainspring.errors import EnvironmentError_, InputError

Row = dict[str, Any]
_NOBODY = {"tenant": "no tenant", "key": "no key"}
_TOKENS = ("prompt", "cached", "output")
_COLUMNS: tuple[Column, ...] = ("requests", *_TOKENS, "seconds", "dollars", ("per", "each"))


@click.command()
@click.option("--by", metavar="NAME", help="Divide it by `tenant`, `endpoint`, `revision` or `key`.")
@click.option("--from", "since", metavar="DAY", help="The first day (UTC), such as `2026-11-01`.")
@click.option("--to", "until", metavar="DAY", help="The day after the last one.")
@click.option("--csv", "file", metavar="FILE", help="Write FOCUS columns, a row a day; `-` is standard output.")
@pass_options
def cost(options: Options, by: str | None, since: str | None, until: str | None, file: str | None) -> None:
    """Show what the stack has cost up to now, by endpoint and revision; the parts add up to the whole.

    With --by, --from or --to: what those days cost (default: all that are known), divided.
    """
    client = Client(options.state)
    asked: dict[str, Any] = {"by": by, "from": since, "to": until}
    if file is not None:
        if not file:
            raise InputError("bad-file", "`` is no file", "mainspring cost --csv costs.csv")
        talk("the meter is read, day by day …")
        rows = client.get("/v1/cost", **asked, daily="true")
        _write(file, rows, str(client.get("/v1/status", counts="false")["stack"]["name"]))
        _say_nothing(rows, since, until)
    elif by is None and since is None and until is None:
        _up_to_now(options, client)
    else:
        rows = client.get("/v1/cost", **asked)
        _divided(options, rows, by or "endpoint")
        _say_nothing(rows, since, until)


def _up_to_now(options: Options, client: Client) -> None:
    told = client.get("/v1/cost")
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


def _divided(options: Options, rows: list[Row], by: str) -> None:
    if options.output != "table":
        emit(rows, options.output)
        return
    if not rows:
        return
    total = math.fsum(row["dollars"] for row in rows)
    digits = 6 if total < 100 else 2
    cents = rounded_as_shown([row["dollars"] for row in rows], digits, total)
    shown = [
        {
            by: _name(row, by),
            **{key: short(row[key]) if row["kind"] == "serving" else "-" for key in ("requests", *_TOKENS)},
            "seconds": short(row["seconds"]),
            "dollars": dollars,
            "each": _each(row),
        }
        for row, dollars in zip(rows, cents, strict=True)
    ]
    sums = {key: short(sum(row[key] for row in rows)) for key in ("requests", *_TOKENS)}
    whole = {
        by: "total",
        **sums,
        "seconds": short(sum(row["seconds"] for row in rows)),
        "dollars": f"{total:.{digits}f}",
        "each": "-",
    }
    emit([*shown, whole], "table", [by, *_COLUMNS])
    _notes(rows)


def rounded_as_shown(dollars: list[float], digits: int, total: float) -> list[str]:
    """Dollars with fewer digits that still add up to the rounded total."""
    from mainspring.cost.report import rounded

    return [f"{amount:.{digits}f}" for amount in rounded(dollars, digits, total)]


def _name(row: Row, by: str) -> str:
    if row["kind"] != "serving":
        return str(row["kind"])
    return str(row[by] or _NOBODY.get(by, row["endpoint"] or "none"))


def _each(row: Row) -> str:
    """What a million output tokens or, without any, a thousand predictions cost."""
    if row["per_million"] is not None:
        return f"${row['per_million']:.4g}/1M"
    return f"${row['per_thousand']:.4g}/1k" if row["per_thousand"] is not None else "-"


def short(number: float) -> str:
    """A number in six characters at most: `12345`, `1.23M`."""
    if number < 99_999.5:
        return f"{number:.1f}".removesuffix(".0") if number < 9_999.95 else f"{number:.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15)):
        if number < 999.5 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0e}"


def _notes(rows: list[Row]) -> None:
    """What a person should know of the numbers."""
    orphans, lost, estimated, mirrored = (
        sum(row[key] for row in rows) for key in ("orphans", "lost", "estimated", "mirrored")
    )
    if orphans:
        talk(f"died with their gateway worker: {orphans} (charged {lost} prompt tokens, no output, no seconds)")
    if estimated:
        talk(f"broke off before the answer said its tokens, which the gateway counted: {estimated}")
    if mirrored:
        talk(f"mirrored copies, in the seconds and dollars but not in the requests: {mirrored}")
    if any(row["per_million"] is not None or row["per_thousand"] is not None for row in rows):
        talk("/1M: for a million output tokens; /1k: for a thousand predictions; idle time left out")


def _say_nothing(rows: list[Row], since: str | None, until: str | None) -> None:
    if any(row["dollars"] or row["seconds"] or row["requests"] for row in rows):
        return
    when = " ".join([*([f"from {since}"] if since else []), *([f"to before {until}"] if until else [])])
    talk(f"nothing was metered {when}".rstrip())


def _write(file: str, rows: list[Row], stack: str) -> None:
    from mainspring.cost.focus import table

    text = table(rows, stack)
    if file == "-":
        click.echo(text, nl=False)
        return
    try:
        with Path(file).open("w", encoding="utf-8", newline="") as out:
            out.write(text)
    except OSError as error:
        message = f"`{file}` cannot be written: {error.strerror or error}"
        raise EnvironmentError_("csv-not-written", message, "mainspring cost --csv -") from error
    talk(f"{len(rows)} rows are in `{file}`")
