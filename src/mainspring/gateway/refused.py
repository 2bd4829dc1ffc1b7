"""What is said to a request that a limit does not allow.

What this is: status, code, sentence and `Retry-After`, in OpenAI's terms; pure. Who calls it: the doors. What it must
never do: name another tenant, or tell a client to come back where that can't help.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mainspring.decide.limits import NANO
from mainspring.gateway.accounts import Refusal

_LONGEST = 86_400.0 * 32
_PERIODS = {"s": "a second", "min": "a minute", "h": "an hour", "day": "a day", "month": "a month"}
_WORDS = {"requests": "requests", "tokens": "tokens", "at_once": "requests at once", "dollars": "dollars"}


class Said(NamedTuple):
    """An answer."""

    status: int
    code: str
    message: str
    again: bytes  # the line of a header; empty where coming back does not help


def limit_words(refusal: Refusal) -> Said:
    """Put a refusal into words."""
    limit, wait = refusal.limit, refusal.wait
    amount = f"${limit.amount / NANO:g}" if limit.what == "dollars" else f"{limit.amount} {_WORDS[limit.what]}"
    per = f" {_PERIODS[limit.per]}" if limit.per else ""
    whose = f"this {refusal.whose}'s limit is {amount}{per}"
    if wait == math.inf:
        return Said(400, "request_exceeds_limit", f"{whose}, and this request alone may use more: ask for less", b"")
    seconds = max(1, math.ceil(min(wait, _LONGEST)))
    again = b"retry-after: %d\r\n" % seconds
    if limit.per in ("day", "month"):
        return Said(429, "insufficient_quota", f"{whose}, and it is used up; a new one begins in {seconds} s", again)
    return Said(429, "rate_limit_exceeded", f"{whose}; try again in {seconds} s", again)
