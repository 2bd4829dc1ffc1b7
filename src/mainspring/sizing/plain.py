"""Values of sizing as plain data: what JSON can hold.

What this is: one walk over frozen dataclasses, pure. Who calls it: `told` of an answer. What it must never do: choose
what is told: that is the answer's own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

DIGITS = 6
"""Significant digits that are told; more would suppose a precision that no forecast has."""


def plain(value: object) -> object:
    """Dataclasses and mappings as dicts, sequences as lists; what isn't finite as None, other floats rounded."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return rounded(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    return rounded(float(value)) if hasattr(value, "__float__") else str(value)


def rounded(value: float) -> float | None:
    """To so many significant digits, dollars from ten thousand up to the cent; None for what isn't finite."""
    if not math.isfinite(value):
        return None
    if abs(value) >= 10 ** (DIGITS - 2):
        return round(value, 2)
    return float(f"{value:.{DIGITS}g}")
