"""Fault makers: a tiny disk, a read-only folder, killed processes, a kernel short of memory. Each undoes itself.

Who calls it: tests. What it must never do: touch a process or a folder that the test did not make.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mainspring
from mainspring.testing.meanwhile import Meanwhile


class CannotFault(Exception):
    """This machine does not let the fault be made; skip the test, loudly."""


@contextlib.contextmanager
def tiny_disk(at: Path, size: str = "256k") -> Iterator[Path]:
    """A file system of its own with little space; raises `CannotFault` without the right to mount."""
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotFault(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False)


@contextlib.contextmanager
def read_only(at: Path) -> Iterator[Path]:
    """Make a folder read-only, for root as well (a read-only bind mount); raises `CannotFault`."""
    if os.geteuid():
        mode = at.stat().st_mode
        at.chmod(0o500)
        try:
            yield at
        finally:
            at.chmod(mode)
        return
    for command in (["mount", "--bind", str(at), str(at)], ["mount", "-o", "remount,ro,bind", str(at)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False)
            raise CannotFault(f"cannot mount a folder read-only: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False)


def same_mainspring() -> dict[str, str]:
    """The environment in which a child process imports the Mainspring that this one runs, from any folder."""
    return {**os.environ, "PYTHONPATH": str(Path(mainspring.__file__).resolve().parents[1])}


def fill(folder: Path) -> Path:
    """Take all space that is left on a (tiny!) disk; remove the file that is returned to give it back."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    if not file.write(b"x" * size):
                        break
    return filler


def kill(pid: int) -> None:
    """`kill -9` one process; nothing when it is gone. Refuses 0 and 1."""
    if pid > 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Poll until something holds; raises `AssertionError` that says what did not come."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class KillsUnderLoad(Meanwhile):
    """A kernel short of memory: it kills a server that has more than so many requests at once. Use it as a context.

    What it counts are connections to the server's port, so that it must be one that takes each request on its own.
    """

    def __init__(self, server: Callable[[], tuple[int, int]], most: int) -> None:
        """`server`: process id and port of who is killed, 0 while there is nobody; `most`: requests that it stands."""
        super().__init__()
        self._server, self._most = server, most
        self.kills = 0

    def go_on(self) -> None:
        """Count, and kill."""
        while not self.over.wait(0.01):
            pid, port = self._server()
            if pid > 1 and port and is_alive(pid) and _connected(port) > self._most:
                kill(pid)
                self.kills += 1


def _connected(port: int) -> int:
    """Connections that a server's port has, from the kernel's table."""
    wanted, established = f":{port:04X}", "01"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[1].endswith(wanted) and row[3] == established for row in rows)
