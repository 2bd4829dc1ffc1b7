"""Is a replica of llama.cpp still busy? Its own counters, and bytes that a reader has not taken yet.

What this is: the question that is asked before the process ends. Who calls it: `__main__`.
What it must never do: wait for idle connections, of which the gateway's pools have many.
"""

from __future__ import annotations

import time

from mainspring.replicas.asking import ask, is_sending

WAITING = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
PAUSE = 0.05
"""Seconds between two looks."""


def requests_inside(metrics: str) -> int:
    """Requests that are worked on or wait for a slot, from the engine's metrics."""
    lines = (line.split() for line in metrics.splitlines() if line.startswith(WAITING))
    return int(sum(float(words[1]) for words in lines if len(words) == 2))


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
    return bool(inside) or is_sending(port)
