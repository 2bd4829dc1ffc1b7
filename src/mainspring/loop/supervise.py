"""The life of supervised processes: started, waited for, started again after they died, stopped when nobody needs them.

What this is: one decision a process and cycle, by what is seen and remembered of it. Who calls it: `serve.py`, with
what is wanted. What it must never do: stop a replica that some gateway worker may still send requests to, or start one
that there is no room for.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from mainspring.decide.restart import restart
from mainspring.decide.routes import RouteTable
from mainspring.loop.draft import Draft
from mainspring.loop.labels import endpoint_of, label_of, revision_of
from mainspring.loop.memory import ProcessMemory
from mainspring.loop.plan import StartGateway, StartReplica, StopProcess, step_id
from mainspring.loop.room import TAKES_ROOM, has_room, said, size_in
from mainspring.loop.routed import gateways_acked
from mainspring.loop.scaling import note_load
from mainspring.loop.snapshot import ProcessSeen
from mainspring.runtimes.catalog import runtimes

START_TIMEOUT = 120.0  # seconds until a process that does not get ready is stopped and tried again
PREPARATION = 1_800.0  # seconds besides, in which what a server needs may be installed and converted
STEADY = 60.0  # seconds up after which earlier failures are forgiven

Start = StartReplica | StartGateway


def supervise(draft: Draft, start: Start, wanted: set[str]) -> None:
    """Hold one process up: start it, wait for it, start it again after it died.

    `wanted`: all processes that are to be there, so that a replica without room knows whether one will be free.
    """
    name = start.name
    seen, memory = draft.process(name), draft.processes.get(name)
    if memory is None or (seen is not None and seen.generation > memory.generation):
        if seen is not None and seen.state in ("starting", "ready"):  # the memory is younger than the world: adopt
            draft.processes[name] = ProcessMemory(seen.generation, (draft.now.mono,))
            return
        generation = (seen.generation if seen else 0) + 1
        if not _may_start(draft, start, wanted):
            return
        if draft.do(replace(start, generation=generation), f"{name} is wanted", keeps=True):
            draft.processes[name] = ProcessMemory(generation, (draft.now.mono,), settings=_settings(start))
            draft.wait(name, "starts", self_ending=True)
        return
    if seen is None or seen.generation < memory.generation:
        _unbegun(draft, memory, start, wanted)
    elif seen.state == "starting":
        _starting(draft, seen, memory, start)
    elif seen.state == "ready":
        _is_ready(draft, seen, memory, start)
    elif seen.state == "stopping":
        draft.wait(name, "stops", self_ending=True)
    else:
        _died(draft, seen, memory, start, wanted)


def _is_ready(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: Start) -> None:
    """Leave it alone, unless the stack file now says other settings."""
    name, settings = seen.name, _settings(start)
    if memory.settings not in ("", settings):
        _renew(draft, seen, memory, start)
        return
    if memory.ready != seen.generation:
        if isinstance(start, StartReplica):
            note_load(draft, start.endpoint, draft.now.mono - seen.since)
        draft.tell("Ready", name, f"{name} answers at {seen.address}", key=f"{name}/ready/{seen.generation}")
    forgiven = draft.now.mono - memory.starts[-1] > STEADY
    draft.processes[name] = replace(
        memory,
        settings=settings,
        ready=seen.generation,
        failures=0 if forgiven else memory.failures,
        unbegun=0 if forgiven else memory.unbegun,
        leaving=False,
        asked=False,
    )


def _renew(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: Start) -> None:
    """Start a process again with other settings: a replica when nobody is routed to it, one of a revision at a time."""
    name = seen.name
    because = f"{name} starts again: its settings in the stack file changed"
    draft.wait(name, because, self_ending=True)
    if isinstance(start, StartReplica):
        peers = _peers(draft, name)
        if any(draft.processes[p.name].leaving or p.state != "ready" for p in peers):
            return  # another one is on its way: this one answers meanwhile
        if not memory.leaving:
            draft.processes[name] = replace(memory, leaving=True)
            return
        if _may_be_routed_to(draft, seen):
            return
    if draft.do(StopProcess(name, seen.generation, _grace(draft, name)), because, keeps=True):
        # Its settings are remembered as new only when it starts again: the stop may be lost with the controller.
        draft.processes[name] = replace(memory, asked=True)


def _peers(draft: Draft, name: str) -> list[ProcessSeen]:
    """The other replicas of the same revision that are remembered and seen."""
    names = [n for n in draft.processes if n != name and revision_of(n) == revision_of(name)]
    return [seen for seen in map(draft.process, names) if seen is not None]


def _may_be_routed_to(draft: Draft, seen: ProcessSeen) -> bool:
    """Whether some gateway worker may still send requests to a replica."""
    observed, acked = draft.s.observed, gateways_acked(draft)
    if not acked:
        return False
    routes = observed.routes
    epoch = routes.epoch if routes else 0
    return (routes is not None and _is_routed(routes, seen)) or any(e < epoch for e in acked.values())


def _is_routed(routes: RouteTable, seen: ProcessSeen) -> bool:
    """Whether a table has a replica; by its name, too, since replicas that share a server have one address."""
    return any(
        address == seen.address and name in ("", seen.name)
        for endpoint in routes.endpoints.values()
        for one in endpoint.revisions
        for address, name in zip_longest(one.replicas, one.names[: len(one.replicas)], fillvalue="")
    )


def _grace(draft: Draft, name: str) -> float:
    """Seconds that a process gets to end what it has begun: a language model's streams may be long."""
    endpoint = draft.s.desired.stack.serving.get(endpoint_of(name))
    return max(10.0, endpoint.deadline) if endpoint is not None and endpoint.is_language else 10.0


def _settings(start: Start) -> str:
    """A digest of what a process is started with, whichever its generation."""
    return step_id(replace(start, generation=0), "")


def _unbegun(draft: Draft, memory: ProcessMemory, start: Start, wanted: set[str]) -> None:
    """Committed but not begun: a crash came in between, or the world refused. The world takes the same start once."""
    limit = draft.s.desired.stack.orchestration.restarts
    when = restart(memory.starts, memory.failures + 1, limit.count, limit.per)
    if draft.now.mono < when.at:
        text = f"could not be started; tried again in {when.at - draft.now.mono:.0f} s"
        draft.wait(start.name, text, self_ending=not when.looping)
        return
    if not _may_start(draft, start, wanted):
        return
    if draft.do(replace(start, generation=memory.generation), f"{start.name} is wanted", keeps=True):
        starts = (*memory.starts, draft.now.mono)[-int(limit.count) - 1 :]
        draft.processes[start.name] = replace(
            memory, starts=starts, failures=memory.failures + 1, unbegun=memory.unbegun + 1
        )
    draft.wait(start.name, "starts", self_ending=True)


def _starting(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: Start) -> None:
    if memory.ready == seen.generation:  # one that has answered says itself when it may be asked again
        draft.wait(seen.name, "has withdrawn itself: its log says why", self_ending=True)
        return
    limit = _patience(start)
    if draft.now.mono - seen.since > limit:
        why = f"{seen.name} was not ready after {limit:.0f} s"
        draft.do(StopProcess(seen.name, seen.generation, 0.0), why, cause="too slow", keeps=True)
        draft.tell("StartTimedOut", seen.name, why, level="warning")
    draft.wait(seen.name, "starts", self_ending=True)


def _patience(start: Start) -> float:
    """Seconds that a process may take to get ready; a keeper gives up by itself, and may convert a model before."""
    runtime = runtimes().get(start.runtime) if isinstance(start, StartReplica) else None
    if runtime is None or runtime.server is None:
        return START_TIMEOUT
    return max(START_TIMEOUT, runtime.server.patience + PREPARATION)


def _may_start(draft: Draft, start: Start, wanted: set[str]) -> bool:
    """Whether there is room for a process; it waits where there is not."""
    if isinstance(start, StartGateway):
        return True
    if has_room(draft, start.name, size_in(draft, start.endpoint, label_of(revision_of(start.name)))):
        return True
    # One that is not wanted any more, and still there, leaves room when it has ended.
    leaving = any(
        p.kind == "replica" and p.state in TAKES_ROOM and (p.name not in wanted or p.state == "stopping")
        for p in draft.s.observed.processes
    )
    draft.wait(start.name, f"waits for room: {said(draft.s.desired.stack)} may be used", self_ending=leaving)
    return False


def _died(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: Start, wanted: set[str]) -> None:
    limit = draft.s.desired.stack.orchestration.restarts
    failures = 0 if memory.asked else memory.failures + 1
    when = restart(memory.starts, failures, limit.count, limit.per)
    how = f"exit status {seen.exit_status}" if seen.exit_status is not None else "lost"
    message = f"{seen.name} ended ({how}){': ' + seen.reason if seen.reason else ''}"
    if memory.asked:
        message = f"{seen.name} was stopped, and is wanted with its settings of now"
    else:
        key = f"{seen.name}/died/{seen.generation}"
        draft.tell("Died", seen.name, message, key=key, level="warning", kind="restart")
    if draft.now.mono < when.at:
        again = f"{message}; starts again in {when.at - draft.now.mono:.0f} s"
        if when.looping:
            again += f" ({limit.count:.0f} restarts were used up: `mainspring logs {seen.name}`)"
            draft.condition(seen.name, "Ready", ok=False, reason="CrashLooping", message=again)
        draft.wait(seen.name, again, self_ending=True)
        return
    if not _may_start(draft, start, wanted):
        return
    generation = memory.generation + 1
    if draft.do(replace(start, generation=generation), message, keeps=True):
        keep = int(limit.count) + 1
        starts = (*memory.starts, draft.now.mono)[-keep:]
        # That an earlier generation answered is kept, so that its requests wait for it (`place.held`).
        unbegun = min(memory.unbegun, failures)
        draft.processes[seen.name] = ProcessMemory(
            generation, starts, failures, memory.ready, settings=_settings(start), unbegun=unbegun
        )
    draft.wait(seen.name, "starts again", self_ending=True)


def stop_others(draft: Draft, wanted: set[str]) -> None:
    """Stop what is not wanted, a replica only after no worker can still route to it."""
    observed = draft.s.observed
    working = {f"run-{run.id}" for run in observed.runs if run.state == "running"}
    if not draft.s.desired.down:
        wanted = wanted | {f"run-{id_}" for id_ in draft.runs}
    there = {seen.name for seen in observed.processes}
    for name in [name for name in draft.processes if name not in wanted and name not in there]:
        draft.processes.pop(name)  # committed, never begun, and not wanted any more
    for seen in observed.processes:
        if seen.name in wanted or (seen.kind == "run" and seen.name not in working):
            continue  # a run that has its result ends by itself
        if seen.state in ("exited", "lost"):
            draft.processes.pop(seen.name, None)
            continue
        if seen.state == "stopping":
            draft.wait(seen.name, "stops", self_ending=True)
            continue
        if seen.kind == "replica" and _may_be_routed_to(draft, seen):
            draft.wait(seen.name, "stops when no gateway worker routes to it any more", self_ending=True)
            continue
        stop = StopProcess(seen.name, seen.generation, _grace(draft, seen.name))
        if draft.do(stop, f"{seen.name} is not wanted any more", keeps=True):
            memory = draft.processes.get(seen.name)
            if memory is not None:  # should it be wanted again before it has ended, that is no death
                draft.processes[seen.name] = replace(memory, asked=True)
            draft.wait(seen.name, "stops", self_ending=True)
