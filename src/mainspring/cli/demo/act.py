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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import mainspring
from mainspring.artefacts.load import load_manifest
from mainspring.cli.control_client import Control
from mainspring.cli.demo import flights, page, progress, report
from mainspring.cli.output import Options, emit, talk
from mainspring.errors import EnvironmentError_, InputError
from mainspring.loop.plan import Record
from mainspring.stack import load
from mainspring.worlds.local.shim import write_whole

EXAMPLE = "01-flights"
ENDPOINT = "delay"


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
            rows, done = self._replay(control, end)
            finished = self._report(control, rows, time.monotonic() - began - sum(d.seconds for d in done), end)
        else:
            talk("this demo was finished before; `mainspring demo flights --again` begins anew")
            control = self._control()
        if not keep_up and control.is_up():  # killed after its report, an earlier demo left it up
            with _said("the stack is taken down"):
                control.down()
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

    def _control(self) -> Control:
        return Control(self.folder / "mainspring.yaml", flights.BEGIN)

    def _forget(self) -> None:
        self._control().down()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _finished(self, end: float) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("until") == end else None

    def _up(self) -> Control:
        """Bring the stack up, as `mainspring up` does, with a clock that stands at the first of March."""
        source = Path(mainspring.__file__).parents[2] / "examples" / EXAMPLE
        if not (source / "flights.py").is_file():
            message = f"the example `{source}` is not there: the demo runs from a source checkout"
            raise EnvironmentError_("no-example", message, "git clone the project, then `make demo`")
        flights.data_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("flights.py", "mainspring.yaml"):
            if not (self.folder / name).exists():
                _write(self.folder / name, (source / name).read_text(encoding="utf-8"))
        stack = self.folder / "mainspring.yaml"
        if not self._control().is_up():  # what a killed controller left keeps the port, and is taken over
            _take_free_port(stack)
        with _said("the stack is brought up, and the first version is made"):
            control = self._control()
            control.ensure_up()
            control.advance(max(flights.BEGIN, control.clock()))
            if not control.status()["live"]:
                message = f"no version of `{ENDPOINT}` could be made"
                raise EnvironmentError_("no-version", message, f"mainspring -f {stack} status")
        return control

    def _replay(self, control: Control, end: float) -> tuple[flights.Flights, list[flights.Day]]:
        with _said("the flights are read"):
            rows = flights.Flights.of(self.folder, load_manifest(_first_artefact(control)).inputs)
        with progress.progress() as tell:
            replay = flights.Replay(
                control, rows, self.folder, endpoint=ENDPOINT, in_flight=self.in_flight, until=end, tell=tell
            )
            return rows, replay.run()

    def _report(self, control: Control, rows: flights.Flights, rest: float, end: float) -> dict[str, Any]:
        """Gather, build and write; `rest` is what this call took beside its days."""
        with _said("the report is made"):
            began = time.monotonic()
            given = _gather(control, self.folder, rows, end)
            whole = given.seconds + rest + time.monotonic() - began
            made = report.build(replace(given, seconds=whole)) | {"until": end}
            report.write(made, page.page(made), self.folder)
        return made

    def _show(self, made: dict[str, Any]) -> None:
        if self.options.output != "table":
            emit(made, self.options.output)
            return
        print(report.summary(made))
        talk(f"\nreport: {(self.folder / 'report.html').relative_to(Path.cwd())} (report.json beside it)")


def _take_free_port(stack: Path) -> None:
    """Where something else listens on the file's port, have this copy take a free one, and say so."""
    text = stack.read_text(encoding="utf-8")
    port = load.parse(text.encode(), str(stack)).orchestration.gateway.port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            talk(f"port {port} is in use; the demo's gateway takes a free one")
            where = "orchestration:"
            line = next(line for line in text.splitlines() if line.startswith(where))
            _write(stack, text.replace(line, f"{line}\n  gateway: {{port: 0}}", 1))


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: half of one would be taken for all of it by the next try."""
    write_whole(str(path), text.encode())


def _first_artefact(control: Control) -> Path:
    """The artefact of the first version: the one that the frozen comparison scores."""
    versions = [v for v in control.get("/v1/versions") if v["model"] == ENDPOINT]
    return Path(min(versions, key=lambda v: int(v["number"]))["artefact"])


def _gather(control: Control, folder: Path, rows: flights.Flights, end: float) -> report.ReportInput:
    """All that the report is made of: logged answers, the frozen version's scores of the same rows, and records."""
    from mainspring.monitoring.predictions import PredictionStore

    state = folder / ".mainspring"
    store = PredictionStore(state / "predictions.db", state / "segments", lambda *_: None, read_only=True)
    try:
        told = list(store.rows(ENDPOINT, flights.BEGIN, end))
        counts = store.counts(ENDPOINT)
    finally:
        store.close()
    answered = [t for t in told if t.score is not None]
    place = {ident: i for i, ident in enumerate(rows.table["id"].tolist())}
    part = rows.table.iloc[[place[t.id] for t in answered]]
    manifest = load_manifest(_first_artefact(control))
    columns = {field.name: part[field.name].to_numpy() for field in manifest.inputs}
    days, seconds = flights.days_kept(folder)
    middle = sorted(d.result.p50 for d in days)
    slow = sorted(d.result.p95 for d in days)
    bill = control.get("/v1/cost")
    return report.ReportInput(
        time=np.array([t.at for t in answered]),
        score=np.array([t.score for t in answered], dtype=np.float64),
        truth=np.array([np.nan if t.truth is None else t.truth for t in answered], dtype=np.float64),
        version=[t.version for t in answered],
        frozen=report.frozen_scores(_first_artefact(control), state / "code", columns),
        records=_records(control),
        costs=[report.CostLine(_what(line), line["seconds"], line["dollars"]) for line in bill["lines"]],
        requests=counts.predictions,
        errors=sum(d.result.errors for d in days),
        retries=sum(d.result.retries for d in days),
        seconds=seconds,
        p50=middle[len(middle) // 2] if middle else None,
        p95=slow[len(slow) // 2] if slow else None,
    )


def _what(line: dict[str, Any]) -> str:
    names = [line.get("revision") or line.get("endpoint") or line["kind"], line.get("role", "")]
    return " ".join(name for name in names if name and name != "live")


def _records(control: Control) -> list[Record]:
    kinds = ("run", "run-failed", "gate", "rollout", "drift", "quality")
    return [Record(kind, str(r["key"]), float(r["at"]), r["value"]) for kind in kinds for r in control.records(kind)]


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Say what goes on, and how long it took."""
    began = time.monotonic()
    talk(f"{what} ...")
    yield
    talk(f"{what}: {time.monotonic() - began:.1f} s")
