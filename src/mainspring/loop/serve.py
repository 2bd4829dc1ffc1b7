"""Replicas, gateway workers and routes: what should answer, and through which door."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mainspring.decide.restart import restart
from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable, same_routes
from mainspring.loop import limits
from mainspring.loop.draft import Draft
from mainspring.loop.memory import ProcessMemory
from mainspring.loop.plan import SetRoutes, StartGateway, StartReplica, StopProcess, step_id
from mainspring.loop.scaling import count_of, note_load, regions_of
from mainspring.loop.snapshot import ProcessSeen, VersionSeen
from mainspring.loop.window import revision_name
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint

START_TIMEOUT = 120.0  # seconds until a process that does not get ready is stopped and tried again
STEADY = 60.0  # seconds up after which earlier failures are forgiven
PARTS = 10_000  # of the traffic


def version_of(draft: Draft, model: str, number: str) -> VersionSeen | None:
    """A version as the registry shows it."""
    return next((v for v in draft.s.observed.versions if v.model == model and v.number == number), None)


def serve(draft: Draft) -> None:
    """Start what should answer, restart what died, route to what is ready, stop what nobody is routed to."""
    wanted: set[str] = set()
    if not draft.s.desired.down:
        wanted |= _replicas(draft)
        wanted |= _gateways(draft)
        _routes(draft)
    _stop_others(draft, wanted)


def _versions_wanted(draft: Draft, name: str, endpoint: Endpoint) -> list[str]:
    champion = draft.champion(endpoint.model_name)
    versions = [champion] if champion else []
    rollout = draft.rollouts.get(name)
    if rollout is not None and rollout.candidate not in versions:
        versions.append(rollout.candidate)
    return versions


def _replicas(draft: Draft) -> set[str]:
    wanted: set[str] = set()
    for name, endpoint in draft.s.desired.stack.serving.items():
        for number in _versions_wanted(draft, name, endpoint):
            version = version_of(draft, endpoint.model_name, number)
            if version is None or not version.servable:
                why = f"version {number} of `{endpoint.model_name}` is not in the registry, or cannot be served"
                draft.wait(f"endpoint/{name}", why)
                # What still answers goes on; it cannot be started again.
                wanted |= {replica for replica, _ in _named(draft, name, number)}
                continue
            for replica, region in _named(draft, name, number):
                wanted.add(replica)
                _supervise(draft, _start(name, endpoint, version, replica, region))
    return wanted


def _named(draft: Draft, name: str, number: str) -> tuple[tuple[str, str], ...]:
    stack = draft.s.desired.stack
    endpoint = stack.serving[name]
    return replicas(stack, name, number, count_of(draft, name, endpoint, regions_of(stack, endpoint)))


def replicas(stack: Stack, name: str, number: str, count: int) -> tuple[tuple[str, str], ...]:
    """The replicas of one version of an endpoint, as (process, region); regions are dealt out in turn.

    `count`: how many there are, in all or in each region, as the file has it (`scaling.count_of`).
    """
    endpoint = stack.serving[name]
    regions = endpoint.regions or stack.compute.regions or ("",)
    count *= len(regions) if endpoint.replicas.per_region else 1
    return tuple((f"{revision_name(name, number)}-{i}", regions[i % len(regions)]) for i in range(count))


def _start(endpoint_name: str, endpoint: Endpoint, version: VersionSeen, name: str, region: str) -> StartReplica:
    return StartReplica(
        name=name,
        generation=1,
        endpoint=endpoint_name,
        model=endpoint_name,
        version=version.number,
        artefact=version.artefact,
        runtime=endpoint.runtime,
        threads=endpoint.threads,
        batch_size=endpoint.batch.size,
        batch_wait=endpoint.batch.wait,
        # What it has begun when it is told to stop gets as long as the gateway would give it.
        options=(*endpoint.words, "--drain", f"{endpoint.deadline:g}") if endpoint.is_language else endpoint.words,
        region=region,
    )


def _gateways(draft: Draft) -> set[str]:
    stack = draft.s.desired.stack
    if not stack.serving:
        return set()
    gateway = stack.orchestration.gateway
    names = {f"gateway-{i}" for i in range(gateway.workers)}
    for name in sorted(names):
        _supervise(draft, StartGateway(name, 1, gateway.port, gateway.workers))
    return names


def _supervise(draft: Draft, start: StartReplica | StartGateway) -> None:
    """Hold one process up: start it, wait for it, start it again after it died."""
    name = start.name
    seen, memory = draft.process(name), draft.processes.get(name)
    if memory is None or (seen is not None and seen.generation > memory.generation):
        if seen is not None and seen.state in ("starting", "ready"):  # the memory is younger than the world: adopt
            draft.processes[name] = ProcessMemory(seen.generation, (draft.now.mono,))
            return
        generation = (seen.generation if seen else 0) + 1
        if draft.do(replace(start, generation=generation), f"{name} is wanted", keeps=True):
            draft.processes[name] = ProcessMemory(generation, (draft.now.mono,), settings=_settings(start))
            draft.wait(name, "starts", self_ending=True)
        return
    if seen is None or seen.generation < memory.generation:
        _unbegun(draft, memory, start)
    elif seen.state == "starting":
        _starting(draft, seen)
    elif seen.state == "ready":
        _is_ready(draft, seen, memory, start)
    elif seen.state == "stopping":
        draft.wait(name, "stops", self_ending=True)
    else:
        _died(draft, seen, memory, start)


def _is_ready(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: StartReplica | StartGateway) -> None:
    """Leave it alone, unless the stack file now says other settings."""
    name, settings = seen.name, _settings(start)
    if memory.settings not in ("", settings):
        _renew(draft, seen, memory, start)
        return
    if memory.ready != seen.generation:
        if isinstance(start, StartReplica):
            note_load(draft, start.endpoint, draft.now.mono - seen.since)
        draft.tell("Ready", name, f"{name} answers at {seen.address}", key=f"{name}/ready/{seen.generation}")
    forgiven = memory.failures if draft.now.mono - memory.starts[-1] <= STEADY else 0
    draft.processes[name] = replace(
        memory, settings=settings, ready=seen.generation, failures=forgiven, leaving=False, asked=False
    )


def _renew(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: StartReplica | StartGateway) -> None:
    """Start a process again with other settings: a replica when nobody is routed to it, one of a version at a time."""
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
    """The other replicas of the same version that are remembered and seen."""
    version = name.rpartition("-")[0]
    names = [n for n in draft.processes if n != name and n.rpartition("-")[0] == version]
    return [seen for seen in map(draft.process, names) if seen is not None]


def _may_be_routed_to(draft: Draft, seen: ProcessSeen) -> bool:
    """Whether some gateway worker may still send requests to a replica."""
    observed, acked = draft.s.observed, gateways_acked(draft)
    if not acked:
        return False
    routes = observed.routes
    routed = {a for e in routes.endpoints.values() for r in e.revisions for a in r.replicas} if routes else set()
    epoch = routes.epoch if routes else 0
    return seen.address in routed or any(e < epoch for e in acked.values())


def _grace(draft: Draft, name: str) -> float:
    """Seconds that a process gets to end what it has begun: a language model's streams may be long."""
    endpoint = draft.s.desired.stack.serving.get(name.rsplit("-", 2)[0])
    return max(10.0, endpoint.deadline) if endpoint is not None and endpoint.is_language else 10.0


def _settings(start: StartReplica | StartGateway) -> str:
    """A digest of what a process is started with, whichever its generation."""
    return step_id(replace(start, generation=0), "")


def _unbegun(draft: Draft, memory: ProcessMemory, start: StartReplica | StartGateway) -> None:
    """Committed but not begun: a crash came in between, or the world refused. The world takes the same start once."""
    limit = draft.s.desired.stack.orchestration.restarts
    when = restart(memory.starts, memory.failures + 1, limit.count, limit.per)
    if draft.now.mono < when.at:
        text = f"could not be started; tried again in {when.at - draft.now.mono:.0f} s"
        draft.wait(start.name, text, self_ending=not when.looping)
        return
    if draft.do(replace(start, generation=memory.generation), f"{start.name} is wanted", keeps=True):
        starts = (*memory.starts, draft.now.mono)[-int(limit.count) - 1 :]
        draft.processes[start.name] = replace(memory, starts=starts, failures=memory.failures + 1)
    draft.wait(start.name, "starts", self_ending=True)


def _starting(draft: Draft, seen: ProcessSeen) -> None:
    if draft.now.mono - seen.since > START_TIMEOUT:
        why = f"{seen.name} was not ready after {START_TIMEOUT:.0f} s"
        draft.do(StopProcess(seen.name, seen.generation, 0.0), why, cause="too slow", keeps=True)
        draft.tell("StartTimedOut", seen.name, why, level="warning")
    draft.wait(seen.name, "starts", self_ending=True)


def _died(draft: Draft, seen: ProcessSeen, memory: ProcessMemory, start: StartReplica | StartGateway) -> None:
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
    generation = memory.generation + 1
    if draft.do(replace(start, generation=generation), message, keeps=True):
        keep = int(limit.count) + 1
        starts = (*memory.starts, draft.now.mono)[-keep:]
        draft.processes[seen.name] = ProcessMemory(generation, starts, failures, settings=_settings(start))
    draft.wait(seen.name, "starts again", self_ending=True)


def _routes(draft: Draft) -> None:
    """Write the route table when it should be another one, and wait until all workers route by it."""
    if not draft.s.desired.stack.serving:
        return
    seen = draft.s.observed.routes
    table = RouteTable(draft.epoch, _endpoints(draft), draft.s.desired.clock, *_regions(draft.s.desired.stack))
    if seen is None or not same_routes(seen, table):
        epoch = max(draft.epoch, seen.epoch if seen else 0) + 1
        table = replace(table, epoch=epoch)
        if draft.do(SetRoutes(table), "routes follow what is ready and wanted", keeps=True):
            draft.epoch = epoch
            draft.wait("routes", "gateway workers take them up", self_ending=True)
        return
    draft.epoch = seen.epoch
    behind = [name for name, epoch in gateways_acked(draft).items() if epoch < seen.epoch]
    if behind:
        draft.wait("routes", f"{', '.join(behind)} take them up", self_ending=True)


def _regions(stack: Stack) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Where a request comes from when it does not say, and which regions are nearest to each."""
    there = stack.compute.regions
    if not there:
        return "", {}
    near = {}
    for origin in there:
        said = stack.compute.nearest.get(origin, ())
        near[origin] = tuple(dict.fromkeys((origin, *said, *there)))
    return stack.orchestration.gateway.region or there[0], near


def gateways_acked(draft: Draft) -> dict[str, int]:
    """The epoch that each gateway worker that may still route goes by; 0 when it said nothing yet."""
    alive = ("ready", "stopping")
    names = [p.name for p in draft.s.observed.processes if p.kind == "gateway" and p.state in alive]
    return {name: draft.s.observed.acked.get(name, 0) for name in names}


def _endpoints(draft: Draft) -> dict[str, EndpointRoutes]:
    endpoints: dict[str, EndpointRoutes] = {}
    for name, endpoint in draft.s.desired.stack.serving.items():
        rollout = draft.rollouts.get(name)
        stage = rollout.stages[rollout.stage] if rollout else None
        candidate = rollout.candidate if rollout else ""
        live = {n: _ready(draft, name, n) for n in _versions_wanted(draft, name, endpoint)}
        ready = {n: tuple(p.address for p, _ in found) for n, found in live.items()}
        taken = bool(ready.get(candidate)) or (rollout is not None and rollout.ready and _comes_back(draft, name))
        parts = max(1, round(stage.share * PARTS)) if stage and taken else 0
        canary = parts if stage and stage.kind in ("canary", "all") else 0
        mirror = parts if stage and stage.kind == "mirror" else 0
        shares = {n: canary if n == candidate else PARTS - canary for n in ready}
        kept = _kept_until_ready(draft, name, endpoint, ready)
        if kept is not None:
            endpoints[name] = kept
            continue
        endpoints[name] = EndpointRoutes(
            revisions=tuple(
                RevisionRoute(
                    revision_name(name, n), n, shares[n], ready[n],
                    tuple(region for _, region in found) if any(region for _, region in found) else (),
                    tuple(p.name for p, _ in found),
                )
                for n, found in live.items()
            ),
            mirror=revision_name(name, candidate) if mirror else "",
            mirror_share=mirror,
            **_manners(draft, endpoint),
        )  # fmt: skip
    return endpoints


def _manners(draft: Draft, endpoint: Endpoint) -> dict[str, Any]:
    """How the gateway treats requests of an endpoint, whichever version answers."""
    stack = draft.s.desired.stack
    language, waits, route = endpoint.is_language, endpoint.waits, endpoint.route
    return {
        "timeout_s": endpoint.deadline,
        "queue": endpoint.queue,
        "kind": endpoint.server.kind,
        "auth": endpoint.auth == "token",
        "slots": endpoint.at_once,
        "connect_s": waits.connect,
        "first_s": waits.first if waits.first is not None else 60.0 if language else 0.0,
        "idle_s": waits.idle if waits.idle is not None else 30.0 if language else 0.0,
        "keep_alive": endpoint.server.keep_alive,
        "prefix": language if route.prefix is None else route.prefix,
        "session": route.session or "",
        "split": "" if route.split == "request" else route.split,
        "retry_share": round(route.retries * PARTS),
        **limits.words(stack, endpoint, draft.s.observed.cores),
    }


def _kept_until_ready(
    draft: Draft, name: str, endpoint: Endpoint, ready: dict[str, tuple[str, ...]]
) -> EndpointRoutes | None:
    """The present routes, while a champion that was changed by hand has no replica yet but the old one answers."""
    model = draft.models.get(endpoint.model_name)
    table = draft.s.observed.routes
    if model is None or table is None or name not in table.endpoints or ready.get(model.champion):
        return None
    routes = table.endpoints[name]
    if any(r.version == model.champion and r.weight for r in routes.revisions):
        return None
    alive = {p.address for p in draft.s.observed.processes if p.state == "ready"}
    answering = any(a in alive for r in routes.revisions for a in r.replicas)
    return routes if answering else None


def _comes_back(draft: Draft, name: str) -> bool:
    """Whether a candidate that is down is only being started again.

    One death is held through by the gateway, so that its share of the requests stays its own; after a
    second in a row the champion takes the share back.
    """
    prefix = revision_name(name, draft.rollouts[name].candidate)
    replicas = [m for n, m in draft.processes.items() if n.rsplit("-", 1)[0] == prefix]
    return bool(replicas) and all(m.failures <= 1 for m in replicas)


def _ready(draft: Draft, name: str, number: str) -> tuple[tuple[ProcessSeen, str], ...]:
    """The replicas of a version that answer and are not leaving, each with its region."""
    seen = [(draft.process(replica), region) for replica, region in _named(draft, name, number)]
    leaving = {n for n, memory in draft.processes.items() if memory.leaving}
    return tuple((p, region) for p, region in seen if p is not None and p.state == "ready" and p.name not in leaving)


def _stop_others(draft: Draft, wanted: set[str]) -> None:
    """Stop what is not wanted, a replica only after no worker can still route to it."""
    observed = draft.s.observed
    working = {f"run-{run.id}" for run in observed.runs if run.state == "running"}
    if not draft.s.desired.down:
        wanted = wanted | {f"run-{id_}" for id_ in draft.runs}
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
