"""Stages of the stack file as canaries of the soak calculator: their share, their time, the traffic of their region.

What this is: the file's words turned into numbers; pure. Who calls it: the plan, the loop when a rollout
begins, the console, `mainspring rollout soak`. What it must never do: work anything out (`decide/soak.py` does), or
have terms of its own: a rollout's are the loop's.
"""

from __future__ import annotations

from mainspring.decide.soak import Canary
from mainspring.stack.model import Stack
from mainspring.stack.rollout import Stage
from mainspring.stack.serving import Endpoint


def regions_there(stack: Stack, endpoint: Endpoint) -> tuple[str, ...]:
    """The regions that an endpoint answers in; none where the file names none."""
    return endpoint.regions or stack.compute.regions


def part_of(stack: Stack, endpoint: Endpoint, region: str) -> float:
    """The part of the requests that come from a region, as the file says; evenly where it does not. "": all."""
    there = regions_there(stack, endpoint)
    if not region or not there:
        return 1.0
    said = endpoint.traffic.regions if endpoint.traffic is not None else {}
    given = {one: max(said.get(one, 0.0), 0.0) for one in there}
    total = sum(given.values())
    return given.get(region, 0.0) / total if total > 0 else 1.0 / len(there)


def canary_of(stack: Stack, endpoint: Endpoint, stage: Stage, rate: float) -> Canary:
    """A stage that watches a part of the requests; `rate` is all requests/s of the endpoint."""
    region = stage.in_ or ""
    part = part_of(stack, endpoint, region)
    return Canary(rate, stage.share, stage.for_, part, region, mirror=stage.mirror is not None)
