"""How many replicas there are, what each takes, and how much there is: the arithmetic of a pool with limits.

What this is: pure counting over what is remembered and seen. Who calls it: `place.py`, `scaling.py`, `serve.py`, and
whoever shows numbers of replicas. What it must never do: decide which of them there are to be. Where nobody said what
may be used (`cores` and `memory` beside `machine: this`) there is no limit; the gateway and runs are not counted.
"""

from __future__ import annotations

import math

from mainspring.decide.waves import Room, Size, free
from mainspring.loop.draft import Draft
from mainspring.loop.labels import endpoint_of, label_of, revision_of
from mainspring.loop.launches import launch_for, live_label
from mainspring.loop.memory import Launch, Memory
from mainspring.loop.window import revision_name
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint

TAKES_ROOM = ("starting", "ready", "stopping")


def scales(endpoint: Endpoint) -> bool:
    """Whether the number of replicas follows the load."""
    return endpoint.replicas.high > endpoint.replicas.low


def regions_of(stack: Stack, endpoint: Endpoint) -> int:
    """How often the range of an endpoint counts: once, or once in each region."""
    return len(dealt(stack, endpoint)) if endpoint.replicas.per_region else 1


def dealt(stack: Stack, endpoint: Endpoint) -> tuple[str, ...]:
    """The regions that replicas are dealt out to, in turn; one without a name where there are none."""
    return endpoint.regions or stack.compute.regions or ("",)


def count_of(memory: Memory | Draft, name: str, endpoint: Endpoint, regions: int) -> int:
    """Replicas of an endpoint while nothing is rolled out (of each region, where the file says so)."""
    if not scales(endpoint):
        return endpoint.replicas.low
    kept = memory.scales.get(name)
    want = endpoint.replicas.low
    if kept is not None and kept.want >= 0:
        want = math.ceil(kept.want / regions)
    # A version under way is watched in its own replicas: there is at least one of each.
    return max(want, 1) if name in memory.rollouts else want


def replicas(stack: Stack, name: str, label: str, count: int) -> tuple[tuple[str, str], ...]:
    """The replicas of one revision of an endpoint, as (process, region); regions are dealt out in turn.

    `count`: how many there are, in all or in each region, as the file has it (`count_of`).
    """
    endpoint = stack.serving[name]
    count *= regions_of(stack, endpoint)
    return tuple(named(stack, name, label, index) for index in range(count))


def named(stack: Stack, name: str, label: str, index: int) -> tuple[str, str]:
    """One replica of a revision, as (process, region): its number says in which region it is, whatever the revision."""
    regions = dealt(stack, stack.serving[name])
    return f"{revision_name(name, label)}-{index}", regions[index % len(regions)]


def limits_of(stack: Stack) -> Room:
    """What all replicas together may use of the machine that everything runs on."""
    pool = stack.compute.pools.get(stack.orchestration.where)
    if pool is None or pool.machine is None:
        return Room()
    return Room(pool.cores or math.inf, pool.memory or math.inf)


def size_of(endpoint: Endpoint, launch: Launch) -> Size:
    """What one replica takes, by the stack file: its `cores`, else its threads; its `memory` where that is said."""
    return Size(endpoint.cores or launch.threads, float(endpoint.memory or 0.0))


def size_in(draft: Draft, name: str, label: str) -> Size:
    """What one replica of a revision takes."""
    return size_of(draft.s.desired.stack.serving[name], launch_for(draft, name, label))


def live_size(draft: Draft, name: str) -> Size:
    """What one replica of what an endpoint answers with takes."""
    return size_in(draft, name, live_label(draft, name))


def normal(draft: Draft) -> dict[str, int]:
    """Replicas of each endpoint while nothing is rolled out; where not all have room, the file's first go first."""
    stack = draft.s.desired.stack
    limits, taken, found = limits_of(stack), Size(), {}
    for name, endpoint in stack.serving.items():
        regions, one = regions_of(stack, endpoint), live_size(draft, name)
        found[name] = min(count_of(draft, name, endpoint, regions) * regions, free(limits, taken, one))
        taken = taken.and_(one.times(found[name]))
    return found


def normal_of(draft: Draft, name: str) -> int:
    """The same of one endpoint."""
    stack = draft.s.desired.stack
    if limits_of(stack).is_limited:
        return normal(draft)[name]
    endpoint = stack.serving[name]
    regions = regions_of(stack, endpoint)
    return count_of(draft, name, endpoint, regions) * regions


def nowhere(draft: Draft, name: str) -> str:
    """Why an endpoint cannot have a replica at all now, so that nothing is rolled out behind it; "" where it can."""
    stack = draft.s.desired.stack
    if not stack.serving[name].replicas.high:
        return f"`{name}` has no replicas"
    limits = limits_of(stack)
    if not limits.is_limited:
        return ""
    counts, taken = normal(draft), Size()
    for before in list(stack.serving)[: list(stack.serving).index(name)]:
        taken = taken.and_(live_size(draft, before).times(counts[before]))
    if free(limits, taken, live_size(draft, name)):
        return ""
    return f"`{name}` has no room for a replica beside those of endpoints above it ({said(stack)} may be used)"


def takes_room(draft: Draft, process: str) -> bool:
    """Whether a replica is there, or was begun and is not seen yet."""
    seen, kept = draft.process(process), draft.processes.get(process)
    if kept is not None and (seen is None or seen.generation < kept.generation):
        return True
    return seen is not None and seen.state in TAKES_ROOM


def used(draft: Draft, *, but: str = "", without: str = "") -> Size:
    """What the replicas that are there take; not the process `but`, nor those of the endpoint `without`."""
    serving = draft.s.desired.stack.serving
    names = {p.name for p in draft.s.observed.processes if p.kind == "replica"}
    names |= {process for process in draft.processes if endpoint_of(process) in serving}
    total = Size()
    for process in names - {but}:
        name = endpoint_of(process)
        if name != without and takes_room(draft, process):
            label = label_of(revision_of(process))
            total = total.and_(size_in(draft, name, label) if name in serving else Size(cores=1.0))
    return total


def has_room(draft: Draft, process: str, size: Size) -> bool:
    """Whether a replica of this size can be started now, beside all that are there."""
    limits = limits_of(draft.s.desired.stack)
    return not limits.is_limited or limits.fits(used(draft, but=process).and_(size))


def said(stack: Stack) -> str:
    """The limits in words: ``2 cores and 4 GB of `laptop` ``."""
    limits = limits_of(stack)
    parts = [f"{limits.cores:g} core{'s' * (limits.cores != 1)}"] if math.isfinite(limits.cores) else []
    if math.isfinite(limits.memory):
        parts.append(f"{limits.memory / 1e9:.3g} GB")
    return f"{' and '.join(parts)} of `{stack.orchestration.where}`"
