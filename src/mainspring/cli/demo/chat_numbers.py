"""Quantiles, and how seconds, shares and dollars are shown in the chat demo. Pure. Who calls it: the report and page.

What it must never do: make a figure of nothing: that is None, shown as `-`.
"""

from __future__ import annotations

from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all are at most; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))] if ordered else None


def seconds(value: float | None) -> str:
    """Seconds as they are shown."""
    return "-" if value is None else f"{value:.2f}s"


def percent(value: float | None) -> str:
    """A share as it is shown."""
    return "-" if value is None else f"{value:.0%}"


def count(value: int | None) -> str:
    """A whole number as it is shown."""
    return "-" if value is None else f"{value:,}"


def dollars(value: float | None) -> str:
    """Dollars as they are shown: as many digits as the bill has."""
    return "-" if value is None else f"${value:.6f}"
