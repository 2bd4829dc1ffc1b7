"""What a model of the user's own returned, as a finite number for each row, or an error that teaches.

Who calls it: the scorers of users' classes and of MLflow models. What it must never do: guess what was meant.
"""

from __future__ import annotations

import numbers
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from mainspring.errors import UserCodeError

Floats = npt.NDArray[np.float64]


def finite(name: str, found: Any, rows: int, *, one: str = "", label: str = "") -> Floats:
    """Numbers of shape (rows,): of an array (rows, k) the last column, as of a classifier's probabilities.

    `found` is an array, a list, or a pandas Series or frame. Raises `UserCodeError`; `one` and `label` are what to do
    when it is one number for all, or no number.
    """
    try:
        array = np.asarray(found)
    except ValueError:
        refuse(name, f"returned {shown(found)}, whose rows are not of one length")
    if array.dtype.kind == "O" and array.size and all(isinstance(value, numbers.Real) for value in array.flat):
        array = array.astype(np.float64)
    if array.dtype.kind not in "biuf":
        odd = next((value for value in array.flat if not isinstance(value, numbers.Real)), found)
        refuse(name, f"returned {shown(odd)}, which is not a number", label)
    if array.ndim == 0:
        refuse(name, f"returned one number for {counted(rows)}", one or "return an array")
    if array.ndim > 2 or len(array) != rows or 0 in array.shape[1:]:
        refuse(name, f"returned an array of shape {array.shape} for {counted(rows)}", "return a number for each row")
    last = np.asarray(array if array.ndim == 1 else array[:, -1], dtype=np.float64)
    if not np.isfinite(last).all():
        bad = int(np.flatnonzero(~np.isfinite(last))[0])
        refuse(name, f"returned `{last[bad]}` for row {bad + 1} of {rows}", "an answer must be a finite number")
    return last


def refuse(name: str, what: str, instead: str = "") -> NoReturn:
    """Raise the error of an answer that is none."""
    raise UserCodeError("model-answer", f"`{name}` {what}" + (f": {instead}" if instead else ""), instead)


def shown(value: object) -> str:
    """A value for a message, in few characters."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bytes | numbers.Number):
        return f"`{value!r:.60}`"
    return f"a `{type(value).__name__}`"


def counted(rows: int) -> str:
    """`1 row`, `5 rows`."""
    return "1 row" if rows == 1 else f"{rows} rows"
