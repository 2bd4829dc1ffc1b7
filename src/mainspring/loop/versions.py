"""Model versions: from a finished run to a judged version, and the aliases that say which is which.

`challenger` is an input (set by hand it goes through the gates first) and an output; `champion` and
`previous` are outputs: a foreign edit is put back.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

from mainspring.decide.gate import judge, seed_of
from mainspring.decide.verdict import Verdict
from mainspring.loop.draft import Draft
from mainspring.loop.memory import ModelMemory, RunMemory
from mainspring.loop.plan import RecordVerdict, RegisterVersion, SetAlias
from mainspring.loop.snapshot import RunSeen, VersionSeen
from mainspring.stack.pipelines import PipelineSpec

PATIENCE = 8  # refusals of the registry after which nobody waits for it any more


def models_followed(draft: Draft) -> list[str]:
    """The registered models that some endpoint follows or some pipeline produces."""
    stack = draft.s.desired.stack
    names = [e.model_name for e in stack.serving.values()] + [p.produces for p in stack.pipelines.values()]
    return list(dict.fromkeys(names))


def conclude_run(draft: Draft, memory: RunMemory, seen: RunSeen, spec: PipelineSpec) -> None:
    """Register what a run made, judge it, write the verdict down; then the run is dealt with."""
    model = spec.produces
    if not draft.s.observed.registry:
        draft.wait(f"run/{seen.id}", "the registry does not answer; its version is made when it does")
        return
    version = _version_of_run(draft, memory, seen, model)
    if version is None and memory.candidate_version:
        draft.runs.pop(memory.id)
        message = f"version {memory.candidate_version} of `{model}` was deleted while it was judged"
        draft.tell("JudgedInVain", f"model/{model}", message, level="warning", kind="gate")
        return
    if version is None:
        _register(draft, memory, model)
        return
    if seen.gate is None:
        draft.runs.pop(memory.id)
        return
    verdict = judge(spec.gates, seen.gate, seed_of(seen.id))
    if version.verdict == "":
        numbers = json.dumps(_plain(asdict(verdict)), sort_keys=True)
        kind = "passed" if verdict.passed else "refused"
        note = _note(verdict)
        because = f"version {version.number} of `{model}` was judged"
        draft.do(RecordVerdict(model, version.number, kind, note, numbers), because, keeps=True)
        draft.wait(f"run/{seen.id}", "its verdict is written down", self_ending=True)
        return
    _tell_verdict(draft, memory, version, verdict)
    draft.runs.pop(memory.id)


def _register(draft: Draft, memory: RunMemory, model: str) -> None:
    """Ask for a version of what a run made: at once, then ever more seldom while it is refused."""
    about, self_ending = f"run/{memory.id}", memory.asked < PATIENCE
    if draft.now.mono < memory.ask_at:
        why = f"the registry did not take it in; asked again in {memory.ask_at - draft.now.mono:.0f} s"
        draft.wait(about, why, self_ending=self_ending)
    elif draft.do(RegisterVersion(model, memory.id), f"{memory.id} made a model", keeps=True):
        pause = min(30.0, 0.5 * 2.0 ** min(memory.asked, 10)) if memory.asked else 0.0
        draft.runs[memory.id] = replace(memory, asked=memory.asked + 1, ask_at=draft.now.mono + pause)
        draft.wait(about, "is registered", self_ending=self_ending)


def order(number: str) -> tuple[int, str]:
    """Sort version numbers as numbers; what is none comes before them."""
    return (int(number), "") if number.isdecimal() else (-1, number)


def _version_of_run(draft: Draft, memory: RunMemory, seen: RunSeen, model: str) -> VersionSeen | None:
    if memory.candidate_version:
        return next(
            (v for v in draft.s.observed.versions if v.model == model and v.number == memory.candidate_version), None
        )
    return next((v for v in draft.s.observed.versions if v.model == model and v.run == seen.id), None)


def _note(verdict: Verdict) -> str:
    items = verdict.items if verdict.passed else [item for item in verdict.items if not item.passed]
    return "; ".join(item.message for item in items)[:2000]


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _tell_verdict(draft: Draft, memory: RunMemory, version: VersionSeen, verdict: Verdict) -> None:
    word = "passed" if verdict.passed else "refused"
    message = f"version {version.number} of `{version.model}` was {word}: {_note(verdict)}"
    about = f"model/{version.model}"
    level = "info" if verdict.passed else "warning"
    draft.tell("GatesJudged", about, message, key=f"{about}/judged/{version.number}", level=level, kind="gate")
    value: dict[str, object] = {"model": version.model, "version": version.number, "run": memory.id}
    value["cause"] = memory.cause
    items = [_plain(asdict(item)) for item in verdict.items]
    value |= {"passed": verdict.passed, "note": _note(verdict), "champion": memory.champion_version, "items": items}
    draft.record("gate", f"{version.model}/{version.number}", memory.until, value)


def settle_aliases(draft: Draft) -> None:
    """Make the aliases say what was decided."""
    if not draft.s.observed.registry:
        draft.wait("registry", "it does not answer; versions are those last seen")
        return
    for model in models_followed(draft):
        _champion(draft, model)
        _challenger(draft, model)


def _servable(draft: Draft, model: str) -> list[VersionSeen]:
    return [v for v in draft.s.observed.versions if v.model == model and v.servable]


def _champion(draft: Draft, model: str) -> None:
    aliases = draft.s.observed.aliases.get(model, {})
    memory = draft.models.get(model, ModelMemory())
    if not memory.champion:
        named = aliases.get("champion", "")
        passed = [v.number for v in _servable(draft, model) if v.verdict == "passed" or v.number == named]
        first = named if named in passed else min(passed, key=order, default="")
        if not first:
            return
        memory = replace(memory, champion=first, previous=aliases.get("previous", ""))
        draft.models[model] = memory
        message = f"version {first} of `{model}` is the first champion"
        draft.tell("Promoted", f"model/{model}", message, key=f"model/{model}/promoted/{first}", kind="rollout")
        value = {"model": model, "version": first, "kind": "first", "message": message}
        draft.record("rollout", f"{model}/{first}/promoted", draft.now.wall, value)
    there = {v.number for v in draft.s.observed.versions if v.model == model}
    for alias, number in (("champion", memory.champion), ("previous", memory.previous)):
        found = aliases.get(alias, "")
        if found == number:
            continue
        if number and number not in there:
            draft.wait(f"model/{model}", f"version {number}, the {alias} one, was deleted from the registry")
            continue
        if alias == "champion" and found and found not in (memory.previous, ""):
            message = f"`champion` of `{model}` was set to {found} by somebody; it is put back to {number}"
            draft.tell("AliasPutBack", f"model/{model}", message, level="warning", kind="rollout")
        draft.do(SetAlias(model, alias, number), f"`{alias}` of `{model}` is version {number or 'none'}", keeps=True)
        draft.wait(f"model/{model}", f"`{alias}` is set", self_ending=True)


def _challenger(draft: Draft, model: str) -> None:
    """Name the next candidate; take the alias away when it names none."""
    memory = draft.models.get(model)
    if memory is None:
        return
    named = draft.s.observed.aliases.get(model, {}).get("challenger", "")
    rolling = [r.candidate for r in draft.rollouts.values() if r.model == model]
    if rolling:
        there = any(v.model == model and v.number == rolling[0] for v in draft.s.observed.versions)
        if named != rolling[0] and there:
            draft.do(SetAlias(model, "challenger", rolling[0]), "its rollout is under way", keeps=True)
            draft.wait(f"model/{model}", "`challenger` is set", self_ending=True)
        return
    if named:
        _named(draft, model, named, memory)
        return
    candidates = [v for v in _servable(draft, model) if v.verdict == "passed" and _is_new(draft, v, memory)]
    newest = max(candidates, key=lambda v: order(v.number), default=None)
    if newest is not None:
        because = f"version {newest.number} of `{model}` passed its gates"
        if draft.do(SetAlias(model, "challenger", newest.number), because):
            draft.wait(f"model/{model}", "`challenger` is set", self_ending=True)


def _is_new(draft: Draft, version: VersionSeen, memory: ModelMemory) -> bool:
    after = order(version.number) > max(order(memory.champion), order(memory.previous))
    return after and f"{version.model}/{version.number}" not in draft.aborted


def _named(draft: Draft, model: str, number: str, memory: ModelMemory) -> None:
    """Somebody, or an earlier cycle, named a challenger: keep it, have it judged, or take it away."""
    version = next((v for v in draft.s.observed.versions if v.model == model and v.number == number), None)
    followed = any(e.model_name == model for e in draft.s.desired.stack.serving.values())
    given_up = f"{model}/{number}" in draft.aborted
    why = ""
    if number == memory.champion:
        why = "it is the champion already"
    elif version is None or not version.servable:
        why = f"version {number} cannot be served"
    elif given_up or version.verdict == "refused":
        why = f"version {number} was refused: {version.note}" if version.note else f"version {number} was refused"
    elif not followed:
        return
    if why:
        if number != memory.champion:
            draft.tell(
                "ChallengerRefused", f"model/{model}", f"`challenger` of `{model}` is taken away: {why}", kind="gate"
            )
        draft.do(SetAlias(model, "challenger", ""), why, keeps=True)
        draft.wait(f"model/{model}", "`challenger` is taken away", self_ending=True)
    # An unjudged one is judged by a run (`runs.py`); a passed one starts a rollout (`rollouts.py`).
