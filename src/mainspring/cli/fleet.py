"""What a fleet will do and cost, before it is paid for: the part of `plan` for stacks that say what their traffic is.

What this is: files read for `sizing/ask.py`, the answer made, shown and written as a page. Who calls it: `plan.py`.
What it must never do: change anything but the report that it writes.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mainspring.cli import fleet_page, fleet_table
from mainspring.cli.output import Options, emit, talk
from mainspring.errors import InputError, ObjectiveNotMet
from mainspring.forecast.coefficients import builtin
from mainspring.sizing.answer import Answer
from mainspring.sizing.ask import ask
from mainspring.sizing.fleet import Fleets, plan_fleets
from mainspring.stack.load import Document

MOST = 64 * 2**20
"""Bytes of a file beside the stack file that are read at most, decompressed."""
SHOWN = 2
"""With more endpoints than this a table of all is shown, and each by `--endpoint`."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files beside a stack file."""

    folder: Path

    def __call__(self, name: str) -> bytes:
        """The bytes of one, decompressed when it ends in `.gz`; raises `InputError`."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                source: Any = gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file
                data: bytes = source.read(MOST + 1)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise InputError("unreadable", f"`{name}` can't be read: {said}", f"ls {self.folder}") from error
        if len(data) > MOST:
            raise InputError("too-large", f"`{name}` is larger than {MOST >> 20} MiB", "take a part of it")
        return data


def plan_fleet(options: Options, document: Document, endpoint: str | None, report: Path | None) -> Fleets:
    """Answer, show, write the page. Raises `ObjectiveNotMet` in the end when an endpoint's fleet will not do."""
    asked = ask(document, Files(options.folder))
    for note in asked.notes:
        talk(f"note: {note}")
    fleets = plan_fleets(document.stack, asked, builtin(), _progress)
    _clear()
    shown = _chosen(fleets, endpoint)
    if options.output == "table":
        _show(fleets, shown, whole=endpoint is not None or len(shown) <= SHOWN)
    _write(report or options.state / "plan" / "report.html", fleet_page.page(document.stack.stack, fleets))
    return fleets


def _progress(what: str, number: int, of: int) -> None:
    """One line that is written over, where a person watches."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[Ksizing {what} ({number} of {of})", err=True, nl=False)


def _clear() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)


def judged(fleets: Fleets) -> None:
    """Raise `ObjectiveNotMet` when an endpoint's fleet will not do."""
    failed = [answer.question.demand.endpoint for answer in fleets.answers if not answer.met]
    if failed:
        names = ", ".join(f"`{name}`" for name in failed)
        message = f"the fleet as written does not meet the objective of {names}"
        raise ObjectiveNotMet("objective-not-met", message, "mainspring explain serving.objective")


def _chosen(fleets: Fleets, endpoint: str | None) -> tuple[Answer, ...]:
    if endpoint is None:
        return fleets.answers
    found = tuple(one for one in fleets.answers if one.question.demand.endpoint == endpoint)
    if not found:
        there = ", ".join(f"`{one.question.demand.endpoint}`" for one in fleets.answers)
        raise InputError("no-such-endpoint", f"no endpoint `{endpoint}` says what its traffic is: {there} do", "")
    return found


def _show(fleets: Fleets, shown: tuple[Answer, ...], *, whole: bool) -> None:
    if whole:
        emit("\n\n".join(fleet_table.text(answer) for answer in shown))
    else:
        emit(fleet_table.summary(fleets))


def _write(path: Path, page: str) -> None:
    """Write the page whole or not at all; a folder that can't be written is told and does not stop the plan."""
    from mainspring.pipelines.files import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page.encode())
    except OSError as error:
        talk(f"note: the report was not written: {error}")
        return
    talk(f"report: {click.format_filename(path)}")
