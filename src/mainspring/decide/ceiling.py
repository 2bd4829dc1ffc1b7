"""How many replicas a budget still allows. Pure. Who calls it: the loop, before it scales."""

from __future__ import annotations

import math

LEAST = 1.0
"""Hours that are reckoned with at the end of a period: what is left then is not for a minute's extravagance."""


def ceiling(left: float, hours: float, each: float) -> int | None:
    """Replicas that may run to the end of the period, if that many run all along; None where they cost nothing.

    `left`: dollars of the budget; `hours` to the end of its period; `each`: dollars an hour of one replica.
    """
    if not each > 0.0:
        return None
    return max(0, math.floor(max(left, 0.0) / max(hours, LEAST) / each + 1e-9))
