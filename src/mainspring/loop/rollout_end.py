"""How a rollout ends: its candidate becomes the champion, is given up, or is overtaken.

What this is: the ways out of the state machine, each in one commit. Who calls it: the state machine, and commands.
What it must never do: start or stop anything: `serve.py` routes by what is remembered, the control first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mainspring.loop import launches
from mainspring.loop.draft import Draft
from mainspring.loop.labels import version_number
from mainspring.loop.memory import EndpointMemory, ModelMemory, RolloutMemory
from mainspring.loop.plan import RecordVerdict
from mainspring.loop.rollout_told import called, record, tell, value
from mainspring.loop.versions import given_up, remember_given_up


def same(draft: Draft, rollout: RolloutMemory) -> list[RolloutMemory]:
    """The rollouts that begin and end as one: of the same version, behind all endpoints, as a model has one champion.

    A rollout of settings is its endpoint's own.
    """
    if rollout.launch is not None:
        return [rollout]
    about = (rollout.model, version_number(rollout.candidate))
    return [r for r in draft.rollouts.values() if r.launch is None and (r.model, version_number(r.candidate)) == about]


def only_watches(draft: Draft) -> bool:
    """Whether nothing may be changed: no rollout begins, moves on or ends."""
    return draft.s.desired.stack.orchestration.control == "watch"


def _only_said(draft: Draft, rollout: RolloutMemory, what: str) -> bool:
    """Say what would be done, where `control: watch` keeps it from being done; False where it may be."""
    if only_watches(draft):
        draft.wait(f"endpoint/{rollout.endpoint}", f"{called(rollout)} {what}; `control: watch` changes nothing")
    return only_watches(draft)


def promote(draft: Draft, rollout: RolloutMemory, why: str, *, level: str = "info") -> None:
    """Make the candidate what all requests go to."""
    if _only_said(draft, rollout, f"would take all requests: {why}"):
        return
    number = version_number(rollout.candidate)
    if rollout.launch is None:
        before = draft.models.get(rollout.model, ModelMemory())
        draft.models[rollout.model] = replace(before, champion=number, previous=version_number(rollout.control))
        message = f"version {number} of `{rollout.model}` is the champion: {why}"
    else:
        memory = draft.endpoints.get(rollout.endpoint, EndpointMemory())
        draft.endpoints[rollout.endpoint] = launches.adopted(memory, rollout)
        message = f"{called(rollout)} answers all requests of `{rollout.endpoint}`: {why}"
    _end(draft, rollout, "promoted", message)
    tell(draft, rollout, "Promoted", "promoted", message, level=level)
    draft.wait(f"endpoint/{rollout.endpoint}", "the promotion is taken up", self_ending=True)


def give_up(draft: Draft, rollout: RolloutMemory, why: str, told: dict[str, Any] | None = None) -> None:
    """Take the candidate out of all routes; it is not tried again. `told` has the numbers of the verdict."""
    if _only_said(draft, rollout, f"would be given up: {why}"):
        return
    number = version_number(rollout.candidate)
    if rollout.launch is None:
        remember_given_up(draft, rollout.model, number)
    else:
        memory = draft.endpoints.get(rollout.endpoint, EndpointMemory())
        draft.endpoints[rollout.endpoint] = launches.refused(memory, rollout)
    for one in same(draft, rollout):
        launches.cut(draft, one)
    stage = rollout.stages[rollout.stage].kind
    message = f"rollout of {called(rollout)} of `{rollout.model}` was given up in {stage}: {why}"
    _end(draft, rollout, "aborted", message, told)
    tell(draft, rollout, "RolloutAborted", "aborted", message, level="warning")
    draft.wait(f"endpoint/{rollout.endpoint}", "the old version takes all requests", self_ending=True)


def withdraw(draft: Draft, rollout: RolloutMemory, why: str) -> None:
    """End a rollout that something newer has overtaken; what it was about may be tried again."""
    if _only_said(draft, rollout, f"would be taken out: {why}"):
        return
    message = f"rollout of {called(rollout)} of `{rollout.model}` ends: {why}"
    _end(draft, rollout, "superseded", message)
    tell(draft, rollout, "RolloutSuperseded", "superseded", message)
    draft.wait(f"endpoint/{rollout.endpoint}", "the old version takes all requests", self_ending=True)


def _end(draft: Draft, rollout: RolloutMemory, kind: str, message: str, told: dict[str, Any] | None = None) -> None:
    for other in same(draft, rollout):
        more = told if told is not None and other.endpoint == rollout.endpoint else draft.judged.pop(other.endpoint, {})
        _end_one(draft, other, kind, message, more)


def _end_one(draft: Draft, rollout: RolloutMemory, kind: str, message: str, more: dict[str, Any]) -> None:
    record(draft, rollout, kind, more | value(draft, rollout, kind, message))
    draft.rollouts.pop(rollout.endpoint)


def without_ground(draft: Draft) -> None:
    """End rollouts behind endpoints that the stack file has no more, or that are of another model or region now.

    Only behind that endpoint; also where nothing may be changed, since there is nothing left that it could go on with.
    """
    for rollout in list(draft.rollouts.values()):
        why = _no_ground(draft, rollout)
        if why:
            message = f"rollout of {called(rollout)} of `{rollout.model}` ends: {why}"
            _end_one(draft, rollout, "superseded", message, {})
            tell(draft, rollout, "RolloutSuperseded", "superseded", message, level="warning")
            draft.wait(f"endpoint/{rollout.endpoint}", "its candidate is taken out", self_ending=True)


def _no_ground(draft: Draft, rollout: RolloutMemory) -> str:
    stack = draft.s.desired.stack
    endpoint = stack.serving.get(rollout.endpoint)
    if endpoint is None:
        return f"the stack file has no endpoint `{rollout.endpoint}` any more"
    if endpoint.model_name != rollout.model:
        return f"`{rollout.endpoint}` serves `{endpoint.model_name}` now"
    there = endpoint.regions or stack.compute.regions
    ahead = [stage.region for stage in rollout.stages[rollout.stage :] if stage.region and stage.region not in there]
    return f"`{rollout.endpoint}` is in region `{ahead[0]}` no more" if ahead else ""


def refuse_given_up(draft: Draft) -> None:
    """Write beside a version that its rollout was given up, so that every MLflow client sees it."""
    if not draft.s.observed.registry:
        return
    for version in draft.s.observed.versions:
        if version.verdict == "passed" and given_up(draft, version):
            note = "its rollout was given up: `mainspring events` has the reason"
            if not draft.do(RecordVerdict(version.model, version.number, "refused", note, "{}"), note, keeps=True):
                continue
            draft.wait(f"model/{version.model}", "the end of its rollout is written down", self_ending=True)


def overtaken(draft: Draft) -> None:
    """End rollouts whose version has a newer challenger, or whose settings the stack file does not ask for any more."""
    for rollout in list(draft.rollouts.values()):
        if rollout.endpoint not in draft.rollouts:
            continue  # it has ended with another one
        why = _version_overtaken(draft, rollout) if rollout.launch is None else _settings_overtaken(draft, rollout)
        if why:
            withdraw(draft, rollout, why)


def _version_overtaken(draft: Draft, rollout: RolloutMemory) -> str:
    named = draft.s.observed.aliases.get(rollout.model, {}).get("challenger", "")
    version = draft.version(rollout.model, named) if named else None
    known = (version_number(rollout.candidate), draft.champion(rollout.model))
    if version is None or named in known or version.verdict != "passed" or not version.servable:
        return ""
    if given_up(draft, version):
        return ""
    return f"version {named} is the challenger now; it may be tried again"


def _settings_overtaken(draft: Draft, rollout: RolloutMemory) -> str:
    endpoint = draft.s.desired.stack.serving[rollout.endpoint]
    if version_number(rollout.candidate) != draft.champion(rollout.model):
        return f"version {draft.champion(rollout.model)} is the champion now"
    if launches.launch_of(endpoint) != rollout.launch:
        return "the stack file has other settings now"
    return ""
