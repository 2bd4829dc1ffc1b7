"""What the hours of the week asked for, learnt week by week; and the stretches of the week that the stack file names.

What this is: pure functions over `Hours`, a small frozen value. Who calls it: `decide/scale.py`. What it must never do:
take an hour of which nothing is known for one without demand, or change when nothing has changed: `Hours` lies in the
memory of decisions, and each change of that is written to disk.

Each hour of the week (UTC, Monday 00:00 is 0) has a mean demand in busy slots, moved halfway to what this week's hour
had (an exponential average over weeks). The hour under way is a sum that is touched only when the demand has moved. An
hour counts when at least half of it was seen. The clock may jump: an hour that comes again is begun anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

HOUR = 3600.0
DAY = 86400.0
WEEK_HOURS = 168
MONDAY = 72
"""Hours from Monday 00:00 to the hour of the week at which POSIX time begins, a Thursday."""
ENOUGH = 0.5
"""The share of an hour that must have been seen."""
NEWEST = 0.5
"""The weight of this week's hour beside those before."""
UNSEEN = -1.0
APART = 60.0
"""Seconds between two changes of the sum, at least."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Demand by the hour of the week, in busy slots."""

    profile: tuple[float, ...] = ()  # 168 means, `UNSEEN` where none is known; () before the first
    hour: int = -1  # the hour under way, counted from POSIX time 0; -1: none
    busy: float = 0.0  # slot-seconds of it
    seen: float = 0.0  # seconds of it that `busy` is of
    level: float = UNSEEN  # the demand since `last`; `UNSEEN`: not known since then
    last: float = 0.0  # wall


def hour_of_week(wall: float) -> int:
    """The hour of the week, in UTC, from Monday 00:00 on."""
    return (int(wall // HOUR) + MONDAY) % WEEK_HOURS


def noted(hours: Hours, busy: float, wall: float) -> Hours:
    """The same, with a demand of `busy` slots from now on (`UNSEEN`: not known)."""
    hour = int(wall // HOUR)
    if hours.hour < 0 or wall < hours.last:
        return _begun(hours, hour, busy, wall) if busy >= 0.0 else hours
    if hour != hours.hour:
        ended = _until(hours, min(wall, (hours.hour + 1) * HOUR)) if hour == hours.hour + 1 else hours
        fresh = _begun(_closed(ended), hour, hours.level, hour * HOUR if hour == hours.hour + 1 else wall)
        return replace(_until(fresh, wall), level=busy)
    moved = abs(busy - hours.level) > 0.1 * max(hours.level, 0.2)
    if not moved or (wall - hours.last < APART and busy >= 0.0 and hours.level >= 0.0):
        return hours
    return replace(_until(hours, wall), level=round(busy, 3))


def expected(hours: Hours, wall: float) -> float | None:
    """The demand of earlier weeks at that hour, in busy slots; None where none was seen."""
    found = hours.profile[hour_of_week(wall)] if hours.profile else UNSEEN
    return found if found >= 0.0 else None


def within(days: tuple[int, ...], begin: float, end: float, wall: float) -> bool:
    """Whether a moment lies in a stretch of the week: `begin` to `end` seconds after midnight, UTC, on those days.

    Days are those on which it begins, Monday is 0; an end at or before the beginning is on the next day.
    """
    day, second = (int(wall // DAY) + 3) % 7, wall % DAY
    if begin < end:
        return day in days and begin <= second < end
    return (day in days and second >= begin) or ((day - 1) % 7 in days and second < end)


def _begun(hours: Hours, hour: int, busy: float, wall: float) -> Hours:
    return Hours(hours.profile, hour, 0.0, 0.0, round(busy, 3), wall)


def _until(hours: Hours, wall: float) -> Hours:
    """Summed up to a moment of the same hour."""
    if hours.level < 0.0:
        return replace(hours, last=wall)
    span = wall - hours.last
    return replace(hours, busy=round(hours.busy + hours.level * span, 3), seen=round(hours.seen + span, 3), last=wall)


def _closed(hours: Hours) -> Hours:
    """The hour under way made part of the profile, where enough of it was seen."""
    if hours.seen < ENOUGH * HOUR:
        return hours
    profile = list(hours.profile or (UNSEEN,) * WEEK_HOURS)
    place, mean = (hours.hour + MONDAY) % WEEK_HOURS, hours.busy / hours.seen
    before = profile[place]
    profile[place] = round(mean if before < 0.0 else before + NEWEST * (mean - before), 3)
    return replace(hours, profile=tuple(profile))
