"""What a fleet will do and cost, before it is paid for: the part of `plan` for stacks that say what their traffic is.

What this is: files read for `sizing/ask.py`, the answer made, shown and written as a page. Who calls it: `plan.py`.
What it must never do: change anything but the report that it writes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click

from mainspring.cli import fleet_page, fleet_table
from mainspring.cli.output import Options, emit, talk
from mainspring.cli.reading import first_bytes
from mainspring.errors import InputError, ObjectiveNotMet
from mainspring.forecast.coefficients import Coefficients, builtin
from mainspring.sizing.ask import ask
from mainspring.sizing.fleet import Fleets, plan_fleets
from mainspring.sizing.question import Question
from mainspring.stack.load import Document

MOST = 64 * 2**20
"""Bytes of a file beside the stack file that are read at most, decompressed."""
CALIBRATED = "mainspring.coefficients.json"
"""What `mainspring calibrate` writes."""
SHOWN = 2
"""With more endpoints than this a table of all is shown, and each by `--endpoint`."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files beside a stack file."""

    folder: Path

    def __call__(self, name: str) -> bytes:
        """The bytes of one, decompressed when it ends in `.gz`; raises `InputError`."""
        hint = f"ls {self.folder}"
        packed = name.endswith(".gz")
        data = first_bytes(self.folder / name, MOST + 1, shown=name, code="unreadable", hint=hint, unpack=packed)
        if len(data) > MOST:
            raise InputError("too-large", f"`{name}` is larger than {MOST >> 20} MiB", "take a part of it")
        return data


def plan_fleet(options: Options, document: Document, endpoint: str | None, report: Path | None) -> Fleets:
    """Answer, show, write the page. Raises `ObjectiveNotMet` in the end when an endpoint's fleet will not do."""
    asked = ask(document, Files(options.folder))
    for note in asked.notes:
        talk(f"note: {note}")
    if endpoint is not None:
        asked = replace(asked, questions=_only(asked.questions, endpoint))
    fleets = plan_fleets(document.stack, asked, _coefficients(options.folder), _progress)
    _clear()
    if options.output == "table":
        _show(fleets, whole=len(fleets.answers) <= SHOWN)
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
    """Raise `ObjectiveNotMet` when a fleet will not do, or a pool is promised twice."""
    failed = [answer.question.demand.endpoint for answer in fleets.answers if not answer.met]
    if failed:
        names = ", ".join(f"`{name}`" for name in failed)
        message = f"the fleet as written does not meet the objective of {names}"
        raise ObjectiveNotMet("objective-not-met", message, "mainspring explain serving.objective")
    if not fleets.met:
        says = next(check.says for check in fleets.shared if not check.met)
        raise ObjectiveNotMet("pool-too-small", f"{says}", "mainspring explain compute.nodes")


def _only(questions: tuple[Question, ...], endpoint: str) -> tuple[Question, ...]:
    found = tuple(one for one in questions if one.demand.endpoint == endpoint)
    if not found:
        there = ", ".join(f"`{one.demand.endpoint}`" for one in questions)
        message = f"no endpoint `{endpoint}` says what its traffic is: {there} do"
        raise InputError("no-such-endpoint", message, "mainspring plan")
    return found


def _coefficients(folder: Path) -> Coefficients:
    """The built-in ones, or those that `calibrate` left beside the stack file. Raises `InputError`."""
    path = folder / CALIBRATED
    if not path.is_file():
        return builtin()
    talk(f"note: forecasts with the coefficients of `{CALIBRATED}`")
    return Coefficients.read(Files(folder)(CALIBRATED).decode("utf-8", "replace"))


def _show(fleets: Fleets, *, whole: bool) -> None:
    said = "\n\n".join(fleet_table.text(answer) for answer in fleets.answers) if whole else fleet_table.summary(fleets)
    saved = fleet_table.levers(fleets.levers) if whole and fleets.levers is not None else ""
    more = [saved, fleet_table.pools(fleets) if whole else "", fleet_table.budget(fleets)]
    emit("\n\n".join([said, *(part for part in more if part)]))


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
