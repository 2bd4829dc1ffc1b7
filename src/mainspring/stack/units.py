"""Human units: `5%`, `2h`, `80GiB`, `$4/h`, `500k/day`, `1..2`, `2 per month`.

Each unit is parsed by one function that takes what YAML gave (a string or a number) and returns a
plain number or a small frozen value, or raises `ValueError` with a sentence a person can act on.
Units: durations are seconds, sizes are bytes, shares are fractions of one, rates are per second,
money is US dollars, prices are dollars an hour.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

_SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "w": 604800.0,
    "week": 604800.0,
    "weeks": 604800.0,
    "month": 2629746.0,  # a twelfth of the mean Gregorian year
    "months": 2629746.0,
    "year": 31556952.0,
    "years": 31556952.0,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)$")
_BYTES = {"B": 1} | {f"{p}{i}B": (1024 if i else 1000) ** n for n, p in enumerate("KMGT", start=1) for i in ("", "i")}
_COUNT = re.compile(r"^(\d+(?:\.\d+)?)\s*([kM]?)$")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6}


def _text(value: object) -> str | None:
    """A short text, stripped; None for anything else. Long ones are refused before a pattern sees them."""
    return value.strip() if isinstance(value, str) and len(value) <= 64 else None


def seconds(value: object) -> float:
    """Parse a duration (`90s`, `2h`, `1d 12h`, `2ms`); plain numbers need a unit."""
    text = _text(value)
    if text is not None:
        parts = _DURATION.findall(text)
        if parts and _DURATION.sub("", text).strip() == "" and all(u in _SECONDS for _, u in parts):
            return float(sum(float(n) * _SECONDS[u] for n, u in parts))
    raise ValueError(f"`{value}` is not a duration: write a number and a unit, such as `90s`, `10m`, `2h`, `7d`")


def share(value: object) -> float:
    """Parse a share (`5%`) to a fraction of one (0.05); a bare number between 0 and 1 is taken as it is."""
    text = _text(value)
    if text is not None and text.endswith("%"):
        try:
            number = float(text[:-1]) / 100
        except ValueError:
            number = math.nan
        if 0 <= number <= 1:
            return number
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"`{value}` is not a share: write a percentage between `0%` and `100%`")


def size(value: object) -> int:
    """Parse a size in bytes (`80GiB`, `140GB`)."""
    match = _SIZE.match(_text(value) or "")
    if match:
        return int(float(match[1]) * _BYTES[match[2]])
    raise ValueError(f"`{value}` is not a size: write a number and a unit, such as `500MB` or `80GiB`")


def number(value: object) -> float:
    """Parse a count that may be written short (`500k`, `2M`)."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300:
        return float(value)
    match = _COUNT.match(_text(value) or "")
    if match:
        return float(match[1]) * _SCALE[match[2]]
    raise ValueError(f"`{value}` is not a number: write it plainly or short, such as `500k`")


def dollars(value: object) -> float:
    """Parse an amount of money (`$100`, `$0.10`, `$300k`) to US dollars."""
    text = _text(value)
    if text is not None and text.startswith("$"):
        try:
            return number(text[1:])
        except ValueError:
            pass
    raise ValueError(f"`{value}` is not an amount of money: write it as `$5` or `$300k`")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in so long: `2 per month`, `500k/day`, `5 per 10m`."""

    count: float
    per: float  # seconds

    @property
    def per_second(self) -> float:
        return self.count / self.per

    @property
    def per_month(self) -> float:
        return self.count / self.per * _SECONDS["month"]


def _per(value: object, what: str, example: str) -> tuple[str, float]:
    pieces = re.split(r"\s+per\s+|/", _text(value) or "", maxsplit=1)
    if len(pieces) == 2:
        unit = pieces[1].strip()
        if unit in _SECONDS:
            return pieces[0].strip(), _SECONDS[unit]
        try:
            per = seconds(unit)
        except ValueError:
            per = 0.0
        if per > 0:
            return pieces[0].strip(), per
    raise ValueError(f"`{value}` is not {what}: write it as `{example}`")


def rate(value: object) -> Rate:
    """Parse a rate (`2 per month`, `500k/day`, `5 per 10m`)."""
    if isinstance(value, Rate):
        return value
    count, per = _per(value, "a rate", "2 per month")
    return Rate(number(count), per)


def per_replica(value: object) -> Rate:
    """Parse a rate of one replica (`2/s per replica`); the last two words may be left out."""
    text = _text(value)
    plain = text.removesuffix("per replica").strip() if text is not None else value
    try:
        found = rate(plain)
    except ValueError:
        found = None
    if found is None or not 0 < found.per_second <= 100_000:
        raise ValueError(f"`{value}` is not a rate of requests: write it as `2/s per replica`")
    return found


def price(value: object) -> float:
    """Parse a price (`$0.10/h`, `$30/month`) to dollars an hour."""
    amount, per = _per(value, "a price", "$0.10/h")
    return dollars(amount) / per * 3600


def budget(value: object) -> Rate:
    """Parse a budget (`$100/month`, `$5/run` is not one) to dollars in a period."""
    if isinstance(value, Rate):
        return value
    amount, per = _per(value, "a budget", "$100/month")
    return Rate(dollars(amount), per)


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included: `1..2`, or `3` for exactly three."""

    low: int
    high: int


def span(value: object) -> Range:
    """Parse a range of whole numbers (`1..2`, `3`)."""
    if isinstance(value, Range):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Range(value, value)
    match = re.match(r"^(\d+)\s*\.\.\s*(\d+)$", _text(value) or "")
    if match and int(match[1]) <= int(match[2]):
        return Range(int(match[1]), int(match[2]))
    raise ValueError(f"`{value}` is not a range: write `2` or `1..4`, the smaller number first")


def moment(value: object) -> date | datetime:
    """Parse a day (`2013-01-31`) or a moment (`2013-01-31T12:00`, in UTC unless it says otherwise)."""
    if isinstance(value, (date, datetime)):
        return value
    text = _text(value)
    try:
        if text is not None and len(text) == 10:
            return date.fromisoformat(text)
        if text is not None and len(text) > 10 and text[4:5] == "-":
            at = datetime.fromisoformat(text)
            return at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    except ValueError:
        pass
    raise ValueError(f"`{value}` is not a day or a moment: write `2013-01-31` or `2013-01-31T12:00Z`")


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_CRON_PART = re.compile(r"(?:\*|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([1-9][0-9]?))?")
_CRON_SHORT = frozenset({"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"})


def cron(value: object) -> str:
    """See that a text has the shape of a cron line (`0 3 * * 1`, `@daily`); give it back.

    When it fires is another layer's to say.
    """
    text = _text(value) or ""
    if text in _CRON_SHORT:
        return text
    parts = text.split()
    if len(parts) != len(_CRON_FIELDS):
        raise ValueError(f"`{value}` is not a schedule: write a cron line of five fields, such as `0 3 * * 1`")
    for part, (name, low, high) in zip(parts, _CRON_FIELDS, strict=True):
        for item in part.lower().split(","):
            match = _CRON_PART.fullmatch(item)
            numbers = [int(one) for one in (match.groups()[:2] if match else ()) if one and one.isdigit()]
            if match is None or not all(low <= one <= high for one in numbers):
                raise ValueError(f"`{item}` is not a {name} of a cron line: {low} to {high} is wanted")
    return text


def count_back(value: object) -> float:
    """Parse a stretch at the end of the data (`last 14d`) to seconds."""
    text = _text(value)
    if text is not None and text.startswith("last "):
        try:
            length = seconds(text.removeprefix("last "))
        except ValueError:
            length = 0.0
        if length > 0:
            return length
    raise ValueError(f"`{value}` is not a stretch of the data's end: write `last 14d`")


Seconds = Annotated[float, BeforeValidator(seconds), WithJsonSchema({"type": "string", "examples": ["2h"]})]
Share = Annotated[float, BeforeValidator(share), WithJsonSchema({"type": ["string", "number"], "examples": ["5%"]})]


def _sure(confidence: float) -> float:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"`{confidence:.4g}` is out of range: between `50%` and `99.9%` is wanted")
    return confidence


Confidence = Annotated[Share, AfterValidator(_sure)]
"""How sure a comparison must be: a share between 50 % and 99.9 %."""
Size = Annotated[int, BeforeValidator(size), WithJsonSchema({"type": "string", "examples": ["80GiB"]})]
Dollars = Annotated[float, BeforeValidator(dollars), WithJsonSchema({"type": "string", "examples": ["$5"]})]
Price = Annotated[float, BeforeValidator(price), WithJsonSchema({"type": "string", "examples": ["$0.10/h"]})]
Budget = Annotated[Rate, BeforeValidator(budget), WithJsonSchema({"type": "string", "examples": ["$100/month"]})]
Per = Annotated[Rate, BeforeValidator(rate), WithJsonSchema({"type": "string", "examples": ["2 per month"]})]
PerReplica = Annotated[
    Rate, BeforeValidator(per_replica), WithJsonSchema({"type": "string", "examples": ["2/s per replica"]})
]
Span = Annotated[Range, BeforeValidator(span), WithJsonSchema({"type": ["string", "integer"], "examples": ["1..2"]})]
Moment = Annotated[
    date | datetime, BeforeValidator(moment), WithJsonSchema({"type": "string", "examples": ["2013-01-31"]})
]
