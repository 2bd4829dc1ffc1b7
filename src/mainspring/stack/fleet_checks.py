"""What is wrong between sections where a stack speaks of regions and GPUs.

What this is: checks across `compute`, `orchestration` and `serving`; pure. Who calls it: `resolve.py`.
What it must never do: know GPUs or models by name (the catalogue is another layer's; `sizing/ask.py` checks names).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mainspring.errors import Problem
from mainspring.stack.compute import Compute
from mainspring.stack.orchestration import Orchestration
from mainspring.stack.problems import Places, did_you_mean, say
from mainspring.stack.serving import Endpoint

HERE = "here"
"""The one region of a stack that names none."""


def fleet_checks(
    compute: Compute | None, orchestration: Orchestration | None, serving: Mapping[str, Endpoint], places: Places
) -> list[Problem]:
    """All of them; parts of a file that are wrong by themselves are None, or left out."""
    if compute is None:
        return []
    found = [*_pools(compute, places)]
    for name, endpoint in serving.items():
        found += _hardware(name, endpoint, compute, places)
        found += _residency(name, endpoint, compute, places)
        found += _traffic(name, endpoint, compute, places)
    if orchestration is not None:
        home = orchestration.gateway.region
        if home is not None and home not in compute.regions:
            found.append(_unknown(home, compute, ("orchestration", "gateway", "region"), places))
        found += _survival(compute, orchestration, places)
        found += _room(compute, orchestration, serving, places)
    return found


def regions_of(compute: Compute, pool: str) -> tuple[str, ...]:
    """The regions that have a pool."""
    return compute[pool].regions or compute.regions or (HERE,)


def _unknown(region: str, compute: Compute, loc: tuple[str | int, ...], places: Places) -> Problem:
    there = did_you_mean(region, compute.regions)
    if not compute.regions:
        there = f", since it is empty: name the regions there, such as `compute.regions: [{region[:20]}]`"
    elif not there:
        several = [say(one) for one in compute.regions[:8]]
        there = f"; there is {', '.join(several)}" + (", …" if len(compute.regions) > 8 else "")
    message = f"`compute.regions` has no {say(region)}{there}"
    return places.problem(loc, "unknown-region", message)


def _pools(compute: Compute, places: Places) -> Iterator[Problem]:
    for number, region in enumerate(compute.regions):
        if region in compute.regions[:number]:
            yield places.problem(("compute", "regions", number), "twice", f"{say(region)} is in the list already")
    for origin, order in compute.nearest.items():
        if origin not in compute.regions:
            yield _unknown(origin, compute, ("compute", "nearest", origin), places)
        for number, region in enumerate(order):
            if region not in compute.regions:
                yield _unknown(region, compute, ("compute", "nearest", origin, number), places)
    for name, pool in compute.pools.items():
        for number, region in enumerate(pool.regions):
            if region not in compute.regions:
                yield _unknown(region, compute, ("compute", name, "regions", number), places)


def _hardware(name: str, endpoint: Endpoint, compute: Compute, places: Places) -> Iterator[Problem]:
    if endpoint.gpus is not None:
        wanted, loc = endpoint.gpus.name, ("serving", name, "gpus")
        pool = compute.pools.get(wanted)
        if pool is None:
            message = f"`compute` has no pool called {say(wanted)}{did_you_mean(wanted, compute.pools)}"
            yield places.problem(loc, "unknown-pool", message)
        elif pool.gpus is None:
            yield places.problem(loc, "no-gpus", f"the pool {say(wanted)} has no GPUs: write `gpus: 8 x …` there")
        elif not endpoint.gpus.slice and endpoint.gpus.count > pool.gpus.count:
            message = f"one replica wants {endpoint.gpus.count} GPUs, and a node of {say(wanted)} has {pool.gpus.count}"
            yield places.problem(loc, "too-many-gpus", message)
    if endpoint.cores is not None and endpoint.gpus is not None:
        yield places.problem(("serving", name, "cores"), "two-kinds", "an endpoint has `gpus` or `cores`, not both")
    elif endpoint.cores is not None and not any(pool.cores or pool.machine for pool in compute.pools.values()):
        yield places.problem(
            ("serving", name, "cores"), "no-cores", "`compute` has no pool of CPU servers: `cores: 32`"
        )


def _residency(name: str, endpoint: Endpoint, compute: Compute, places: Places) -> Iterator[Problem]:
    for number, region in enumerate(endpoint.regions):
        if region not in compute.regions:
            yield _unknown(region, compute, ("serving", name, "regions", number), places)
    if not endpoint.regions or any(region not in compute.regions for region in endpoint.regions):
        return
    pool = endpoint.gpus.name if endpoint.gpus else None
    if pool is not None and pool in compute and compute[pool].gpus is not None:
        there = regions_of(compute, pool)
        if not set(there) & set(endpoint.regions):
            message = f"it may only be in {', '.join(map(say, endpoint.regions))}, and its pool {say(pool)} is only in "
            message += ", ".join(map(say, there))
            yield places.problem(("serving", name, "regions"), "residency", message)
    for number, stage in enumerate(endpoint.rollout):
        if stage.in_ is not None and stage.in_ in compute.regions and stage.in_ not in endpoint.regions:
            message = f"{say(stage.in_)} is not among the regions that this endpoint may be in"
            yield places.problem(("serving", name, "rollout", number, "in"), "residency", message)


def _traffic(name: str, endpoint: Endpoint, compute: Compute, places: Places) -> Iterator[Problem]:
    allowed = endpoint.regions or compute.regions or (HERE,)
    for number, stage in enumerate(endpoint.rollout):
        if stage.in_ is not None and stage.in_ not in compute.regions:
            yield _unknown(stage.in_, compute, ("serving", name, "rollout", number, "in"), places)
    traffic = endpoint.traffic
    if traffic is None:
        return
    loc = ("serving", name, "traffic")
    said = places.find((*loc, "requests"))[1] > len(loc)  # one that is wrong by itself was told already
    if traffic.requests is None and traffic.trace is None and not said:
        yield places.problem(loc, "no-rate", "say how many `requests` there are, such as `500k/day`, or name a `trace`")
    if traffic.requests is not None and traffic.requests.count <= 0:
        yield places.problem((*loc, "requests"), "no-rate", "there are no requests: write more than 0")
    for region in traffic.regions:
        if region not in compute.regions:
            yield _unknown(region, compute, (*loc, "regions", region), places)
        elif region not in allowed:
            message = (
                f"requests come from {say(region)}, and this endpoint may only be in {', '.join(map(say, allowed))}"
            )
            yield places.problem((*loc, "regions", region), "residency", message, key=True)
    total = sum(traffic.regions.values())
    if traffic.regions and abs(total - 1) > 0.005:
        message = f"the shares add up to {total:.4g}, not to 1"
        yield places.problem((*loc, "regions"), "bad-shares", message, key=True)


def _survival(compute: Compute, orchestration: Orchestration, places: Places) -> Iterator[Problem]:
    there = len(compute.regions or (HERE,))
    for number, loss in enumerate(orchestration.survive):
        if loss.what == "region" and loss.count >= there:
            message = f"losing {loss.count} of {there} region(s) leaves none: name more in `compute.regions`"
            yield places.problem(("orchestration", "survive", number), "nothing-left", message)


def _room(
    compute: Compute, orchestration: Orchestration, serving: Mapping[str, Endpoint], places: Places
) -> Iterator[Problem]:
    """The fewest replicas of all endpoints have room in what may be used of this machine."""
    pool = compute.pools.get(orchestration.where)
    if pool is None or pool.machine is None:
        return
    for what, most in (("cores", pool.cores), ("memory", pool.memory)):
        taken = 0.0
        for name, endpoint in serving.items():
            each = (endpoint.cores or endpoint.threads) if what == "cores" else float(endpoint.memory or 0)
            regions = len(endpoint.regions or compute.regions or (HERE,)) if endpoint.replicas.per_region else 1
            count = max(endpoint.replicas.low, 1) * regions
            taken += count * each
            if most is not None and taken > most + 1e-9:
                unit, scale = ("cores", 1.0) if what == "cores" else ("GB", 1e9)
                message = f"its {count} replica(s), with those before, take {taken / scale:.3g} {unit}, and "
                message += f"`{orchestration.where}` has {most / scale:.3g}"
                yield places.problem(("serving", name, "replicas"), "no-room", message)
                break
