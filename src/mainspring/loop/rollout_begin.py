"""How a rollout begins: of a version that was named challenger, or of settings that the stack file changed.

What this is: who may begin, what is pinned, and what is told of it beforehand. Who calls it: the state machine, for
endpoints that have no rollout. What it must never do: begin a second one of a model before the first has ended: they
queue, versions before settings.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from mainspring.decide.soak import Canary, soak
from mainspring.decide.stages import part_of
from mainspring.loop import launches
from mainspring.loop.draft import Draft
from mainspring.loop.labels import generation, label, version_number
from mainspring.loop.memory import EndpointMemory, Launch, RolloutMemory, StagePinned
from mainspring.loop.place import fresh_for, waves_of
from mainspring.loop.rollout_evidence import DEFAULT_MARGIN, terms_of
from mainspring.loop.rollout_told import against, called, record, tell, value
from mainspring.loop.room import nowhere
from mainspring.loop.versions import given_up, newest_passed
from mainspring.stack.rollout import Stage
from mainspring.stack.serving import Endpoint


def begin(draft: Draft, name: str, endpoint: Endpoint) -> None:
    """Begin what is due behind an endpoint that has no rollout, if anything is."""
    model = endpoint.model_name
    number = _challenger(draft, model)
    there = [r for r in draft.rollouts.values() if r.model == model]
    if number:
        others = [r for r in there if r.launch is not None or version_number(r.candidate) != number]
        if others:
            behind = others[0]
            why = f"version {number} waits for the rollout of {called(behind)} behind `{behind.endpoint}`"
            draft.wait(f"endpoint/{name}", why)
        elif why := nowhere(draft, name):
            draft.wait(f"endpoint/{name}", f"version {number} is not rolled out here: {why}")
        elif draft.s.desired.stack.orchestration.control == "watch":
            draft.wait(f"endpoint/{name}", f"version {number} would be rolled out; `control: watch` begins nothing")
        else:
            _begin_version(draft, name, endpoint, number)
        return
    launch = launches.wanted(draft, name)
    if launch is None:
        return
    if there:
        why = f"new settings wait for the rollout of {called(there[0])} behind `{there[0].endpoint}`"
        draft.wait(f"endpoint/{name}", why)
    elif why := nowhere(draft, name):
        draft.wait(f"endpoint/{name}", f"new settings are not rolled out: {why}")
    else:
        _begin_settings(draft, name, endpoint, launch)


def queue(draft: Draft, name: str) -> None:
    """Say of an endpoint that has a rollout which new settings of it come after that."""
    rollout = draft.rollouts.get(name)
    if rollout is not None and rollout.launch is None and launches.wanted(draft, name) is not None:
        draft.wait(f"endpoint/{name}", f"new settings wait for the rollout of {called(rollout)}")


def _challenger(draft: Draft, model: str) -> str:
    """The number of a version that is to be rolled out; "" when there is none."""
    number = draft.s.observed.aliases.get(model, {}).get("challenger", "")
    version = draft.version(model, number) if number else None
    champion = draft.champion(model)
    if not champion or version is None or version.verdict != "passed" or not version.servable:
        return ""
    return "" if number == champion or given_up(draft, version) else number


def _begin_version(draft: Draft, name: str, endpoint: Endpoint, number: str) -> None:
    control = launches.live_label(draft, name)
    _begin(draft, endpoint, pinned(draft, name, endpoint, label(number, generation(control)), control))


def _begin_settings(draft: Draft, name: str, endpoint: Endpoint, launch: Launch) -> None:
    control = launches.live_label(draft, name)
    champion = draft.version(endpoint.model_name, version_number(control))
    if champion is None or not champion.servable:
        return  # `serve.py` says that it is gone
    because = f"the settings of `{name}` changed in the stack file: they are rolled out"
    if not draft.may(f"settings/{name}/{launch!r}", because):
        return
    number = launches.next_generation(draft, name)
    memory = draft.endpoints.get(name, EndpointMemory())
    draft.endpoints[name] = launches.begun(memory, number)
    candidate = label(version_number(control), number)
    _begin(draft, endpoint, pinned(draft, name, endpoint, candidate, control, launch, number))


def pinned(
    draft: Draft,
    name: str,
    endpoint: Endpoint,
    candidate: str,
    control: str,
    launch: Launch | None = None,
    number: int = 0,
) -> RolloutMemory:
    """A rollout by the stack file of now, which a later edit does not change."""
    terms = terms_of(draft.s.desired.stack, endpoint)
    return RolloutMemory(
        endpoint=name,
        model=endpoint.model_name,
        candidate=candidate,
        control=control,
        stages=tuple(stage_pinned(stage) for stage in endpoint.rollout),
        abort_errors=endpoint.abort.least("errors"),
        abort_p95=endpoint.abort.least("p95"),
        margin=DEFAULT_MARGIN if terms.margin is None else terms.margin,
        confidence=terms.confidence,
        began=draft.now.wall,
        terms=terms,
        launch=launch,
        generation=number,
        sticky=endpoint.route.split != "request",
        feedback=endpoint.abort.feedback if terms.score is not None else "",
        lag=endpoint.deadline,
        newest=newest_passed(draft, endpoint.model_name),
    )


def stage_pinned(stage: Stage) -> StagePinned:
    """A stage as it is remembered; of waves the time is still that of all of them together, where it is `within`."""
    wave = stage.waves
    return StagePinned(
        kind=stage.kind,
        share=stage.share,
        seconds=stage.within or stage.for_,
        region=stage.in_ or "",
        otherwise=stage.otherwise,
        metric=stage.metric or "",
        step=wave.replicas if wave else 0,
        step_share=wave.share if wave else 0.0,
        per_region=wave.per_region if wave else False,
    )


def _begin(draft: Draft, endpoint: Endpoint, rollout: RolloutMemory) -> None:
    rollout = entering(draft, _divided(draft, rollout))
    draft.rollouts[rollout.endpoint] = rollout
    launches.uncut(draft, rollout.endpoint, rollout.candidate)
    says = told_beforehand(draft, endpoint, rollout)
    message = f"{called(rollout)} of `{rollout.model}` is rolled out against {against(rollout)}"
    live = launches.memory_of(draft, rollout.endpoint).launch
    if rollout.launch is not None and live is not None:
        message += f" ({launches.changes(live, rollout.launch)})"
    if endpoint.rollout[0].kind in ("canary", "ab") and not rollout.fresh:
        message += ", beside replicas that are not fresh"
    tell(draft, rollout, "RolloutBegan", "began", "; ".join((message, *says)))
    walk = [asdict(stage) for stage in rollout.stages]
    record(draft, rollout, "began", value(draft, rollout, "began", message) | {"soak": list(says), "walk": walk})
    draft.wait(f"endpoint/{rollout.endpoint}", f"{called(rollout)} gets ready", self_ending=True)


def _divided(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """A rollout whose time for all waves is dealt out to each, and which knows how often means are compared anew."""
    stages, tests = list(rollout.stages), 0
    spec = draft.s.desired.stack.serving[rollout.endpoint].rollout
    for number, stage in enumerate(spec):
        waves = max(1, waves_of(draft, replace(rollout, stage=number)))
        unjudged = stage.kind == "mirror" or (stage.kind == "all" and not stage.for_)
        tests += 0 if unjudged else waves
        if stage.waves is not None and stage.within:
            stages[number] = replace(stages[number], seconds=stage.within / waves)
    kinds = [stage.kind for stage in spec]
    terms = rollout.terms
    if terms is not None:
        terms = replace(terms, stages=max(1, tests), tests=max(1, kinds.count("ab")))
    return replace(rollout, stages=tuple(stages), terms=terms)


def entering(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """A rollout whose stage was just set: it waits for its replicas, and for fresh ones of the control where it may."""
    stage = rollout.stages[rollout.stage]
    waiting = replace(rollout, ready=False, wave=1 if stage.kind == "waves" else 0, noted=None, states=())
    return replace(waiting, fresh=fresh_for(draft, waiting))


def following(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """The rollout in its next wave, in its next stage, or done."""
    stage = rollout.stages[rollout.stage]
    if stage.kind == "waves" and max(rollout.wave, 1) < waves_of(draft, rollout):
        return replace(rollout, wave=max(rollout.wave, 1) + 1, ready=False, noted=None, states=())
    if rollout.stage + 1 < len(rollout.stages):
        return entering(draft, replace(rollout, stage=rollout.stage + 1))
    return replace(rollout, done=True)


def told_beforehand(draft: Draft, endpoint: Endpoint, rollout: RolloutMemory) -> tuple[str, ...]:
    """What the first stage that has a share can find out at the traffic of now, in sentences; none for waves alone."""
    stage = next((one for one in rollout.stages if one.kind in ("mirror", "canary", "ab")), None)
    if stage is None or rollout.terms is None:
        return ()
    load = draft.s.observed.loads.get(rollout.endpoint)
    traffic = endpoint.traffic
    planned = traffic.requests.count / traffic.requests.per if traffic and traffic.requests else 0.0
    rate = load.rate if load is not None and load.rate > 0 else planned
    part = part_of(draft.s.desired.stack, endpoint, stage.region)
    canary = Canary(rate, stage.share, stage.seconds, part, stage.region, stage.kind == "mirror")
    return soak(canary, rollout.terms).says()
