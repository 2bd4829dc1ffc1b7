"""`python -m mainspring.replicas.adapters.torchserve_run BUSY SECONDS COMMAND...`: TorchServe, ended with care.

What this is: the parent of TorchServe's Java process. On SIGTERM TorchServe drops what it has; so this process waits
until no worker has been at work for `SECONDS` (longer than a batch waits for company), and then passes the signal on.
Who calls it: the keeper. What it must never do: outlive the server, or leave it behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOOK = 0.02  # seconds


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def is_busy(path: Path) -> bool:
    """Whether a worker holds the lock that it takes for a batch."""
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def run(busy: Path, quiet: float, command: list[str]) -> int:
    """Run the server to its end; gives the exit status."""
    told = False

    def tell(_: int, __: object) -> None:
        nonlocal told
        told = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    server = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: PLW1509  # this process has one thread
    since = 0.0
    while server.poll() is None:
        time.sleep(LOOK)
        now = time.monotonic()
        if not told or is_busy(busy):
            since = now
        elif now - since >= quiet:
            server.terminate()
            break
    status = server.wait()
    return 0 if told else 128 - status if status < 0 else status


def main() -> None:
    """Run, and end as the server ended."""
    busy, quiet, *command = sys.argv[1:]
    os._exit(run(Path(busy), float(quiet), command))


if __name__ == "__main__":
    main()
