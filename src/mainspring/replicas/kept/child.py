"""The server as a process, with all that it starts.

What this is: started so that it dies with its keeper, seen with its descendants, ended for certain. Who calls it:
`keeper.py`. What it must never do: touch a process that the server did not start.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mainspring.runtimes.descriptor import Command

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NOT_PASSED_ON = ("PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV", "PYTHONHOME")
"""Variables of the keeper's own interpreter, which would put its packages into another environment's."""


def environment_of(command: Command, base: Mapping[str, str]) -> dict[str, str]:
    """The environment that a command is run with."""
    return {name: value for name, value in base.items() if name not in NOT_PASSED_ON} | dict(command.env)


def adopt_orphans() -> None:
    """From now on a descendant whose parent has died becomes a child of this process, where the system has that."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(command: Command, folder: Path) -> subprocess.Popen[bytes]:
    """Start a command in `folder`; what it prints goes where this process prints. Raises `OSError`."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    return subprocess.Popen(  # the runtime's command, never a shell
        command.argv,
        cwd=folder,
        env=environment_of(command, os.environ),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        stderr=sys.stderr.fileno(),
        preexec_fn=die_with_parent,  # noqa: PLW1509  # before any thread of ours
    )


def descendants(root: int) -> list[int]:
    """Process ids of all that a process has started, and what those have, itself left out."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, left = [], [root]
    while left:
        mine = parents.get(left.pop(), [])
        found += mine
        left += mine
    return found


def resident(pids: list[int]) -> int:
    """Bytes of memory that processes have of their own: shared pages count in parts (PSS), where the kernel says so."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += _proportional(pid)
    return total


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reap(child: subprocess.Popen[bytes]) -> None:
    """Bury what has ended of the processes that were adopted; the server itself is left to `child`."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == child.pid:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def end(child: subprocess.Popen[bytes], grace: float) -> bool:
    """Ask it to end, and kill it and all that it started after `grace` seconds; whether it ended by itself."""
    by_itself = True
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            by_itself = False
    kill_all(os.getpid())
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5.0)
    return by_itself


def kill_all(root: int, patience: float = 5.0) -> None:
    """Kill all that a process has started, until there is nothing left (a fork may run ahead of one look)."""
    until = time.monotonic() + patience
    while (left := [pid for pid in descendants(root) if not is_zombie(pid)]) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended: it is gone, or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
