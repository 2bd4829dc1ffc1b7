"""`mainspring keys`, as a person runs it."""

from __future__ import annotations

import json
import socket
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
  shared: {model: chat@champion, runtime: llamacpp, auth: token, tenants: {acme: {tokens: 2M/day}, globex: {}}}
"""
LIMITS = "--requests 60/min --tokens 20k/min --tokens 2M/day --at-once 4 --context 4k --budget $20/month --expires 30d"


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
        (["create", "shared"], "belongs to one of its tenants: `acme`, `globex`"),
        (["create", "shared", "--tenant", "acmee"], "did you mean `acme`?"),
        (["create", "chat", "shared", "--tenant", "acme"], "`serving.chat` has no tenants"),
        (["create", "chat", "--requests", "0/min"], "--requests: `0/min` lets nothing in"),
        (["create", "chat", "--requests", "60"], "--requests: `60`"),
        (["create", "chat", "--tokens", "2M/week"], "--tokens: `2M/week`"),
        (["create", "chat", "--tokens", "5/min", "--tokens", "6/min"], "two limits over the same period"),
        (["create", "chat", "--at-once", "0"], "0 is not in the range"),
        (["create", "chat", "--context", "0"], "--context: `0`"),
        (["create", "chat", "--context", "0.5"], "--context: `0.5`"),
        (["create", "chat", "--budget", "$0/month"], "--budget: `$0/month`"),
        (["create", "chat", "--budget", "$5/day"], "a budget of a calendar month"),
        (["create", "chat", "--role", "admin"], "not for both"),
        (["create", "--role", "admin", "--tenant", "acme"], "not of the control API"),
        (["create", "--role", "admin", "--requests", "60/min"], "not of the control API"),
        (["create", "--role", "boss"], "'boss' is not one of"),
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


def test_a_key_of_a_tenant_with_limits(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it is kept, as whole numbers, shown within 80 columns, and passed on by rotating."""
    assert status(["keys", "create", "shared", "--tenant", "acme", "--name", "a" * 60, *LIMITS.split()]) == 0
    assert status(["keys", "rotate", "k1", "--overlap", "0s"]) == 0
    capsys.readouterr()
    assert status(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for text in (
        "60 requests/min",
        "20k tokens/min",
        "2M tokens/day",
        "4 at once",
        "$20/month",
        "4k of context",
        "acme",
    ):
        assert text in shown
    assert status(["keys", "list", "-o", "json"]) == 0
    [key] = json.loads(capsys.readouterr().out)
    assert (key["id"], key["tenant"], key["context"], key["role"]) == ("k2", "acme", 4000, "")
    assert {(one["what"], one["amount"], one["per"]) for one in key["limits"]} == {
        ("requests", 60, "min"), ("tokens", 20_000, "min"), ("tokens", 2_000_000, "day"), ("at_once", 4, ""),
        ("dollars", 20_000_000_000, "month"),
    }  # fmt: skip


def test_a_key_of_the_control_api(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has a role and no endpoints, and one is told how it is used."""
    assert status(["keys", "create", "--role", "operator", "--name", "anna"]) == 0
    told = capsys.readouterr()
    assert told.out.strip().startswith("ms_")
    assert "MAINSPRING_CONTROL=http://127.0.0.1:" in told.err
    assert told.out.strip() not in told.err
    assert status(["keys", "list"]) == 0
    assert "control: operator" in capsys.readouterr().out


def test_what_was_done_with_keys_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a controller too: oldest first, within 80 columns, chosen by time and by who; never a token."""
    assert status(["changes"]) == 1  # no state folder: nobody to ask
    assert status(["keys", "create", "chat", "--name", "anna"]) == 0
    token = capsys.readouterr().out.strip()
    assert status(["keys", "revoke", "k1"]) == 0
    assert status(["changes"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.index("create key") < shown.index("revoke key")
    assert status(["changes", "--since", "1h", "--who", "keys.json", "-n", "1", "-o", "json"]) == 0
    text = capsys.readouterr().out
    [one] = json.loads(text)
    assert (one["what"], one["target"], one["outcome"]) == ("revoke key", "k1", "accepted")
    assert token not in text + shown
    assert status(["changes", "--who", "nobody", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert status(["changes", "--since", "soon"]) == 2
    assert "`soon`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("control", "token", "said"),
    [
        ("http://10.0.0.1:80", "ms_x", "`http://10.0.0.1:80`"),
        ("https://127.0.0.1:80", "ms_x", "must be `http://127.0.0.1:PORT`"),
        ("http://127.0.0.1:80@evil.example:80", "ms_x", "must be"),
        ("http://127.0.0.1:99999", "ms_x", "must be"),
        ("http://127.0.0.1:9", "", "`MAINSPRING_TOKEN` is not set"),
        ("http://127.0.0.1:9", "s3cret\r\nX: y", "`MAINSPRING_TOKEN` is none"),
    ],
)
def test_a_control_elsewhere_is_loopback_with_a_token(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    control: str,
    token: str,
    said: str,
) -> None:
    """Anything else is refused before a byte is sent, and the token is never shown."""
    monkeypatch.setenv("MAINSPRING_CONTROL", control)
    monkeypatch.setenv("MAINSPRING_TOKEN", token)
    assert status(["status"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "s3cret" not in err


def test_nobody_there_starts_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where MAINSPRING_CONTROL points at nobody, no verb falls back on this folder's own state."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MAINSPRING_CONTROL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MAINSPRING_TOKEN", "ms_x")
    for words in (["up", "--yes"], ["down"], ["backup", "x.db"], ["changes"], ["status"]):
        assert status(words) == 1, words
        assert "no controller answers at" in capsys.readouterr().err
    assert not (folder / ".mainspring").exists()
