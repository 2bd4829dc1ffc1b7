"""What the gateway's workers say of their load, summed; unknown as soon as one that may route says nothing.

What this is: reading `loads/<worker>.json`, and beside it what engines say of their own queues in the `gauges.json` of
each replica that has any: a request that the gateway has passed on may wait there still. Who calls it: the world's
`observe`. What it must never do: take a worker that is silent for one that has nothing to do, or believe an engine's
word that is old.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from mainspring.decide.scale import Load
from mainspring.loop.snapshot import ProcessSeen

FRESH = 5.0
"""Seconds after which what an engine said of its queue is not believed any more; it is said every second."""
GAUGES = "gauges.json"


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


class _Engine(msgspec.Struct):
    at: float  # the kernel's monotonic clock
    pid: int  # of the replica's process
    endpoint: str
    held: float = 0.0  # requests that waited in the engine all along, over the last seconds
    most: float = 0.0  # that it worked on at most, over the same seconds


_decode = msgspec.json.Decoder(_Worker).decode
_decode_engine = msgspec.json.Decoder(_Engine).decode


def read(
    folder: Path, processes: Sequence[ProcessSeen], mono: float, kernel: float, replicas: Path | None = None
) -> dict[str, Load]:
    """Give the load of each endpoint. `mono` is `Now.mono`, and `kernel` the kernel's monotonic clock, of one moment.

    Workers that take requests are those that are ready or stopping. Without any, or where one of them has left no word
    of its own, nothing is known. `replicas` is the folder that has one folder a process: what engines let wait counts
    as waiting, and no more as running.
    """
    loads = _of_gateways(folder, processes, mono, kernel)
    if replicas is None or not loads:
        return loads
    engines = [_of_engine(replicas / one.name / GAUGES, one.pid, kernel) for one in processes if _serves(one)]
    return {
        name: _with_engines(load, [one for one in engines if one is not None and one.endpoint == name])
        for name, load in loads.items()
    }


def _serves(seen: ProcessSeen) -> bool:
    return seen.kind == "replica" and seen.state == "ready"


def _of_engine(path: Path, pid: int, kernel: float) -> _Engine | None:
    """What an engine says; None where it says nothing, or said it long ago, or another process did."""
    try:
        found = _decode_engine(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    sound = math.isfinite(found.held) and math.isfinite(found.most)
    return found if found.pid == pid and sound and 0.0 <= kernel - found.at <= FRESH else None


def _with_engines(load: Load, engines: Sequence[_Engine]) -> Load:
    """The same requests, those that wait in an engine counted as waiting."""
    pressed = [one for one in engines if one.held >= 1.0]
    if not pressed:
        return load
    held = min(load.running, int(math.fsum(one.held for one in pressed)))
    room = max(1, int(math.fsum(one.most for one in pressed) / len(pressed)))
    return replace(load, waiting=load.waiting + held, running=load.running - held, room=room)


def _of_gateways(folder: Path, processes: Sequence[ProcessSeen], mono: float, kernel: float) -> dict[str, Load]:
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
