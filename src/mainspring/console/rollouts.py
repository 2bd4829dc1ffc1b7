"""Rollouts as people see them: what is under way, what was found, what it waits for and how long still.

What this is: pure functions from the last look and the latest record to JSON-ready data. Who calls it: `views.py`, the
control API. What it must never do: judge: each verdict is the loop's, with the numbers that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mainspring.controller import Look
from mainspring.decide.figures import NAMES
from mainspring.decide.routes import EndpointRoutes
from mainspring.decide.soak import Canary, soak
from mainspring.decide.stages import part_of
from mainspring.decide.terms import Terms
from mainspring.loop.draft import Draft, Snapshot
from mainspring.loop.labels import fresh_of, revision_of
from mainspring.loop.memory import RolloutMemory, StagePinned
from mainspring.loop.place import Placed, placed
from mainspring.loop.plan import Record
from mainspring.loop.snapshot import Now
from mainspring.loop.window import revision_name

Json = dict[str, Any]
_TOLD = (*NAMES, "checks", "verdict", "message", "risk", "per_second", "share", "wave", "waves", "untold")
"""What is taken over from the verdict: `judged` in the answer says when it was."""


def rollout(memory: RolloutMemory, look: Look, records: Sequence[Record] = ()) -> Json:
    """A rollout under way.

    Keys: `endpoint`, `model`, `candidate`, `control` (labels of the two), `change` (`version` or `settings`); `stages`
    (kind, share, seconds, region, otherwise, metric, state: `done`, `here`, `to come` or `left out`, and then `why`),
    `number` (the place of this one, from 1), `stage`, `share`, `wave`, `waves`, `elapsed` and `seconds` (of this stage
    or wave, watched), `left` (seconds), `ready`, `paused`, `sticky`, `began`; `arms` (what answers: `arm`, `name`,
    `version`, `share`, `mirror`, `ready`, `wanted`), `how` (where the new replicas come from: `decide/waves.py`);
    `requests`, `errors`, `control_requests`, ... (`decide/figures.py`; null: not known); `checks` (of
    `decide/rollout.py`, each with `seconds_left` too: about how long until it is certain; null: not known), `verdict`,
    `message`, `risk`, `per_second` (the new version's requests), `judged` (event time; null: not yet); `waits`; `soak`
    (sentences of what the stage can find out at the traffic of late, or as was said when the rollout began).
    """
    mine = [r for r in records if _is_of(r, memory)]
    told = _latest(memory, look, mine)
    number = min(memory.stage, len(memory.stages) - 1)
    stage = memory.stages[number]
    seconds = told["length"] if told.get("length") is not None else stage.seconds
    elapsed = look.plan.memory.watched - memory.stage_watched if memory.ready else 0.0
    about = f"endpoint/{memory.endpoint}"
    place = _place(memory, look)
    skipped = {r.value["number"]: str(r.value.get("why", "")) for r in mine if r.value.get("kind") == "skipped"}
    return {
        "endpoint": memory.endpoint,
        "model": memory.model,
        "candidate": memory.candidate,
        "control": memory.control,
        "change": "version" if memory.launch is None else "settings",
        "stage": stage.kind,
        "number": number + 1,
        "stages": [_stage(s, i, number, skipped.get(i + 1)) for i, s in enumerate(memory.stages)],
        "elapsed": elapsed,
        "seconds": seconds,
        "left": max(0.0, seconds - elapsed),
        "began": memory.began,
        "paused": memory.paused,
        "ready": memory.ready,
        "sticky": memory.sticky,
        "arms": _arms(memory, look, place),
        "how": place.how,
        **{name: told.get(name) for name in _TOLD},
        "share": told.get("share") if told.get("share") is not None else stage.share,
        "wave": memory.wave,
        "checks": [_check(c, told.get("per_second")) for c in told.get("checks") or ()],
        "judged": told.get("at"),
        "waits": [w.why for w in look.plan.waiting if w.what == about],
        "soak": _soak(memory, stage, look) or ([] if skipped else _soak_before(mine)),
    }


def _soak(memory: RolloutMemory, stage: StagePinned, look: Look) -> list[str]:
    """What the present stage can find out at the traffic of late; empty where that is not known, or it has no share."""
    load, spec = look.observed.loads.get(memory.endpoint), look.desired.stack.serving.get(memory.endpoint)
    if load is None or not load.slow > 0 or spec is None or memory.terms is None or not stage.seconds:
        return []
    if stage.kind not in ("mirror", "canary", "ab"):
        return []
    part = part_of(look.desired.stack, spec, stage.region)
    rate = float(f"{load.slow:.2g}")  # two digits, so that it is not worked out anew at each look
    canary = Canary(rate, stage.share, stage.seconds, part, stage.region, stage.kind == "mirror")
    return list(_said(canary, memory.terms))


def _soak_before(records: Sequence[Record]) -> list[str]:
    """What was said when the rollout began, about its first stage that compares."""
    return next((r.value["soak"] for r in records if r.value.get("soak")), [])


@lru_cache(maxsize=64)
def _said(canary: Canary, terms: Terms) -> tuple[str, ...]:
    return soak(canary, terms).says()


def _is_of(record: Record, memory: RolloutMemory) -> bool:
    """Whether a record is of this rollout, and not of an earlier try with the same version."""
    value = record.value
    same = (value.get("endpoint"), str(value.get("version"))) == (memory.endpoint, memory.candidate)
    return same and record.at >= memory.began


def _latest(memory: RolloutMemory, look: Look, records: Sequence[Record]) -> Mapping[str, Any]:
    """The last verdict of the present stage: of this cycle, or else as it was recorded."""
    now = look.plan.judged.get(memory.endpoint)
    if now is not None:
        return {"at": look.at, **now}
    kept = next((r for r in reversed(records) if r.value.get("checks") is not None), None)
    return {} if kept is None else {"at": kept.at, **kept.value}


def _stage(stage: StagePinned, number: int, here: int, skipped: str | None) -> Json:
    """`skipped`: why it was left out; None: it was not."""
    state = "here" if number == here else "done" if number < here else "to come"
    state = state if skipped is None else "left out"
    return {
        "kind": stage.kind,
        "share": stage.share,
        "seconds": stage.seconds,
        "region": stage.region,
        "otherwise": stage.otherwise,
        "metric": stage.metric,
        "step": stage.step,
        "step_share": stage.step_share,
        "per_region": stage.per_region,
        "state": state,
        **({} if skipped is None else {"why": skipped}),
    }


def _check(check: Mapping[str, Any], per_second: object) -> Json:
    """A check, with the time that its requests take at the rate of late."""
    left, rate = check.get("requests_left"), per_second
    known = isinstance(left, int | float) and isinstance(rate, int | float) and rate > 0
    return {**check, "seconds_left": left / rate if known else None}  # type: ignore[operator]  # numbers, as `known` says


def _place(memory: RolloutMemory, look: Look) -> Placed:
    """The replicas that there are to be, as the loop chooses them from what was seen."""
    kept = look.plan.memory
    if memory.endpoint not in look.desired.stack.serving:
        return Placed()
    now = kept.last or Now(look.at, 0.0, kept.watched)
    return placed(Draft.of(Snapshot(now, look.desired, look.observed, {}, kept)), memory.endpoint)


def _arms(memory: RolloutMemory, look: Look, place: Placed) -> list[Json]:
    """What answers: the new version, the fresh control where there is one, the old version; shares are of the requests
    that the stage is about.
    """
    table = look.observed.routes
    routes = table.endpoints.get(memory.endpoint) if table is not None else None
    routes = routes or EndpointRoutes(())
    region = memory.stages[min(memory.stage, len(memory.stages) - 1)].region
    labels = {"candidate": memory.candidate, "fresh": fresh_of(memory.control), "control": memory.control}
    rows = []
    for arm, label in labels.items():
        name = revision_name(memory.endpoint, label)
        seen = [p for p in look.observed.processes if p.kind == "replica" and revision_of(p.name) == name]
        route = routes.revision(name)
        wanted = len(place.stage.get(label, ()))
        if arm == "fresh" and not seen and not wanted and route is None:
            continue
        ready = sum(p.state == "ready" for p in seen)
        rows.append(
            {
                "arm": arm,
                "name": name,
                "version": label,
                "share": route.weight_in(region) / 10_000 if route else 0.0,
                "mirror": routes.mirror_share / 10_000 if routes.mirror == name else 0.0,
                "ready": ready,
                "wanted": wanted,
            }
        )
    return rows


def began(look: Look) -> float:
    """Event time from which on records are needed: the oldest rollout under way."""
    return min((r.began for r in look.plan.memory.rollouts.values()), default=float("inf"))
