"""YAML 1.2's core schema: which plain words are what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.stack.yaml12 import compose, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("no", "no"), ("yes", "yes"), ("Off", "Off"), ("y", "y"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("010", 10), ("0o10", 8), ("0x1F", 31), ("1_000", "1_000"),
        ("2013-01-01", "2013-01-01"), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-3", -3), ("1.2.3", "1.2.3"),
        ("5%", "5%"), ("$4/h", "$4/h"), ("1..2", "1..2"), ("80GiB", "80GiB"), ("=", "="), ("<<", "<<"),
    ],
)  # fmt: skip
def test_plain_words(text: str, value: object) -> None:
    """Only what the core schema calls a number, a truth value or nothing is one; all else is a word."""
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@given(st.text(min_size=1, max_size=30))
def test_quoted_words_stay_words(text: str) -> None:
    """A quoted value is a text whatever it looks like."""
    printable = "".join(char for char in text if char.isprintable()) or "1"
    root, flaws = compose(f"a: '{printable.replace(chr(39), chr(39) * 2)}'".encode())
    assert not flaws
    assert root is not None
    assert root.data() == {"a": printable}


def test_aliases_are_copies() -> None:
    """A few aliases are read, and stand for what the anchor marked."""
    root, flaws = compose(b"a: &x {b: [1, 2]}\nc: *x\n")
    assert not flaws
    assert root is not None
    assert root.data() == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}


def test_nodes_know_their_places() -> None:
    """Lines and columns are counted from one, in characters."""
    root, _ = compose("ä: 1\nb:\n  - é: {c: d}\n".encode())
    assert root is not None
    inner = root.entries["b"][1].items[0].entries["é"][1]
    assert (inner.line, inner.column) == (3, 8)
    key, value = inner.entries["c"]
    assert (key.column, value.column) == (9, 12)
