"""A bill as table rows, for `mainspring cost` and reports.

What this is: rows of what is shown, rounded so that the rows add up to the total that is shown. Who calls it: the
command line, `period.py` and the report writer. What it must never do: round each row by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from mainspring.decide.price import Bill, Line


@dataclass(frozen=True, slots=True)
class CostRow:
    """One row; the last one is the total."""

    what: str  # "delay", "training", "idle", "total"
    revision: str  # "delay-3", or "" where there is none
    role: str  # "live" | "mirror" | ""
    requests: int
    predictions: int
    seconds: float  # of compute; the time up for the total
    dollars: float  # rounded; the rows add up to the total's
    per_thousand: float | None  # dollars for 1,000 predictions; the total's has everything in it


def units(dollars: Sequence[float], digits: int, total: float | None = None) -> list[int]:
    """Round amounts to whole units of 10^-digits dollars, by the largest remainders.

    They add up to the rounded `total`, whatever its size: by default their own exact sum, else the bill's, from which
    a sum of floats may differ in its last bits. Nothing is below zero.
    """
    scale = 10**digits
    exact = [Fraction(max(0.0, amount)) * scale for amount in dollars]
    found = [int(amount) for amount in exact]
    whole = sum(exact) if total is None else Fraction(max(0.0, total)) * scale
    missing = round(whole) - sum(found)
    order = sorted(range(len(exact)), key=lambda i: (found[i] - exact[i], i))
    for i in order[: max(0, missing)]:
        found[i] += 1
    left = missing - min(max(0, missing), len(order))
    for i in sorted(order, key=lambda i: -found[i]):  # the float sum's error, if it is a unit or more: to the largest
        step = max(left, -found[i])
        found[i], left = found[i] + step, left - step
        if not left:
            break
    return found


def rounded(dollars: Sequence[float], digits: int, total: float | None = None) -> list[float]:
    """Round amounts so that they add up to the rounded `total`, or to their rounded sum: see `units`."""
    return [unit / 10**digits for unit in units(dollars, digits, total)]


def rows(bill: Bill, digits: int = 4) -> tuple[CostRow, ...]:
    """Give the rows of a bill: by endpoint and revision, then training, then idle, then the total."""
    shown = rounded([line.dollars for line in bill.lines], digits)
    table = [_row(line, dollars) for line, dollars in zip(bill.lines, shown, strict=True)]
    requests = sum(line.requests for line in bill.lines if line.role == "live")
    total = round(sum(shown), digits)
    return (*table, CostRow("total", "", "", requests, bill.predictions, bill.seconds_up, total, bill.per_thousand))


def _row(line: Line, dollars: float) -> CostRow:
    each = line.per_prediction
    return CostRow(
        line.endpoint or line.kind,
        line.revision,
        line.role,
        line.requests,
        line.predictions,
        line.seconds,
        dollars,
        None if each is None else each * 1000,
    )
