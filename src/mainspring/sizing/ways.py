"""The ways to run a replica: device, parallelism or slice, precision of weights and of the KV cache.

What this is: an enumeration, pure. Who calls it: `answer.py`, `levers.py`. What it must never do: judge a way: those
that don't fit or can't keep the promise are refused later, with the number.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from mainspring.decide.fit import groups
from mainspring.facts.gpus import Gpu
from mainspring.facts.mig import profiles
from mainspring.facts.shapes import ModelShape
from mainspring.facts.support import supports, supports_cache
from mainspring.sizing.question import Mix, Pool, Question, Way


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may differ from the file."""

    devices: bool = True  # other pools, and other parallelism
    slices: bool = True  # MIG
    precisions: bool = True  # those of the question beside the file's own
    mixes: tuple[Mix, ...] = ()  # how devices may be bought instead; (): as the pool says


def _precisions(question: Question, pool: Pool, allowed: Allowed) -> list[tuple[str, str, tuple[str, ...]]]:
    """Precision of the weights, of the cache, and what the user has to accept; proposals that the device has not are
    left out, the file's own never is.
    """
    own, cache, device = question.precision, question.kv, pool.device
    if not isinstance(device, Gpu):
        own = own if own == "int8" else "fp32"  # what a CPU computes in
    known = {own, *question.accepted}
    weights, caches = [own], [cache]
    if allowed.precisions and isinstance(device, Gpu):
        weights += [
            each
            for each in question.precisions
            if supports(device, each, question.engine) is None and not _twin(each, device, question)
        ]
        if isinstance(question.model, ModelShape):
            caches += [each for each in question.caches if supports_cache(device, each) is None]
    elif allowed.precisions:
        weights += [each for each in question.precisions if each == "int8"]
    found = []
    for each in dict.fromkeys(weights):
        for kept in dict.fromkeys(caches):
            accept = [f"quality at {each}"] * (each not in known)
            accept += [f"quality with a KV cache at {kept}"] * (kept != cache)
            found.append((each, kept, tuple(accept)))
    return found


def _twin(precision: str, gpu: Gpu, question: Question) -> bool:
    """Whether INT8 is only FP8 by another name: as many bytes, on a GPU that has both, and not asked for."""
    return (
        precision == "int8"
        and "fp8" in gpu.flops
        and "fp8" in (*question.precisions, question.precision)
        and (precision not in question.accepted)
    )


def _shapes(question: Question, pool: Pool, allowed: Allowed) -> list[tuple[int, str, int]]:
    """Devices of a replica, slice, slices of a device."""
    device, model = pool.device, question.model
    if not isinstance(device, Gpu):
        return [] if isinstance(model, ModelShape) else [(1, "", 1)]
    whole = [(tp, "", 1) for tp in groups(model, pool.per_node)] if isinstance(model, ModelShape) else [(1, "", 1)]
    cut = [one for one in profiles(device.mig) if len(one.starts) > 1] if device.mig and allowed.slices else []
    return whole + [(1, one.name, len(one.starts)) for one in cut]


def _same(way: Way, written: Way, allowed: Allowed) -> bool:
    """Whether a way is on the devices that the file says, or on slices of them where slices are allowed."""
    if way.pool != written.pool:
        return False
    if way.slice != written.slice:
        return allowed.slices and bool(way.slice)
    return way.gpus == written.gpus


def ways(question: Question, allowed: Allowed | None = None) -> tuple[Way, ...]:
    """All ways that are allowed, in the order of the pools; the written one is among them."""
    allowed = allowed or Allowed()
    written = question.written.way if question.written else None
    found: list[Way] = []
    for pool in question.pools:
        unit: Literal["GPU", "server"] = "GPU" if isinstance(pool.device, Gpu) else "server"
        kinds = _precisions(question, pool, allowed)
        for (gpus, name, slots), (precision, kv, accept) in itertools.product(_shapes(question, pool, allowed), kinds):
            for mix in allowed.mixes or (pool.mix,):
                way = Way(pool.name, pool.device.name, gpus, precision, kv, name, slots, mix, accept, unit)
                if allowed.devices or written is None or _same(way, written, allowed):
                    found.append(way)
    if written is not None and not any(way.engine_key == written.engine_key for way in found):
        found = [replace(written, mix=mix) for mix in allowed.mixes or (written.mix,)] + found
    return tuple(found)
