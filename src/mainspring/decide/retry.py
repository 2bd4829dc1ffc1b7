"""Whether a request that failed is sent to another replica.

What this is: a pure function over scalars, in the subset of Python that numba compiles. Who calls it: the gateway, when
a replica failed a request; the twin. What it must never do: let one request go through the replicas killing one after
another, answer twice, or turn an overload into a larger one.

The budget is Envoy's: retries may be a share of the requests of late (20 % there), and a few are always allowed (3).
"""

from __future__ import annotations

REFUSED = 0
"""No connection, so nothing was sent."""
STALE = 1
"""A connection that was used before was closed before any byte of an answer."""
DIED = 2
"""The connection ended, or what came was no HTTP, after the request was sent."""
LATE = 3
"""No answer in time: it may still be worked on."""

UNKNOWN = 1_000
"""Exit status of a replica of which nobody can tell whether it ended."""
RUNNING = 1_001
"""Exit status of a replica that is known to be still there."""

FEW = 3
"""Retries that are always within the budget."""
PARTS = 10_000
"""`share` is in parts of this."""


def tells(failure: int, status: int) -> bool:
    """Whether a failure says something of the replica; a used connection may close while its process runs."""
    return failure != STALE or status not in (RUNNING, UNKNOWN)


def again(
    failure: int, sent: int, tries: int, retried: int, requests: int, share: int, alone: bool, status: int = UNKNOWN
) -> bool:
    """Whether to send a request to a replica again after `failure` (REFUSED, STALE, DIED or LATE).

    `sent`: bytes of an answer that the client got. `tries`: replicas that had the request, this one included (one that
    refused had not). `retried` of `requests` of late were sent again; `share` is the most, in parts of 10,000.
    `alone`: no other request was with the replica. `status`: the exit status of its process (minus the signal),
    RUNNING or UNKNOWN. It is written some milliseconds after the death, so ask after that.

    A refusal is no try and no load: it is always sent on, as long as the caller's time lasts.
    """
    if sent > 0 or failure == LATE:
        return False
    if failure == REFUSED:
        return True
    if tries > 1 or (retried >= FEW and retried * PARTS >= requests * share):
        return False
    if status == RUNNING:
        return True
    if status == UNKNOWN:  # an idle connection may close at any time; else one of those who were there killed it
        return failure == STALE or not alone
    # Ended from outside: by itself in good order, hang-up, interrupt, kill, terminate. All else is a crash: its doing?
    return status in (0, -1, -2, -9, -15)
