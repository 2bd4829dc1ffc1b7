"""The loop as people see it: plain mappings made of the last look, for the command line and for pages.

What this is: pure functions from values to JSON-ready data. Who calls it: `console/api.py`. What it must never do:
look at the world by itself, or judge anything: what is shown was decided elsewhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mainspring.console.rollouts import rollout
from mainspring.controller import Look
from mainspring.decide.routes import EndpointRoutes
from mainspring.loop.labels import label_of
from mainspring.loop.plan import Plan, Record, Step
from mainspring.loop.room import count_of, regions_of, replicas, scales
from mainspring.loop.snapshot import Observed, RunSeen, VersionSeen
from mainspring.stack.model import Stack
from mainspring.store.book import EventKept, StepKept

Json = dict[str, Any]


def plain(value: Any) -> Any:
    """Data as JSON knows it; NaN and infinities become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | type(None)) else str(value)


def endpoints(look: Look, judged: Sequence[Record] = ()) -> list[Json]:
    """Each endpoint: what answers with which share, and what was promised; `judged`: records of its rollout."""
    memory, table = look.plan.memory, look.observed.routes
    rows = []
    for name, spec in look.desired.stack.serving.items():
        routes = table.endpoints.get(name, EndpointRoutes(())) if table else EndpointRoutes(())
        revisions = [
            {
                "name": r.name,
                "version": r.version,
                "label": label_of(r.name),
                "share": r.weight / 10_000,
                "regional": {region: weight / 10_000 for region, weight in r.regional.items()},
                "mirror": routes.mirror_share / 10_000 if routes.mirror == r.name else 0.0,
                "replicas": list(r.replicas),
            }
            for r in routes.revisions
        ]
        model, regions = memory.models.get(spec.model_name), regions_of(look.desired.stack, spec)
        rows.append(
            {
                "name": name,
                "model": spec.model_name,
                "champion": model.champion if model else "",
                "previous": model.previous if model else "",
                "ready": any(r["replicas"] and r["share"] for r in revisions),
                "kind": "language" if spec.is_language else "predictive",
                "runtime": spec.runtime,
                "options": list(spec.words),
                "replicas_wanted": len(replicas(look.desired.stack, name, "", count_of(memory, name, spec, regions))),
                "replicas_range": str(spec.replicas),
                "at_zero": bool(model and model.champion)
                and scales(spec)
                and count_of(memory, name, spec, regions) == 0,
                "load": _load(look, name),
                "load_seconds": memory.scales[name].load_seconds if name in memory.scales else 0.0,
                "tenants": sorted(spec.tenants),
                "revisions": revisions,
                "objective": {
                    "p95": spec.objective.p95,
                    "ttft": spec.objective.ttft,
                    "availability": spec.objective.availability,
                },
                "rollout": plain(rollout(memory.rollouts[name], look, judged)) if name in memory.rollouts else None,
            }
        )
    return rows


def _load(look: Look, name: str) -> Json | None:
    """What gateway workers said last; None where nobody knows."""
    load = look.observed.loads.get(name)
    if load is None:
        return None
    seconds = load.seconds if math.isfinite(load.seconds) else None
    return {"waiting": load.waiting, "running": load.running, "rate": load.rate, "slow": load.slow, "seconds": seconds}


def models(look: Look) -> list[Json]:
    """Each model that is followed or produced: its aliases, and how many versions it has."""
    stack, memory = look.desired.stack, look.plan.memory
    names = [e.model_name for e in stack.serving.values()] + [p.produces for p in stack.pipelines.values()]
    rows = []
    for name in dict.fromkeys(names):
        kept = memory.models.get(name)
        versions = [v for v in look.observed.versions if v.model == name]
        rows.append(
            {
                "name": name,
                "champion": kept.champion if kept else "",
                "previous": kept.previous if kept else "",
                "challenger": look.observed.aliases.get(name, {}).get("challenger", ""),
                "versions": len(versions),
                "passed": sum(v.verdict == "passed" for v in versions),
                "refused": sum(v.verdict == "refused" for v in versions),
            }
        )
    return rows


def version(seen: VersionSeen, look: Look) -> Json:
    """A version, with the aliases that name it."""
    aliases = look.observed.aliases.get(seen.model, {})
    return {**plain(seen), "aliases": sorted(a for a, number in aliases.items() if number == seen.number)}


def pipelines(look: Look) -> list[Json]:
    """Each pipeline: the run under way, or the last one."""
    memory = look.plan.memory
    rows = []
    for name, spec in look.desired.stack.pipelines.items():
        kept = memory.pipelines.get(name)
        active = next((m for m in memory.runs.values() if m.pipeline == name), None)
        count = kept.count if kept else 0
        ident = active.id if active else f"{name}-{count}" if count else ""
        seen = next((r for r in look.observed.runs if r.id == ident), None)
        rows.append(
            {
                "name": name,
                "produces": spec.produces,
                "runs": count,
                "failed_in_a_row": kept.failed if kept else 0,
                "running": active.id if active else "",
                "cause": active.cause if active else "",
                "last": run(seen) if seen else None,
            }
        )
    return rows


def run(seen: RunSeen) -> Json:
    """A run in short."""
    step = next((s.name for s in seen.steps if s.state == "running"), "")
    done = sum(s.state in ("succeeded", "cached") for s in seen.steps)
    return {
        "id": seen.id,
        "pipeline": seen.pipeline,
        "state": seen.state,
        "attempt": seen.attempt,
        "step": step,
        "steps_done": done,
        "steps": len(seen.steps),
        "seconds": seen.seconds,
        "metrics": plain(seen.metrics),
        "error": seen.error,
    }


def listed(one: Any) -> Json:
    """A run (`pipelines.registry.RunListed`) with what it used and gave."""
    told: Json = plain(one)
    told.pop("seen")
    return {**run(one.seen), **told}


def watches(records: Iterable[Record]) -> list[Json]:
    """The latest judgement of each watch of an endpoint."""
    latest: dict[tuple[str, str], Record] = {}
    for record in records:
        latest[str(record.value.get("endpoint")), str(record.value.get("watch"))] = record
    return [{"kind": r.kind, "at": r.at, **plain(r.value)} for r in latest.values()]


def step(one: Step) -> Json:
    """A step that is begun, or waits for approval."""
    return {
        "id": one.id,
        "action": type(one.action).__name__,
        "because": one.because,
        "keeps": one.keeps,
        "detail": plain(one.action),
    }


def plan(made: Plan) -> Json:
    """A plan: steps, what is waited for, and when it looks again."""
    return {
        "steps": [step(s) for s in made.steps],
        "waiting": [plain(w) for w in made.waiting],
        "wake": made.wake,
        "quiet": made.quiet,
    }


def event(kept: EventKept) -> Json:
    """An event, counted."""
    return {**plain(kept.event), "count": kept.count, "first": kept.first, "last": kept.last}


def kept_step(kept: StepKept) -> Json:
    """A step of the past."""
    row: Json = plain(kept)
    return row


def processes(observed: Observed) -> list[Json]:
    """Each supervised process."""
    return [plain(p) for p in observed.processes]


def live(look: Look) -> str:
    """The version that answers most requests of the first endpoint; "" for none."""
    for endpoint in endpoints(look):
        answering = [r for r in endpoint["revisions"] if r["share"] and r["replicas"]]
        return str(max(answering, key=lambda r: float(r["share"]))["version"]) if answering else ""
    return ""


def gateway(observed: Observed) -> Json:
    """Where requests go: the address of a ready worker, and whether each is up to date."""
    workers = [p for p in observed.processes if p.kind == "gateway"]
    epoch = observed.routes.epoch if observed.routes else 0
    return {
        "address": next((p.address for p in workers if p.state == "ready"), ""),
        "epoch": epoch,
        "workers": [{"name": p.name, "state": p.state, "acked": observed.acked.get(p.name, 0)} for p in workers],
    }


def stack(spec: Stack, revision: str, path: str) -> Json:
    """The stack in short."""
    return {"name": spec.stack, "revision": revision, "path": path}


def budget(spec: Stack, spend: Mapping[str, Any]) -> Json:
    """What was spent, of what may be spent."""
    limit = spec.cost.budget
    return {
        **plain(spend),
        "budget": limit.count if limit else None,
        "period": limit.per if limit else None,
        "price_per_hour": spec.compute[spec.orchestration.where].per_hour,
    }


def waits(made: Plan, trouble: Sequence[str]) -> list[Json]:
    """What is waited for, what stands in the loop's own way first."""
    own = [{"what": "loop", "why": why, "self_ending": False} for why in trouble]
    return own + [plain(w) for w in made.waiting]
