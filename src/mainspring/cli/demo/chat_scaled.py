"""The chat demo's scaling: each change with its reason, how long a replica took to load, and what was there when.

What this is: the loop's own events, in the users' seconds; pure. Who calls it: `chat_report.py`. What it must never
do: find a reason of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CHANGE = re.compile(r"(\d+) → (\d+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was there at a moment. None: nobody said."""

    at: float  # seconds since the users began
    replicas: int  # that answer, of all versions
    waiting: int | None = None  # requests held at the gateway
    running: int | None = None  # requests with replicas


def changes(events: Sequence[Mapping[str, Any]], wall: float) -> list[dict[str, Any]]:
    """Each change of the number of replicas, oldest first. `wall`: when the users began, POSIX seconds."""
    out = []
    for one in sorted(events, key=lambda e: float(e["first"])):
        found = _CHANGE.search(str(one["message"])) if one["reason"] == "Scaled" else None
        if found is not None:
            before, after = int(found[1]), int(found[2])
            loaded = _loaded(one, events) if after > before else None
            at = float(one["first"]) - wall
            out.append({"at": at, "from": before, "to": after, "why": found[3], "loaded": loaded})
    return out


def _loaded(change: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds until the next replica of the same endpoint answered; None: none did."""
    prefix = str(change["about"]).removeprefix("endpoint/") + "-"
    ready = [float(e["first"]) for e in events if e["reason"] == "Ready" and str(e["about"]).startswith(prefix)]
    return min((at - float(change["first"]) for at in ready if at >= float(change["first"])), default=None)


def told(change: Mapping[str, Any]) -> str:
    """A change in a sentence."""
    loaded = f" (answered after {change['loaded']:.1f} s)" if change["loaded"] is not None else ""
    return f"{change['from']} → {change['to']}{loaded}: {change['why']}"
