"""Entries of the change log: clean, short, and without secrets."""

from __future__ import annotations

import secrets
from dataclasses import astuple

from hypothesis import given
from hypothesis import strategies as st

from mainspring.facts.changes import Caller, change, said

around = st.sampled_from(["", " ", "`", "'", "\n", "token=", "Bearer ", "/tmp/", "…"])


def test_tokens_are_never_in_an_entry() -> None:
    """Of 2,000 tokens of each kind none is left, in whatever field it comes."""
    for _ in range(2000):
        for token in (f"ms_{secrets.token_urlsafe(32)}", secrets.token_urlsafe(32)):
            by = Caller(f"k1 ({token})", remark=token)
            entry = change("a", 1.0, by, token, f"`{token}`", f"to={token} version=3")
            assert not any(token in str(text) for text in astuple(entry))


@given(before=around, after=around)
def test_a_token_among_other_words_is_left_out(before: str, after: str) -> None:
    """The words around it stay."""
    token = "ms_Q_gx4-HKb1J74gvImXoeW22SkWTRqe_Svu677tSU8_k"
    shown = said(f"was {before}{token}{after} here")
    assert token[3:20] not in shown
    assert shown.startswith("was ")
    assert shown.endswith(" here")


def test_what_only_looks_a_little_like_one_stays() -> None:
    """Digests, revisions, names and paths are shown."""
    for text in ("a" * 43, "0123456789abcdef" * 4, "delay@7", "/home/anna/flights/mainspring.yaml", "ms_short"):
        assert said(text) == text


@given(st.text())
def test_a_text_is_printable_and_short(text: str) -> None:
    """No control character, no more than 300 characters."""
    shown = said(text * 20)
    assert len(shown) <= 300
    assert shown.isprintable()
