"""What makes a quoted price unusable or suspect: rules that were all met in real price lists.

What this is: a function a rule, on plain numbers and cells; pure. Who calls it: `facts/prices.py`.
What it must never do: change a price. It drops one, or doubts it, and says so.

Units: dollars per GPU-hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DEAREST = 10_000.0
"""Dollars per GPU-hour that no GPU costs: above it, a number is in another unit."""
APART = 2.0
"""How many times dearer the same instance may be in another region before one of the two is something else."""
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong in a price feed, where a person can find it."""

    code: str  # stable, kebab-case
    file: str
    line: int  # 1-based, the header is line 1
    value: str  # the cell, as written
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


Doubt = tuple[str, str, str]
"""A code, the value as written, and a sentence."""


def number(text: str, what: str) -> tuple[float | None, Doubt | None]:
    """A cell as dollars; None for a blank one, and None with a doubt for one that is no price."""
    said = text.strip()
    if not said:
        return None, None
    # `float` would take `1_000` and digits of other scripts.
    try:
        value = float(said) if said.isascii() and "_" not in said else None
    except ValueError:
        value = None
    shown = said[:40]
    if value is None:
        return None, ("not-a-number", shown, f"{what} is `{shown}`, which is not a number: write `6.88`")
    if not math.isfinite(value):
        return None, ("not-finite", shown, f"{what} is `{shown}`, which is no amount of money")
    if value < 0:
        return None, ("negative", shown, f"{what} is `{shown}`: a price is above zero")
    if value == 0:
        return None, ("zero", shown, f"{what} is `{shown}`: nothing is free; leave the cell blank if it is unknown")
    if value > DEAREST:
        return None, ("too-dear", shown, f"{what} is `{shown}`: dollars per GPU-hour are meant, at most {DEAREST:,.0f}")
    return value, None


def spot(price: float, on_demand: float | None) -> Doubt | None:
    """Why a spot price can't be one, given the on-demand price of the same row; None when it can."""
    if on_demand is None:
        return None
    shown = f"{price:g}"
    if _same(price, on_demand):
        said = f"spot `{shown}` is exactly the on-demand price: there is no spot pool; the spot price is dropped"
        return "spot-equals-on-demand", shown, said
    if _same(price, 0.1 * on_demand):
        said = f"spot `{shown}` is exactly 10 % of on-demand {on_demand:g}: a placeholder; the spot price is dropped"
        return "spot-is-a-tenth", shown, said
    if price > on_demand:
        said = (
            f"spot `{shown}` is above on-demand {on_demand:g}: one of them is wrong; spot is dropped, the row doubted"
        )
        return "spot-above-on-demand", shown, said
    return None


def apart(prices: list[float]) -> list[bool]:
    """Which of the on-demand prices of one instance are more than `APART` times from another one's.

    Both sides of such a pair are doubted: which of the two is the other product can't be told from the price.
    """
    if not prices:
        return []
    low, high = min(prices), max(prices)
    return [one * APART < high or one > low * APART for one in prices]


def _same(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=_EQUAL)
