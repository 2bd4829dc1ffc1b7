"""What the gateway's workers say of their load, summed; unknown as soon as one that may route says nothing.

What this is: reading `loads/<worker>.json`. Who calls it: the world's `observe`. What it must never do: take a worker
that is silent for one that has nothing to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mainspring.decide.scale import Load
from mainspring.loop.snapshot import ProcessSeen


class _One(msgspec.Struct):
    waiting: int
    running: int
    oldest: float
    rate: float
    slow: float
    seconds: float | None = None


class _Worker(msgspec.Struct):
    at: float
    pid: int
    endpoints: dict[str, _One]


_decode = msgspec.json.Decoder(_Worker).decode


def read(folder: Path, processes: Sequence[ProcessSeen], mono: float, kernel: float) -> dict[str, Load]:
    """Give the load of each endpoint. `mono` is `Now.mono`, and `kernel` the kernel's monotonic clock, of one moment.

    Workers that take requests are those that are ready or stopping. Without any, or where one of them has left no word
    of its own, nothing is known.
    """
    workers = [seen for seen in processes if seen.kind == "gateway" and seen.state in ("ready", "stopping")]
    said = [_said(folder / f"{seen.name}.json", seen.pid) for seen in workers]
    if not said or any(one is None for one in said):
        return {}
    known = [one for one in said if one is not None]
    names = set.intersection(*(set(one.endpoints) for one in known))
    oldest = mono - max(0.0, kernel - min(one.at for one in known))
    return {name: _sum([one.endpoints[name] for one in known], oldest) for name in sorted(names)}


def _said(path: Path, pid: int) -> _Worker | None:
    try:
        found = _decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.pid == pid else None


def _sum(each: Sequence[_One], at: float) -> Load:
    ended = [(one.seconds, one.slow) for one in each if one.seconds is not None]
    weight = math.fsum(slow for _, slow in ended)
    mean = math.fsum(seconds * slow for seconds, slow in ended) / weight if weight > 0 else math.nan
    if ended and not weight > 0:
        mean = math.fsum(seconds for seconds, _ in ended) / len(ended)
    return Load(
        at=at,
        waiting=sum(one.waiting for one in each),
        running=sum(one.running for one in each),
        oldest=max(one.oldest for one in each),
        rate=math.fsum(one.rate for one in each),
        slow=math.fsum(one.slow for one in each),
        seconds=mean,
    )
