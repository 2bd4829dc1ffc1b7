"""The replay's progress on a terminal: a bar, or one plain line a week where there is no terminal.

Who calls it: `mainspring demo flights`. What it must never do: write to stdout, which is for data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from mainspring.cli.demo.flights import Day

Tell = Callable[[Day, float], None]


@contextmanager
def progress(stream: TextIO | None = None) -> Iterator[Tell]:
    """Give a function that shows each day as it is done (with the share of the replay behind it)."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield lambda day, share: _plain(day, share, stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[day]}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]:>6.0f} req/s  {task.fields[live]}"),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task("", total=1.0, day="2013-03-01", rate=0.0, live="")
        said = ""

        def tell(day: Day, share: float) -> None:
            nonlocal said
            live = f"version {day.live}" if day.live else ""
            bar.update(task, completed=share, day=day.day, rate=day.result.per_second, live=live)
            if day.event and day.event != said:
                said = day.event
                bar.console.print(f"{day.day}  {said}", highlight=False, soft_wrap=True, markup=False)

        yield tell


def _plain(day: Day, share: float, stream: TextIO) -> None:
    """One line a week: its day is the last of seven, or the replay's last."""
    from datetime import date

    if (date.fromisoformat(day.day) - date(2013, 3, 1)).days % 7 == 6 or share >= 1:
        version = f"version {day.live}" if day.live else "no version"
        rate, failed = f"{day.result.per_second:,.0f} req/s", f"{day.result.errors} errors"
        print(f"{day.day} {share:4.0%} {rate:>12} {failed} {version}  {day.event}", file=stream, flush=True)
