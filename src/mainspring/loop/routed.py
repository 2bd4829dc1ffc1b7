"""The route table: which revision gets which part of the requests, by what answers.

What this is: pure choice, made anew in each cycle; the weights of an endpoint sum to 10,000 in each region, always. Who
calls it: `serve.py` writes the table, the state machine asks which share a candidate has. What it must never do: route
to what is not ready, while something is.

In stages with a share (canary, A/B, mirror) the candidate goes from the share that it has to the stage's when all the
replicas of the stage have answered. In waves, and at the end, its part of the requests is its part of the replicas. Its
interval of `pick.revision` is the last one, so that whoever a growing share has reached stays with the candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable, same_routes
from mainspring.loop import limits, room
from mainspring.loop.answering import Named, answers, held
from mainspring.loop.draft import Draft
from mainspring.loop.labels import fresh_of, is_fresh, version_number
from mainspring.loop.launches import launch_for, live_label, protocol_of, slots_of
from mainspring.loop.memory import Launch, RolloutMemory
from mainspring.loop.place import Placed, placed
from mainspring.loop.plan import SetRoutes
from mainspring.loop.snapshot import VersionSeen
from mainspring.loop.window import revision_name
from mainspring.runtimes.catalog import runtimes
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint

PARTS = 10_000  # of the traffic
EVERYWHERE = ""


def route(draft: Draft, places: dict[str, Placed]) -> None:
    """Write the route table when it should be another one, and wait until all workers route by it."""
    if not draft.s.desired.stack.serving:
        return
    seen = draft.s.observed.routes
    endpoints = {name: _endpoint(draft, name, places[name]) for name in draft.s.desired.stack.serving}
    table = RouteTable(draft.epoch, endpoints, draft.s.desired.clock, *_regions(draft.s.desired.stack))
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


def gateways_acked(draft: Draft) -> dict[str, int]:
    """The epoch that each gateway worker that may still route goes by; 0 when it said nothing yet."""
    alive = ("ready", "stopping")
    names = [p.name for p in draft.s.observed.processes if p.kind == "gateway" and p.state in alive]
    return {name: draft.s.observed.acked.get(name, 0) for name in names}


def share_taken(draft: Draft, rollout: RolloutMemory) -> float | None:
    """The share of requests that a candidate has (of copies, in a mirror stage) by the table that all workers go by.

    Of the stage's region, where it has one. None while that is not known: there is no table, or it is being taken up.
    """
    table, acked = draft.s.observed.routes, gateways_acked(draft)
    if table is None or rollout.endpoint not in table.endpoints:
        return None
    if not acked or any(epoch < table.epoch for epoch in acked.values()):
        return None
    stage = rollout.stages[rollout.stage]
    routes, name = table.endpoints[rollout.endpoint], revision_name(rollout.endpoint, rollout.candidate)
    if stage.kind == "mirror":
        return routes.mirror_share / PARTS if routes.mirror == name else 0.0
    mine = routes.revision(name)
    return mine.weight_in(_region(rollout)) / PARTS if mine is not None and mine.replicas else 0.0


def taken_up(draft: Draft, rollout: RolloutMemory) -> bool:
    """Whether every worker goes by a table with all that the present stage (or wave) asks for.

    That is: the candidate's share, and each of its replicas, and each of a fresh control's, answers or has answered.
    """
    table = draft.s.observed.routes
    share = share_taken(draft, rollout)
    if not share or table is None:
        return False
    asked = placed(draft, rollout.endpoint).stage
    new = asked.get(rollout.candidate, ())
    fresh = asked.get(fresh_of(rollout.control), ())
    if not new or not all(held(draft, process) for process, _ in (*new, *fresh)):
        return False
    stage = rollout.stages[rollout.stage]
    if stage.kind in ("mirror", "canary", "ab"):
        routes = table.endpoints[rollout.endpoint]
        region = routes.mirror_region if stage.kind == "mirror" else _region(rollout)
        mine = revision_name(rollout.endpoint, fresh_of(rollout.control))
        fresh_too = any(one.name == mine and one.weight_in(region) for one in routes.revisions) or not fresh
        return round(share * PARTS) == _parts(stage.share) and region == stage.region and fresh_too
    count = room.normal_of(draft, rollout.endpoint)
    return round(share * PARTS) >= min(PARTS, _parts(len(new) / max(1, count)))


def _region(rollout: RolloutMemory) -> str:
    """The region whose requests a stage is about; "" for all."""
    stage = rollout.stages[rollout.stage]
    return stage.region if stage.kind in ("mirror", "canary", "ab") else EVERYWHERE


def _parts(share: float) -> int:
    return max(1, min(PARTS, round(share * PARTS)))


# --- one endpoint


@dataclass(frozen=True, slots=True)
class _Shares:
    """What the candidate gets."""

    weights: dict[str, int]  # by region, "" for all others: parts of the requests
    fresh: dict[str, int]  # the same of a fresh control
    mirror: int = 0  # parts of the requests that it gets copies of
    mirror_region: str = ""


def _endpoint(draft: Draft, name: str, place: Placed) -> EndpointRoutes:
    endpoint = draft.s.desired.stack.serving[name]
    live = {label: tuple(one for one in mine if answers(draft, one[0])) for label, mine in place.revisions.items()}
    rollout = place.change
    if rollout is None:
        kept = _kept_until_ready(draft, name, live)
        if kept is not None:
            return kept
    shares = _shares(draft, rollout, place) if rollout is not None else _Shares({}, {})
    candidate = rollout.candidate if rollout is not None else ""
    mirrors = bool(shares.mirror)
    revisions = {
        label: _revision(draft, name, label, mine, _weights(label, candidate, shares)) for label, mine in live.items()
    }
    if place.leaves:
        revisions[place.leaves] = _as_before(draft, name, revisions[place.leaves])
    return EndpointRoutes(
        revisions=tuple(revisions.values()),
        mirror=revision_name(name, candidate) if mirrors else "",
        draw=revision_name(name, candidate) if candidate in live else "",
        mirror_share=shares.mirror,
        mirror_region=shares.mirror_region if mirrors else "",
        **_manners(draft, endpoint),
    )


def _weights(label: str, candidate: str, shares: _Shares) -> dict[str, int]:
    """The weights of one revision, by region; the old version has what the others leave."""
    if label == candidate:
        return shares.weights
    if is_fresh(label):
        return shares.fresh
    regions = {EVERYWHERE, *shares.weights, *shares.fresh}
    taken = {r: shares.weights.get(r, 0) + shares.fresh.get(r, 0) for r in sorted(regions)}
    return {region: PARTS - parts for region, parts in taken.items()}


def _revision(draft: Draft, name: str, label: str, live: Sequence[Named], weights: dict[str, int]) -> RevisionRoute:
    found = [(draft.process(process), region) for process, region in live]
    seen = [(one, region) for one, region in found if one is not None]
    launch, usual = launch_for(draft, name, label), draft.s.desired.stack.serving[name].at_once
    slots = slots_of(launch)
    version = draft.version(draft.s.desired.stack.serving[name].model_name, version_number(label))
    everywhere = weights.get(EVERYWHERE, 0)
    return RevisionRoute(
        revision_name(name, label),
        version_number(label),
        everywhere,
        tuple(one.address for one, _ in seen),
        tuple(region for _, region in seen) if any(region for _, region in seen) else (),
        tuple(one.name for one, _ in seen),
        {region: parts for region, parts in sorted(weights.items()) if region and parts != everywhere},
        slots if slots and slots != usual else 0,
        **_spoken(revision_name(name, label), launch, version),
    )


def _spoken(revision: str, launch: Launch, version: VersionSeen | None) -> dict[str, Any]:
    """What the replicas of a revision speak, and what requests to them look like."""
    protocol = protocol_of(launch)
    runtime = runtimes().get(launch.runtime)
    by_endpoint = protocol in ("mainspring", "openai")
    return {
        "protocol": protocol,
        "model": "" if by_endpoint else revision,
        "inputs": version.inputs if version is not None else (),
        "output": version.output if version is not None else "",
        "keep_alive": runtime.keep_alive if runtime is not None else None,
    }


def _as_before(draft: Draft, name: str, route: RevisionRoute) -> RevisionRoute:
    """A revision that leaves, with the slots that it had: other settings may be live by now."""
    table = draft.s.observed.routes
    there = table.endpoints[name].revisions if table is not None and name in table.endpoints else ()
    return replace(route, slots=next((one.slots for one in there if one.name == route.name), route.slots))


def _shares(draft: Draft, rollout: RolloutMemory, place: Placed) -> _Shares:
    stage = rollout.stages[rollout.stage]
    before = _present(draft, rollout)
    new, fresh = (place.stage.get(label, ()) for label in (rollout.candidate, fresh_of(rollout.control)))
    if not any(held(draft, process) for process, _ in new):
        return _Shares({}, {})
    if stage.kind in ("waves", "all"):
        return _Shares(_by_replicas(draft, rollout, place, before.weights), {})
    started = {process for process, _ in (*place.revisions.get(rollout.candidate, ()), *fresh)}
    whole = all(held(draft, p) for p, _ in (*new, *fresh)) and all(p in started for p, _ in new)
    if not whole:
        # A fresh control that nobody answers for gives its part back to the old ones.
        return before if any(held(draft, process) for process, _ in fresh) else replace(before, fresh={})
    if rollout.paused and not rollout.ready:
        return before  # a person has paused it: it takes no step to another share
    parts = _parts(stage.share)
    if stage.kind == "mirror":
        return _Shares({}, {}, parts, stage.region)
    weights = {stage.region: parts}
    return _Shares(weights, dict(weights) if fresh else {})


def _present(draft: Draft, rollout: RolloutMemory) -> _Shares:
    """What the candidate has by the table that is written, and goes on having until a stage begins."""
    table = draft.s.observed.routes
    routes = table.endpoints.get(rollout.endpoint) if table is not None else None
    if routes is None:
        return _Shares({}, {})
    found = []
    for label in (rollout.candidate, fresh_of(rollout.control)):
        mine = routes.revision(revision_name(rollout.endpoint, label))
        found.append({EVERYWHERE: mine.weight, **mine.regional} if mine is not None else {})
    fresh = found[1] if rollout.fresh else {}
    mirrored = routes.mirror == revision_name(rollout.endpoint, rollout.candidate)
    return _Shares(found[0], fresh, routes.mirror_share if mirrored else 0, routes.mirror_region if mirrored else "")


def _by_replicas(draft: Draft, rollout: RolloutMemory, place: Placed, before: dict[str, int]) -> dict[str, int]:
    """The candidate's part of the requests: that of the replicas.

    Where old ones have left to make room it is the part of those that answer, so that none gets requests that nobody
    is there for. It is the same in all regions, so that both versions are asked alike.
    """
    mine, theirs = place.revisions[rollout.candidate], place.revisions[rollout.control]
    new = sum(held(draft, process) for process, _ in mine)
    part = _part(new, sum(answers(draft, process) for process, _ in theirs), len(place.stage[rollout.control]))
    if new < len(mine) and rollout.wave <= 1:
        # A stage with a share came before: whoever had the candidate keeps it while more of its replicas get ready.
        part = max(part, before.get(EVERYWHERE, 0))
    return {EVERYWHERE: part}


def _part(new: int, old: int, normally: int) -> int:
    if not new:
        return 0
    return max(min(PARTS, round(PARTS * new / max(1, normally))), round(PARTS * new / (new + old)))


def _kept_until_ready(draft: Draft, name: str, live: dict[str, tuple[Named, ...]]) -> EndpointRoutes | None:
    """The present routes, while what is to answer from now on has no replica yet but what answered before has.

    One of the old replicas leaves where there is no room for the first new one beside them.
    """
    label, table = live_label(draft, name), draft.s.observed.routes
    if not label or table is None or name not in table.endpoints or live.get(label):
        return None
    routes = table.endpoints[name]
    if any(one.name == revision_name(name, label) and one.takes for one in routes.revisions):
        return None
    alive = {p.address for p in draft.s.observed.processes if p.state == "ready"}
    answering = [address for one in routes.revisions for address in one.replicas if address in alive]
    if not answering:
        return None
    one = room.live_size(draft, name)
    others = room.used(draft, without=name)
    if room.limits_of(draft.s.desired.stack).fits(others.and_(one.times(len(answering) + 1))):
        return routes
    return replace(routes, revisions=tuple(_without(each, answering[-1]) for each in routes.revisions))


def _without(route: RevisionRoute, address: str) -> RevisionRoute:
    if address not in route.replicas:
        return route
    at = [index for index, one in enumerate(route.replicas) if one != address]
    return replace(
        route,
        replicas=tuple(route.replicas[index] for index in at),
        regions=tuple(route.regions[index] for index in at) if route.regions else (),
        names=tuple(route.names[index] for index in at) if route.names else (),
    )


# --- how the gateway treats requests


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


def _manners(draft: Draft, endpoint: Endpoint) -> dict[str, Any]:
    """How the gateway treats requests of an endpoint, whichever version answers."""
    stack = draft.s.desired.stack
    language, waits, way = endpoint.is_language, endpoint.waits, endpoint.route
    return {
        "timeout_s": endpoint.deadline,
        "queue": endpoint.queue,
        "kind": "language" if language else "predictive",
        "auth": endpoint.auth == "token",
        "slots": endpoint.at_once,
        "connect_s": waits.connect,
        "first_s": waits.first if waits.first is not None else 60.0 if language else 0.0,
        "idle_s": waits.idle if waits.idle is not None else 30.0 if language else 0.0,
        "keep_alive": endpoint.server.keep_alive,
        "prefix": language if way.prefix is None else way.prefix,
        "session": way.session or "",
        "split": "" if way.split == "request" else way.split,
        "retry_share": round(way.retries * PARTS),
        **limits.words(stack, endpoint, draft.s.observed.cores),
    }
