"""How long the node was up, kept over restarts, and the bill that follows.

What this is: `Meter` adds up real seconds in `meter/uptime.json`; `Meter.bill` divides their price. Who calls it: the
controller ticks it each cycle and at its end; the command line and reports read it. What it must never do: bill
event time, or count the hours during which the machine itself was off.

The rule: the time between two ticks counts when things were up at the first of them and the machine has not been
booted since. The controller may die in between: replicas and the gateway outlive it, and the node is paid for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from mainspring.decide.price import Bill, Usage, bill
from mainspring.errors import EnvironmentError_

DAY = 86400.0


class UsageSource(Protocol):
    """Who knows what each revision did; the prediction store does."""

    def usage(self) -> tuple[Usage, ...]:
        """What each revision did since the beginning."""


@dataclass(frozen=True, slots=True)
class Uptime:
    """The node's time so far."""

    seconds: float = 0.0  # counted up to `last`
    last: float | None = None  # real time of the last tick, POSIX seconds
    up: bool = False  # whether anything ran at the last tick
    boot: str = ""  # of the machine
    days: dict[str, float] = field(default_factory=dict)  # seconds by the day (since 1970, UTC) they were counted on


def advance(uptime: Uptime, now: float, up: bool, boot: str) -> Uptime:
    """Count the time since the last tick; a clock that went back counts nothing."""
    counts = uptime.up and uptime.last is not None and uptime.boot == boot
    passed = max(0.0, now - uptime.last) if counts and uptime.last is not None else 0.0
    day = str(int(now // DAY))
    days = {**uptime.days, day: uptime.days.get(day, 0.0) + passed} if passed else uptime.days
    return Uptime(uptime.seconds + passed, now, up, boot, days)


class Meter:
    """The uptime file of a state folder."""

    def __init__(self, folder: Path, price_per_hour: float, cores: int = 1) -> None:
        """`folder` is the state folder's `meter`; `cores` is how many seconds of compute a second of the node has."""
        self._file = folder / "uptime.json"
        self._price = price_per_hour
        self._cores = cores
        self._uptime = _read(self._file)

    @property
    def seconds_up(self) -> float:
        """Real seconds that the node was up, to the last tick."""
        return self._uptime.seconds

    def tick(self, now: float, up: bool, boot: str) -> float:
        """Count up to `now` (real time) and say how long the node was up; `up`: does anything run from here on?

        Raises `EnvironmentError_` when the file cannot be written; the next tick counts the time nevertheless.
        """
        self._uptime = advance(self._uptime, now, up, boot)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new = self._file.with_suffix(".new")
            with new.open("w") as stream:
                json.dump(asdict(self._uptime), stream, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(new, self._file)
        except OSError as error:
            raise EnvironmentError_(
                "meter-not-written", f"the meter `{self._file}` cannot be written: {error}", "mainspring doctor"
            ) from error
        return self._uptime.seconds

    def spent(self, period: float) -> float:
        """Dollars spent in the present period of so many seconds, periods being counted from 1970 as days are."""
        if self._uptime.last is None or period <= 0.0:
            return 0.0
        begins = self._uptime.last // period * period
        seconds = math.fsum(s for day, s in self._uptime.days.items() if (int(day) + 1) * DAY > begins)
        return self._price / 3600.0 * seconds

    def bill(self, source: UsageSource, training_seconds: Iterable[float] = ()) -> Bill:
        """Divide the node's price so far; `training_seconds` are the compute seconds of each run."""
        return bill(source.usage(), self._price, self.seconds_up, math.fsum(training_seconds), self._cores)


def _read(file: Path) -> Uptime:
    """Read the file; one that is missing or half written counts from nothing again."""
    try:
        raw = json.loads(file.read_text())
        seconds, last = float(raw["seconds"]), raw["last"]
        if not 0.0 <= seconds < math.inf:
            return Uptime()
        days = {str(int(day)): float(s) for day, s in raw.get("days", {}).items()}
        return Uptime(seconds, None if last is None else float(last), bool(raw["up"]), str(raw["boot"]), days)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Uptime()
