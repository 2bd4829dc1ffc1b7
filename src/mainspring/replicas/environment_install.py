"""Making a virtual environment from a requirement set: uv where it is there, else pip.

What this is: the steps, the installer as a process, its output as progress, its failures as errors with a remedy. Who
calls it: `environment.py`, which holds the lock and says when an environment counts. What it must never do: install
a package whose hash is not in the set, or outlive its caller.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from mainspring.errors import EnvironmentError_
from mainspring.replicas.environment_lock import parted

CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch's makers put what PyPI does not take: builds with a local version."""

TICK = 0.5  # seconds between two looks at whether to stop
HEARTBEAT = 10.0  # seconds of silence until something is said
LITTLE = 1 << 20  # bytes of free disk at which it was the disk
GRACE = 5.0  # seconds that an installer has to end by itself

_MORTAL = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
"""Runs a command so that it is killed when this process dies (1: PR_SET_PDEATHSIG)."""
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE",
                  "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")  # fmt: skip
_TROUBLES: tuple[tuple[str, str, str, str], ...] = (
    ("no space left|disk quota|file too large|os error 28", "disk-full", "the disk is full",
     "mainspring runtime remove --unused, or name a folder with space in MAINSPRING_RUNTIMES"),
    ("hash mismatch|do not match the hashes", "wrong-hash", "a package is not the one that was locked",
     "your package index serves another file: set the right one, then mainspring runtime install {name}"),
    ("must have a hash|hashes are required", "no-hash", "a package is locked without a hash",
     "uv pip compile --generate-hashes"),
    ("dns error|could not connect|connection (?:refused|reset)|time(?:d )?out|failed to fetch|newconn|reading a body",
     "no-network", "the package index can't be reached",
     "when there is a network again: mainspring runtime install {name}"),
    ("no solution found|no matching distribution|no version of|not found in the package registry|has no wheels",
     "no-build", "a package is not to be had for this machine", "mainspring runtime doctor {name}"),
)  # fmt: skip
"""What an installer says (a regular expression, lower case), and what it means: code, sentence, hint."""


class Trouble(Exception):
    """An installer failed; it says what it printed last. Translated before a person sees it."""


def uv() -> str | None:
    """The program `uv`: beside this interpreter, or in PATH."""
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def make(name: str, text: str, folder: Path, tell: Callable[[str], None], stop: Callable[[], bool], lock: int) -> str:
    """Make the environment `name` in `folder` from a requirement set; returns the installer's name.

    `lock` is a descriptor that the installer keeps open as long as it runs. Raises `EnvironmentError_`: what is in
    the folder then is for nothing.
    """
    steps = Steps(name, folder, tell, stop, lock)
    builds, others = parted(text)
    try:
        steps.begin()
        if builds:
            steps.builds(builds)
        steps.install(others)
    except Trouble as trouble:
        full = shutil.disk_usage(folder.parent).free < LITTLE  # not every step says why it failed
        raise _explained(name, f"{trouble}\nno space left" if full else str(trouble)) from trouble
    return "uv" if steps.uv else "pip"


class Steps:
    """The steps that make one environment."""

    def __init__(
        self, name: str, folder: Path, tell: Callable[[str], None], stop: Callable[[], bool], lock: int
    ) -> None:
        self.name, self.folder, self.stop, self.lock = name, folder, stop, lock
        self.uv = uv()
        self.python = str(folder / "bin" / "python")
        self.progress = Progress(name, tell)

    def begin(self) -> None:
        """The empty environment."""
        self.progress.say(f"an environment in {self.folder}")
        bare = ["--without-pip"] if self.uv else []
        self.run([sys.executable, "-m", "venv", *bare, str(self.folder)])

    def builds(self, text: str) -> None:
        """The packages that are on no index but their maker's: from pip's own `find-links` first, where it is set."""
        wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or ""
        near = ["--no-index", *(f"--find-links={where}" for where in wheels.split())]
        if wheels:
            try:
                self.install(text, near)
            except Trouble as trouble:
                self.progress.say(f"not in {wheels} ({str(trouble).splitlines()[-1].strip()}): asking {CPU_BUILDS}")
            else:
                return
        self.install(text, [f"--index-url={CPU_BUILDS}"])

    def install(self, text: str, source: list[str] | None = None) -> None:
        """A requirement set, from where the installer is set up to look, or from `source`."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            pinned = ["--no-deps", "--require-hashes", "--requirement", file.name, *(source or [])]
            if self.uv:
                self.run([self.uv, "pip", "install", "--python", self.python, "--compile-bytecode", *pinned])
            else:
                self.run([self.python, "-m", "pip", "install", "--progress-bar=off", *pinned])

    def run(self, command: list[str]) -> None:
        """Run a step to its end; raises `Trouble` when it fails, `EnvironmentError_` when it is to stop."""
        env = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
        env |= {"NO_COLOR": "1", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "UV_PYTHON_DOWNLOADS": "never"}  # fmt: skip
        mortal = [sys.executable, "-I", "-S", "-c", _MORTAL] if sys.platform == "linux" else []
        last: deque[str] = deque(maxlen=40)
        with subprocess.Popen([*mortal, *command], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, pass_fds=[self.lock]) as child:  # fmt: skip
            try:
                for line in self._lines(child):
                    last.append(line)
                    self.progress.read(line)
            except BaseException:
                _end(child)
                raise
        if child.returncode == -signal.SIGXFSZ:  # killed for a file that may not grow: it can't say so itself
            last.append("file too large")
        if child.returncode:
            by = f"{Path(command[0]).name} ended with {child.returncode}"
            raise Trouble("\n".join(line for line in last if line.strip()) or by)

    def _lines(self, child: subprocess.Popen[bytes]) -> Iterator[str]:
        """What it prints, line by line, while looking whether to stop."""
        assert child.stdout is not None
        left = b""
        while True:
            if self.stop():
                message = f"the installation of `{self.name}` was stopped"
                raise EnvironmentError_("stopped", message, f"mainspring runtime install {self.name}")
            if not select.select([child.stdout], [], [], TICK)[0]:
                self.progress.beat()
                continue
            read = os.read(child.stdout.fileno(), 65536)
            *lines, left = (left + read).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
            if not read:
                yield from [left.decode(errors="replace")] if left else []
                return


class Progress:
    """An installer's output, as lines that a person wants."""

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self.name, self.tell = name, tell
        self.began = self.said = time.monotonic()
        self.sizes: dict[str, float] = {}  # MiB of the packages that are fetched
        self.there: set[str] = set()
        self.doing = "starting"

    def say(self, what: str) -> None:
        """Tell it, with the environment's name before and the seconds after."""
        self.doing, self.said = what, time.monotonic()
        self.tell(f"{self.name}: {what} ({self.said - self.began:.0f} s)")

    def beat(self) -> None:
        """Show that it still runs."""
        if time.monotonic() - self.said > HEARTBEAT:
            self.say(self.doing)

    def read(self, line: str) -> None:
        """Read a line of uv or pip."""
        line = line.strip()
        if found := re.match(r"Downloading (\S+) \(([\d.]+) ?([KMG])i?B\)", line):
            name = re.split(r"-\d", found[1].rpartition("/")[2])[0]
            self.sizes[name] = float(found[2]) * {"K": 1 / 1024, "M": 1.0, "G": 1024.0}[found[3]]
            self.say(self._fetching())
        elif found := re.match(r"Downloaded (\S+)", line):
            self.there.add(found[1])
            self.say(self._fetching())
        elif line.startswith("Collecting "):  # pip fetches one after the other
            self.there.update(self.sizes)
        elif found := re.match(r"Resolved (\d+) packages?", line):
            self.say(f"{_packages(found[1])} to install")
        elif found := re.match(r"Prepared (\d+) packages?", line):
            self.say(f"{found[1]} fetched, unpacking all")
        elif found := re.match(r"(?:Installed (\d+) packages?|Successfully installed (.*))", line):
            count = found[1] or str(len(found[2].split()))
            self.say(f"{_packages(count)} installed" + (", compiling their bytecode" if found[1] else ""))
        elif line.startswith(("Building ", "Installing collected")):
            self.say(line[0].lower() + line[1:].partition(":")[0])

    def _fetching(self) -> str:
        left = [name for name in self.sizes if name not in self.there]
        total = sum(self.sizes.values())
        there = sum(size for name, size in self.sizes.items() if name in self.there)
        count = f"{len(self.sizes) - len(left)} of {len(self.sizes)}"
        so_far = f"{count} large packages there, {there:.0f} of {total:.0f} MiB"
        return f"fetching {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}; {so_far}" if left else so_far


def _packages(count: str) -> str:
    return f"{count} package{'' if count == '1' else 's'}"


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


def _explained(name: str, said: str) -> EnvironmentError_:
    """An installer's last words as an error with a remedy."""
    words = [line.strip(" │×╰─▶├") for line in said.splitlines()]
    for pattern, code, sentence, hint in _TROUBLES:
        telling = [line for line in words if re.search(pattern, line.lower())]
        if telling:
            told = ": ".join(dict.fromkeys(line[:200] for line in (telling[0], telling[-1])))
            message = f"`{name}` can't be installed: {sentence}: {told}"
            return EnvironmentError_(code, message, hint.format(name=name))
    errors = [line for line in words if line.lower().startswith(("error", "failed"))][:1] + words[-1:]
    message = f"`{name}` can't be installed: {': '.join(dict.fromkeys(errors))[:400]}"
    return EnvironmentError_("install-failed", message, f"mainspring runtime doctor {name}")
