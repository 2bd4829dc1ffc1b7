"""How many replicas each endpoint has: asked of `decide.scale`, remembered, and told.

What this is: the one writer of the number of replicas. Who calls it: `decide.py`, before it serves. What it must never
do: start or stop anything (`serve.py` does), or take what is not known for nothing.
"""

from __future__ import annotations

from dataclasses import replace

from mainspring.decide.ceiling import ceiling
from mainspring.decide.scale import STALE, Scaling, loaded, rules_of, scale
from mainspring.loop.draft import Draft
from mainspring.loop.labels import endpoint_of, label_of, revision_of
from mainspring.loop.launches import live_label
from mainspring.loop.limits import core_price
from mainspring.loop.place import ceiling as room_for
from mainspring.loop.place import lenders
from mainspring.loop.readings import Spend, SpendQuery
from mainspring.loop.room import regions_of, said, scales
from mainspring.stack.serving import Endpoint

EVERY = 1.0
"""Seconds between two decisions where nothing wakes the loop."""


def rescale(draft: Draft) -> None:
    """Decide how many replicas there are to be, endpoint by endpoint."""
    serving = draft.s.desired.stack.serving
    _tell_borrowed(draft)
    draft.scales = {name: kept for name, kept in draft.scales.items() if name in serving and scales(serving[name])}
    for name, endpoint in serving.items():
        if scales(endpoint) and draft.champion(endpoint.model_name):
            _rescale(draft, name, endpoint)


def _tell_borrowed(draft: Draft) -> None:
    """Say whose replicas make room for a rollout: their numbers are decided on below."""
    for name, rollout in draft.rollouts.items():
        found = lenders(draft, rollout)
        if found:
            whose = ", ".join(f"{count} of `{other}`" for other, count in sorted(found.items()))
            there = f"{said(draft.s.desired.stack)} may be used"
            message = f"`{name}` borrows the room of replicas above others' least number ({whose}): {there}"
            key = f"endpoint/{name}/room/{rollout.candidate}/{rollout.began:.0f}/borrowed"
            draft.tell("RoomForRollout", f"endpoint/{name}", message, key=key, kind="rollout")


def _rescale(draft: Draft, name: str, endpoint: Endpoint) -> None:
    before = draft.scales.get(name, Scaling())
    ready, starting = _there(draft, name)
    regions = regions_of(draft.s.desired.stack, endpoint)
    rules = replace(rules_of(endpoint, _ceiling(draft, name, endpoint), regions), room=room_for(draft, name))
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
    elif "the room allows" in told.why:
        draft.condition(about, "Scales", ok=False, reason="NoRoom", message=told.why)
    elif told.memory.blind:
        draft.condition(about, "Scales", ok=None, reason="Unknown", message=told.why)
    else:
        draft.condition(about, "Scales", ok=True, reason="Follows", message=told.why)


def _there(draft: Draft, name: str) -> tuple[int, int]:
    """Replicas that answer, and that start: the champion's, and while a version takes its place that one's too.

    Those of a candidate beside the champion's do not count, nor a fresh control's: they end with the rollout.
    """
    live, rollout = live_label(draft, name), draft.rollouts.get(name)
    seen = [p for p in draft.s.observed.processes if p.kind == "replica" and endpoint_of(p.name) == name]
    states: dict[str, list[str]] = {}
    for process in seen:
        states.setdefault(label_of(revision_of(process.name)), []).append(process.state)
    mine = states.get(live, [])
    if rollout is not None and rollout.stages[rollout.stage].kind in ("waves", "all"):
        mine = mine + states.get(rollout.candidate, [])
    return mine.count("ready"), mine.count("starting")


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
    there = [endpoint_of(p.name) for p in draft.s.observed.processes if p.kind == "replica" and p.state != "exited"]
    others = sum(stack.serving[one].threads for one in there if one != name and one in stack.serving)
    return ceiling(budget.count - spent.dollars - others * core * hours, hours, core * endpoint.threads)


def note_load(draft: Draft, name: str, seconds: float) -> None:
    """A replica has become ready: remember how long that took."""
    kept = draft.scales.get(name)
    if kept is not None:
        draft.scales[name] = loaded(kept, seconds)
