"""Rollouts: begin, walk down the stages, end as champion or be given up.

What this is: the state machine of a rollout, one decision in a cycle. Who calls it: `decide.py`, before it serves.
What it must never do: start, stop or route: `serve.py` does, by what is remembered here; or judge: `decide/rollout.py`
does. How one begins is in `rollout_begin.py`, how it ends in `rollout_end.py`, commands in `rollout_commands.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mainspring.decide.rollout import StageVerdict, judge
from mainspring.loop.draft import Draft
from mainspring.loop.labels import fresh_of, revision_of, version_number
from mainspring.loop.memory import RolloutMemory, Scope, StagePinned
from mainspring.loop.place import cramped, fresh_lost, queued
from mainspring.loop.rollout_begin import begin, entering, following, queue
from mainspring.loop.rollout_clock import set_back
from mainspring.loop.rollout_commands import COMMANDS, command
from mainspring.loop.rollout_end import (
    give_up,
    only_watches,
    overtaken,
    promote,
    refuse_given_up,
    same,
    without_ground,
)
from mainspring.loop.rollout_evidence import brought_along, gathered, looked
from mainspring.loop.rollout_told import called, judged, record, stage_in_short, stage_in_words, tell, value
from mainspring.loop.room import nowhere
from mainspring.loop.routed import share_taken, taken_up
from mainspring.loop.window import revision_name

OVERDUE = 600.0  # seconds between looks at a stage whose time is up but whose data is not there
SELDOM = 3600.0  # seconds between looks at one that only waits for the same version behind other endpoints
LOOKS = 12  # in the time of a stage at least, where nothing else wakes the loop
NOTES = 48  # records in the time of a stage of how it gets on, where no check comes to another state
SPARSE = 60.0  # seconds between such records at least, once a stage's time is over
UNBEGUN = 4  # times the limit of restarts: starts that were never begun, after which a candidate is given up
WARM_UP = 30.0  # seconds after replicas got ready whose times do not count, of a stage that is long enough
WARM_PART = 0.1  # of a stage at most
LIVE = ("canary", "ab", "waves", "all")  # stages whose answers users see
KEPT = 500  # of the latest changes of share, and of warm-ups


def roll(draft: Draft) -> None:
    """Answer commands, then move each rollout on by one decision."""
    if draft.s.desired.down:
        return
    draft.rollouts = {name: brought_along(one) for name, one in draft.rollouts.items()}
    without_ground(draft)
    put_back = set_back(draft)
    for request in draft.s.requests:
        if request.verb in COMMANDS:
            command(draft, request)
    overtaken(draft)
    for name, endpoint in draft.s.desired.stack.serving.items():
        if name not in draft.rollouts:
            begin(draft, name, endpoint)
        else:
            if not put_back:
                _advance(draft, name)
            queue(draft, name)
    refuse_given_up(draft)


def _advance(draft: Draft, name: str) -> None:
    rollout = draft.rollouts[name] = _without_fresh(draft, _followed(draft, draft.rollouts[name]))
    why = _cannot_go_on(draft, rollout)
    if why:
        give_up(draft, rollout, why)
        return
    if not rollout.ready and not rollout.done:
        rollout = _getting_ready(draft, rollout)
    stage = rollout.stages[rollout.stage]
    if rollout.ready and stage.kind == "all" and not stage.seconds and not rollout.done:
        rollout = draft.rollouts[name] = replace(rollout, done=True)
    elif (rollout.ready or rollout.live_since is not None) and not _begins_now(draft, rollout, stage):
        _judge(draft, rollout, stage)
    if name in draft.rollouts and draft.rollouts[name].done:
        _end(draft, draft.rollouts[name])


def _cannot_go_on(draft: Draft, rollout: RolloutMemory) -> str:
    """Why a candidate has to be given up, whatever was seen of its answers; "" when nothing is in the way."""
    number = version_number(rollout.candidate)
    version = draft.version(rollout.model, number)
    gone = version is None and draft.s.observed.registry
    if gone or (version is not None and not version.servable):
        return f"version {number} cannot be served any more"
    name = revision_name(rollout.endpoint, rollout.candidate)
    limit = max(1.0, draft.s.desired.stack.orchestration.restarts.count)
    mine = [memory for one, memory in draft.processes.items() if revision_of(one) == name]
    if any(memory.failures - memory.unbegun >= limit for memory in mine):
        return f"{called(rollout)} does not stay up"
    # A start that was not begun may be the controller's own death: that takes more of them.
    return f"{called(rollout)} cannot be started" if any(one.failures >= UNBEGUN * limit for one in mine) else ""


def _begins_now(draft: Draft, rollout: RolloutMemory, stage: StagePinned) -> bool:
    """Whether a stage has begun in this very moment: its readings are asked for from the next cycle on."""
    if not rollout.ready or rollout.stage_began != draft.now.wall or stage.seconds <= 0:
        return False
    draft.wakes.append(rollout.stage_began + stage.seconds / LOOKS)
    return True


def _getting_ready(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Begin the stage when all that it needs has taken its share up; say what is waited for till then."""
    about = f"endpoint/{rollout.endpoint}"
    stage = rollout.stages[rollout.stage]
    stays = rollout.paused or only_watches(draft)
    skippable = stage.kind not in ("waves", "all") and rollout.stage + 1 < len(rollout.stages) and not stays
    blocked = cramped(draft, rollout) if skippable else ""
    if blocked:
        what, message = f"skipped/{rollout.stage}", f"{stage.kind} is left out: {blocked}"
        tell(draft, rollout, "StageSkipped", what, message)
        record(draft, rollout, what, value(draft, rollout, "skipped", message) | {"why": blocked})
        draft.wait(about, "the next stage begins", self_ending=True)
        rollout = entering(draft, replace(rollout, stage=rollout.stage + 1, skipped=rollout.skipped + 1))
    elif taken_up(draft, rollout):
        rollout = _enter(draft, rollout)
        draft.wait(about, "the stage begins", self_ending=True)
    elif stays:
        paused = f"paused by a person: `mainspring rollout resume {rollout.endpoint}`"
        draft.wait(about, paused if rollout.paused else "`control: watch` changes nothing")
    elif why := nowhere(draft, rollout.endpoint) or queued(draft, rollout):
        draft.wait(about, f"{called(rollout)}: {why}")
    else:
        draft.wait(about, f"{called(rollout)} gets ready", self_ending=True)
    draft.rollouts[rollout.endpoint] = rollout
    return rollout


def _without_fresh(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Go on without fresh control replicas when these do not stay up: the old ones are compared with, from now on."""
    why = fresh_lost(draft, rollout)
    if not why:
        return rollout
    message = f"fresh replicas of the old version {why}: the candidate is compared with those that run"
    tell(draft, rollout, "NotFresh", f"not-fresh/{rollout.stage}", message, level="warning")
    scopes = rollout.scopes
    if rollout.ready and scopes and scopes[-1].fresh:
        scopes = (*scopes, replace(scopes[-1], since=draft.now.wall, fresh=False))
    return replace(rollout, fresh=0, scopes=scopes)


def _enter(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Start a stage's clock (of waves: a wave's)."""
    stage, now = rollout.stages[rollout.stage], draft.now.wall
    entered = replace(rollout, ready=True, stage_began=now, stage_watched=draft.now.watched, noted=None, states=())
    if stage.kind == "mirror":
        since = now if entered.mirror_since is None else entered.mirror_since
        copied = (now, share_taken(draft, rollout) or 0.0, stage.region)
        entered = replace(entered, mirror_since=since, mirrors=(*rollout.mirrors, copied)[-KEPT:])
    if stage.kind in LIVE:
        scope = Scope(now, stage.region, fresh=rollout.fresh > 0)
        same_scope = rollout.scopes and replace(rollout.scopes[-1], since=now) == scope
        entered = replace(
            entered,
            live_since=now if rollout.live_since is None else rollout.live_since,
            scopes=rollout.scopes if same_scope else (*rollout.scopes, scope),
            shares=rollout.shares or ((now, share_taken(draft, rollout) or 0.0),),
        )
    tell(
        draft, entered, "StageBegan", f"stage/{rollout.stage}.{rollout.wave}",
        f"{called(rollout)}: {stage_in_words(draft, rollout)}",
    )  # fmt: skip
    return _warmed(entered, now)


def _followed(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Note what changed since the last cycle: the candidate's share, and replicas that warm up."""
    arms = {revision_name(rollout.endpoint, one) for one in (rollout.candidate, rollout.control)}
    arms.add(revision_name(rollout.endpoint, fresh_of(rollout.control)))
    anew = [
        p.name
        for p in draft.s.observed.processes
        if p.kind == "replica" and p.state == "ready" and revision_of(p.name) in arms
        and (p.name not in draft.processes or draft.processes[p.name].ready != p.generation)
    ]  # fmt: skip
    if anew and (rollout.ready or rollout.live_since is not None):
        rollout = _warmed(rollout, draft.now.wall)
    rollout = _copied(draft, rollout)
    return rollout if rollout.live_since is None else _shared(draft, rollout)


def _copied(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Note which requests are copied when that changed; share 0 while it is not known, and from the stage's end on."""
    stage, mirrors, now = rollout.stages[rollout.stage], rollout.mirrors, draft.now.wall
    mirrored = stage.kind == "mirror" and rollout.ready
    share = (share_taken(draft, rollout) or 0.0) if mirrored else 0.0
    copied = (share, stage.region if share else "")
    if not mirrors or mirrors[-1][1:] == copied:
        return rollout
    last = draft.s.memory.last
    since = now if last is None else min(max(last.wall, mirrors[-1][0]), now)
    anew = ((since, 0.0, ""), (now, *copied)) if share else ((since, 0.0, ""),)
    return replace(rollout, mirrors=(*mirrors, *anew)[-KEPT:])


def _shared(draft: Draft, rollout: RolloutMemory) -> RolloutMemory:
    """Note the candidate's share when it changed; 0 while it is not known: until all workers go by the new routes."""
    stage, shares = rollout.stages[rollout.stage], rollout.shares
    elsewhere = not rollout.ready and bool(rollout.scopes) and rollout.scopes[-1].region != stage.region
    unlike = stage.kind == "mirror" or elsewhere or _uneven(draft, rollout, stage)
    share = 0.0 if unlike else share_taken(draft, rollout) or 0.0
    if not shares or shares[-1][1] == share:
        return rollout
    last, now = draft.s.memory.last, draft.now.wall
    since = now if last is None else min(max(last.wall, shares[-1][0]), now)
    kept: list[tuple[float, float]] = []
    for at, new in (*shares, (since, 0.0), (now, share)):
        if kept and kept[-1][0] == at:
            kept.pop()
        if not kept or kept[-1][1] != new:
            kept.append((at, new))
    return replace(rollout, shares=tuple(kept[-KEPT:]))


def _uneven(draft: Draft, rollout: RolloutMemory, stage: StagePinned) -> bool:
    """Whether the share differs between the regions that a stage is about: then that of all depends on who asks."""
    table = draft.s.observed.routes
    if table is None or stage.region or rollout.endpoint not in table.endpoints:
        return False
    name = revision_name(rollout.endpoint, rollout.candidate)
    mine = table.endpoints[rollout.endpoint].revision(name)
    return mine is not None and len({mine.weight, *mine.regional.values()}) > 1


def _warmed(rollout: RolloutMemory, now: float) -> RolloutMemory:
    """Leave the times out of a stretch from now on; stretches that touch are one."""
    length = min(WARM_UP, WARM_PART * rollout.stages[rollout.stage].seconds)
    if length <= 0:
        return rollout
    if rollout.skip and rollout.skip[-1][1] >= now:
        begun, ends = rollout.skip[-1]
        return replace(rollout, skip=(*rollout.skip[:-1], (begun, max(ends, now + length))))
    return replace(rollout, skip=(*rollout.skip, (now, now + length))[-KEPT:])


def _judge(draft: Draft, rollout: RolloutMemory, stage: StagePinned) -> None:
    """Judge the stage: give the rollout up, go on, or say what is waited for and how long still."""
    assert rollout.terms is not None  # `brought_along` has seen to it
    evidence, untold = gathered(draft, rollout)
    how = looked(draft, rollout, evidence.arms, _share(draft, rollout))
    verdict = judge(rollout.terms, evidence, how)
    told = judged(draft, rollout, evidence, how, verdict, untold)
    draft.judged[rollout.endpoint] = told
    about = f"endpoint/{rollout.endpoint}"
    draft.condition(about, "Progressing", ok=True, reason=stage.kind.capitalize(), message=verdict.message)
    if verdict.kind == "abort":
        give_up(draft, rollout, verdict.message, told)
        return
    goes_on = verdict.kind == "advance" and rollout.ready and not rollout.done and not rollout.paused
    goes_on = goes_on and not only_watches(draft)
    if goes_on:
        go_on(draft, rollout, verdict, told)
        return
    _note(draft, rollout, told)
    _hold(draft, rollout, stage, verdict, how.elapsed)


def _share(draft: Draft, rollout: RolloutMemory) -> float:
    """The share that the candidate has; what it is to have while that is not known."""
    taken = share_taken(draft, rollout)
    return taken if taken is not None else rollout.stages[rollout.stage].share


def _hold(draft: Draft, rollout: RolloutMemory, stage: StagePinned, verdict: StageVerdict, elapsed: float) -> None:
    about = f"endpoint/{rollout.endpoint}"
    if rollout.paused:
        why = f"paused by a person: `mainspring rollout resume {rollout.endpoint}`; on evidence it is still given up"
        draft.wait(about, why)
    elif rollout.ready and not rollout.done:
        draft.wait(about, f"{stage_in_short(draft, rollout)} of {called(rollout)}: {verdict.message}")
    if rollout.done:
        draft.wakes.append(draft.now.wall + SELDOM)
        return
    rest = stage.seconds - elapsed
    look = max(stage.seconds / LOOKS, 1.0)
    draft.wakes.append(draft.now.wall + (min(rest, look) if rest > 0 else max(OVERDUE, look)))


def _note(draft: Draft, rollout: RolloutMemory, told: dict[str, Any]) -> None:
    """Record how it gets on, now and then, and when a check comes to another state; nothing while nothing is known."""
    states = tuple(f"{check['name']} {check['state']}" for check in told["checks"])
    now = draft.now.wall
    every = max(told["length"], told["elapsed"]) / NOTES
    every = max(every, 1.0 if told["elapsed"] < told["length"] else SPARSE)
    due = rollout.noted is None or now - rollout.noted >= every
    if "requests" in told and (due or states != rollout.states):
        record(draft, rollout, f"look/{now:.3f}", told)
        draft.rollouts[rollout.endpoint] = replace(rollout, noted=now, states=states)


def go_on(draft: Draft, rollout: RolloutMemory, verdict: StageVerdict, told: dict[str, Any]) -> None:
    """Leave the stage (of waves: the wave) for the next; after the last one all is done."""
    message = f"{called(rollout)}: {stage_in_words(draft, rollout)} went well: {verdict.message}"
    if verdict.risk:
        message += f"; {verdict.risk}"
    level = "warning" if verdict.risk else "info"
    what = f"stage/{rollout.stage}.{rollout.wave}"
    tell(draft, rollout, "StageJudged", f"judged/{rollout.stage}.{rollout.wave}", message, level=level)
    record(draft, rollout, what, told | {"kind": "stage", "message": verdict.message})
    draft.rollouts[rollout.endpoint] = following(draft, rollout)
    draft.wait(f"endpoint/{rollout.endpoint}", "the next stage begins", self_ending=True)


def _end(draft: Draft, rollout: RolloutMemory) -> None:
    """Promote what has walked down all stages, when it has done so behind all endpoints of its model."""
    about = f"endpoint/{rollout.endpoint}"
    behind = _behind(draft, rollout)
    if rollout.paused:
        draft.wait(about, f"paused by a person: `mainspring rollout resume {rollout.endpoint}`")
    elif behind:
        draft.wait(about, f"{called(rollout)} is still being rolled out behind `{behind}`")
    elif all(_unwatched(one) for one in same(draft, rollout)):
        promote(draft, rollout, "without being watched, since no stage that watches it had room", level="warning")
    else:
        promote(draft, rollout, _went(same(draft, rollout)))


def _went(rollouts: list[RolloutMemory]) -> str:
    """How the stages went, of all endpoints together."""
    counts = (
        (sum(one.skipped for one in rollouts), "left out"),
        (sum(one.ended for one in rollouts), "ended by a person"),
    )
    unlike = [f"{count} {'was' if count == 1 else 'were'} {what}" for count, what in counts if count]
    return f"its stages are over, of which {', '.join(unlike)}" if unlike else "all stages went well"


def _unwatched(rollout: RolloutMemory) -> bool:
    """Whether all stages that last were left out."""
    return 0 < rollout.skipped >= sum(stage.seconds > 0 for stage in rollout.stages)


def _behind(draft: Draft, rollout: RolloutMemory) -> str:
    """An endpoint of the same model that the version has not been all the way down; "" when there is none."""
    if rollout.launch is not None:
        return ""
    done = {one.endpoint for one in same(draft, rollout) if one.done}
    mine = [name for name, one in draft.s.desired.stack.serving.items() if one.model_name == rollout.model]
    return next((name for name in mine if name not in done and not nowhere(draft, name)), "")
