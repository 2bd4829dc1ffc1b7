"""Rollouts: begin, walk down the stages, end as champion or be given up."""

from __future__ import annotations

from dataclasses import replace

from mainspring.decide.rollout import Bounds, Evidence, StageVerdict, in_words, judge_stage
from mainspring.loop.draft import Draft
from mainspring.loop.memory import ModelMemory, RolloutMemory, StagePinned
from mainspring.loop.plan import RecordVerdict
from mainspring.loop.readings import LATENCY_EDGES, Pairs, Traffic, TrafficQuery, Unknown
from mainspring.loop.serve import gateways_acked, version_of
from mainspring.loop.snapshot import Request
from mainspring.loop.window import revision_name, rollout_queries
from mainspring.stack.serving import Endpoint

OVERDUE = 600.0  # seconds between looks at a stage whose time is up but whose data is not there
DEFAULT_MARGIN = 0.005  # Brier; where no gate says otherwise


def roll(draft: Draft) -> None:
    """Answer commands, then move each rollout on by one decision."""
    if draft.s.desired.down:
        return
    for name in [n for n in draft.rollouts if n not in draft.s.desired.stack.serving]:
        draft.rollouts.pop(name)
    for request in draft.s.requests:
        if request.verb in _COMMANDS:
            _command(draft, request)
    for name, endpoint in draft.s.desired.stack.serving.items():
        if name in draft.rollouts:
            _advance(draft, name)
        else:
            _begin(draft, name, endpoint)
    _refuse_given_up(draft)


def _begin(draft: Draft, name: str, endpoint: Endpoint) -> None:
    model = endpoint.model_name
    memory = draft.models.get(model)
    number = draft.s.observed.aliases.get(model, {}).get("challenger", "")
    version = version_of(draft, model, number) if number else None
    if memory is None or version is None or version.verdict != "passed" or not version.servable:
        return
    if number == memory.champion or f"{model}/{number}" in draft.aborted:
        return
    if any(r.model == model and r.candidate != number for r in draft.rollouts.values()):
        return  # one candidate of a model at a time, behind whatever endpoints
    margin, confidence = DEFAULT_MARGIN, 0.95
    for spec in draft.s.desired.stack.pipelines.values():
        if spec.produces == model and spec.gates.brier is not None:
            confidence = spec.gates.brier.confidence
            if spec.gates.brier.no_worse_by is not None:
                margin = spec.gates.brier.no_worse_by
    draft.rollouts[name] = RolloutMemory(
        endpoint=name,
        model=model,
        candidate=number,
        control=memory.champion,
        stages=tuple(StagePinned(s.kind, s.share, s.for_) for s in endpoint.rollout),
        abort_errors=endpoint.abort.errors,
        abort_p95=endpoint.abort.p95,
        margin=margin,
        confidence=confidence,
        began=draft.now.wall,
    )
    message = f"version {number} of `{model}` is rolled out against version {memory.champion}"
    key = f"endpoint/{name}/rollout/{number}/began/{draft.now.wall:.0f}"
    draft.tell("RolloutBegan", f"endpoint/{name}", message, key=key, kind="rollout")
    draft.wait(f"endpoint/{name}", f"version {number} gets ready", self_ending=True)


def _advance(draft: Draft, name: str) -> None:
    rollout = draft.rollouts[name]
    version = version_of(draft, rollout.model, rollout.candidate)
    gone = version is None and draft.s.observed.registry
    if gone or (version is not None and not version.servable):
        _give_up(draft, rollout, f"version {rollout.candidate} cannot be served any more")
        return
    if _loops(draft, rollout):
        _give_up(draft, rollout, f"version {rollout.candidate} does not stay up")
        return
    stage = rollout.stages[rollout.stage]
    if stage.kind == "all":
        _end(draft, rollout)
        return
    if not rollout.ready and not _takes_traffic(draft, rollout):
        draft.wait(f"endpoint/{name}", f"version {rollout.candidate} gets ready", self_ending=True)
        return
    if not rollout.ready:
        rollout = _enter(draft, replace(rollout, ready=True))
        draft.wait(f"endpoint/{name}", "the stage begins", self_ending=True)
    if rollout.paused:
        draft.wait(f"endpoint/{name}", f"paused by a person: `mainspring rollout resume {name}`")
        return
    if rollout.stage_began == draft.now.wall and stage.seconds > 0:
        draft.wakes.append(rollout.stage_began + stage.seconds)
        return  # its readings are asked for from the next cycle on
    _decide(draft, rollout, stage)


def _end(draft: Draft, rollout: RolloutMemory) -> None:
    """Promote a version that has walked down all stages, as soon as it answers, behind all endpoints of its model."""
    about = f"endpoint/{rollout.endpoint}"
    behind = [r.endpoint for r in _same(draft, rollout) if r.stages[r.stage].kind != "all"]
    if rollout.paused:
        draft.wait(about, f"paused by a person: `mainspring rollout resume {rollout.endpoint}`")
    elif not _answers(draft, rollout):
        draft.wait(about, f"version {rollout.candidate} gets ready", self_ending=True)
    elif behind:
        draft.wait(about, f"version {rollout.candidate} is still being rolled out behind `{behind[0]}`")
    else:
        _promote(draft, rollout, "all stages went well")


def _same(draft: Draft, rollout: RolloutMemory) -> list[RolloutMemory]:
    """The rollouts of the same version, behind whatever endpoints: a model has one champion."""
    return [r for r in draft.rollouts.values() if (r.model, r.candidate) == (rollout.model, rollout.candidate)]


def _answers(draft: Draft, rollout: RolloutMemory) -> bool:
    """Whether a replica of the candidate is ready."""
    prefix = revision_name(rollout.endpoint, rollout.candidate)
    seen = draft.s.observed.processes
    return any(p.kind == "replica" and p.state == "ready" and p.name.rsplit("-", 1)[0] == prefix for p in seen)


def _enter(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Start a stage's clock."""
    stage = rollout.stages[rollout.stage]
    mirror_since = draft.now.wall if stage.kind == "mirror" and rollout.mirror_since is None else rollout.mirror_since
    entered = replace(rollout, stage_began=draft.now.wall, stage_watched=draft.now.watched, mirror_since=mirror_since)
    draft.rollouts[rollout.endpoint] = entered
    message = f"version {rollout.candidate}: {stage.kind} {stage.share:.0%} for {in_words(stage.seconds)}"
    key = f"endpoint/{rollout.endpoint}/rollout/{rollout.candidate}/stage/{rollout.stage}/{rollout.began:.0f}"
    draft.tell("StageBegan", f"endpoint/{rollout.endpoint}", message, key=key, kind="rollout")
    return entered


def _takes_traffic(draft: Draft, rollout: RolloutMemory) -> bool:
    """Whether the written routes hold the candidate at its share and every worker goes by them."""
    table = draft.s.observed.routes
    if table is None or rollout.endpoint not in table.endpoints:
        return False
    routes = table.endpoints[rollout.endpoint]
    name = revision_name(rollout.endpoint, rollout.candidate)
    mine = next((r for r in routes.revisions if r.name == name), None)
    stage = rollout.stages[rollout.stage]
    share = routes.mirror_share if stage.kind == "mirror" and routes.mirror == name else mine.weight if mine else 0
    acked = gateways_acked(draft)
    taken = bool(acked) and all(epoch >= table.epoch for epoch in acked.values())
    return mine is not None and bool(mine.replicas) and share > 0 and taken


def _loops(draft: Draft, rollout: RolloutMemory) -> bool:
    prefix = revision_name(rollout.endpoint, rollout.candidate)
    limit = max(1.0, draft.s.desired.stack.orchestration.restarts.count)
    return any(m.failures >= limit for n, m in draft.processes.items() if n.rsplit("-", 1)[0] == prefix)


def _decide(draft: Draft, rollout: RolloutMemory, stage: StagePinned) -> None:
    elapsed = draft.now.watched - rollout.stage_watched
    bounds = Bounds(rollout.abort_errors, rollout.abort_p95, rollout.margin, rollout.confidence)
    evidence, untold = _evidence(draft, rollout)
    verdict = judge_stage(bounds, evidence, elapsed=elapsed, length=stage.seconds)
    about = f"endpoint/{rollout.endpoint}"
    draft.condition(about, "Progressing", ok=True, reason=stage.kind.capitalize(), message=verdict.message)
    if verdict.kind == "abort":
        _give_up(draft, rollout, verdict.message, verdict)
    elif verdict.kind == "advance":
        value = {"version": rollout.candidate, "stage": stage.kind, "message": verdict.message, "untold": untold}
        key = f"{rollout.model}/{rollout.candidate}/{rollout.stage}/{rollout.began:.0f}"
        draft.record("rollout", key, draft.now.wall, value | verdict.numbers | {"kind": "stage"})
        _next(draft, rollout)
    else:
        draft.wait(about, f"{stage.kind} of version {rollout.candidate}: {verdict.message}")
        rest = stage.seconds - elapsed
        draft.wakes.append(draft.now.wall + (rest if rest > 0 else OVERDUE))


def _next(draft: Draft, rollout: RolloutMemory) -> None:
    moved = replace(rollout, stage=rollout.stage + 1, ready=False)
    draft.rollouts[rollout.endpoint] = moved
    draft.wait(f"endpoint/{rollout.endpoint}", "the next stage begins", self_ending=True)


def _evidence(draft: Draft, rollout: RolloutMemory) -> tuple[Evidence, int]:
    traffic: Traffic | Unknown = Unknown("nobody asked")
    pairs: Pairs | Unknown = Unknown("not mirrored")
    for query in rollout_queries(rollout, draft.now.wall):
        if isinstance(query, TrafficQuery):
            traffic = draft.reading(query, Traffic)
        else:
            pairs = draft.reading(query, Pairs)
    days: tuple[tuple[int, float], ...] = ()
    untold = 0
    if isinstance(pairs, Pairs):
        days = tuple((d.rows, d.loss_candidate - d.loss_control) for d in pairs.days if d.rows)
        untold = pairs.untold
    told = draft.s.desired.stack.serving[rollout.endpoint].truth is not None
    if isinstance(traffic, Unknown):
        return Evidence(requests=None, days=days, told=told), untold
    slow = _slower(traffic.latency, rollout.abort_p95) if rollout.abort_p95 is not None else 0
    return Evidence(traffic.requests, traffic.errors, slow, sum(traffic.latency), days, told), untold


def _slower(latency: tuple[int, ...], bound: float) -> int:
    """Answers in buckets that lie wholly above the bound: never counts a quick one as slow."""
    lower = (0.0, *LATENCY_EDGES)
    return sum(count for count, edge in zip(latency, lower, strict=True) if edge >= bound)


def _promote(draft: Draft, rollout: RolloutMemory, why: str) -> None:
    for other in _same(draft, rollout):
        draft.rollouts.pop(other.endpoint)
    draft.models[rollout.model] = ModelMemory(champion=rollout.candidate, previous=rollout.control)
    message = f"version {rollout.candidate} of `{rollout.model}` is the champion: {why}"
    key = f"model/{rollout.model}/promoted/{rollout.candidate}/{draft.now.wall:.0f}"
    draft.tell("Promoted", f"endpoint/{rollout.endpoint}", message, key=key, kind="rollout")
    value = {"model": rollout.model, "version": rollout.candidate, "kind": "promoted", "message": message}
    draft.record("rollout", f"{rollout.model}/{rollout.candidate}/promoted/{rollout.began:.0f}", draft.now.wall, value)
    draft.wait(f"endpoint/{rollout.endpoint}", "the promotion is taken up", self_ending=True)


def _give_up(draft: Draft, rollout: RolloutMemory, why: str, verdict: StageVerdict | None = None) -> None:
    for other in _same(draft, rollout):
        draft.rollouts.pop(other.endpoint)
    draft.aborted.append(f"{rollout.model}/{rollout.candidate}")
    stage = rollout.stages[rollout.stage].kind
    message = f"rollout of version {rollout.candidate} of `{rollout.model}` was given up in {stage}: {why}"
    key = f"model/{rollout.model}/aborted/{rollout.candidate}/{draft.now.wall:.0f}"
    draft.tell("RolloutAborted", f"endpoint/{rollout.endpoint}", message, key=key, level="warning", kind="rollout")
    value: dict[str, object] = {"model": rollout.model, "version": rollout.candidate, "kind": "aborted"}
    value |= {"message": message, **(verdict.numbers if verdict else {})}
    draft.record("rollout", f"{rollout.model}/{rollout.candidate}/aborted/{rollout.began:.0f}", draft.now.wall, value)
    draft.wait(f"endpoint/{rollout.endpoint}", "the old version takes all requests", self_ending=True)


def _refuse_given_up(draft: Draft) -> None:
    """Write beside a version that its rollout was given up, so that every MLflow client sees it."""
    if not draft.s.observed.registry:
        return
    for version in draft.s.observed.versions:
        if version.verdict == "passed" and f"{version.model}/{version.number}" in draft.aborted:
            note = "its rollout was given up: `mainspring events` has the reason"
            draft.do(RecordVerdict(version.model, version.number, "refused", note, "{}"), note, keeps=True)
            draft.wait(f"model/{version.model}", "the end of its rollout is written down", self_ending=True)


_COMMANDS = ("promote", "abort", "pause", "resume", "undo")


def _command(draft: Draft, request: Request) -> None:
    name, verb = request.target, request.verb
    if name not in draft.s.desired.stack.serving:
        names = ", ".join(f"`{n}`" for n in draft.s.desired.stack.serving)
        draft.answer(request, f"there is no endpoint `{name}`; there are: {names}", accepted=False)
        return
    rollout = draft.rollouts.get(name)
    who = request.who or "a person"
    if verb == "undo":
        _undo(draft, request, name, rollout, who)
    elif rollout is None:
        draft.answer(request, f"no rollout of `{name}` is under way", accepted=False)
    elif verb in ("pause", "resume"):
        draft.rollouts[name] = replace(rollout, paused=verb == "pause")
        draft.answer(request, f"rollout of version {rollout.candidate}: {verb}d", accepted=True)
    elif verb == "abort":
        _give_up(draft, rollout, f"aborted by {who}")
        draft.answer(request, f"rollout of version {rollout.candidate} is given up", accepted=True)
    elif _answers(draft, rollout):
        _promote(draft, rollout, f"promoted by {who}")
        draft.answer(request, f"version {rollout.candidate} is the champion", accepted=True)
    else:
        draft.answer(request, f"version {rollout.candidate} is not ready yet", accepted=False)


def _undo(draft: Draft, request: Request, name: str, rollout: RolloutMemory | None, who: str) -> None:
    """Go back to the last good version: give up a rollout under way, else swap champion and previous."""
    model = draft.s.desired.stack.serving[name].model_name
    rollout = rollout or next((r for r in draft.rollouts.values() if r.model == model), None)
    if rollout is not None:
        _give_up(draft, rollout, f"undone by {who}")
        draft.answer(request, f"rollout of version {rollout.candidate} is given up", accepted=True)
        return
    memory = draft.models.get(model)
    if memory is None or not memory.previous:
        draft.answer(request, f"`{name}` has no previous version to go back to", accepted=False)
        return
    previous = version_of(draft, model, memory.previous)
    if previous is None or not previous.servable:
        text = f"version {memory.previous}, the previous one, is not in the registry, or cannot be served"
        draft.answer(request, text, accepted=False)
        return
    draft.models[model] = ModelMemory(champion=memory.previous, previous="")
    draft.aborted.append(f"{model}/{memory.champion}")
    message = f"version {memory.previous} of `{model}` is the champion again: undone by {who}"
    draft.tell("RolledBack", f"endpoint/{name}", message, level="warning", kind="rollout")
    value = {"model": model, "version": memory.previous, "kind": "undone", "message": message}
    draft.record("rollout", f"{model}/{memory.champion}/undone/{draft.now.wall:.0f}", draft.now.wall, value)
    draft.answer(request, message, accepted=True)
    draft.wait(f"endpoint/{name}", "the rollback is taken up", self_ending=True)
