"""What some days cost, divided by tenant, endpoint, revision or key.

What this is: the dates that people say, and the rows that they get. Who calls it: the app, for the control API. What
it must never do: divide money by itself (`decide/price.py` does), or take a date that is none for another.

Days are those of the real clock, in UTC; a period is from one day to before another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Protocol

from mainspring.cost.meter import Meter
from mainspring.cost.report import units
from mainspring.decide.price import DAY, GROUPS, Charge, Day, Usage, charges, merged
from mainspring.errors import InputError

_EPOCH = date(1970, 1, 1)
DIGITS = 6
"""Digits after the point of the dollars of a row."""
FINE = 10
"""The same of a row of one day, for files."""


class MeteredSource(Protocol):
    """Who knows who used what on which day; the prediction store does."""

    def used(self, first: int, last: int, by: Collection[str]) -> tuple[Usage, ...]:
        """What was used on the real days from `first` to before `last`; names that are not in `by` are added up."""

    def metered_since(self) -> int | None:
        """The first real day on which anything was."""


@dataclass(frozen=True, slots=True)
class Span:
    """Days since 1970 (UTC), from `first` to before `last`."""

    first: int
    last: int


def span(since: str, until: str, now: float, first: int | None) -> Span:
    """Read the days that a person asks for; "" is from the `first` day known, and until the day after today.

    `now` is real time, POSIX seconds; days after today's are left out. Raises `InputError` for what is no date, the
    wrong way round, or not begun yet.
    """
    today = int(now // DAY)
    end = _day("to", until) if until else today + 1
    begin = _day("from", since) if since else min(end, today if first is None else first)
    if since and begin > today:
        message = f"`{since}` is in the future: today is `{told(today)}` (UTC)"
        raise InputError("future-date", message, f"mainspring cost --from {told(today)}")
    if since and until and begin >= end:
        right = (until, since) if end < begin else (since, told(begin + 1))
        message = f"no day is from `{since}` to before `{until}`"
        raise InputError("no-days", message, "mainspring cost --from {} --to {}".format(*right))
    return Span(begin, max(begin, min(end, today + 1)))


def _day(which: str, text: str) -> int:
    """A date of ten characters: Python takes weeks and more of ISO 8601 too, but one way to say it will do."""
    try:
        return (date.fromisoformat(text if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else "") - _EPOCH).days
    except ValueError:
        message = f"`{text[:40]}` is not a date"
        raise InputError("bad-date", message, f"write it as in `--{which} 2026-11-01`") from None


def told(day: int) -> str:
    """A day since 1970 as people write it."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def grouping(by: str) -> str:
    """A key of `GROUPS` that a person named. Raises `InputError`."""
    names = [name for name in GROUPS if name]
    if by not in names:
        message = f"`{by[:40]}` is nothing that a bill can be divided by"
        raise InputError("bad-grouping", message, f"mainspring cost --by {'|'.join(names)}")
    return by


def days(meter: Meter, source: MeteredSource, training: Mapping[int, float], asked: Span, by: str) -> list[Day]:
    """Each day of a period on which the node was up or anything was used.

    `training` is core-seconds by day; `by` is a key of `GROUPS`: use is told apart by its names only.
    """
    up = meter.days()
    usage: dict[int, list[Usage]] = {}
    for use in source.used(asked.first, asked.last, GROUPS[by]):
        usage.setdefault(use.day, []).append(use)
    known = sorted(day for day in {*up, *usage, *training} if asked.first <= day < asked.last)
    return [
        Day(day, dollars, seconds, tuple(usage.get(day, ())), training.get(day, 0.0))
        for day in known
        for seconds, dollars in [up.get(day, (0.0, 0.0))]
    ]


def rows(found: Iterable[Day], by: str, cores: int) -> list[dict[str, Any]]:
    """One row for each group, then training, then idle; their dollars add up to the days'. Nothing: no row."""
    listed = list(found)
    parts = merged(part for day in listed for part in charges(day, by, cores))
    total = math.fsum(max(0.0, day.dollars) for day in listed)
    shown = units([part.dollars for part in parts], DIGITS, total)
    return [_row(part, {"dollars": unit / 10**DIGITS}) for part, unit in zip(parts, shown, strict=True)]


def daily(found: Iterable[Day], by: str, cores: int) -> list[dict[str, Any]]:
    """One row for each day and group, in order; `billed` is a decimal, exact: they add up to the rounded total.

    Days on which a group cost and used nothing have no row of it.
    """
    listed = list(found)
    parts = [(day.day, part) for day in listed for part in charges(day, by, cores)]
    total = math.fsum(max(0.0, day.dollars) for day in listed)
    shown = units([part.dollars for _, part in parts], FINE, total)
    return [
        _row(part, {"day": told(day), "dollars": part.dollars, "billed": decimal(unit, FINE)})
        for (day, part), unit in zip(parts, shown, strict=True)
        if unit or part.seconds or part.requests or part.mirrored
    ]


def decimal(unit: int, digits: int) -> str:
    """Whole units of 10^-digits, not below zero, as a decimal."""
    return f"{unit // 10**digits}.{unit % 10**digits:0{digits}d}"


def _row(part: Charge, more: dict[str, Any]) -> dict[str, Any]:
    return {**asdict(part), **more, "per_million": part.per_million, "per_thousand": part.per_thousand}
