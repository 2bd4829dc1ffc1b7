"""Tokens: hashes in a file, revoked by writing it anew, and never more open because a file is broken."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mainspring.gateway.tokens import Tokens

PEPPER = bytes(range(32))
TOKEN = "ms_" + "x" * 43


def write(folder: Path, *tokens: str, expires: float | None = None) -> tuple[Path, Path]:
    keys, pepper = folder / "keys.json", folder / "pepper"
    rows = [
        {"id": f"k{i}", "hash": hmac.new(PEPPER, t.encode(), hashlib.sha256).hexdigest(), "endpoints": ["chat"],
         "name": "anna", "expires": expires}
        for i, t in enumerate(tokens)
    ]  # fmt: skip
    fresh = folder / "fresh"
    fresh.write_text(json.dumps({"keys": rows}))
    fresh.replace(keys)
    pepper.write_text(PEPPER.hex() + "\n")
    return keys, pepper


def bearer(token: str = TOKEN) -> bytes:
    return b"Bearer " + token.encode()


def test_good_and_bad(tmp_path: Path) -> None:
    """A token of the file is good, in either case of the scheme; others and none are not."""
    tokens = Tokens(*write(tmp_path, TOKEN))
    for _ in range(2):
        found = tokens.of(bearer())
        assert found is not None
        assert (found.id, found.endpoints) == ("k0", ("chat",))
        assert tokens.of(b"bEARER " + TOKEN.encode()) is not None
        assert tokens.of(bearer("ms_other")) is None
    assert tokens.of(None) is None
    assert tokens.of(b"Basic " + TOKEN.encode()) is None


def test_revoked(tmp_path: Path) -> None:
    """A key that the file no longer has is not good after the next look, though it was just used."""
    tokens = Tokens(*write(tmp_path, TOKEN))
    assert tokens.of(bearer()) is not None
    write(tmp_path, "ms_new")
    tokens.look()
    assert tokens.of(bearer()) is None
    assert tokens.of(bearer("ms_new")) is not None


def test_expired(tmp_path: Path) -> None:
    """A key is not good from the moment that it expires, also where it was looked up before."""
    tokens = Tokens(*write(tmp_path, TOKEN, expires=time.time() + 0.15))
    assert tokens.of(bearer()) is not None
    time.sleep(0.2)
    assert tokens.of(bearer()) is None


def test_broken_files_keep_the_last_good(tmp_path: Path) -> None:
    """Half a file, another's file or none changes nothing; without any files no token is good."""
    keys, pepper = write(tmp_path, TOKEN)
    tokens = Tokens(keys, pepper)
    for content in ("{", "[]", '{"keys": [{"id": 1}]}', ""):
        keys.write_text(content)
        tokens.look()
        assert tokens.of(bearer()) is not None
    keys.unlink()
    tokens.look()
    assert tokens.of(bearer()) is not None
    assert Tokens(tmp_path / "none", pepper).of(bearer()) is None
    assert Tokens(None, None).of(bearer()) is None


@given(st.binary(max_size=400))
def test_any_header_is_survived(header: bytes) -> None:
    """Whatever stands in the header, the answer is that it is not good."""
    assert Tokens(None, None).of(header) is None
    tokens = Tokens(None, None)
    tokens._pepper = PEPPER
    assert tokens.of(b"Bearer " + header) is None
