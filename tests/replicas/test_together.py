"""Requests that a server puts together: each gets its own numbers, or its own error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mainspring.artefacts.manifest import Field
from mainspring.errors import UserCodeError
from mainspring.replicas.adapters.together import Columns, RequestError, check_nulls, together
from mainspring.replicas.adapters.triton_model import values


def doubled(columns: Columns) -> Any:
    """Twice each number; raises for some."""
    if 13 in columns["x"]:
        raise UserCodeError("features-raised", "unlucky")
    if 14 in columns["x"]:
        raise SystemExit
    if 16 in columns["x"]:
        return [1.0]
    return [math.nan if one == 15 else one * 2.0 for one in columns["x"]]


def told(results: list[list[float] | RequestError]) -> list[Any]:
    """Numbers, or status and message."""
    return [(one.status, one.message) if isinstance(one, RequestError) else one for one in results]


def test_each_gets_its_own() -> None:
    """Requests of different lengths, in one call of the model."""
    calls = []

    def score(columns: Columns) -> Any:
        calls.append(len(columns["x"]))
        return doubled(columns)

    assert told(together(score, [{"x": [1, 2]}, {"x": [3]}, {"x": [4, 5, 6]}])) == [[2, 4], [6], [8, 10, 12]]
    assert calls == [6]
    assert together(score, []) == []


@pytest.mark.parametrize(
    ("bad", "wanted"),
    [
        (13, (500, "unlucky")),
        (14, (500, "the model failed: SystemExit")),
        (15, (500, "the model gave no number for this request")),
        (16, (500, "the model gave 1 numbers for 2 rows")),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_bad_one_fails_alone(bad: int, wanted: tuple[int, str], at: int) -> None:
    """Whatever one request does to the model, and wherever it stands, its neighbours have their numbers."""
    jobs = [{"x": [1, 1]}, {"x": [1, 1]}]
    jobs.insert(at, {"x": [bad, 1]})
    results = told(together(doubled, jobs))
    assert results[at] == wanted
    assert results[:at] + results[at + 1 :] == [[2, 2], [2, 2]]


def test_nulls() -> None:
    """A field that must not be null is refused by name."""
    fields = (Field("x", "FP64", nullable=False), Field("y", "BYTES"))
    check_nulls({"x": [1.0], "y": [None]}, fields)
    with pytest.raises(RequestError, match="`x` must not be null"):
        check_nulls({"x": [1.0, None], "y": ["a", "b"]}, fields)


def test_what_triton_has_for_null() -> None:
    """NaN and one NUL are null; an empty text is one."""
    assert values(Field("x", "INT64"), np.array([[1.0], [math.nan]])) == [1.0, None]
    texts = np.array([["Zürich".encode()], [b"\0"], [b""]], dtype=object)
    assert values(Field("y", "BYTES"), texts) == ["Zürich", None, ""]
    with pytest.raises(UnicodeDecodeError):
        values(Field("y", "BYTES"), np.array([[b"\xff"]], dtype=object))
