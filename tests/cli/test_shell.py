"""The command line's shell: quick help, errors with a next step, exit statuses, data on stdout and talk on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mainspring.cli import main as shell
from mainspring.cli.output import Options, cell, plain, render, state, table
from mainspring.errors import Conflict, ObjectiveNotMet

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `mainspring` in a process of its own."""
    keep = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "mainspring.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={**keep, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A folder with the starter in it."""
    assert run("init", cwd=tmp_path).returncode == 0
    return tmp_path


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`--help` lists the verbs without importing pydantic, numpy, rich, yaml, or any verb."""
    code = (
        "import sys; from mainspring.cli.main import status; status(['--help']);"
        "heavy = {'pydantic', 'numpy', 'rich', 'yaml', 'pandas', 'mainspring.cli.validate', 'asyncio'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "validate" in done.stdout


def test_listed_verbs_are_there() -> None:
    """Each listed verb has a command of that name, and a line of help no longer than a terminal's."""
    ctx = click.Context(shell.cli, info_name="mainspring", obj=Options())
    for verb in shell.cli.list_commands(ctx):
        command = shell.cli.get_command(ctx, verb)
        assert isinstance(command, click.Command), verb
        assert len(verb) + len(shell.VERBS[verb][1]) <= 76
        assert command.help, verb


def test_init_validate(starter: Path) -> None:
    """`init` then `validate` goes well; data is on stdout, and `-o json` may stand before or after the verb."""
    done = run("validate", cwd=starter)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("✔ ok")
    before, after = run("-o", "json", "validate", cwd=starter), run("validate", "-o", "json", cwd=starter)
    assert json.loads(before.stdout) == json.loads(after.stdout)
    assert json.loads(before.stdout)["stack"] == "parcels"
    again = run("init", cwd=starter)
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_problems_are_all_listed(starter: Path) -> None:
    """A wrong file ends with 2, one `error:` line a problem on stderr, then hints; nothing on stdout."""
    file = starter / "mainspring.yaml"
    text = (
        file.read_text(encoding="utf-8").replace("where: laptop", "where: lptop").replace("model:train", "model:trian")
    )
    file.write_text(text, encoding="utf-8")
    done = run("validate", cwd=starter)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "error", "", "hint", "hint"]
    assert "mainspring.yaml:" in lines[0]
    assert "did you mean `laptop`?" in lines[0]
    assert "did you mean `train`?" in lines[1]


def test_usage_errors(tmp_path: Path) -> None:
    """A missing file, an unknown verb and an unknown option end with 2 and a hint."""
    missing = run("validate", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr == "error: mainspring.yaml: there is no file `mainspring.yaml`\n\nhint: mainspring init\n"
    verb = run("valdate", cwd=tmp_path)
    assert verb.returncode == 2
    assert "did you mean `validate`?" in verb.stderr
    option = run("validate", "--fast", cwd=tmp_path)
    assert option.returncode == 2
    assert "hint: mainspring validate --help" in option.stderr


def test_the_file_may_come_from_the_environment(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`MAINSPRING_FILE` names the file; a flag wins over it."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    named = run("validate", cwd=elsewhere, MAINSPRING_FILE=str(starter / "mainspring.yaml"))
    assert named.returncode == 0
    flag = run("validate", "-f", "nothing.yaml", cwd=elsewhere, MAINSPRING_FILE=str(starter / "mainspring.yaml"))
    assert "nothing.yaml" in flag.stderr


def test_a_closed_pipe_is_quiet(starter: Path) -> None:
    """When the reader of our output leaves, nothing is said."""
    command = f"{sys.executable} -m mainspring.cli.main schema | head -1"
    env = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, shell=True, cwd=starter, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A verb that raises what it is given; returns the exit status and what was said."""

    def fail(error: BaseException, *arguments: str) -> tuple[int, str]:
        def body() -> None:
            raise error

        monkeypatch.setattr(type(shell.cli), "get_command", lambda *_: click.Command("validate", callback=body))
        status = shell.status([*arguments, "validate"])
        return status, capsys.readouterr().err

    return fail


def test_errors_carry_their_status_and_hint(failing) -> None:
    """Each class of error ends with its own status, its message and its hint."""
    assert failing(ObjectiveNotMet("gate", "`auc` is too low", "mainspring gate")) == (
        3, "error: `auc` is too low\n\nhint: mainspring gate\n",
    )  # fmt: skip
    assert failing(Conflict("fence", "the world moved on")) == (1, "error: the world moved on\n")
    assert failing(KeyboardInterrupt())[0] == 130


def test_slips_of_ours_go_to_a_log(failing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception is one line and the path of a log with the traceback; `--debug` shows it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".mainspring").mkdir()
    status, said = failing(RuntimeError("deep\ntrouble"))
    assert status == 1
    assert said.startswith("error: unexpected RuntimeError: deep trouble\n\nhint: ")
    log = Path(said.split("is in ")[1].strip())
    assert log.parent == tmp_path / ".mainspring" / "logs"
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert "Traceback" in failing(RuntimeError("x"), "--debug")[1]


def test_tables_fit_80_columns() -> None:
    """Headers are upper-case, nothing is `<none>`, long cells are cut, control characters are not written."""
    rows = [
        {"name": "delay-3", "note": "x" * 200, "share": 0.1, "since": None},
        {"name": "a\x1b[31mb\nc", "note": "", "share": 1.0, "since": []},
    ]
    text = table(rows, ["name", "note", ("weight", "share"), "since"])
    lines = text.splitlines()
    assert lines[0].split() == ["NAME", "NOTE", "WEIGHT", "SINCE"]
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert "…" in lines[1]
    assert lines[2].count("<none>") == 2
    assert "\x1b" not in text


def test_data_is_written_in_three_ways() -> None:
    """The same data as a table, JSON and YAML; JSON never has NaN."""
    data = [{"a": 1, "b": float("nan"), "c": Path("x")}]
    assert json.loads(render(data, "json")) == [{"a": 1, "b": None, "c": "x"}]
    assert render(data, "yaml") == "- a: 1\n  b: null\n  c: x"
    assert render(data).splitlines()[0].split() == ["A", "B", "C"]
    assert render({"name": "x", "n": 2}) == "NAME  x\nN     2"
    assert render([]) == "<none>"
    assert plain(Options(file=Path("f")))["output"] == "table"
    assert cell(value=True) == "yes"


def test_states_have_a_word() -> None:
    """A state is a glyph and a word."""
    assert state("bad", "down").split()[1:] == ["down"]
    assert "\x1b" in state("ok", color=True)
