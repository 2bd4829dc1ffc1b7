"""`mainspring keys`, as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.cli.main import status

STACK = """\
mainspring: 1
stack: chat
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  chat: {model: chat@champion, runtime: llamacpp, auth: token}
  open: {model: chat@champion, runtime: llamacpp}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stack file, to stand in."""
    (tmp_path / "mainspring.yaml").write_text(STACK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_key_is_made_shown_once_listed_and_revoked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stdout is the token alone; the list never has it; revoked is gone."""
    assert status(["keys", "create", "chat", "--name", "anna", "--expires", "30d"]) == 0
    token = capsys.readouterr().out.strip()
    assert token.startswith("ms_")
    assert status(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "anna" in shown
    assert token not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert status(["keys", "list", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed[0]["endpoints"] == ["chat"]
    assert "hash" not in listed[0]
    assert status(["keys", "revoke", listed[0]["id"]]) == 0
    capsys.readouterr()
    assert status(["keys", "list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "chatt"], "did you mean `chat`?"),
        (["create", "chat", "--expires", "soon"], "`soon`"),
        (["create", "chat", "--name", "a\nb"], "is no name"),
        (["rotate", "k7"], "there is no key `k7`"),
        (["rotate", "k7", "--overlap", "long"], "`long`"),
        (["revoke", "k7"], "there is no key `k7`"),
        (["create"], "mainspring keys create --help"),
    ],
)
def test_bad_input_is_told(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """Exit status 2, the value, and the next command; nothing is made."""
    assert status(["keys", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / ".mainspring" / "keys.json").exists()


def test_a_key_is_rotated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another token is shown once, and the old one is said to end."""
    assert status(["keys", "create", "chat", "--name", "anna"]) == 0
    first = capsys.readouterr().out.strip()
    assert status(["keys", "rotate", "k1", "--overlap", "10m"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip().startswith("ms_")
    assert shown.out.strip() != first
    assert "key k1 ends in 10m" in shown.err
    assert status(["keys", "rotate", "k2", "--overlap", "0s", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "anna"
    assert status(["keys", "list", "-o", "json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert [(one["id"], one["expires"] is None) for one in there] == [("k1", False), ("k3", True)]


def test_an_endpoint_without_auth_is_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token for an endpoint that asks for none is made, with a word about it."""
    assert status(["keys", "create", "open"]) == 0
    assert "`serving.open.auth` is `none`" in capsys.readouterr().err
