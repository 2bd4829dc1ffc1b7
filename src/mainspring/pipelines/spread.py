"""How far repeated measurements lie apart, as `decide/worth.py` wants to know it.

What this is: one formula. Who calls it: whoever measures two versions by turns. What it must never do: judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def spread(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Half of the middle half's width, as a share of the median; infinite where that is not positive."""
    low, middle, high = (float(one) for one in np.quantile(values, [0.25, 0.5, 0.75]))
    return (high - low) / 2 / middle if middle > 0 else math.inf
