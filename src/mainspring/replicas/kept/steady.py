"""What an engine's queue has been over the last few looks: a request that came this moment is no queue.

What this is: pure. An engine takes up what has come between two of its passes, so that one look finds requests waiting
in an engine that has room for all of them. Who calls it: the keeper. What it must never do: make a queue of what one
look has seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.replicas.kept.gauges import Gauges

LOOKS = 5
"""Looks that a queue must have been there, a second apart."""


def steady(looks: Sequence[Gauges]) -> dict[str, float]:
    """`held`: requests that waited all along, and `most`: those worked on at most; nothing is said after fewer looks.

    >>> steady([Gauges(waiting=3.0, running=4.0), Gauges(waiting=0.0, running=2.0)] * 3)
    {'held': 0.0, 'most': 4.0}
    """
    last = looks[-LOOKS:]
    waiting = [one.waiting for one in last if one.waiting is not None]
    running = [one.running for one in last if one.running is not None]
    if len(waiting) < LOOKS or len(running) < LOOKS:
        return {}
    return {"held": min(waiting), "most": max(running)}
