"""The processes in which a server holds a model, where it has such.

What this is: found by their command lines once the model is loaded, and looked at. A server may say that it is ready
while the process that would answer is dead. Who calls it: the keeper. What it must never do: send a signal.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mainspring.replicas.kept import child
from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.runtimes.descriptor import Server


def of(root: int, server: Server, model: str) -> tuple[int, ...]:
    """Process ids below `root`, the server's own; none where the server has no such processes."""
    if server.workers is None:
        return ()
    mark = server.workers(model).encode()
    found = []
    for pid in child.descendants(root):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return tuple(found)


def check(pids: tuple[int, ...], title: str) -> None:
    """Raises `ServerEndedError` when one of them has died."""
    for pid in pids:
        if child.is_zombie(pid):
            raise ServerEndedError(f"{title} lost the process {pid}, which held the model")
