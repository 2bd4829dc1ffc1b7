"""What a person may do to a rollout: promote, abort, pause, resume, undo.

What this is: commands, answered in the cycle in which they are seen. Who calls it: the state machine. What it must
never do: leave a command without an answer.
"""

from __future__ import annotations

from dataclasses import replace

from mainspring.facts.changes import said
from mainspring.loop.draft import Draft
from mainspring.loop.labels import revision_of
from mainspring.loop.memory import ModelMemory, RolloutMemory
from mainspring.loop.rollout_begin import following
from mainspring.loop.rollout_end import give_up, only_watches, promote
from mainspring.loop.rollout_told import called, record, stage_in_words, tell, value
from mainspring.loop.snapshot import Request
from mainspring.loop.versions import nothing_older, remember_given_up
from mainspring.loop.window import revision_name

COMMANDS = ("promote", "abort", "pause", "resume", "undo")


def command(draft: Draft, request: Request) -> None:
    """Do what a person asks of the rollout of an endpoint, or say why not."""
    name, verb = request.target, request.verb
    if name not in draft.s.desired.stack.serving:
        names = ", ".join(f"`{n}`" for n in draft.s.desired.stack.serving)
        draft.answer(request, f"there is no endpoint `{name}`; there are: {names}", accepted=False)
        return
    rollout = draft.rollouts.get(name)
    if only_watches(draft):
        draft.answer(request, "`control: watch` changes nothing", accepted=False)
    elif verb == "undo":
        _undo(draft, request, name, rollout)
    elif rollout is None:
        draft.answer(request, f"no rollout of `{name}` is under way", accepted=False)
    elif verb in ("pause", "resume"):
        _pause(draft, request, rollout)
    elif verb == "abort":
        give_up(draft, rollout, f"aborted by {who(request)}")
        draft.answer(request, f"rollout of {called(rollout)} is given up", accepted=True)
    elif not answers(draft, rollout):
        draft.answer(request, f"{called(rollout)} is not ready yet", accepted=False)
    elif request.args.get("stage"):
        _next_stage(draft, request, rollout)
    else:
        promote(draft, rollout, f"promoted by {who(request)}")
        done = "is the champion" if rollout.launch is None else "answers all requests"
        draft.answer(request, f"{called(rollout)} {done}", accepted=True)


def who(request: Request) -> str:
    """Who asked, and why if that was said."""
    name, why = request.who or "a person", said(str(request.args.get("why") or ""), 200)
    return f"{name}: {why}" if why else name


def answers(draft: Draft, rollout: RolloutMemory) -> bool:
    """Whether a replica of the candidate is ready."""
    name = revision_name(rollout.endpoint, rollout.candidate)
    seen = draft.s.observed.processes
    return any(p.kind == "replica" and p.state == "ready" and revision_of(p.name) == name for p in seen)


def _pause(draft: Draft, request: Request, rollout: RolloutMemory) -> None:
    done = f"{request.verb}d"
    message = f"rollout of {called(rollout)}: {done}"
    if rollout.paused == (request.verb == "pause"):
        message = f"rollout of {called(rollout)} is {'paused already' if rollout.paused else 'not paused'}"
    else:
        draft.rollouts[rollout.endpoint] = replace(rollout, paused=request.verb == "pause")
        what = f"{done}/{draft.now.wall:.3f}"
        tell(draft, rollout, f"Rollout{done.capitalize()}", what, f"{message} by {who(request)}")
        record(draft, rollout, what, value(draft, rollout, done, f"{message} by {who(request)}"))
    draft.answer(request, message, accepted=True)


def _next_stage(draft: Draft, request: Request, rollout: RolloutMemory) -> None:
    """Go on to the next stage or wave, whatever is certain: a person takes the risk."""
    if rollout.done:
        draft.answer(request, f"{called(rollout)} is in its last stage already", accepted=False)
        return
    where = stage_in_words(draft, rollout)
    message = f"{called(rollout)}: {where} was ended by {who(request)}"
    what = f"{rollout.stage}.{rollout.wave}"
    tell(draft, rollout, "StageJudged", f"judged/{what}", message, level="warning")
    told = value(draft, rollout, "stage", message) | {"ended_by": who(request)}
    record(draft, rollout, f"stage/{what}", told)
    draft.rollouts[rollout.endpoint] = following(draft, replace(rollout, ended=rollout.ended + 1))
    draft.wait(f"endpoint/{rollout.endpoint}", "the next stage begins", self_ending=True)
    draft.answer(request, f"{where} of {called(rollout)} is over", accepted=True)


def _undo(draft: Draft, request: Request, name: str, rollout: RolloutMemory | None) -> None:
    """Go back to the last good version: give up a rollout under way, else swap champion and previous."""
    model = draft.s.desired.stack.serving[name].model_name
    rollout = rollout or next((r for r in draft.rollouts.values() if r.model == model and r.launch is None), None)
    if rollout is not None:
        if rollout.launch is None:
            nothing_older(draft, model)
        give_up(draft, rollout, f"undone by {who(request)}")
        draft.answer(request, f"rollout of {called(rollout)} is given up", accepted=True)
        return
    memory = draft.models.get(model)
    if memory is None or not memory.previous:
        draft.answer(request, f"`{name}` has no previous version to go back to", accepted=False)
        return
    previous = draft.version(model, memory.previous)
    if previous is None or not previous.servable:
        text = f"version {memory.previous}, the previous one, is not in the registry, or cannot be served"
        draft.answer(request, text, accepted=False)
        return
    nothing_older(draft, model)
    floor = draft.models[model].floor
    draft.models[model] = ModelMemory(memory.previous, previous="", floor=floor, undone=memory.champion)
    remember_given_up(draft, model, memory.champion)
    message = f"version {memory.previous} of `{model}` is the champion again: undone by {who(request)}"
    draft.tell("RolledBack", f"endpoint/{name}", message, level="warning", kind="rollout")
    told = {"endpoint": name, "model": model, "version": memory.previous, "control": memory.champion}
    told |= {"kind": "undone", "message": message}
    draft.record("rollout", f"{model}/{memory.champion}/undone/{draft.now.wall:.0f}", draft.now.wall, told)
    draft.answer(request, message, accepted=True)
    draft.wait(f"endpoint/{name}", "the rollback is taken up", self_ending=True)
