"""Raw fields in their canonical form: what every scorer starts from, in training and in serving alike.

Who calls it: `score.py`, the pipeline, the replicas. What it must never do: import a model's library; pandas is loaded
when a frame is asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mainspring.artefacts.manifest import Field

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, "npt.NDArray[Any] | Sequence[Any]"]

_EXACT: dict[str, type[np.generic]] = {"INT64": np.int64, "BOOL": np.bool_}
"""What a field that is never null keeps; with nulls it is float64, as NaN is."""


def canonical_column(values: Any, datatype: str) -> npt.NDArray[Any]:
    """One raw field in its canonical form: float64 with NaN for null, or object of str with None for null.

    Takes lists, arrays and pandas Series (also of nullable and string dtypes).
    """
    if datatype == "BYTES":
        return _texts(values)
    if hasattr(values, "to_numpy") and hasattr(values, "isna"):  # a pandas Series, of whatever dtype
        values = values.to_numpy(dtype=np.float64, na_value=math.nan)
    numbers = np.asarray(values)
    if numbers.dtype == object:  # None for null
        numbers = np.array([math.nan if v is None else v for v in numbers], dtype=np.float64)
    elif numbers.dtype.kind not in "biuf":
        raise TypeError(f"values of type {numbers.dtype} are not numbers")
    if datatype == "FP32":
        numbers = numbers.astype(np.float32)
    return numbers.astype(np.float64, copy=False)


def typed_column(values: Any, field: Field) -> npt.NDArray[Any]:
    """One field as users' own models see it, by the manifest alone: never by what a batch happens to hold.

    Numbers are float64 with NaN for null, except that an INT64 or BOOL field that is never null is int64 or bool;
    text is an array of `str`, None for null.
    """
    exact = None if field.nullable else _EXACT.get(field.datatype)
    return canonical_column(values, field.datatype) if exact is None else np.asarray(values, dtype=exact)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _texts(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "isna"):
        null = np.asarray(values.isna())
        values = values.to_numpy(dtype=object)
    else:
        null = None
    texts = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        missing = value is None or (null[i] if null is not None else _is_nan(value))
        texts[i] = None if missing else value if type(value) is str else str(value)
    return texts


@functools.lru_cache(maxsize=64)
def _labels(fields: tuple[Field, ...]) -> tuple[pd.Index[Any], pd.Index[Any]]:
    import pandas as pd

    numbers = [field.name for field in fields if field.datatype != "BYTES"]
    texts = [field.name for field in fields if field.datatype == "BYTES"]
    return pd.Index(numbers, dtype=object), pd.Index(texts, dtype=object)


def canonical_frame(columns: Columns | pd.DataFrame, fields: Sequence[Field], index: Any = None) -> pd.DataFrame:
    """The frame that `features` gets, in training and in serving alike.

    Numeric fields come first (float64, NaN for null), then text fields (object, None for null), each in
    the manifest's order: two blocks, which pandas makes five times faster than single columns.
    `columns` may be a DataFrame; `index` defaults to 0..n-1.
    """
    import pandas as pd

    types = {field.name: field.datatype for field in fields}
    numeric, textual = _labels(tuple(fields))
    parts = []
    if len(numeric) or not len(textual):
        block = [canonical_column(columns[name], types[name]) for name in numeric]
        parts.append(pd.DataFrame(np.array(block).T if block else None, columns=numeric, index=index, copy=False))
    if len(textual):
        # An explicit object dtype: otherwise pandas makes its own string dtype of text.
        texts = np.array([canonical_column(columns[name], "BYTES") for name in textual], dtype=object).T
        parts.append(pd.DataFrame(texts, columns=textual, index=index, dtype=object, copy=False))
    return parts[0] if len(parts) == 1 else pd.concat(parts, axis=1)
