"""`mainspring demo`: an example from beginning to end, with nothing scripted. Who calls it: `cli/main.py`."""

from __future__ import annotations

from pathlib import Path

import click

from mainspring.cli.output import Options, pass_options


@click.group()
def demo() -> None:
    """Run an example from beginning to end."""
    # The verbs' functions are not called as the modules beside this one, which they would hide.


@demo.command("flights")
@click.option("--until", default="2013-12-31", show_default=True, help="The last day that is replayed.")
@click.option("--in-flight", type=click.IntRange(1, 256), default=24, show_default=True, help="Requests at a time.")
@click.option("--again", is_flag=True, help="Begin anew: what an earlier demo left is removed.")
@click.option("--keep-up", is_flag=True, help="Leave the stack up at the end.")
@pass_options
def _flights(options: Options, *, until: str, in_flight: int, again: bool, keep_up: bool) -> None:
    """Replay ten months of real flights through the whole loop, and report what it did.

    Interrupted or killed, the same command goes on where it was. Everything lies in `.mainspring/demo/flights`.
    """
    from mainspring.cli.demo.act import Act

    Act(options, "flights", until, in_flight).run(again=again, keep_up=keep_up)


@demo.command("chat")
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), help="Where the stack lies, and the report."
)
@click.option("--keep", is_flag=True, help="Keep the temporary folder, with its logs.")
@click.option(
    "--rate",
    type=click.FloatRange(0.5, 20.0),
    default=1.0,
    show_default=True,
    help="Requests a second of the shop's users.",
)
@click.option(
    "--steady",
    type=click.FloatRange(1.0, 600.0),
    default=8.0,
    show_default=True,
    help="Seconds of plain traffic at the beginning.",
)
@pass_options
def _chat(options: Options, *, folder: Path | None, keep: bool, rate: float, steady: float) -> None:
    """Serve a small language model to two tenants, from zero and back to zero, and report.

    On the way: a noisy tenant is held back, a second replica comes, one is killed, better settings go out by canary,
    and settings that leak are refused.

    The stack lies in a temporary folder, the report in `.mainspring/demo/chat`; with `--folder` both lie there.
    """
    from mainspring.cli.demo.chat import Chat

    Chat(options, folder, keep, rate, steady).run()
