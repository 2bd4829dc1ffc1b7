"""Hours of the week: `mon-fri`, `08:00`.

What this is: parsers, as in `units.py`. Who calls it: `serving.scale.schedule`. All hours are UTC.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""In the order of `datetime.weekday()`."""
_TIME = re.compile(r"^([01]?\d|2[0-3]):([0-5]\d)$")


def days(value: object) -> tuple[int, ...]:
    """Parse days of the week (`mon-fri`, `sat,sun`, `every day`): their numbers, Monday is 0, in order."""
    if isinstance(value, tuple) and all(isinstance(one, int) and 0 <= one < 7 for one in value):
        return value
    text = value.strip().lower() if isinstance(value, str) and len(value) <= 64 else ""
    if text == "every day":
        return tuple(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = (one.strip() for one in part.partition("-"))
        last = last or first
        if first not in DAYS or last not in DAYS:
            raise ValueError(f"`{value}` is not days: write `mon-fri`, `sat,sun` or `every day`")
        begin, end = DAYS.index(first), DAYS.index(last)
        found |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    return tuple(sorted(found))


def clock(value: object) -> float:
    """Parse a time of day (`08:00`) to seconds after midnight."""
    if isinstance(value, float) and 0 <= value < 86400:
        return value
    match = _TIME.match(value.strip()) if isinstance(value, str) and len(value) <= 64 else None
    if match is None:
        raise ValueError(f"`{value}` is not a time of day: write it as `08:00`")
    return int(match[1]) * 3600.0 + int(match[2]) * 60.0


Days = Annotated[tuple[int, ...], BeforeValidator(days), WithJsonSchema({"type": "string", "examples": ["mon-fri"]})]
ClockTime = Annotated[float, BeforeValidator(clock), WithJsonSchema({"type": "string", "examples": ["08:00"]})]
