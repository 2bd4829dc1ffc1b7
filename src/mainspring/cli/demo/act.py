"""One demo from beginning to end: bring the stack up, replay, report, take it down.

Who calls it: the verb. What it must never do: help the loop along; it is a user of the gateway, and of the
control API's clock, and reads what the loop wrote down.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mainspring
from mainspring.cli.control_client import Control
from mainspring.cli.demo import flights, page, progress, report
from mainspring.cli.output import Options, emit, talk
from mainspring.errors import EnvironmentError_, InputError
from mainspring.loop.plan import Record

EXAMPLE = "01-flights"
ENDPOINT = "delay"


class Watched(Control):
    """The controller as the replay sees it: also which version is live, and what happened last."""

    def status(self) -> dict[str, Any]:
        seen = super().status()
        endpoint = next((e for e in seen["endpoints"] if e["name"] == ENDPOINT), {})
        events = [e for e in seen["events"] if e.get("kind")]
        seen["live"] = str(endpoint.get("version", "") or "")
        seen["event"] = str(events[0]["message"]) if events else ""
        return seen


@dataclass(slots=True)
class Act:
    """The demo `name`, up to and with the day `until`."""

    options: Options
    name: str
    until: str
    in_flight: int

    @property
    def folder(self) -> Path:
        """Where the demo's stack, state and report lie."""
        return Path.cwd() / ".mainspring" / "demo" / self.name

    def run(self, *, again: bool, keep_up: bool) -> None:
        """Do it, or what is left of it; ends with the table, and where the report is."""
        end = self._end()
        if again:
            self._forget()
        began = time.monotonic()
        finished = self._finished(end)
        if finished is None:
            control = self._up()
            rows = self._replay(control, end)
            finished = self._report(control, rows, began, end)
            if not keep_up:
                control.down()
        else:
            talk("this demo was finished before; `mainspring demo flights --again` begins anew")
        self._show(finished)

    def _end(self) -> float:
        try:
            day = datetime.fromisoformat(self.until).replace(tzinfo=UTC)
        except ValueError as error:
            message = f"`{self.until}` is not a day: write it as 2013-12-31"
            raise InputError("bad-day", message, "mainspring demo flights --until 2013-04-30") from error
        end = day.timestamp() // flights.DAY * flights.DAY + flights.DAY
        if not flights.BEGIN < end <= flights.END:
            message = f"`{self.until}` is not between 2013-03-01 and 2013-12-31"
            raise InputError("bad-day", message, "mainspring demo flights")
        return end

    def _forget(self) -> None:
        control = Control(self.folder / "mainspring.yaml", flights.BEGIN)
        control.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self, end: float) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("until") == end else None

    def _up(self) -> Watched:
        """Bring the stack up, as `mainspring up` does, with a clock that stands at the first of March."""
        source = Path(mainspring.__file__).parents[2] / "examples" / EXAMPLE
        if not (source / "flights.py").is_file():
            message = f"the example `{source}` is not there: the demo runs from a source checkout"
            raise EnvironmentError_("no-example", message, "git clone the project, then `make demo`")
        flights.data_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("flights.py", "mainspring.yaml"):
            if not (self.folder / name).exists():
                shutil.copyfile(source / name, self.folder / name)
        stack = self.folder / "mainspring.yaml"
        _free_port(stack)
        with _said("the stack is brought up, and the first version is made"):
            control = Watched(stack, flights.BEGIN)
            control.ensure_up()
            control.advance(max(flights.BEGIN, control.clock()))
            if not control.status()["live"]:
                message = f"no version of `{ENDPOINT}` could be made"
                raise EnvironmentError_("no-version", message, f"mainspring -f {stack} status")
        return control

    def _replay(self, control: Watched, end: float) -> flights.Flights:
        with _said("the flights are read"):
            rows = flights.Flights.of(self.folder, self._fields(control))
        with progress.progress() as tell:
            flights.Replay(
                control, rows, self.folder, endpoint=ENDPOINT, in_flight=self.in_flight, until=end, tell=tell
            ).run()
        return rows

    def _fields(self, control: Watched) -> tuple[Any, ...]:
        from mainspring.artefacts.load import load_manifest

        return load_manifest(self._first(control)).inputs

    def _first(self, control: Watched) -> Path:
        """The artefact of the first version: the one that the frozen comparison scores."""
        versions = [v for v in control.client.get("/v1/versions") if v["model"] == ENDPOINT]
        return Path(min(versions, key=lambda v: int(v["number"]))["artefact"])

    def _report(self, control: Watched, rows: flights.Flights, began: float, end: float) -> dict[str, Any]:
        with _said("the report is made"):
            given = self._input(control, rows, end)
            days, spent = flights.days_kept(self.folder)
            # What this call took beside the days, and the days of all calls.
            mine = time.monotonic() - began - sum(d.seconds for d in days if d.seconds) if len(days) else 0.0
            given.seconds = spent + max(0.0, mine)
            made = report.build(given.freeze()) | {"until": end}
            report.write(made, page.page(made), self.folder)
        return made

    def _input(self, control: Watched, rows: flights.Flights, end: float) -> Gathered:
        from mainspring.cli.demo.gather import gather

        return gather(control, self.folder, rows, self._first(control), end, ENDPOINT)

    def _show(self, made: dict[str, Any]) -> None:
        if self.options.output != "table":
            emit(made, self.options.output)
            return
        print(report.summary(made))
        page_path = self.folder / "report.html"
        talk(f"\nreport: {page_path.relative_to(Path.cwd())} (and report.json beside it)")


def _free_port(stack: Path) -> None:
    """Say at once that the gateway's port is taken, unless it is this demo that holds it."""
