"""The drift reference: bins, shares, windows inside, and its file."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.drift import psi
from mainspring.decide.reference import DAY, Reference, feature_reference, from_json, inside_windows, label, to_json


def _number(values: list[float | None]) -> Reference:
    array = np.array([math.nan if v is None else v for v in values])
    times = np.arange(len(values)) * DAY / 10
    made = feature_reference("x", "number", array, times, window=7 * DAY, statistic=psi)
    return Reference(7 * DAY, 0.0, len(values) * DAY / 10, len(values), (made,))


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=300))
def test_counts_are_shares(values: list[float | None]) -> None:
    """Counting the reference's own values gives its shares; every value is in one bin, the missing in the last."""
    feature = _number(values).features[0]
    counts = feature.bin_counts(values)
    assert counts.sum() == len(values) == feature.rows
    assert counts[-1] == sum(v is None for v in values)
    assert len(feature.shares) == feature.bins
    if values:
        assert (counts / len(values)).tolist() == pytest.approx(feature.shares)
    assert list(feature.edges) == sorted(set(feature.edges))


@given(st.lists(st.none() | st.integers(-5, 5) | st.booleans() | st.text(max_size=3), max_size=200))
def test_categories(values: list[object]) -> None:
    """Categories are counted by their label, the same from a list and from an array; strange ones are 'other'."""
    times = np.arange(len(values), dtype=float)
    feature = feature_reference("c", "category", values, times, window=DAY, statistic=psi)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    assert feature.bin_counts(values).tolist() == feature.bin_counts(array).tolist()
    assert feature.bin_counts(values).sum() == len(values)
    strange = feature.bin_counts(["never seen before", ["a list"], None, math.nan])
    assert (strange[-2], strange[-1]) == (2, 2)


def test_labels() -> None:
    """The same category has one name, however JSON or NumPy write it."""
    assert label(3) == label(3.0) == label(np.float64(3)) == "3"
    assert label(True) == label(np.True_) == "true" != label(1)
    assert label("UA") == label(b"UA") == "UA"


def test_file_and_back() -> None:
    """A reference written and read is the same; a damaged or foreign one is `ValueError`."""
    made = _number([1.0, 2.0, None, 3.5] * 50)
    assert from_json(to_json(made)) == made
    for text in (b"", b"{}", b"[]", b'{"schema": 2}', to_json(made).replace(b'"kind": "number"', b'"kind": "?"')):
        with pytest.raises(ValueError, match=r"."):
            from_json(text)


def test_windows_inside() -> None:
    """Each window is held against all other days, and an odd week stands out."""
    counts = np.full((28, 2), 10)
    assert max(inside_windows(counts, 7, psi)) == pytest.approx(0, abs=1e-3)
    counts[7:14] = (20, 0)
    found = inside_windows(counts, 7, psi)
    assert len(found) == 22
    assert list(found) == sorted(found)
    assert found[-1] > 0.5
    assert inside_windows(counts[:7], 7, psi) == ()
