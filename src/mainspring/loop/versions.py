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
from mainspring.loop.labels import version_number
from mainspring.loop.memory import ModelMemory, RolloutMemory, RunMemory
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
    if not _written(memory, version, verdict):
        _write_down(draft, memory, version, verdict)
        return
    _tell_verdict(draft, memory, version, verdict)
    draft.runs.pop(memory.id)


def _written(memory: RunMemory, version: VersionSeen, verdict: Verdict) -> bool:
    """Whether the registry has this verdict; who asked by `gate` has it written over an older one."""
    if version.verdict == "" or not memory.alone:
        return version.verdict != ""
    same = (version.verdict, version.note) == (_word(verdict), _note(verdict))
    return same or memory.asked >= PATIENCE  # a registry that keeps another text than it was given


def _write_down(draft: Draft, memory: RunMemory, version: VersionSeen, verdict: Verdict) -> None:
    numbers = json.dumps(_plain(asdict(verdict)), sort_keys=True)
    action = RecordVerdict(version.model, version.number, _word(verdict), _note(verdict), numbers)
    because = f"version {version.number} of `{version.model}` was judged"
    draft.do(action, because, cause=memory.id if memory.alone else "", keeps=True)
    name = f"{version.model}/{version.number}"
    if memory.alone:
        draft.runs[memory.id] = replace(memory, asked=memory.asked + 1)
        if verdict.passed and version.verdict != "passed" and name not in draft.alone:
            draft.alone.append(name)
        if verdict.passed and memory.anew:
            forgive(draft, version)
    draft.wait(f"run/{memory.id}", "its verdict is written down", self_ending=True)


def _word(verdict: Verdict) -> str:
    return "passed" if verdict.passed else "refused"


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


def given_up(draft: Draft, version: VersionSeen) -> bool:
    """Whether a version's rollout was given up. A version made anew under the same number is another one."""
    name = f"{version.model}/{version.number}"
    return name in draft.aborted or f"{name}/{version.digest}" in draft.aborted


def remember_given_up(draft: Draft, model: str, number: str) -> None:
    """Remember that a version is not to be tried again; nothing of one that the registry has no more."""
    version = next((v for v in draft.s.observed.versions if v.model == model and v.number == number), None)
    if version is None and draft.s.observed.registry:
        return
    digest = version.digest if version is not None else ""
    name = f"{model}/{number}/{digest}" if digest else f"{model}/{number}"
    if name not in draft.aborted:
        draft.aborted.append(name)


def forgive(draft: Draft, version: VersionSeen) -> None:
    """Let a version be tried again whose rollout was given up: somebody had it judged anew, and it passed."""
    name = f"{version.model}/{version.number}"
    draft.aborted = [one for one in draft.aborted if one not in (name, f"{name}/{version.digest}")]


def nothing_older(draft: Draft, model: str) -> None:
    """See to it that nothing that has passed by now is tried by itself: a person went back, and means it."""
    memory = draft.models.get(model)
    if memory is not None:
        known = (newest_passed(draft, model), memory.champion, memory.floor)
        draft.models[model] = replace(memory, floor=max(known, key=order))


def _forget_deleted(draft: Draft) -> None:
    """Forget what was given up of the models that are followed, where the registry has it no more."""
    followed = tuple(f"{model}/" for model in models_followed(draft))
    there = {f"{v.model}/{v.number}" for v in draft.s.observed.versions}
    there |= {f"{v.model}/{v.number}/{v.digest}" for v in draft.s.observed.versions}
    draft.aborted = [name for name in draft.aborted if name in there or not name.startswith(followed)]


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
    message = f"version {version.number} of `{version.model}` was {_word(verdict)}: {_note(verdict)}"
    about = f"model/{version.model}"
    level = "info" if verdict.passed else "warning"
    again = f"/{memory.id}" if memory.alone else ""  # events and records of one key are one
    draft.tell("GatesJudged", about, message, key=f"{about}/judged/{version.number}{again}", level=level, kind="gate")
    value: dict[str, object] = {"model": version.model, "version": version.number, "run": memory.id}
    value["cause"] = memory.cause
    items = [_plain(asdict(item)) for item in verdict.items]
    value |= {"passed": verdict.passed, "note": _note(verdict), "champion": memory.champion_version, "items": items}
    draft.record("gate", f"{version.model}/{version.number}{again}", memory.until, value)


def settle_aliases(draft: Draft) -> None:
    """Make the aliases say what was decided."""
    if not draft.s.observed.registry:
        draft.wait("registry", "it does not answer; versions are those last seen")
        return
    _forget_deleted(draft)
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
        passed = [
            v.number
            for v in _servable(draft, model)
            if (v.verdict == "passed" and f"{model}/{v.number}" not in draft.alone) or v.number == named
        ]
        first = named if named in passed else min(passed, key=order, default="")
        if not first:
            return
        memory = replace(memory, champion=first, previous=aliases.get("previous", ""))
        draft.models[model] = memory
        message = f"version {first} of `{model}` is the first champion"
        draft.tell("Promoted", f"model/{model}", message, key=f"model/{model}/promoted/{first}", kind="rollout")
        value = {"model": model, "version": first, "kind": "first", "message": message}
        draft.record("rollout", f"{model}/{first}/promoted", draft.now.wall, value)
    if memory.undone and aliases.get("champion", "") == memory.champion:
        memory = draft.models[model] = replace(memory, undone="")
    there = {v.number for v in draft.s.observed.versions if v.model == model}
    for alias, number in (("champion", memory.champion), ("previous", memory.previous)):
        found = aliases.get(alias, "")
        if found == number:
            continue
        if number and number not in there:
            draft.wait(f"model/{model}", f"version {number}, the {alias} one, was deleted from the registry")
            continue
        if alias == "champion" and found and found not in (memory.previous, memory.undone):
            message = f"`champion` of `{model}` was set to {found} by somebody; it is put back to {number}"
            draft.tell("AliasPutBack", f"model/{model}", message, level="warning", kind="rollout")
        because = f"`{alias}` of `{model}` is version {number or 'none'}"
        if draft.do(SetAlias(model, alias, number), because, keeps=True):
            draft.wait(f"model/{model}", f"`{alias}` is set", self_ending=True)


def _challenger(draft: Draft, model: str) -> None:
    """Name the next candidate; take the alias away when it names none."""
    memory = draft.models.get(model)
    if memory is None:
        return
    named = draft.s.observed.aliases.get(model, {}).get("challenger", "")
    rolling = next((r for r in draft.rollouts.values() if r.model == model and r.launch is None), None)
    if rolling is not None:
        _while_rolling(draft, rolling, named, memory)
        return
    if named:
        _named(draft, model, named, memory)
        return
    newest = _newest(draft, model, memory)
    if newest is not None:
        because = f"version {newest.number} of `{model}` passed its gates"
        if draft.do(SetAlias(model, "challenger", newest.number), because):
            draft.wait(f"model/{model}", "`challenger` is set", self_ending=True)


def _newest(draft: Draft, model: str, memory: ModelMemory) -> VersionSeen | None:
    """The newest version that has passed and was never champion, nor given up."""
    candidates = [v for v in _servable(draft, model) if v.verdict == "passed" and _is_new(draft, v, memory)]
    return max(candidates, key=lambda v: order(v.number), default=None)


def newest_passed(draft: Draft, model: str) -> str:
    """The highest number among the versions that have passed; "" when none has."""
    passed = [v.number for v in _servable(draft, model) if v.verdict == "passed"]
    return max(passed, key=order, default="")


def _while_rolling(draft: Draft, rollout: RolloutMemory, named: str, memory: ModelMemory) -> None:
    """Keep `challenger` at what is rolled out, unless a newer version has passed, or somebody names another one.

    One that is named by hand goes through the gates meanwhile; the rollout is overtaken when it has passed.
    """
    model, number = rollout.model, version_number(rollout.candidate)
    newest = _newest(draft, model, memory)
    if newest is not None and order(newest.number) > order(rollout.newest or number):
        because = f"version {newest.number} of `{model}` passed its gates, and takes the place of version {number}"
        if named == newest.number or draft.do(SetAlias(model, "challenger", newest.number), because):
            draft.wait(f"model/{model}", "`challenger` is set", self_ending=True)
            return
    if named in ("", number) or _why_not(draft, model, named, memory):
        there = any(v.model == model and v.number == number for v in draft.s.observed.versions)
        if named != number and there:
            if named:
                why = _why_not(draft, model, named, memory)
                _tell_refused(draft, model, f"`challenger` of `{model}` stays version {number}: {why}")
            if draft.do(SetAlias(model, "challenger", number), "its rollout is under way", keeps=True):
                draft.wait(f"model/{model}", "`challenger` is set", self_ending=True)


def _is_new(draft: Draft, version: VersionSeen, memory: ModelMemory) -> bool:
    after = order(version.number) > max(map(order, (memory.champion, memory.previous, memory.floor)))
    name = f"{version.model}/{version.number}"
    return after and not given_up(draft, version) and name not in draft.alone


def _named(draft: Draft, model: str, number: str, memory: ModelMemory) -> None:
    """Somebody, or an earlier cycle, named a challenger: keep it, have it judged, or take it away."""
    why = _why_not(draft, model, number, memory)
    if why:
        if number != memory.champion:
            _tell_refused(draft, model, f"`challenger` of `{model}` is taken away: {why}")
        if draft.do(SetAlias(model, "challenger", ""), why, keeps=True):
            draft.wait(f"model/{model}", "`challenger` is taken away", self_ending=True)
        return
    version = draft.version(model, number)
    made = any(spec.produces == model for spec in draft.s.desired.stack.pipelines.values())
    if version is not None and not version.verdict and not made:
        _pass_without_gates(draft, version)
    # An unjudged one is judged by a run (`runs.py`); a passed one starts a rollout (`rollouts.py`).


def _pass_without_gates(draft: Draft, version: VersionSeen) -> None:
    """Let a version through that nobody has gates for: a person named it, and its rollout is its test."""
    model, number = version.model, version.number
    note = f"there are no gates: no pipeline of the stack file produces `{model}`; its rollout is its test"
    if draft.do(RecordVerdict(model, number, "passed", note, '{"items": [], "passed": true}'), note, keeps=True):
        message = f"version {number} of `{model}` goes to its rollout without a judgement: {note}"
        draft.tell("GatesJudged", f"model/{model}", message, key=f"model/{model}/judged/{number}", kind="gate")
        draft.wait(f"model/{model}", "its verdict is written down", self_ending=True)


def _why_not(draft: Draft, model: str, number: str, memory: ModelMemory) -> str:
    """Why a version cannot be the challenger; "" when it can, or when nobody follows its model yet."""
    version = next((v for v in draft.s.observed.versions if v.model == model and v.number == number), None)
    if number == memory.champion:
        return "it is the champion already"
    if version is None or not version.servable:
        return f"version {number} cannot be served"
    if given_up(draft, version):
        return f"version {number} was given up: `mainspring events` has the reason"
    if version.verdict == "refused":
        return f"version {number} was refused: {version.note}" if version.note else f"version {number} was refused"
    if "." in number or "-" in number:
        return f"version `{number}` cannot be rolled out: its number has a `.` or `-` in it"
    return ""


def _tell_refused(draft: Draft, model: str, message: str) -> None:
    draft.tell("ChallengerRefused", f"model/{model}", message, kind="gate")
