"""`mainspring demo`: an example from beginning to end, with nothing scripted. Who calls it: `cli/main.py`."""

from __future__ import annotations

import click

from mainspring.cli.output import Options, pass_options


@click.command()
@click.argument("name", type=click.Choice(["flights"]))
@click.option("--until", default="2013-12-31", show_default=True, help="The last day that is replayed.")
@click.option("--in-flight", type=click.IntRange(1, 256), default=24, show_default=True, help="Requests at a time.")
@click.option("--again", is_flag=True, help="Begin anew: what an earlier demo left is removed.")
@click.option("--keep-up", is_flag=True, help="Leave the stack up at the end.")
@pass_options
def demo(options: Options, *, name: str, until: str, in_flight: int, again: bool, keep_up: bool) -> None:
    """Replay ten months of real flights through the whole loop, and report what it did.

    Interrupted or killed, the same command goes on where it was. Everything lies in `.mainspring/demo/flights`.
    """
    from mainspring.cli.demo.act import Act

    Act(options, name, until, in_flight).run(again=again, keep_up=keep_up)
