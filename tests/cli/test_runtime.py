"""`mainspring runtime`: what is known, installed, lacking and removed, in 80 columns and as data."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.replicas import tiny_runtime
from tests.replicas.tiny_runtime import tiny

import mainspring
from mainspring.cli.main import status
from mainspring.replicas import environment
from mainspring.runtimes.catalog import runtimes


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The requirement set of the runtime `tiny`, which a package brings, with its wheel in place."""
    wheels = tiny_runtime.own_index(tmp_path, monkeypatch)
    with tiny_runtime.brought(tmp_path / "brought") as path:
        path.write_text("# server: tinyserver\n" + tiny_runtime.wheel(wheels, "tinyserver"))
        yield path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit status, data and talk of `mainspring runtime WORDS`."""
    code = status(["runtime", *words])
    out = capsys.readouterr()
    return code, out.out, out.err


def row(capsys: pytest.CaptureFixture[str], name: str = "tiny") -> dict[str, Any]:
    """A runtime in the list."""
    return next(one for one in json.loads(said(capsys, "list", "-o", "json")[1]) if one["name"] == name)


def test_all_are_listed_in_80_columns(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every runtime has a line, in the catalogue's order, those of other packages too; as data it is the same."""
    code, table, err = said(capsys, "list")
    assert code == 0
    assert all(" needs " in line for line in err.splitlines())
    lines = table.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(runtimes())
    assert [line for line in lines if len(line) > 80] == []
    assert any(line.startswith("tiny ") and "· not installed" in line and " 1.0 " in line for line in lines)
    as_json, as_yaml = said(capsys, "list", "-o", "json")[1], said(capsys, "list", "-o", "yaml")[1]
    assert json.loads(as_json) == yaml.safe_load(as_yaml)
    assert [one["name"] for one in json.loads(as_json)] == list(runtimes())


def test_one_is_installed_seen_and_removed(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From not installed to installed and back: progress is talk, what was done is data."""
    assert row(capsys)["state"] == "not installed"
    code, out, err = said(capsys, "install", "tiny", "-o", "json")
    (done,) = json.loads(out)
    assert (code, done["name"]) == (0, "tiny")
    assert "tiny: ready" in err
    seen = row(capsys)
    assert (seen["state"], seen["folder"], seen["bytes"]) == ("installed", done["folder"], done["bytes"])
    assert (seen["server"], seen["version"]) == ("tinyserver", "1.0")
    code, out, err = said(capsys, "install", "tiny")
    assert (code, err) == (0, "")
    assert out.split()[2] == "tiny"
    code, out, err = said(capsys, "remove", "tiny")
    assert (code, out) == (0, "")
    assert err.startswith("removed `tiny`: ")
    assert row(capsys)["state"] == "not installed"


def test_doctor_says_what_is_missing_and_what_is_broken(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not installed is worth knowing; installed is imported; what can't be imported is bad, with the remedy."""
    code, out, _ = said(capsys, "doctor", "tiny")
    assert code == 0
    assert "· environment: not installed\n    mainspring runtime install tiny\n" in out
    said(capsys, "install", "tiny")
    code, out, _ = said(capsys, "doctor", "tiny")
    assert code == 0
    assert "✔ server: Tiny server: tinyserver 1.0\n" in out
    assert "✔ imports: tinyserver\n" in out
    made = environment.find(tiny())
    assert made is not None
    (made.packages / "tinyserver" / "__init__.py").write_text("import nowhere_to_be_found\n")
    code, out, _ = said(capsys, "doctor", "tiny", "-o", "json")
    assert code == 1
    bad = [one for one in json.loads(out) if one["state"] == "bad"]
    assert [one["check"] for one in bad] == ["import tinyserver"]
    assert "No module named 'nowhere_to_be_found'" in bad[0]["found"]
    assert bad[0]["remedy"] == "mainspring runtime remove tiny; mainspring runtime install tiny"


def test_a_program_that_is_not_there_is_said(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What no environment brings shows in the list, after an installation, and in doctor, with its command."""
    module = lock.parents[1] / "__init__.py"
    code = module.read_text().replace("Runtime\n", "Needed, Runtime\n", 1)
    needed = "needed=(Needed('no-such-java', 'program', 'apt-get install java', 'it is written in it'),), "
    module.write_text(code.replace("environment=", f"{needed}environment="))
    assert row(capsys)["needs"] == ["no-such-java"]
    _, out, err = said(capsys, "list")
    assert "✖ needs more" in out
    assert "tiny needs no-such-java: apt-get install java\n" in err
    assert "tiny needs no-such-java: apt-get install java\n" in said(capsys, "install", "tiny")[2]
    code, out, _ = said(capsys, "doctor", "tiny")
    assert code == 1
    assert "✖ no-such-java: not found: it is written in it\n    apt-get install java\n" in out


def test_what_nobody_asks_for_any_more_is_removed(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--unused` removes the environments of old requirement sets, and no other."""
    said(capsys, "install", "tiny")
    assert said(capsys, "remove", "--unused")[2] == "there is no environment that is not used\n"
    old = environment.find(tiny())
    assert old is not None
    lock.write_text(lock.read_text() + "# a change\n")
    said(capsys, "install", "tiny")
    new = environment.find(tiny())
    with environment.hold(old):
        code, out, err = said(capsys, "remove", "--unused", "-o", "json")
    assert (code, json.loads(out)) == (0, [])
    assert "is used by a replica: it is not removed" in err
    code, out, _ = said(capsys, "remove", "--unused", "-o", "json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)] == [old.root.name]
    assert environment.all_of() == [new.root] if new else []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["install", "tiney"], "there is no runtime `tiney`; did you mean `tiny`?"),
        (["doctor", "zzz"], "there is no runtime `zzz`\n"),
        (["remove", "tiny"], "`tiny` is not installed"),
        (["remove"], "say the NAMEs to remove, or `--unused`"),
        (["remove", "--unused", "tiny"], "say the NAMEs to remove, or `--unused`"),
    ],
)
def test_wrong_words_are_told(lock: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    """What is wrong with a command line is said, with the next command, and nothing is done."""
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert says in err
    assert "hint: mainspring runtime list" in err
    assert environment.all_of() == []


def test_what_is_in_use_is_not_removed(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While it is held, removing it is refused with exit status 2."""
    said(capsys, "install", "tiny")
    made = environment.find(tiny())
    assert made is not None
    with environment.hold(made):
        code, _, err = said(capsys, "remove", "tiny")
    assert code == 2
    assert "is used by a replica" in err
    assert environment.find(tiny()) == made


def test_a_terminal_sees_one_line_that_changes(lock: Path) -> None:
    """On a terminal the progress is one line, written over; the last one stays."""
    path = os.pathsep.join([str(lock.parents[2]), str(Path(mainspring.__file__).parents[1])])
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "mainspring.cli.main", "runtime", "install", "tiny"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    told = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout.startswith(b"NAME")
    *changes, last = told.removesuffix("\r\n").split("\r")
    assert len(changes) >= 3
    assert "\n" not in "".join(changes) + last
    assert last.startswith("tiny: ready")
    assert len({len(line) for line in [*changes[1:], last]}) == 1
