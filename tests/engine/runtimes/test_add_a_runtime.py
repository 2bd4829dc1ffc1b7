"""The page `docs/add-a-runtime.md`, carried out as it stands: its files are written, its commands are typed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "add-a-runtime.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    """The page's fenced blocks: language and text."""
    return FENCE.findall(PAGE.read_text(encoding="utf-8"))


def desk(folder: Path) -> dict[str, str]:
    """An environment whose commands are this checkout's; `pip` installs into `folder`."""
    commands, installed = folder / "bin", folder / "installed"
    commands.mkdir()
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    for name, line in {
        "python": f'"{sys.executable}"',
        "pytest": f'"{sys.executable}" -m pytest -p no:cacheprovider',
        "mainspring": f'"{sys.executable}" -m mainspring.cli.main',
        "pip": f'"{sys.executable}" -m pip --disable-pip-version-check',
        "uv": f'"{uv}"',
    }.items():
        target = f' --target "{installed}"' if name == "pip" else ""
        words = '"$@"' if name != "pip" else f'"$1"{target} "${{@:2}}"'
        (commands / name).write_text(f"#!/bin/bash\nexec {line} {words}\n")
        (commands / name).chmod(0o755)
    path = os.pathsep.join([str(installed), str(ROOT / "src")])
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": path, "NO_COLOR": "1"}


def missing(shown: list[str], said: str) -> str:
    """The first line of the page that was not said in its turn; `...` stands for anything."""
    lines = iter([" ".join(line.split()) for line in said.splitlines()])
    for line in shown:
        if line.strip() in ("", "..."):
            continue
        wanted = re.compile(".*".join(re.escape(part) for part in " ".join(line.split()).split("...")))
        if not any(wanted.fullmatch(one) for one in lines):
            return line
    return ""


def carry_out(block: str, folder: Path, environment: dict[str, str]) -> None:
    """Type the commands of a console block; each says what the page shows below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=540, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"`{command}`\n{done.stdout}"
        assert not missing(shown, done.stdout), f"`{command}`\nlacks: {missing(shown, done.stdout)}\n{done.stdout}"


def test_every_block_is_carried_out() -> None:
    """The page has no block that this test would pass over, and its files say their names."""
    for language, text in blocks():
        assert language in ("python", "text", "toml", "console")
        assert text.startswith("$ " if language == "console" else "# "), text


def test_the_page_from_its_first_block_to_its_last(tmp_path: Path) -> None:
    """A server is added as the page says, in a package of its own, and passes the conformance suite."""
    folder = tmp_path / "small"
    (folder / "small_runtime").mkdir(parents=True)
    (folder / "small_runtime" / "__init__.py").touch()
    environment = desk(tmp_path)
    for language, text in blocks():
        if language == "console":
            carry_out(text, folder, environment)
        else:
            name = text.partition("\n")[0].removeprefix("# ")
            (folder / name).write_text(text, encoding="utf-8")
