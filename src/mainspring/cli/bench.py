"""`mainspring bench`: put a load on an endpoint and say what it did. Who calls it: `cli/main.py`.

What this is: the command line's words made into a target and a plan, and the result shown. What it must never do:
show a token, or write anything but data to stdout.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mainspring.cli.output import FORMATS, Options, emit, pass_options, talk
from mainspring.errors import ObjectiveNotMet

if TYPE_CHECKING:
    from mainspring.bench.load import Progress
    from mainspring.bench.plan import Plan
    from mainspring.bench.summary import Result
    from mainspring.bench.target import Target

APIS = ("chat", "completions", "embeddings", "infer")
TOKENS = "`max_tokens`; 0: not said."
MEANT = "What to ask.  [default: by the URL, else chat; infer with --body]"


@click.command()
@click.argument("where", metavar="URL|ENDPOINT")
@click.option("--model", default="", metavar="NAME", help="The model, as the server names it.")
@click.option("--api", type=click.Choice(APIS), help=MEANT)
@click.option("--rate", default="1/s", metavar="RATE", show_default=True, help="Arrivals, as in `5/s` or `300/m`.")
@click.option("--for", "span", metavar="TIME", help="How long.  [default: 30s, or all of a trace]")
@click.option("--even", is_flag=True, help="Evenly spaced arrivals; otherwise they are Poisson.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Arrivals and lengths from a file.")
@click.option("--speed", type=float, default=1.0, metavar="TIMES", help="Play the trace so many times as fast.")
@click.option("--concurrency", type=int, metavar="N", help="A closed loop of so many clients instead, for comparison.")
@click.option("--requests", type=int, metavar="N", help="So many requests at most.")
@click.option("--prompt", default="200 tokens", show_default=True, metavar="LENGTH", help="Length of made-up prompts.")
@click.option(
    "--shared-prefix", type=float, default=0.0, metavar="SHARE", help="Share of them that is the same in all."
)
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts: a line each, or JSON lines.")
@click.option("--body", type=click.Path(path_type=Path), metavar="FILE", help="Whole bodies: one JSON, or JSON lines.")
@click.option("--output", "length", type=int, default=64, show_default=True, metavar="TOKENS", help=TOKENS)
@click.option("--ignore-eos", is_flag=True, help="Answers go on to `--output`, where the engine knows the word.")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="A further field of the body: temperature=0")
@click.option("--no-stream", is_flag=True, help="Ask for whole answers.")
@click.option("--token", metavar="env:NAME", help="The variable that holds the bearer token.")
@click.option("--objective", metavar="LIMITS", help="What is good enough, for goodput: 'ttft 500ms, p95 3s'")
@click.option("--warmup", default="", metavar="TIME", help="Sent before and not counted, as in `5s`.")
@click.option("--timeout", default="60s", show_default=True, metavar="TIME", help="Of one request.")
@click.option("--connections", type=int, default=1024, show_default=True, help="Open at once, at most.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of arrivals and made-up prompts.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page with charts.")
@click.option("-o", "form", type=click.Choice(FORMATS), help="How data is written.")
@pass_options
def bench(options: Options, /, where: str, *, form: str | None, report: Path | None, **said: Any) -> int:
    """Put a load on an endpoint: latency, time to first token, tokens a second, errors, goodput.

    An open loop: requests leave when they are due, whatever becomes of those before, and each latency is counted from
    then. URL is http://HOST:PORT/v1 (or a whole path, also /v2/models/M/infer); ENDPOINT is one of the stack that is
    up in this folder. Ctrl-C ends the run and shows what there is. Exit status 3: the objective was missed.
    """
    from mainspring.bench.load import closed, run
    from mainspring.cli import bench_asked, bench_table
    from mainspring.wire.process import allow_files

    target = bench_asked.target_of(options, where, said)
    plan = bench_asked.plan_of(said)
    clients = said["concurrency"]
    allow_files()
    with _watching(target, plan, clients) as watch:
        result = closed(target, plan, clients, watch) if clients is not None else run(target, plan, watch)
    if report is not None:
        _write(report, result)
    form = form or options.output
    if form == "table":
        click.echo(bench_table.text(result, color=options.color))
    else:
        emit(result.to_dict(), form)
    return _end(result)


def _end(result: Result) -> int:
    """The exit status: 130 when stopped, 1 when nothing was answered; raises `ObjectiveNotMet`."""
    if result.stopped:
        return 130
    if result.goodput is not None and result.goodput.verdict == "missed":
        missed = next(kept.limit for kept in result.goodput.limits if kept.verdict == "missed")
        raise ObjectiveNotMet("objective-not-met", f"the objective was missed: `{missed}`", "mainspring plan")
    return 0 if result.answered else 1


@contextmanager
def _watching(target: Target, plan: Plan, clients: int | None) -> Iterator[Callable[[Progress], bool]]:
    """Say what is going on, on stderr; Ctrl-C ends the run, a second one ends us."""
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        del number, frame
        if stopped:
            _now()
        stopped = True

    what = f"{clients} clients at once" if clients is not None else f"{len(plan.arrivals[: plan.most]):,} requests"
    talk(f"{what} in {plan.seconds:g} s to {target.url}")
    live, told = sys.stderr.isatty(), time.monotonic()

    def watch(progress: Progress) -> bool:
        nonlocal told
        if live:
            click.echo(f"\r\x1b[K{_line(progress)}", err=True, nl=False)
        elif time.monotonic() - told >= 10.0:
            told = time.monotonic()
            talk(_line(progress))
        return stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield watch
    finally:
        signal.signal(signal.SIGINT, before)
        if live:
            click.echo("\r\x1b[K", err=True, nl=False)


def _now() -> NoReturn:
    raise KeyboardInterrupt


def _line(progress: Progress) -> str:
    of = f" of {progress.planned:,}" if progress.planned else ""
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    when = f"{progress.elapsed:.0f}s of {progress.seconds:.0f}s"
    return (
        f"{when}: {progress.sent:,}{of} sent, {progress.done:,} answered{failed}, {progress.outstanding:,} on their way"
    )


def _write(path: Path, result: Result) -> None:
    """Write the page whole or not at all; a folder that can't be written is told, and the figures are shown still."""
    from mainspring.cli import bench_page
    from mainspring.wire.process import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, bench_page.page(result).encode())
    except OSError as error:
        talk(f"note: the report was not written: {error}")
        return
    talk(f"report: {click.format_filename(path)}")
