"""Replicas, gateway workers and routes: what should answer, and through which door.

What this is: the order in which it is seen to; which replicas there are is chosen in `place.py`, routes in `routed.py`,
and the life of a process is in `supervise.py`. Who calls it: `decide.py`, last. What it must never do: start a version
that the registry does not have.
"""

from __future__ import annotations

from mainspring.loop import launches
from mainspring.loop.draft import Draft
from mainspring.loop.labels import version_number
from mainspring.loop.memory import Launch
from mainspring.loop.place import Placed, placed
from mainspring.loop.plan import StartGateway, StartReplica
from mainspring.loop.room import said
from mainspring.loop.routed import route
from mainspring.loop.snapshot import VersionSeen
from mainspring.loop.supervise import stop_others, supervise
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import KEPT
from mainspring.stack.serving import Endpoint


def serve(draft: Draft) -> None:
    """Start what should answer, restart what died, route to what is ready, stop what nobody is routed to."""
    wanted: set[str] = set()
    if not draft.s.desired.down:
        launches.note(draft)
        places = {name: placed(draft, name) for name in draft.s.desired.stack.serving}
        wanted = {process for place in places.values() for mine in place.revisions.values() for process, _ in mine}
        wanted |= _gateways(draft)
        for name, place in places.items():
            _replicas(draft, name, place, wanted)
        route(draft, places)
    stop_others(draft, wanted)


def _replicas(draft: Draft, name: str, place: Placed, wanted: set[str]) -> None:
    """Hold the replicas of one endpoint up, those that answer already before new ones."""
    endpoint = draft.s.desired.stack.serving[name]
    if name in draft.rollouts and not place.leaves:
        _tell_how(draft, name, place)
    for label, mine in place.revisions.items():
        if label == place.leaves:
            continue  # they answer while they can: none of them is started again
        version = draft.version(endpoint.model_name, version_number(label))
        if version is None or not version.servable:
            number = version_number(label)
            why = f"version {number} of `{endpoint.model_name}` is not in the registry, or cannot be served"
            draft.wait(f"endpoint/{name}", why)
            continue  # what still answers goes on; it cannot be started again
        for process, region in mine:
            supervise(draft, _start(draft, name, label, version, process, region), wanted)


def _tell_how(draft: Draft, name: str, place: Placed) -> None:
    """Say how the new replicas get their room, where it is not beside the old ones."""
    rollout = draft.rollouts[name]
    if place.waits:
        draft.wait(f"endpoint/{name}/room", place.waits)
        return
    there = f"{said(draft.s.desired.stack)} may be used"
    if place.how == "in place":
        what = "in-place"
        message = f"the old replicas of `{name}` give way to new ones one by one, with one fewer meanwhile: {there}"
    elif place.how == "stop first":
        what = "stop-first"
        message = f"the only replica of `{name}` stops before the new one starts, and requests wait: {there}"
    else:
        return
    key = f"endpoint/{name}/room/{rollout.candidate}/{rollout.began:.0f}/{what}"
    draft.tell("RoomForRollout", f"endpoint/{name}", message, key=key, kind="rollout")


def _start(draft: Draft, name: str, label: str, version: VersionSeen, process: str, region: str) -> StartReplica:
    endpoint, launch = draft.s.desired.stack.serving[name], launches.launch_for(draft, name, label)
    return StartReplica(
        name=process,
        generation=1,
        endpoint=name,
        model=name,
        version=version.number,
        artefact=version.artefact,
        runtime=launch.runtime,
        threads=launch.threads,
        batch_size=launch.batch_size,
        batch_wait=launch.batch_wait,
        options=_options(endpoint, launch),
        region=region,
        digest=version.digest,
    )


def _options(endpoint: Endpoint, launch: Launch) -> tuple[str, ...]:
    """The words of a replica's command line: its own, and the runtime's.

    What it has begun when it is told to stop gets as long as the gateway would give it.
    """
    drain = ("--drain", f"{endpoint.deadline:g}")
    runtime = runtimes().get(launch.runtime)
    if runtime is None or runtime.module != KEPT:
        return (*launch.options, *drain) if endpoint.is_language or endpoint.server.foreign else launch.options
    memory = ("--memory", f"{endpoint.memory:.0f}") if endpoint.memory else ()
    return ("--runtime", runtime.name, *drain, *memory, "--", *launch.options)


def _gateways(draft: Draft) -> set[str]:
    stack = draft.s.desired.stack
    if not stack.serving:
        return set()
    gateway = stack.orchestration.gateway
    names = {f"gateway-{i}" for i in range(gateway.workers)}
    for name in sorted(names):
        supervise(draft, StartGateway(name, 1, gateway.port, gateway.workers), names)
    return names
