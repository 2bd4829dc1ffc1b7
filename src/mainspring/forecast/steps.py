"""The time of one step: of decoding, and of reading a prompt.

What this is: the performance model without a loop around it, for simulators and for people; pure.
Who calls it: the twin, `queue.py`, tests. What it must never do: queue, or know arrivals.
"""

from __future__ import annotations

import numpy as np

from mainspring.forecast import equations
from mainspring.forecast.coefficients import Coefficients
from mainspring.forecast.setup import Setup
from mainspring.forecast.terms import Floats, terms


def logs(setup: Setup, coefficients: Coefficients) -> dict[str, Floats]:
    """The coefficients of a setup, as the equations take them."""
    return {name: np.asarray(value) for name, value in coefficients.logs(setup).items()}


def decode_step(setup: Setup, batch: float, context: float, coefficients: Coefficients) -> float:
    """Seconds of one decode step of `batch` sequences of `context` tokens each (prompt and output so far)."""
    times = equations.step(
        terms(setup, context, 0.0), np.asarray(float(max(batch, 1.0))), equations.values(logs(setup, coefficients))
    )
    return float(sum(times))


def prefill(setup: Setup, tokens: float, coefficients: Coefficients, *, cached: float = 0.0) -> float:
    """Seconds to read a prompt of `tokens` tokens alone, of which a share of `cached` is in the prefix cache."""
    _, alone = equations.prompt(terms(setup, tokens, 1.0, cached), equations.values(logs(setup, coefficients)))
    return float(alone)
