"""Is a replica of llama.cpp still busy? Its own counters, and bytes that a reader has not taken yet.

What this is: the question that is asked before the process ends. Who calls it: `__main__`.
What it must never do: wait for idle connections, of which the gateway's pools have many.
"""

from __future__ import annotations

import http.client
import time
from pathlib import Path

WAITING = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
ESTABLISHED = frozenset({"01", "08"})  # and half closed by the reader, who still reads

PAUSE = 0.05
"""Seconds between two looks."""


def ask(address: str, method: str, path: str, key: str = "", body: bytes | None = None, timeout: float = 5.0) -> bytes:
    """One request to the engine; returns the body of a 200, raises `OSError` for all else."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    headers = {"connection": "close", "content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} at {path}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{answer.status} at {path}: {content[:200]!r}")
    return content


def requests_inside(metrics: str) -> int:
    """Requests that are worked on or wait for a slot, from the engine's metrics."""
    lines = (line.split() for line in metrics.splitlines() if line.startswith(WAITING))
    return int(sum(float(words[1]) for words in lines if len(words) == 2))


def unsent(table: str, port: int) -> int:
    """Bytes that wait in sockets of `port` for their readers, from a table of /proc/net/tcp."""
    total = 0
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 4 and words[3] in ESTABLISHED and int(words[1].rpartition(":")[2], 16) == port:
            total += int(words[4].partition(":")[0], 16)
    return total


def drained(address: str, port: int, key: str, seconds: float) -> bool:
    """Wait until all answers have gone out, at most `seconds`; whether they have.

    Two looks in a row must find nothing: between them the engine hands the last piece of an answer to its socket.
    """
    until = time.monotonic() + seconds
    quiet = 0
    while quiet < 2:
        busy = _busy(address, port, key)
        quiet = 0 if busy else quiet + 1
        if busy and time.monotonic() >= until:
            return False
        time.sleep(PAUSE)
    return True


def _busy(address: str, port: int, key: str) -> bool:
    try:
        inside = requests_inside(ask(address, "GET", "/metrics", key).decode())
    except OSError:  # it answers between passes only, and a pass may be long
        return True
    return bool(inside) or any(unsent(table.read_text(), port) for table in TABLES if table.exists())
