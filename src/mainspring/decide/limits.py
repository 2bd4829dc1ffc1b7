"""Limits: what is counted, over which time, and how much of it is left.

What this is: the arithmetic of limits, pure; one copy for the gateway, the twin and the tests. Who calls it: the
gateway's ledger and accounts. What it must never do: read a clock, or let a limit grow because a clock went back.

Two kinds by their period. Over a second, a minute or an hour a limit is a **token bucket** (RFC 2697 without colours):
it holds `amount` at most and fills at `amount` a period, so in any stretch of t seconds at most `amount * (1 + t /
period)` are taken from it. Over a day or a month it is a **quota** of the calendar's day or month, in UTC. `at_once`
has no period: what is taken is given back.

All counts are whole numbers and times of buckets are whole nanoseconds, so nothing is won or lost by rounding but the
part of a nanosecond that `refilled` leaves out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

Measure = Literal["requests", "tokens", "at_once", "dollars"]
Period = Literal["s", "min", "h", "day", "month", ""]
NANO = 1_000_000_000
"""Dollars are counted in billionths, so that all counts are whole numbers."""
MOST: Final = 2**62
"""The largest amount that is counted (in dollars: 4.6 billion); a larger one counts as this."""
AT_ONCE_WAIT: Final = 1.0
"""Seconds after which it is worth asking again for `at_once`: when another request ends nobody can know."""

SECONDS: Final[dict[str, int]] = {"s": 1, "min": 60, "h": 3600}
"""Of the periods over which a limit is a token bucket."""
_BUCKETS: Final[dict[str, int]] = {per: seconds * NANO for per, seconds in SECONDS.items()}
_DAY: Final = 86_400
_EPOCH: Final = date(1970, 1, 1).toordinal()
_LAST_DAY: Final = date(9998, 12, 31).toordinal() - _EPOCH  # the month after it has a date too


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of `what` in each period; a wire contract of `routes.json` and `keys.json`."""

    what: Measure
    amount: int  # of dollars: billionths
    per: Period = ""  # "" for at_once


def is_bucket(per: Period) -> bool:
    """Say whether a limit over this period is a token bucket; if not it is a quota, or of `at_once` (no period)."""
    return per in _BUCKETS


def counted(amount: int) -> int:
    """The amount as it is counted: 0 to `MOST`."""
    return min(max(amount, 0), MOST)


def grant(free: int, least: int, want: int) -> int:
    """How much of `want` is given when `free` are left: nothing, or `least` to `want`."""
    given = min(free, want)
    return given if given >= least and given > 0 else 0


def refilled(level: int, at: int, now: int, amount: int, per: Period) -> tuple[int, int]:
    """A bucket's level at `now`, and the moment that it is the level of; both times in nanoseconds.

    Only whole units are filled in; the time towards the next one is kept by a moment that lies a little before `now`.
    A `now` before `at` (two clocks that differ) fills nothing. A level above `amount` (which was lowered in the file)
    is cut to it; a debt is one `amount` at most, so that nobody waits longer than two periods.
    """
    period = _BUCKETS[per]
    level = min(max(level, -amount), amount)
    if now <= at:
        return level, at
    gained = (now - at) * amount // period
    if level + gained >= amount:
        return amount, now
    # Rounded up: the moment may only be too late, which fills later and never more.
    return level + gained, at + -(-gained * period // amount) if gained else at


def wait_for_level(level: int, at: int, now: int, least: int, amount: int, per: Period) -> float:
    """Seconds from `now` until a bucket holds `least`, if nobody takes from it; `inf` when it never holds so much."""
    if least <= level:
        return 0.0
    if least > amount:
        return math.inf
    return max(at + -(-(least - level) * _BUCKETS[per] // amount) - now, 0) / NANO


def window_of(per: Period, wall: float) -> int:
    """The number of the day or month, since January 1970 in UTC, that `wall` (POSIX seconds) lies in.

    Dates before 1970 count as its first day, those after the year 9998 as that year's last.
    """
    day = int(min(max(wall // _DAY, 0), _LAST_DAY))
    if per == "day":
        return day
    if per != "month":
        raise ValueError(f"a limit per `{per}` has no calendar window")
    then = date.fromordinal(_EPOCH + day)
    return (then.year - 1970) * 12 + then.month - 1


def window_end(per: Period, window: int) -> float:
    """When a day or a month of that number ends, in POSIX seconds."""
    if per == "day":
        return float((window + 1) * _DAY)
    if per != "month":
        raise ValueError(f"a limit per `{per}` has no calendar window")
    year, month = divmod(window + 1, 12)
    return float((date(1970 + year, month + 1, 1).toordinal() - _EPOCH) * _DAY)


def wait_for_window(per: Period, window: int, wall: float, least: int, amount: int) -> float:
    """Seconds until the window after this one begins; `inf` when no window allows `least`."""
    return math.inf if least > amount else max(window_end(per, window) - wall, 0.0)


def block(amount: int, workers: int = 1) -> int:
    """What a worker leases at once beyond what a request needs now.

    All blocks together are a sixteenth of the limit at most (or one each, if that is more), however many workers there
    are: up to four hold a sixty-fourth each.
    """
    return max(1, amount // (16 * max(workers, 4)))


def allowed(limit: Limit, seconds: float) -> int:
    """The most that a bucket lets be taken in any stretch of so many seconds; of a quota, in one window."""
    amount = counted(limit.amount)
    if limit.per not in _BUCKETS:
        return amount
    return amount + int(amount * seconds * NANO / _BUCKETS[limit.per])


def shortfall(limit: Limit, workers: int, died: int = 0) -> int:
    """How far below the limit it may be used while more is asked for: the blocks that workers hold or died with.

    Holds for callers that lease `max(least, block)` at most. What requests on their way have reserved is not in it.
    """
    each = block(counted(limit.amount), workers)
    if limit.what == "at_once":  # what died holds nothing any more, and places of a small limit never rest
        return 2 * workers * each if each > 1 else 0
    return (workers + died) * each
