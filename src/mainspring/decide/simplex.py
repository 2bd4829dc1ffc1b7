"""A small linear program, solved: the largest of a sum under limits.

What this is: the simplex method on a dense table; pure, and the same on every machine that adds as IEEE does. Who calls
it: `decide/bound.py`. What it must never do: be trusted: whoever uses the answer makes it feasible by itself.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PIVOTS = 600
_EPS = 1e-9


def maximise(rows: Array, limits: Array, goal: Array, pivots: int = PIVOTS) -> Array:
    """Maximise `goal @ x` over `rows @ x <= limits`, x >= 0, with limits >= 0, from x = 0.

    Largest coefficient first, Bland's rule after half of the pivots, so that it ends; feasible wherever it stops.
    """
    count, size = rows.shape
    table = np.zeros((count + 1, size + count + 1))
    table[:count, :size] = rows
    table[:count, size : size + count] = np.eye(count)
    table[:count, -1] = limits
    table[-1, :size] = -goal
    basis = np.arange(size, size + count)
    for turn in range(pivots):
        costs = table[-1, :-1]
        column = int(np.argmin(costs)) if turn < pivots // 2 else int(np.argmax(costs < -_EPS))
        if costs[column] >= -_EPS:
            break
        rises = table[:count, column]
        steps = np.full(count, math.inf)
        np.divide(table[:count, -1], rises, out=steps, where=rises > _EPS)
        least = float(steps.min())
        if not math.isfinite(least):
            break
        ties = np.flatnonzero(steps <= least + _EPS)
        row = int(ties[np.argmin(basis[ties])])
        table[row] /= table[row, column]
        factors = table[:, column].copy()
        factors[row] = 0.0
        table -= np.outer(factors, table[row])
        basis[row] = column
    solution = np.zeros(size + count)
    solution[basis] = table[:count, -1]
    return np.maximum(solution[:size], 0.0)
