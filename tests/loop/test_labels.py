"""Labels of revisions say which version, with which settings; names are read back as they were made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.loop.labels import (
    endpoint_of,
    generation,
    is_fresh,
    label,
    label_of,
    revision_of,
    settled,
    version_number,
)
from mainspring.loop.window import revision_name

endpoints = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)


def test_examples() -> None:
    """The first settings are left out."""
    assert [label("3"), label("3", 2), label("3", fresh=True), label("3", 2, fresh=True)] == [
        "3", "3.2", "3.fresh", "3.2.fresh"
    ]  # fmt: skip
    assert (endpoint_of("small-chat-3.2-0"), revision_of("small-chat-3.2-0")) == ("small-chat", "small-chat-3.2")


@given(endpoints, st.integers(1, 10**6).map(str), st.integers(1, 99), st.booleans(), st.integers(0, 255))
def test_read_back(endpoint: str, version: str, number: int, fresh: bool, replica: int) -> None:
    """Whatever the endpoint is called, a replica's name gives everything back."""
    made = label(version, number, fresh=fresh)
    revision = revision_name(endpoint, made)
    process = f"{revision}-{replica}"
    assert (version_number(made), generation(made), is_fresh(made)) == (version, number, fresh)
    assert settled(made) == label(version, number)
    assert (endpoint_of(process), revision_of(process), label_of(revision)) == (endpoint, revision, made)
