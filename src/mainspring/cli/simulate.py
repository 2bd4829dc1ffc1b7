"""`mainspring simulate`: a day of an endpoint in the twin, scaled by the same decision as live. Called by `main.py`.

What this is: the verb, its table and its data. What it must never do: touch what is up, or hide what it rests on.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mainspring.cli.output import FORMATS, Options, emit, pass_options, talk
from mainspring.errors import ObjectiveNotMet

if TYPE_CHECKING:
    from mainspring.cli.simulate_asked import Asked
    from mainspring.worlds.twin.queueing import Outcome

SHOWN = 30
"""Changes that the table shows; `-o json` has all."""
ENOUGH = 0.95
"""The share of requests that have to be in time: what a p95 promises."""


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--endpoint", metavar="NAME", help="Which endpoint, where there are several.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Arrivals and lengths from a file.")
@click.option("--rate", metavar="RATE", help="Mean arrivals, as in `5/s` or `500k/day`.  [default: the file's traffic]")
@click.option(
    "--shape",
    type=click.Choice(["steady", "steps", "ramps", "burst", "day"]),
    help="How the rate changes.  [default: day]",
)
@click.option("--for", "span", metavar="TIME", help="How long.  [default: 1d, or all of a trace]")
@click.option("--speed-up", type=float, default=1.0, metavar="TIMES", help="So many times as many requests a second.")
@click.option(
    "--bench",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="What `mainspring bench -o json` measured; several, of different rates.",
)
@click.option("--load", metavar="TIME", help="From a replica's start to ready.  [default: 60s, assumed]")
@click.option("--price", metavar="PRICE", help="Of a replica, as in `$4/h`.  [default: the pool's, with GPUs]")
@click.option("--seed", type=int, default=1, show_default=True, help="Of everything random.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with plots.")
@click.option("-o", "form", type=click.Choice(FORMATS), help="How data is written.")
@pass_options
def simulate(options: Options, /, path: Path | None, *, form: str | None, out: Path | None, **said: Any) -> None:
    """Let the autoscaler run through a day of traffic in virtual time: replicas, waits, dollars, and each reason.

    PATH is a stack file or its folder. The decision is the one that runs live; arrivals come from a trace or a rate,
    times of service from `--bench` or from assumptions that are told. Exit status 3: fewer than 95 of 100 requests had
    a slot in time for the objective.
    """
    from mainspring.cli import simulate_asked
    from mainspring.stack.load import check
    from mainspring.worlds.twin import queueing

    options.at(path)
    asked = simulate_asked.asked(check(options.file).stack, said)
    hours = asked.arrivals.seconds / 3600.0
    talk(f"{len(asked.arrivals):,} requests in {hours:.3g} h, in virtual time")
    outcome = queueing.simulate(
        asked.arrivals, asked.fleet, asked.service, queueing.Ours(asked.rules), said["seed"], _watch(asked)
    )
    if out is not None:
        _write(out, asked, outcome)
    form = form or options.output
    if form == "table":
        _show(asked, outcome)
    else:
        emit(told(asked, outcome), form)
    share = outcome.attainment(asked.wait)
    if asked.promised and share < ENOUGH:
        message = f"`{share:.1%}` of the requests had a slot within {asked.wait:g} s, not {ENOUGH:.0%}"
        raise ObjectiveNotMet("objective-not-met", message, "mainspring explain serving.scale")


def told(asked: Asked, outcome: Outcome) -> dict[str, Any]:
    """As data: times in seconds, the series by the minute."""
    step = max(1, min(60, len(outcome.want)))
    series = {
        name: [round(float(v), 3) for v in getattr(outcome, name)[step - 1 :: step]]
        for name in ("want", "ready", "waiting", "running")
    }
    whole = len(outcome.rate) // step * step
    series["rate"] = [round(float(v), 3) for v in outcome.rate[:whole].reshape(-1, step).mean(axis=1)]
    return {
        "endpoint": asked.name,
        "arrivals": asked.arrivals.says,
        "requests": len(asked.arrivals),
        "seconds": outcome.seconds,
        "in_time": outcome.attainment(asked.wait),
        "in_time_seconds": asked.wait,
        "wait": {f"p{p}": outcome.quantile(p / 100) for p in (50, 95, 99)},
        "latency": {f"p{p}": outcome.quantile(p / 100, "latency") for p in (50, 95, 99)},
        "refused": outcome.refused,
        "expired": outcome.expired,
        "replicas": {"mean": float(outcome.ready.mean()), "most": int(outcome.ready.max())},
        "waiting_most": int(outcome.waiting.max()),
        "replica_hours": outcome.replica_hours,
        "dollars": outcome.dollars if asked.fleet.price else None,
        "rests_on": list(asked.rests_on),
        "changes": [{"at": one.at, "want": one.want, "why": one.why} for one in outcome.changes],
        "series": {"step": step, **series},
    }


def clock(seconds: float) -> str:
    """Virtual time as `7:05:09`, or `1d 7:05:09`."""
    days, rest = divmod(round(seconds), 86400)
    text = f"{rest // 3600}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}d {text}" if days else text


def facts(asked: Asked, outcome: Outcome) -> list[tuple[str, str]]:
    """The figures, in words."""
    low, high, fleet = asked.rules.least, asked.rules.most, asked.fleet

    def times(of: str) -> str:
        return ", ".join(f"p{p} {_short(outcome.quantile(p / 100, of))}" for p in (50, 95, 99))

    hours, mean = outcome.replica_hours, float(outcome.ready.mean())
    always = high * outcome.seconds / 3600.0
    dollars = f", ${outcome.dollars:,.2f}" if fleet.price else ""
    return [
        ("requests", f"{len(asked.arrivals):,} in {clock(outcome.seconds)} ({asked.arrivals.says})"),
        ("in time", f"{outcome.attainment(asked.wait):.2%} had a slot within {asked.wait:.3g} s"),
        ("wait", times("wait")),
        ("latency", times("latency")),
        ("lost", f"{outcome.refused:,} refused (queue full), {outcome.expired:,} waited too long"),
        ("replicas", f"{low}..{high} of {fleet.slots} slots: {mean:.2f} on average, {outcome.ready.max():.0f} at most"),
        ("replica-h", f"{hours:.2f}{dollars}; always {high}: {always:.2f}"),
    ]  # fmt: skip


def _short(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds:.3g} s"


def _show(asked: Asked, outcome: Outcome) -> None:
    import textwrap

    for name, text in [
        ("endpoint", asked.name),
        *facts(asked, outcome),
        *(("rests on", one) for one in asked.rests_on),
    ]:
        click.echo(textwrap.fill(f"{name:10}{text}", 80, subsequent_indent=" " * 10))
    click.echo()
    for one in outcome.changes[:SHOWN]:
        click.echo(textwrap.fill(f"{clock(one.at):>11}  {one.why}", 80, subsequent_indent=" " * 13))
    if len(outcome.changes) > SHOWN:
        click.echo(f"… {len(outcome.changes) - SHOWN} more changes: -o json")


def _watch(asked: Asked) -> Any:
    """Progress on a terminal."""
    if not sys.stderr.isatty():
        return None

    def watch(seconds: float) -> None:
        share = min(1.0, seconds / asked.arrivals.seconds)
        click.echo(f"\r\x1b[K{clock(seconds)} ({share:.0%})" if share < 1 else "\r\x1b[K", err=True, nl=False)

    return watch


def _write(path: Path, asked: Asked, outcome: Outcome) -> None:
    from mainspring.cli import simulate_page
    from mainspring.wire.process import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, simulate_page.page(asked, outcome).encode())
    except OSError as error:
        talk(f"note: the page was not written: {error}")
        return
    talk(f"page: {click.format_filename(path)}")
