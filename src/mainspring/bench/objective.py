"""What is good enough: limits that a request keeps or not, and the share of requests that must keep each.

What this is: reading and judging, pure. Who calls it: `summary.py`, `mainspring bench`, the latency gate. What it must
never do: count a request that failed as a fast one.

`ttft 500ms, p95 3s`: the first piece within 500 ms, the whole answer within 3 s. Goodput is the rate of requests that
keep all limits (DistServe, arXiv:2401.09670, section 1). A limit without a percentile must be kept by 95 %.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from mainspring.errors import InputError
from mainspring.stack.units import seconds

OF = {"latency": "latency", "e2e": "latency", "ttft": "ttft", "tpot": "tpot"}
HINT = "as in: --objective 'ttft 500ms, p95 3s'  (of ttft, tpot or latency, each with or without pNN)"
_TERM = re.compile(r"(?:(latency|e2e|ttft|tpot)\b[\s:]*)?(?:p(\d{1,2}(?:\.\d+)?)\b[\s:]*)?(\S.*)")
USUAL = 0.95
"""The share of requests that must keep a limit which names no percentile."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One of the limits."""

    of: str  # "latency": all of the answer | "ttft": its first piece | "tpot": time for each further token
    seconds: float
    share: float  # of requests that must keep it

    def __str__(self) -> str:
        span = f"{self.seconds * 1000:g} ms" if self.seconds < 1 else f"{self.seconds:g} s"
        return f"{self.of} p{self.share * 100:g} within {span}"


@dataclass(frozen=True, slots=True)
class Objective:
    """Limits that hold together."""

    limits: tuple[Limit, ...]

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read `ttft 500ms, p95 3s`. Raises `InputError`."""
        return cls(tuple(_term(part.strip()) for part in text.split(",")))


def _term(text: str) -> Limit:
    match = _TERM.fullmatch(text)
    if match is None:
        raise InputError("bad-objective", f"`{text[:60]}` is no limit", HINT)
    of, share, span = match.groups()
    try:
        long = seconds(span)
    except ValueError as error:
        raise InputError("bad-objective", str(error), HINT) from error
    held = float(share) / 100 if share else USUAL
    if long <= 0 or not 0 < held < 1:
        raise InputError("bad-objective", f"`{text[:60]}` can't be kept", HINT)
    return Limit(OF[of] if of else "latency", long, held)


def wilson(kept: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927); 0 to 1 when nothing was seen."""
    if of == 0:
        return 0.0, 1.0
    z2 = 1.959964**2
    middle = (kept + z2 / 2) / (of + z2)
    half = math.sqrt(z2 * (kept * (of - kept) / of + z2 / 4)) / (of + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def verdict(kept: int, of: int, share: float) -> str:
    """`met`, `missed`, or `unsure` when the interval of the share that kept it has the wanted share in it."""
    low, high = wilson(kept, of)
    return "met" if low >= share else "missed" if high < share else "unsure"
