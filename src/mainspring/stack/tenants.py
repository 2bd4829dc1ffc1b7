"""Who may use an endpoint, and how much of it: a part of section 3.

What this is: limits and tenants as the file says them. Who calls it: `serving.py`; the loop puts them into the route
table. What it must never do: know how anything is counted (`decide/limits.py` does).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from mainspring.stack.base import Section
from mainspring.stack.fleet_units import Tokens
from mainspring.stack.units import Budget, Rate, rate

PERIODS: dict[float, str] = {1.0: "s", 60.0: "min", 3600.0: "h", 86400.0: "day", 2629746.0: "month"}
"""What limits may be counted over, by its seconds; a day and a month are those of the calendar, in UTC."""
_MOST = 10**15


def allowance(value: object) -> Rate:
    """Parse a limit (`60/min`, `20k/min`, `2M/day`): a whole number, 1 or more, in one of `PERIODS`."""
    try:
        found = rate(value)
    except ValueError:
        raise ValueError(f"`{value}` is not a limit: write it as `60/min` or `2M/day`") from None
    if found.per not in PERIODS:
        raise ValueError(f"`{value}` is not counted: write it per `s`, `min`, `h`, `day` or `month`")
    if found.count == 0:
        raise ValueError(f"`{value}` lets nothing in: to keep somebody out, leave the tenant out or revoke its keys")
    if not 1 <= found.count <= _MOST or found.count != int(found.count):
        raise ValueError(f"`{value}` is not a whole number of 1 or more: write it as `60/min`")
    return found


def allowances(value: object) -> tuple[Rate, ...]:
    """Parse one limit or a list of them, each over a period of its own."""
    found = tuple(allowance(one) for one in (value if isinstance(value, (list, tuple)) else [value]))
    if not found:
        raise ValueError("an empty list limits nothing: leave it out")
    if len({one.per for one in found}) < len(found):
        raise ValueError("two limits over the same period: the smaller one is enough")
    return found


_SCHEMA: dict[str, Any] = {"type": ["string", "array"], "examples": ["20k/min", ["20k/min", "2M/day"]]}
Allowances = Annotated[tuple[Rate, ...], BeforeValidator(allowances), WithJsonSchema(_SCHEMA)]


class Tenant(Section):
    """A customer, or a team: what its keys may use together, and its part when there is not enough for all."""

    requests: Allowances = ()
    """Requests, such as `600/min`, or `[10/s, 20k/day]`. Default: no limit."""
    tokens: Allowances = ()
    """Tokens of prompts and answers together, such as `20k/min`, or `[20k/min, 2M/day]`. Default: no limit."""
    at_once: int | None = Field(default=None, ge=1, le=100_000)
    """Requests on their way at the same time. Default: no limit."""
    context: Tokens | None = None
    """Tokens of one request, its answer included, such as `4k tokens`. Default: the endpoint's."""
    budget: Budget | None = None
    """Dollars of a calendar month that its requests may cost, such as `$300/month`. Default: no limit."""
    share: float = Field(default=1.0, ge=0.01, le=1000)
    """Its part of a busy endpoint, beside the other tenants'. Default: 1."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Waiting requests of a higher priority always go first; shares hold among equals. Default: normal."""

    @field_validator("budget")
    @classmethod
    def _of_a_month(cls, budget: Rate | None) -> Rate | None:
        if budget is not None and PERIODS.get(budget.per) != "month":
            raise ValueError("a tenant's budget is of a calendar month: write it as `$300/month`")
        if budget is not None and budget.count <= 0:
            raise ValueError("a budget of nothing lets nothing in: leave the tenant out or revoke its keys")
        return budget
