"""Runs of pipelines: start what is due, resume what was killed, conclude what has ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from mainspring.decide.restart import restart
from mainspring.decide.retrain import Situation, retrain
from mainspring.decide.schedule import next_after
from mainspring.loop.draft import Draft
from mainspring.loop.labels import version_number
from mainspring.loop.memory import PipelineMemory, RunMemory
from mainspring.loop.plan import StartRun
from mainspring.loop.readings import Spend, SpendQuery, Unknown
from mainspring.loop.snapshot import Request, RunSeen, VersionSeen
from mainspring.loop.versions import conclude_run, given_up, remember_given_up
from mainspring.stack.pipelines import PipelineSpec

ATTEMPTS = 8  # of one run that is killed again and again


def run(draft: Draft) -> None:
    """Look after every run that was started, then start those that are due."""
    for memory in list(draft.runs.values()):
        spec = draft.s.desired.stack.pipelines.get(memory.pipeline)
        if draft.s.desired.down:
            continue  # kept: stopped now, and resumed by the next `up`
        if spec is None:
            draft.runs.pop(memory.id)  # its process is stopped with all that is not wanted
            continue
        _follow(draft, memory, spec)
    if draft.s.desired.down:
        return
    for name, spec in draft.s.desired.stack.pipelines.items():
        _judge_named(draft, name, spec)
        _first(draft, name, spec)
        _changed(draft, name, spec)
        _asked(draft, name, spec)
        _conversion(draft, name, spec)
        _gates_alone(draft, name, spec)
        _proposed(draft, name, spec)
        _scheduled(draft, name, spec)
    _no_gates(draft)


def begin_for(draft: Draft, pipeline: str, cause: str) -> None:
    """Start a run for a trigger, if it may; say why not otherwise."""
    spec = draft.s.desired.stack.pipelines[pipeline]
    memory = draft.pipelines.get(pipeline, PipelineMemory())
    busy = _busy(draft, pipeline) or _rolling_out(draft, spec)
    situation = Situation(draft.now.wall, memory.starts, busy, _over_budget(draft))
    decision = retrain(spec.retrain, cause, situation)
    if decision.start:
        when = datetime.fromtimestamp(draft.now.wall, UTC).date().isoformat()
        if not _start(draft, pipeline, spec, f"{cause} at {when}"):
            # Its cause is seen once; what waits for an approval is proposed until it is begun.
            draft.pipelines[pipeline] = replace(memory, wants=f"{cause} at {when}")
    else:
        key = f"pipeline/{pipeline}/not-retrained/{draft.now.wall:.0f}"
        draft.tell("RetrainingHeldBack", f"pipeline/{pipeline}", decision.why, key=key, kind="retrain")


def _busy(draft: Draft, pipeline: str) -> str:
    for memory in draft.runs.values():
        if memory.pipeline == pipeline:
            return f"run {memory.id} is under way"
    return ""


def _rolling_out(draft: Draft, spec: PipelineSpec) -> str:
    """Why a trigger waits: what it found may be over when the rollout is. Who asks for a version need not wait."""
    for rollout in draft.rollouts.values():
        if rollout.model == spec.produces:
            return f"version {version_number(rollout.candidate)} is being rolled out"
    return ""


def _over_budget(draft: Draft) -> str:
    cost = draft.s.desired.stack.cost
    if cost.budget is None:
        return ""
    spend = draft.reading(SpendQuery(cost.budget.per), Spend)
    if isinstance(spend, Unknown):
        return ""  # an unknown bill stops nothing; the budget's own condition says that it is unknown
    for rule in cost.when_over:
        share, action = rule.split("% ", 1)
        if action == "stop retraining" and spend.dollars >= float(share) / 100 * cost.budget.count:
            return f"${spend.dollars:.2f} of the budget of ${cost.budget.count:.2f} is spent"
    return ""


def _day(moment: date | datetime | None, *, end: bool) -> float | None:
    if moment is None:
        return None
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    start = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return (start + timedelta(days=1 if end else 0)).timestamp()


def _start(
    draft: Draft,
    pipeline: str,
    spec: PipelineSpec,
    cause: str,
    *,
    candidate: str = "",
    source: VersionSeen | None = None,
    convert: str = "",
    asked: bool = False,
    alone: bool = False,
) -> bool:
    judged = draft.version(spec.produces, candidate) if candidate else None
    new = replace(
        _drawn_up(draft, pipeline, spec, cause),
        candidate=judged.artefact if judged else "",
        candidate_version=candidate,
        convert=convert,
        source=source.artefact if source else "",
        alone=alone,
        anew=alone and judged is not None and given_up(draft, judged),
    )
    if not draft.do(_action(new), f"{cause}: a run of `{pipeline}`", cause=new.id, keeps=asked):
        return False
    draft.runs[new.id] = new
    _count(draft, new, spec, source)
    draft.tell("RunStarted", f"pipeline/{pipeline}", f"{new.id}: {cause}", key=f"run/{new.id}/started", kind="retrain")
    value = {"pipeline": pipeline, "cause": cause, "first": new.first, "until": new.until}
    draft.record("run", new.id, draft.now.wall, value)
    draft.wait(f"run/{new.id}", "works", self_ending=True)
    return True


def _drawn_up(draft: Draft, pipeline: str, spec: PipelineSpec, cause: str) -> RunMemory:
    """The next run of a pipeline, against the champion that there is."""
    champion = draft.champion(spec.produces)
    version = draft.version(spec.produces, champion) if champion else None
    until = draft.now.wall - spec.truth_after
    if not champion and spec.first.to is not None:
        until = min(_day(spec.first.to, end=True) or until, draft.now.wall)
    number = 1 + max(draft.pipelines.get(pipeline, PipelineMemory()).count, _highest(draft, pipeline))
    return RunMemory(
        id=f"{pipeline}-{number}",
        pipeline=pipeline,
        cause=cause,
        attempt=1,
        since=_day(spec.first.from_, end=False),
        until=until,
        champion=version.artefact if version else "",
        champion_version=champion,
        candidate="",
        candidate_version="",
        first=champion == "",
    )


def _count(draft: Draft, new: RunMemory, spec: PipelineSpec, source: VersionSeen | None) -> None:
    """Remember of a run that begins what later ones depend on."""
    memory = draft.pipelines.get(new.pipeline, PipelineMemory())
    given = bool(new.candidate_version or new.convert)
    # Only triggered runs count against the limit and the cool-down; the first version is none.
    starts = memory.starts if new.first or given else (*memory.starts, draft.now.wall)[-64:]
    contents = memory.contents
    made_of = "" if new.candidate_version else spec.content
    if source is not None:
        made_of = dict(contents).get(source.run, "")
    if made_of:
        contents = (*contents, (new.id, made_of))[-64:]
    draft.pipelines[new.pipeline] = replace(
        memory,
        count=int(new.id.rpartition("-")[2]),
        starts=starts,
        wants=memory.wants if new.alone else "",  # who only looks takes nobody's turn
        content=memory.content if given else spec.content,
        contents=contents,
    )


def _highest(draft: Draft, pipeline: str) -> int:
    """The highest number among the runs that the world still shows: a memory that was lost counts from there on.

    Else a new run would take the name, and so the result, of an old one.
    """
    ids = [r.id for r in draft.s.observed.runs] + [v.run for v in draft.s.observed.versions]
    parts = [i.rpartition("-") for i in ids]
    return max((int(n) for name, _, n in parts if name == pipeline and n.isdecimal()), default=0)


def _action(memory: RunMemory) -> StartRun:
    return StartRun(
        run=memory.id,
        attempt=memory.attempt,
        pipeline=memory.pipeline,
        cause=memory.cause,
        since=memory.since,
        until=memory.until,
        champion=memory.champion,
        champion_version=memory.champion_version,
        candidate=memory.candidate,
        first=memory.first,
        convert=memory.convert,
        source=memory.source,
    )


def _follow(draft: Draft, memory: RunMemory, spec: PipelineSpec) -> None:
    seen = next((r for r in draft.s.observed.runs if r.id == memory.id), None)
    if seen is None or seen.attempt < memory.attempt:
        # Committed but not begun before a crash.
        draft.do(_action(memory), f"{memory.cause}: a run of `{memory.pipeline}`", cause=memory.id, keeps=True)
        draft.wait(f"run/{memory.id}", "starts", self_ending=True)
    elif seen.state == "running":
        step = next((s.name for s in seen.steps if s.state == "running"), "")
        draft.wait(f"run/{memory.id}", f"works{' on ' + step if step else ''}", self_ending=True)
    elif seen.state == "succeeded":
        pipeline = draft.pipelines.get(memory.pipeline, PipelineMemory())
        draft.pipelines[memory.pipeline] = replace(pipeline, failed=0)
        conclude_run(draft, memory, seen, spec)
    elif seen.state == "lost" or seen.retryable:
        _again(draft, memory, seen)
    else:
        _failed(draft, memory, seen)


def _again(draft: Draft, memory: RunMemory, seen: RunSeen) -> None:
    if memory.attempt >= ATTEMPTS:
        _failed(draft, memory, seen)
        return
    process = draft.process(f"run-{memory.id}")
    started = process.since if process else draft.now.mono
    when = restart((started,), memory.attempt, ATTEMPTS, 1.0)
    why = seen.error or "it was killed"
    if draft.now.mono < when.at:
        draft.wait(f"run/{memory.id}", f"{why}; resumes in {when.at - draft.now.mono:.0f} s", self_ending=True)
        return
    new = replace(memory, attempt=memory.attempt + 1)
    if draft.do(_action(new), f"{memory.id} is resumed: {why}", cause=memory.id, keeps=True):
        draft.runs[memory.id] = new
        key = f"run/{memory.id}/resumed/{new.attempt}"
        draft.tell("RunResumed", f"pipeline/{memory.pipeline}", f"{memory.id}: {why}", key=key, level="warning")
    draft.wait(f"run/{memory.id}", "is resumed", self_ending=True)


def _failed(draft: Draft, memory: RunMemory, seen: RunSeen) -> None:
    draft.runs.pop(memory.id)
    pipeline = draft.pipelines.get(memory.pipeline, PipelineMemory())
    draft.pipelines[memory.pipeline] = replace(pipeline, failed=pipeline.failed + 1)
    about = f"pipeline/{memory.pipeline}"
    message = f"{memory.id} failed: {seen.error or 'it was killed too often'}"
    draft.tell("RunFailed", about, message, key=f"run/{memory.id}/failed", level="error", kind="retrain")
    draft.record("run-failed", memory.id, draft.now.wall, {"pipeline": memory.pipeline, "error": seen.error})
    if memory.candidate_version and not memory.alone:
        remember_given_up(draft, draft.s.desired.stack.pipelines[memory.pipeline].produces, memory.candidate_version)


def _first(draft: Draft, name: str, spec: PipelineSpec) -> None:
    """Make the first version when there is none; after a failure only when the stack changed or somebody asks."""
    if spec.produces in draft.models or _busy(draft, name):
        return
    about = f"pipeline/{name}"
    memory = draft.pipelines.get(name, PipelineMemory())
    if any(v.model == spec.produces and v.verdict == "passed" and v.servable for v in draft.s.observed.versions):
        return
    if not draft.s.observed.registry:
        return
    changed = draft.s.desired.revision != draft.s.memory.desired
    if memory.count == 0 or changed:
        if _start(draft, name, spec, "first version"):
            draft.condition(about, "Produced", ok=None, reason="FirstRun", message="the first version is being made")
        return
    hint = f"no version yet: see `mainspring runs show {name}-{memory.count}`, then `mainspring run {name}`"
    draft.condition(about, "Produced", ok=False, reason="FirstRunFailed", message=hint)
    draft.wait(about, hint)


def _changed(draft: Draft, name: str, spec: PipelineSpec) -> None:
    """Make a version anew when the weights, settings or evaluations in the stack file changed: a version is these."""
    memory = draft.pipelines.get(name, PipelineMemory())
    if not spec.content or memory.count == 0 or memory.content == spec.content:
        return
    busy = _busy(draft, name)
    champion = draft.champion(spec.produces)
    version = draft.version(spec.produces, champion) if champion else None
    if not busy and version is not None and dict(memory.contents).get(version.run) == spec.content:
        draft.pipelines[name] = replace(memory, content=spec.content)  # the champion's own again: nothing to make
    elif busy:
        draft.wait(f"pipeline/{name}", f"its settings changed; a version is made of them when that is done: {busy}")
    elif draft.s.observed.registry:
        _start(draft, name, spec, "settings changed")


def _asked(draft: Draft, name: str, spec: PipelineSpec) -> None:
    for request in draft.s.requests:
        if request.verb != "run" or request.target != name:
            continue
        busy = _busy(draft, name)
        if busy:
            draft.answer(request, f"not now: {busy}", accepted=False)
        elif _start(draft, name, spec, f"asked by {request.who or 'a person'}", asked=True):
            count = draft.pipelines[name].count
            draft.answer(request, f"run {name}-{count} is started", accepted=True)


def _asked_of(draft: Draft, verb: str, name: str, spec: PipelineSpec) -> Iterator[Request]:
    """What is asked of a pipeline, or of the model that it makes; not what another pipeline of that model answered."""
    for request in draft.s.requests:
        answered = any(answer.request == request.id for answer in draft.answers)
        if request.verb == verb and request.target in (name, spec.produces) and not answered:
            yield request


def _conversion(draft: Draft, name: str, spec: PipelineSpec) -> None:
    """Convert a version's weights for who asked: the champion's, or those of the version that was named."""
    for request in _asked_of(draft, "quantize", name, spec):
        convert = str(request.args.get("to") or "")
        champion = draft.champion(spec.produces)
        number = str(request.args.get("version") or champion)
        version = draft.version(spec.produces, number) if number else None
        never, busy = _no_version(spec.produces, number, version), _busy(draft, name)
        never = never if convert else "no precision was named"
        cause = f"{spec.produces}@{number} to {convert}, asked by {request.who or 'a person'}"
        if never or busy:
            draft.answer(request, never or f"not now: {busy}", accepted=False)
        elif _start(draft, name, spec, cause, source=version, convert=convert, asked=True):
            count = draft.pipelines[name].count
            draft.answer(request, f"run {name}-{count} converts {spec.produces}@{number} to {convert}", accepted=True)


def _gates_alone(draft: Draft, name: str, spec: PipelineSpec) -> None:
    """Put a version through the gates for who asked, and nothing more: what passes is not rolled out for it."""
    for request in _asked_of(draft, "gate", name, spec):
        number = str(request.args.get("version") or "")
        version = draft.version(spec.produces, number) if number else None
        never, busy = _no_version(spec.produces, number, version), _busy(draft, name)
        cause = f"gates of {spec.produces}@{number}, asked by {request.who or 'a person'}"
        if never or busy:
            draft.answer(request, never or f"not now: {busy}", accepted=False)
        elif _start(draft, name, spec, cause, candidate=number, asked=True, alone=True):
            count = draft.pipelines[name].count
            draft.answer(request, f"run {name}-{count} judges {spec.produces}@{number}", accepted=True)


def _no_gates(draft: Draft) -> None:
    """Say that a model has no gates: nothing produces it."""
    pipelines = draft.s.desired.stack.pipelines
    known = {*pipelines, *(spec.produces for spec in pipelines.values())}
    for request in draft.s.requests:
        if request.verb == "gate" and request.target not in known:
            message = f"no pipeline of the stack file produces `{request.target}`, so it has no gates"
            draft.answer(request, message, accepted=False)


def _no_version(model: str, number: str, version: VersionSeen | None) -> str:
    """Why nothing can be judged or converted: there is no such version that can be served."""
    if not number:
        return f"there is no version of `{model}` yet"
    if version is None:
        return f"there is no version {number} of `{model}`"
    return "" if version.servable else f"version {number} of `{model}` cannot be served: {version.note}"


def _proposed(draft: Draft, name: str, spec: PipelineSpec) -> None:
    """Propose again what still waits for an approval."""
    memory = draft.pipelines.get(name, PipelineMemory())
    if not memory.wants:
        return
    if draft.s.desired.stack.orchestration.control == "watch":
        draft.pipelines[name] = replace(memory, wants="")
    elif not (_busy(draft, name) or _rolling_out(draft, spec)):
        _start(draft, name, spec, memory.wants)


def _scheduled(draft: Draft, name: str, spec: PipelineSpec) -> None:
    if not spec.retrain.schedule:
        return
    memory = draft.pipelines.get(name, PipelineMemory())
    if memory.scheduled == 0.0:
        draft.pipelines[name] = replace(memory, scheduled=draft.now.wall)
        memory = draft.pipelines[name]
    due = next_after(spec.retrain.schedule, memory.scheduled)
    if due <= draft.now.wall:
        # After a long sleep one run catches up for all the missed ones.
        draft.pipelines[name] = replace(memory, scheduled=draft.now.wall)
        begin_for(draft, name, "schedule")
        due = next_after(spec.retrain.schedule, draft.now.wall)
    draft.wakes.append(due)


def _judge_named(draft: Draft, name: str, spec: PipelineSpec) -> None:
    """Judge a version that somebody named `challenger` by hand before it sees traffic."""
    if _busy(draft, name) or spec.produces not in draft.models:
        return
    number = draft.s.observed.aliases.get(spec.produces, {}).get("challenger", "")
    version = draft.version(spec.produces, number) if number else None
    if version is not None and version.verdict == "" and version.servable:
        _start(draft, name, spec, f"version {number} was named challenger by hand", candidate=number)
