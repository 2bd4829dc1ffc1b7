"""Limits: what is counted, over which time, and how much of it is left.

What this is: the arithmetic of limits, pure; one copy for the gateway, the twin and the tests. Who calls it: the
gateway's ledger and accounts. What it must never do: read a clock, or let a limit grow because a clock went back.

Two kinds by their period. Over a second, a minute or an hour a limit is a **token bucket** (RFC 2697 without colours):
it holds `amount` at most and fills at `amount` a period, so in any stretch of t seconds at most `amount * (1 + t /
period)` go through. Over a day or a month it is a **quota** of the calendar's day or month, in UTC. `at_once` has no
period: what is taken is given back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Measure = Literal["requests", "tokens", "at_once", "dollars"]
Period = Literal["s", "min", "h", "day", "month", ""]
NANO = 1_000_000_000
"""Dollars are counted in billionths, so that all counts are whole numbers."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of `what` in each period; a wire contract of `routes.json` and `keys.json`."""

    what: Measure
    amount: int  # of dollars: billionths
    per: Period = ""  # "" for at_once
