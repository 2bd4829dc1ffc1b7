"""What tenants and keys used of this day and this month, as the gateway's ledger wants to know it should it be lost.

What this is: pure sums of what was metered, and the file that says them. Who calls it: the controller, every few
seconds. What it must never do: be what limits are counted by: it is late by what is not taken in yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mainspring.decide.limits import NANO, Period, window_of
from mainspring.decide.price import Usage

DAY = 86_400
PERIODS: tuple[Period, ...] = ("day", "month")
Used = Callable[[int, int], Iterable[Usage]]
"""Who used what on the days (since 1970, UTC) from the first to before the second."""


def quotas(used: Used, wall: float, rate: float) -> dict[str, Any]:
    """What each account used of the windows that `wall` (POSIX seconds) lies in; `rate`: dollars of a core-second.

    Accounts are `tenant/ENDPOINT/TENANT` and `key/ID`. Copies for a mirror are nobody's.
    """
    found: dict[str, Any] = {}
    today = int(wall // DAY)
    for period in PERIODS:
        window = window_of(period, wall)
        first = today
        while period == "month" and first > 0 and window_of(period, (first - 1) * DAY) == window:
            first -= 1
        for one in used(first, today + 1):
            if one.role == "live":
                for account in _accounts(one):
                    _add(found.setdefault(account, {}).setdefault(period, {"window": window}), one, rate)
    return found


def _accounts(one: Usage) -> Iterable[str]:
    if one.tenant:
        yield f"tenant/{one.endpoint}/{one.tenant}"
    if one.key:
        yield f"key/{one.key}"


def _add(row: dict[str, int], one: Usage, rate: float) -> None:
    row["requests"] = row.get("requests", 0) + one.requests
    row["tokens"] = row.get("tokens", 0) + one.prompt + one.output
    row["dollars"] = row.get("dollars", 0) + round(one.compute * rate * NANO)
