"""A bill as table rows, for `mainspring cost` and reports.

What this is: rows of what is shown, rounded so that the rows add up to the total that is shown. Who calls it: the
command line and the report writer. What it must never do: round each row by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def rounded(dollars: list[float], digits: int) -> list[float]:
    """Round amounts so that they add up to their rounded sum: the largest remainders are rounded up."""
    scale = 10**digits
    exact = [max(0.0, amount) * scale for amount in dollars]
    units = [int(amount) for amount in exact]
    missing = round(sum(exact)) - sum(units)
    order = sorted(range(len(exact)), key=lambda i: (units[i] - exact[i], i))
    for i in order[: max(0, missing)]:
        units[i] += 1
    return [unit / scale for unit in units]


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
