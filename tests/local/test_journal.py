"""What was done with keys is written down: before it is done, whole, and without secrets."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from mainspring.decide.limits import Limit
from mainspring.errors import EnvironmentError_, InputError
from mainspring.facts.changes import Change
from mainspring.worlds.local import journal, secrets, tokens


def test_making_rotating_and_revoking_is_told(tmp_path: Path) -> None:
    """Each with who, what and to which key; neither token nor hash is in it, and only its owner reads it."""
    first, token = tokens.create(
        tmp_path, ("chat",), "anna", 0.0, tenant="acme", limits=(Limit("tokens", 2_000_000, "day"),), context=4000
    )
    heir, other = tokens.rotate(tmp_path, "k1", 0.0, 60.0)
    tokens.revoke(tmp_path, "k1")
    tokens.create(tmp_path, (), "bert", 0.0, role="viewer")
    found = journal.changes(tmp_path)
    assert [(one.what, one.target) for one in found] == [
        ("create key", "k1"), ("rotate key", "k1"), ("revoke key", "k1"), ("create key", "k3"),
    ]  # fmt: skip
    assert {one.who for one in found} == {f"uid {os.getuid()} (keys.json)"}
    assert {one.outcome for one in found} == {"accepted"}
    assert "tenant acme" in found[0].detail
    assert found[1].detail.startswith("k2 ")
    assert found[3].detail == "role viewer; bert"
    written = (tmp_path / journal.NAME).read_text()
    for secret in (token, other, first.hash, heir.hash):
        assert secret not in written
    assert stat.S_IMODE((tmp_path / journal.NAME).stat().st_mode) == 0o600


def full(*_: Any) -> None:
    """Stand for a disk without space."""
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cant_be_written_down_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: no key is made or revoked, no half line stays, and it works when there is space again."""
    tokens.create(tmp_path, ("chat",), "", 0.0)
    before = (secrets.keys(tmp_path).read_bytes(), (tmp_path / journal.NAME).read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "fsync", full)
        for act in (lambda: tokens.create(tmp_path, ("chat",), "", 0.0), lambda: tokens.revoke(tmp_path, "k1")):
            with pytest.raises(EnvironmentError_, match="No space"):
                act()
    assert (secrets.keys(tmp_path).read_bytes(), (tmp_path / journal.NAME).read_bytes()) == before
    tokens.revoke(tmp_path, "k1")
    assert journal.changes(tmp_path)[-1].what == "revoke key"


def test_what_was_not_done_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written down, then the keys could not be written: failed. Nothing more was said: not known."""
    monkeypatch.setattr(tokens, "write_whole", full)
    with pytest.raises(EnvironmentError_):
        tokens.create(tmp_path, ("chat",), "", 0.0)
    [failed] = journal.changes(tmp_path)
    assert (failed.outcome, failed.message) == ("failed", "[Errno 28] No space left on device")
    lines = (tmp_path / journal.NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / journal.NAME).write_bytes(lines[0])
    assert journal.changes(tmp_path)[0].outcome == ""


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    """A crash in the middle of a line, or junk: that line is shown as unreadable, and the next one is whole."""
    tokens.create(tmp_path, ("chat",), "", 0.0)
    path = tmp_path / journal.NAME
    path.write_bytes(path.read_bytes() + b'{"id": "x", "at"')
    tokens.revoke(tmp_path, "k1")
    path.write_bytes(path.read_bytes() + b'\xff\xfe\n[]\n{"outcome": "accepted", "id": "nobody"}\n7\n')
    found = journal.changes(tmp_path)
    assert [one.what for one in found] == ["create key", "unreadable", "revoke key", *["unreadable"] * 4]
    assert [one.outcome for one in found if one.what != "unreadable"] == ["accepted", "accepted"]
    assert all(one.at > 0 for one in found)


def test_both_logs_are_shown_as_one(tmp_path: Path) -> None:
    """By time, newest first, since a moment, of whom, and so many."""
    tokens.create(tmp_path, ("chat",), "", 0.0)
    [of_keys] = journal.changes(tmp_path)
    asked = [Change("b", of_keys.at + 1, "k1 (anna)", "down"), Change("a", of_keys.at - 1, "k1 (anna)", "apply")]
    shown = journal.with_keys(asked, tmp_path, 0.0, 10, "")
    assert [one.what for one in shown] == ["down", "create key", "apply"]
    assert len(journal.with_keys(asked, tmp_path, 0.0, 2, "")) == 2
    assert journal.with_keys((), tmp_path, of_keys.at + 0.1, 10, "") == ()
    assert journal.with_keys((), tmp_path, 0.0, 10, "anna") == ()
    assert journal.with_keys((), tmp_path / "none", 0.0, 10, "") == ()


def test_a_refusal_is_no_change(tmp_path: Path) -> None:
    """A key that is not there is an error, and nothing is written down."""
    with pytest.raises(InputError):
        tokens.revoke(tmp_path, "k9")
    assert journal.changes(tmp_path) == ()


def test_what_cannot_be_written_down_is_not_done(tmp_path: Path) -> None:
    """A change that holds no lock of the keys: refused before it is made, and its failure is written down."""
    with pytest.raises(ZeroDivisionError), journal.recorded_alone(tmp_path, "trust", "late@1", "", "mlflow.db"):
        _ = 1 // 0
    (change,) = journal.changes(tmp_path)
    assert (change.what, change.target, change.outcome) == ("trust", "late@1", "failed")
    assert "(mlflow.db)" in change.who
    (tmp_path / journal.NAME).unlink()
    (tmp_path / journal.NAME).mkdir()
    made = []
    again = journal.recorded_alone(tmp_path, "trust", "late@1", "", "mlflow.db")
    with pytest.raises(EnvironmentError_, match="nothing was changed"), again:
        made.append(1)
    assert made == []
