"""What a request brings, as columns that a packaged model can score: checked by its manifest.

Who calls it: the adapters whose servers hand over plain lists. What it must never do: let a value through that the
manifest does not allow, or say no without naming the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mainspring.artefacts.manifest import Field
from mainspring.replicas.adapters.together import RequestError
from mainspring.replicas.oip.protocol import BadRequest, check_values


def of_columns(given: object, fields: Sequence[Field]) -> dict[str, list[Any]]:
    """The columns of `{field: [values]}`; raises `RequestError` (400) where they are not what the manifest takes."""
    if not isinstance(given, Mapping):
        raise RequestError(400, "`inputs` is an object with a list of values for each input")
    unknown = [name for name in given if name not in {field.name for field in fields}]
    if unknown:
        there = ", ".join(f"`{field.name}`" for field in fields)
        raise RequestError(400, f"there is no input `{unknown[0]!s:.100}`; there are {there}")
    missing = ", ".join(f"`{field.name}`" for field in fields if field.name not in given)
    if missing:
        raise RequestError(400, f"these inputs are missing: {missing}")
    columns = {field.name: _column(given[field.name], field) for field in fields}
    counts = {len(values) for values in columns.values()}
    if len(counts) != 1:
        raise RequestError(400, "the inputs have different numbers of rows")
    if not counts.pop():
        raise RequestError(400, "there are no rows")
    return columns


def _column(values: object, field: Field) -> list[Any]:
    if not isinstance(values, list):
        raise RequestError(400, f"the input `{field.name}` is not a list of values")
    try:
        check_values(values, field)
    except BadRequest as error:
        raise RequestError(400, str(error)) from None
    return values


def of_row(row: object, fields: Sequence[Field]) -> dict[str, list[Any]]:
    """The columns of one row, a list of values in the manifest's order; raises `RequestError` (400)."""
    if not isinstance(row, list) or len(row) != len(fields):
        names = ", ".join(f"`{field.name}`" for field in fields)
        raise RequestError(400, f"a row is a list of {len(fields)} values: {names}")
    return {field.name: _column([value], field) for field, value in zip(fields, row, strict=True)}
