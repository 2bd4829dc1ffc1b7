"""How many replicas each endpoint has: asked of `decide.scale`, remembered, and told.

What this is: the one writer of the number of replicas. Who calls it: `decide.py`, before it serves. What it must never
do: start or stop anything (`serve.py` does), or take what is not known for nothing.
"""

from __future__ import annotations

import math

from mainspring.decide.ceiling import ceiling
from mainspring.decide.scale import STALE, Scaling, loaded, rules_of, scale
from mainspring.loop.draft import Draft
from mainspring.loop.limits import core_price
from mainspring.loop.memory import Memory
from mainspring.loop.readings import Spend, SpendQuery
from mainspring.loop.window import revision_name
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint

EVERY = 1.0
"""Seconds between two decisions where nothing wakes the loop."""


def scales(endpoint: Endpoint) -> bool:
    """Whether the number of replicas follows the load."""
    return endpoint.replicas.high > endpoint.replicas.low


def regions_of(stack: Stack, endpoint: Endpoint) -> int:
    """How often the range of an endpoint counts: once, or once in each region."""
    return len(endpoint.regions or stack.compute.regions or ("",)) if endpoint.replicas.per_region else 1


def count_of(memory: Memory | Draft, name: str, endpoint: Endpoint, regions: int) -> int:
    """Replicas of each version of an endpoint (of each region, where the file says so)."""
    if not scales(endpoint):
        return endpoint.replicas.low
    kept = memory.scales.get(name)
    want = endpoint.replicas.low
    if kept is not None and kept.want >= 0:
        want = math.ceil(kept.want / regions)
    # A version under way is watched in its own replicas: there is at least one of each.
    return max(want, 1) if name in memory.rollouts else want


def rescale(draft: Draft) -> None:
    """Decide how many replicas there are to be, endpoint by endpoint."""
    serving = draft.s.desired.stack.serving
    draft.scales = {name: kept for name, kept in draft.scales.items() if name in serving and scales(serving[name])}
    for name, endpoint in serving.items():
        if scales(endpoint) and draft.champion(endpoint.model_name):
            _rescale(draft, name, endpoint)


def _rescale(draft: Draft, name: str, endpoint: Endpoint) -> None:
    before = draft.scales.get(name, Scaling())
    ready, starting = _there(draft, name, endpoint)
    regions = regions_of(draft.s.desired.stack, endpoint)
    rules = rules_of(endpoint, _ceiling(draft, name, endpoint), regions)
    last = draft.s.memory.last
    away = last is not None and draft.now.mono - last.mono > STALE  # what has to hold all along, nobody watched
    load = None if away else draft.s.observed.loads.get(name)
    told = scale(rules, load, ready, starting, before, draft.now.mono, draft.now.wall)
    draft.scales[name] = told.memory
    draft.wakes.append(draft.now.wall + EVERY)
    about = f"endpoint/{name}"
    if told.want != (before.want if before.want >= 0 else endpoint.replicas.low * regions):
        key = f"{about}/scaled/{told.memory.since:.3f}"
        draft.tell("Scaled", about, f"`{name}` {told.why}", key=key, kind="scale")
    if "the budget allows" in told.why:
        draft.condition(about, "Scales", ok=False, reason="OverBudget", message=told.why)
        draft.tell(
            "OverBudget", about, f"`{name}` {told.why}", key=f"{about}/over-budget", level="warning", kind="scale"
        )
    elif told.memory.blind:
        draft.condition(about, "Scales", ok=None, reason="Unknown", message=told.why)
    else:
        draft.condition(about, "Scales", ok=True, reason="Follows", message=told.why)


def _there(draft: Draft, name: str, endpoint: Endpoint) -> tuple[int, int]:
    """Replicas of the champion that answer, and that start."""
    prefix = revision_name(name, draft.champion(endpoint.model_name))
    seen = [p.state for p in draft.s.observed.processes if p.kind == "replica" and p.name.rpartition("-")[0] == prefix]
    return seen.count("ready"), seen.count("starting")


def _ceiling(draft: Draft, name: str, endpoint: Endpoint) -> int | None:
    """What the budget still allows beside the other endpoints; None where nobody knows what was spent, or on what.

    A replay's hours are not those that are billed, so there it holds nothing back.
    """
    stack = draft.s.desired.stack
    budget = stack.cost.budget
    if budget is None or draft.s.desired.clock == "request":
        return None
    spent = draft.reading(SpendQuery(budget.per), Spend)
    if not isinstance(spent, Spend):
        return None
    core = core_price(stack, draft.s.observed.cores) * 3600.0
    hours = (budget.per - draft.now.wall % budget.per) / 3600.0
    there = [
        p.name.rsplit("-", 2)[0] for p in draft.s.observed.processes if p.kind == "replica" and p.state != "exited"
    ]
    others = sum(stack.serving[one].threads for one in there if one != name and one in stack.serving)
    return ceiling(budget.count - spent.dollars - others * core * hours, hours, core * endpoint.threads)


def note_load(draft: Draft, name: str, seconds: float) -> None:
    """A replica has become ready: remember how long that took."""
    kept = draft.scales.get(name)
    if kept is not None:
        draft.scales[name] = loaded(kept, seconds)
