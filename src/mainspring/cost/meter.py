"""How long the node was up and what that cost, kept over restarts, and the bill that follows.

What this is: `Meter` adds up real seconds and their dollars in `meter/uptime.json`, by day; `Meter.bill` divides
them. Who calls it: the controller ticks it each cycle and at its end; the command line and reports read it. What it
must never do: bill event time, or count the hours during which the machine itself was off.

The rule: the time between two ticks counts when things were up at the first of them and the machine has not been
booted since. The controller may die in between: replicas and the gateway outlive it, and the node is paid for. It is
measured by the machine's own clock where that is given, so that a wall clock that is put right bills nothing; and each
second is priced as the stack said at that time, so that what was billed stays as it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mainspring.decide.price import DAY, Bill, Usage, bill, spread
from mainspring.errors import EnvironmentError_


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
    days: dict[str, float] = field(default_factory=dict)  # seconds by the day (since 1970, UTC) they passed on
    dollars: dict[str, float] = field(default_factory=dict)  # the same seconds' price
    mono: float | None = None  # the machine's own clock at the last tick, seconds since its boot


def advance(
    uptime: Uptime, now: float, up: bool, boot: str, mono: float | None = None, price_per_hour: float = 0.0
) -> Uptime:
    """Count the time since the last tick; a clock that went back counts nothing."""
    passed = _passed(uptime, now, mono) if uptime.up and uptime.boot == boot else 0.0
    days, dollars = uptime.days, uptime.dollars
    if passed:
        days, dollars = dict(days), dict(dollars)
        for day, seconds in spread(passed, now - passed, now).items():
            days[str(day)] = days.get(str(day), 0.0) + seconds
            dollars[str(day)] = dollars.get(str(day), 0.0) + price_per_hour / 3600.0 * seconds
    return Uptime(uptime.seconds + passed, now, up, boot, days, dollars, mono)


def _passed(uptime: Uptime, now: float, mono: float | None) -> float:
    if mono is not None and uptime.mono is not None:
        return max(0.0, mono - uptime.mono)
    return max(0.0, now - uptime.last) if uptime.last is not None else 0.0


class Meter:
    """The uptime file of a state folder."""

    def __init__(self, folder: Path, price_per_hour: float, cores: int = 1) -> None:
        """`folder` is the state folder's `meter`; `cores` is how many seconds of compute a second of the node has."""
        self._file = folder / "uptime.json"
        self._price = price_per_hour
        self._cores = cores
        self._uptime = _read(self._file, price_per_hour)

    @property
    def seconds_up(self) -> float:
        """Real seconds that the node was up, to the last tick."""
        return self._uptime.seconds

    @property
    def cores(self) -> int:
        """Seconds of compute that a second of the node has."""
        return self._cores

    @property
    def rate(self) -> float:
        """Dollars of a core-second at the present price."""
        return self._price / 3600.0 / max(1, self._cores)

    def days(self) -> dict[int, tuple[float, float]]:
        """Seconds up, and dollars, by the real day (since 1970, UTC)."""
        dollars = self._uptime.dollars
        return {int(day): (seconds, dollars.get(day, 0.0)) for day, seconds in self._uptime.days.items()}

    def tick(self, now: float, up: bool, boot: str, mono: float | None = None) -> float:
        """Count up to `now` (real time) and say how long the node was up; `up`: does anything run from here on?

        `mono`: seconds of a clock that only runs forward, since the machine's `boot`.

        Raises `EnvironmentError_` when the file cannot be written; the next tick counts the time nevertheless.
        """
        self._uptime = advance(self._uptime, now, up, boot, mono, self._price)
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
        return math.fsum(usd for day, usd in self._uptime.dollars.items() if (int(day) + 1) * DAY > begins)

    def bill(self, source: UsageSource, training_seconds: Iterable[float] = ()) -> Bill:
        """Divide the node's price so far; `training_seconds` are the compute seconds of each run."""
        priced = math.fsum(self._uptime.days.values())
        price = math.fsum(self._uptime.dollars.values()) / priced * 3600.0 if priced else self._price
        return bill(source.usage(), price, self.seconds_up, math.fsum(training_seconds), self._cores)


def _read(file: Path, price_per_hour: float) -> Uptime:
    """Read the file; one that is missing or half written counts from nothing again.

    Days of a file that holds no dollars yet are priced at the present price, this once.
    """
    try:
        raw = json.loads(file.read_text())
        seconds, last, mono = float(raw["seconds"]), raw["last"], raw.get("mono")
        if not 0.0 <= seconds < math.inf:
            return Uptime()
        days = _by_day(raw.get("days", {}))
        priced = raw.get("dollars")
        dollars = {d: price_per_hour / 3600.0 * s for d, s in days.items()} if priced is None else _by_day(priced)
        at = None if last is None else float(last)
        return Uptime(
            seconds, at, bool(raw["up"]), str(raw["boot"]), days, dollars, None if mono is None else float(mono)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Uptime()


def _by_day(raw: Any) -> dict[str, float]:
    return {str(int(day)): float(amount) for day, amount in raw.items()}
