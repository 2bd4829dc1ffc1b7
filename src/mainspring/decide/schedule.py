"""Cron lines: when a schedule fires next, in UTC.

What this is: a pure function from a five-field cron line and a moment to the next moment.
Who calls it: the decision to retrain, and the stack file's validation (`parse`).
What it must never do: ask what time it is.

Fields: minute 0-59, hour 0-23, day of the month 1-31, month 1-12 or JAN-DEC, weekday 0-7 or SUN-SAT (0 and 7 are
Sunday). Each is `*`, a number, a range `a-b`, a list `a,b`, each with a step `/n`. As in cron: when both day fields are
restricted, either of them is enough. `@hourly`, `@daily`, `@weekly`, `@monthly` and `@yearly` are short for the
usual lines.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_MONTHS = {name.lower(): i for i, name in enumerate(calendar.month_abbr) if name}
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_HORIZON_DAYS = 366 * 29  # 29 February of a given weekday comes within 28 years, but for 2100


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed cron line."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    any_day: bool  # the day-of-month field begins with `*`
    any_weekday: bool

    def on_day(self, moment: datetime) -> bool:
        """Say whether it fires at all on that day."""
        if moment.month not in self.months:
            return False
        by_day = moment.day in self.days
        by_weekday = moment.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


def _value(text: str, names: dict[str, int], low: int, high: int, what: str) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not (text.isascii() and text.isdigit()) or not low <= int(text[:6]) <= high:
        raise ValueError(f"`{text}` is not a {what}: write a number from {low} to {high}")
    return int(text)


def _part(part: str, names: dict[str, int], low: int, high: int, what: str) -> set[int]:
    base, slash, step = part.partition("/")
    by = _value(step, {}, 1, high + 1, "step") if slash else 1
    if base == "*":
        first, last = low, high
    elif "-" in base:
        left, _, right = base.partition("-")
        first, last = _value(left, names, low, high, what), _value(right, names, low, high, what)
        if first > last:
            raise ValueError(f"`{base}` is not a range of {what}s: the smaller comes first")
    else:
        first = _value(base, names, low, high, what)
        last = high if slash else first
    return set(range(first, last + 1, by))


def _field(text: str, names: dict[str, int], low: int, high: int, what: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        found |= _part(part, names, low, high, what)
    return frozenset(found)


@lru_cache(maxsize=256)
def parse(cron: str) -> Cron:
    """Parse a cron line; raise `ValueError` with a sentence a person can act on."""
    fields = _SHORT.get(cron.strip().lower(), cron).split()
    if len(fields) != 5:
        raise ValueError(f"`{cron}` is not a cron line: write five fields, such as `0 3 * * 1` (Mondays at 03:00 UTC)")
    weekdays = _field(fields[4], _DAYS, 0, 7, "weekday")
    parsed = Cron(
        minutes=_field(fields[0], {}, 0, 59, "minute"),
        hours=_field(fields[1], {}, 0, 23, "hour"),
        days=_field(fields[2], {}, 1, 31, "day of the month"),
        months=_field(fields[3], _MONTHS, 1, 12, "month"),
        weekdays=frozenset(day % 7 for day in weekdays),
        any_day=fields[2].startswith("*"),
        any_weekday=fields[4].startswith("*"),
    )
    longest = max(calendar.monthrange(2024, month)[1] for month in parsed.months)
    if min(parsed.days) > longest and (parsed.any_day or parsed.any_weekday):
        raise ValueError(f"`{cron}` never comes: none of its months has that day")
    return parsed


def next_after(cron: str, after: float) -> float:
    """Return the first moment (POSIX seconds, a whole minute in UTC) later than `after` at which the line fires."""
    parsed = parse(cron)
    moment = datetime.fromtimestamp(after // 60 * 60, UTC) + timedelta(minutes=1)
    day = moment.replace(hour=0, minute=0)
    for _ in range(_HORIZON_DAYS):
        if parsed.on_day(day):
            for hour in sorted(parsed.hours):
                for minute in sorted(parsed.minutes):
                    found = day.replace(hour=hour, minute=minute)
                    if found >= moment:
                        return found.timestamp()
        day += timedelta(days=1)
    raise ValueError(f"`{cron}` does not come within 29 years")
