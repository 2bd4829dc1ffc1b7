"""The page `docs/first-stack.md`, carried out as it stands: its files are written, its commands are typed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "first-stack.md"
SOURCE = Path(__file__).parents[2] / "src"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = "8080"  # the page's; the test takes a free one
LOOKS = ("status", "rollout status", "models list", "runs list")  # verbs that a person types again until it is so
PATIENCE = 40.0  # seconds for what a person would wait for


@dataclass(frozen=True)
class Typed:
    """A command of the page, and the lines that the page shows below it."""

    command: str
    shown: tuple[str, ...]


def blocks() -> list[tuple[str, str]]:
    """The page's fenced blocks: language and text."""
    return FENCE.findall(PAGE.read_text(encoding="utf-8"))


def typed(block: str) -> Iterator[Typed]:
    """The commands of a console block; one with an open quote goes on in the next line."""
    command, shown = "", list[str]()
    for line in block.splitlines():
        if line.startswith("$ "):
            if command:
                yield Typed(command, tuple(shown))
            command, shown = line[2:], []
        elif command.count("'") % 2:
            command += f"\n{line}"
        else:
            shown.append(line)
    if command:
        yield Typed(command, tuple(shown))


def plain(line: str) -> str:
    """A line with single spaces: columns are as wide as what is in them."""
    return " ".join(line.split())


def missing(shown: tuple[str, ...], said: str) -> str:
    """The first line of the page that was not said in its turn; `...` stands for anything."""
    lines = iter([plain(line) for line in said.splitlines()])
    for line in (plain(one) for one in shown if one.strip()):
        if line != "...":
            wanted = re.compile(".*".join(re.escape(part) for part in line.split("...")))
            if not any(wanted.fullmatch(one) for one in lines):
                return line
    return ""


@dataclass(frozen=True)
class Desk:
    """An empty folder, and a shell in it that knows `mainspring` and `python`."""

    folder: Path
    environment: dict[str, str]
    port: int

    def write(self, text: str) -> None:
        """Write a block as the file that its first line names."""
        name = text.partition("\n")[0].removeprefix("# ")
        (self.folder / name).write_text(text.replace(PORT, str(self.port)), encoding="utf-8")

    def say(self, command: str) -> str:
        """What a command says, errors included."""
        done = subprocess.run(
            ["bash", "-c", command.replace(PORT, str(self.port))],
            cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done.stdout.replace(str(self.port), PORT)

    def carry_out(self, one: Typed) -> None:
        """Type a command; it must say what the page shows, at once or, if it only looks, when typed again."""
        again = one.command.removeprefix("mainspring ").startswith(LOOKS)
        end = time.monotonic() + (PATIENCE if again else 0)
        while lacking := missing(one.shown, said := self.say(one.command)):
            assert time.monotonic() < end, f"`{one.command}`\nlacks: {lacking}\nsaid:\n{said}"
            time.sleep(0.5)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk whose processes are killed in the end."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, line in {"mainspring": "-m mainspring.cli.main ", "python": ""}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line}"$@"\n')
        (commands / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(SOURCE)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # each process would compile everything anew
    folder = tmp_path / "shop"
    folder.mkdir()
    yield Desk(folder, environment, port)
    for _ in range(3):
        for pid in living(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def living(folder: Path) -> list[int]:
    """Processes with this folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_every_block_is_carried_out() -> None:
    """The page has no block that this test would pass over."""
    assert {language for language, _ in blocks()} == {"python", "yaml", "console"}
    for language, text in blocks():
        assert text.startswith("$ " if language == "console" else "# "), text


@pytest.mark.slow
def test_the_page_from_its_first_block_to_its_last(desk: Desk) -> None:
    """Each file is written and each command typed, in order; each says what the page shows; nothing is left running."""
    for language, text in blocks():
        if language == "console":
            for one in typed(text):
                desk.carry_out(one)
        else:
            desk.write(text)
    assert living(desk.folder) == []


@pytest.mark.slow
def test_a_first_run_that_raises(desk: Desk) -> None:
    """`up` says so and ends with status 1; the stack stays up without an answer, and `run` tries again."""
    for language, text in blocks():
        if language != "console":
            desk.write(text.replace('ingest["returned"]', 'ingest["retruned"]'))
    assert not desk.say("python make_orders.py 60")
    said = desk.say("mainspring up --yes; echo ended with $?")
    assert "step `train` raised `KeyError: 're" in said
    assert "error: no version yet: see `mainspring runs show returns-1`, then `mainspring run returns`" in said
    assert "ended with 1" in said
    assert not desk.say("sed -i s/retruned/returned/ model.py")
    assert "version 1 passed" in desk.say("mainspring run returns --wait")
    desk.carry_out(Typed("mainspring status", ("returns ✔ ready 1 100% 1/1",)))
    assert "everything has stopped" in desk.say("mainspring down")
