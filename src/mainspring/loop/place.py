"""Which replicas there are to be of each revision, while one version gives way to another: as far as there is room.

What this is: pure choice, made anew in each cycle from what is seen. `decide/waves.py` says how many; here it is said
which, in which regions, and whose turn it is where two rollouts want the same room (the one that began first). Who
calls it: `serve.py` starts and stops by it, `routed.py` routes by it, the state machine asks what a stage can have,
`scaling.py` what is left. What it must never do: start anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mainspring.decide import waves
from mainspring.decide.waves import Counts, Exchange, How, Room, Size, free, lent
from mainspring.loop.answering import Named, answers, held, outgoing
from mainspring.loop.draft import Draft
from mainspring.loop.labels import fresh_of, revision_of, version_number
from mainspring.loop.launches import live_label
from mainspring.loop.memory import RolloutMemory, StagePinned
from mainspring.loop.room import (
    dealt,
    limits_of,
    live_size,
    named,
    normal,
    normal_of,
    regions_of,
    said,
    size_in,
    size_of,
    takes_room,
)
from mainspring.loop.window import revision_name

_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Placed:
    """The replicas that there are to be of one endpoint now."""

    revisions: dict[str, tuple[Named, ...]] = field(default_factory=dict)  # label: replicas; in the order of routes
    stage: dict[str, tuple[Named, ...]] = field(default_factory=dict)  # label: all that the stage comes to
    how: How = "surge"
    waits: str = ""  # why its candidate is not started
    change: RolloutMemory | None = None  # how it is routed meanwhile: its rollout, or a change that no rollout is about
    leaves: str = ""  # label of what answered before and goes on until enough of the new one answer


def placed(draft: Draft, name: str) -> Placed:
    """The replicas that an endpoint is to have now; nothing while it has no version."""
    live, rollout = live_label(draft, name), draft.rollouts.get(name)
    if not live:
        return Placed()
    stack, count = draft.s.desired.stack, normal_of(draft, name)
    changed = _changed(draft, name, live, count)
    if changed is not None:
        return changed
    if rollout is None:
        mine = tuple(named(stack, name, live, index) for index in range(count))
        return Placed({live: mine}, {live: mine})
    return _exchanged(draft, rollout, count)


def _changed(draft: Draft, name: str, live: str, count: int) -> Placed | None:
    """The same while what an endpoint answers with has changed without a rollout to its end; None when that is over.

    After a promotion by a person, an undo, or a newer challenger, what answered before gives way replica by replica, as
    in waves, until as many of the new one answer. A rollout that has begun since waits for that.
    """
    before = outgoing(draft, name, live)
    if not before or not count:
        return None
    label_before, answering = before
    stages = (StagePinned("all", 1.0, 0.0),)
    model, now = draft.s.desired.stack.serving[name].model_name, draft.now.wall
    change = RolloutMemory(name, model, live, label_before, stages, None, None, 0.0, 0.95, now)
    new = tuple(named(draft.s.desired.stack, name, live, index) for index in range(count))
    counts = Counts(len(answering), count, "surge", count)
    if limits_of(draft.s.desired.stack).is_limited:
        standing = replace(_standing(draft, change, answering, new, 0), normal=count)
        counts = waves.step(standing, _capacity(draft, change), *_sizes(draft, change))
    asked = _first(draft, new, counts.end)
    if all(held(draft, process) for process, _ in asked):
        return None
    started = _first(draft, new, counts.new)
    kept = _kept(draft, answering, counts.old, started)
    there = {label_before: kept, live: started}
    return Placed(there, {label_before: new, live: asked}, counts.how, change=change, leaves=label_before)


def _exchanged(draft: Draft, rollout: RolloutMemory, count: int) -> Placed:
    """The same while a rollout is under way: of the old version, a fresh control, and the new one."""
    stack, name = draft.s.desired.stack, rollout.endpoint
    wanted = _indices(draft, rollout, rollout.stage, rollout.wave, count)
    old = tuple(named(stack, name, rollout.control, index) for index in range(count))
    new = tuple(named(stack, name, rollout.candidate, index) for index in wanted)
    fresh = tuple(named(stack, name, fresh_of(rollout.control), index) for index in wanted) if rollout.fresh else ()
    counts, waits = Counts(len(old), len(new), "surge", len(new)), ""
    if limits_of(stack).is_limited:
        capacity = _capacity(draft, rollout)
        counts = waves.step(_standing(draft, rollout, old, new, len(fresh)), capacity, *_sizes(draft, rollout))
        waits = _queued(draft, rollout, count, new, capacity)
        if waits:
            counts = replace(counts, old=len(old), new=0)
    started = _first(draft, new, counts.new)
    kept = _kept(draft, old, counts.old, started)
    labels = (rollout.control, fresh_of(rollout.control), rollout.candidate)
    there = {each: mine for each, mine in zip(labels, (kept, fresh, started), strict=True) if mine or each != labels[1]}
    asked = dict(zip(labels, (old, fresh, _first(draft, new, counts.end)), strict=True))
    return Placed(there, asked, counts.how, waits, rollout)


# --- what a stage asks for


def _indices(draft: Draft, rollout: RolloutMemory, number: int, wave: int, count: int) -> tuple[int, ...]:
    """The numbers of the candidate's replicas in a stage, of an endpoint that has `count` of the old version."""
    stack, stage = draft.s.desired.stack, rollout.stages[number]
    regions = dealt(stack, stack.serving[rollout.endpoint])
    there = [regions[index % len(regions)] for index in range(count)]
    if stage.kind == "all":
        return tuple(range(count))
    if stage.kind == "waves":
        before = [at for at in range(number) if rollout.stages[at].kind in ("canary", "ab")][-1:]
        first = _indices(draft, rollout, before[0], 0, count) if before else ()
        return _of_wave(stage, max(1, wave), there, first)
    touched = [stage.region] if stage.region in regions and stage.region else list(dict.fromkeys(there)) or [regions[0]]
    found: list[int] = []
    for region in touched:
        mine = max(1, math.ceil(stage.share * there.count(region) - _CLOSE))
        first_of = regions.index(region)
        found += [first_of + turn * len(regions) for turn in range(mine)]
    return tuple(sorted(found))


def _of_wave(stage: StagePinned, wave: int, there: Sequence[str], first: Sequence[int]) -> tuple[int, ...]:
    """The numbers after so many waves, each beside those that a canary before them had `first`."""
    found = {index for index in first if index < len(there)}
    if not stage.per_region:
        each = wave * stage.step if stage.step else math.ceil(wave * stage.step_share * len(there) - _CLOSE)
        rest = [index for index in range(len(there)) if index not in found]
        return tuple(sorted((*found, *rest[:each])))
    seen: Counter[str] = Counter()
    for index, region in enumerate(there):
        seen[region] += 1
        if seen[region] <= wave * stage.step:
            found.add(index)
    return tuple(sorted(found))


def waves_of(draft: Draft, rollout: RolloutMemory) -> int:
    """How many waves the present stage has; 1 where it has none."""
    stage = rollout.stages[rollout.stage]
    if stage.kind != "waves":
        return 1
    count = normal_of(draft, rollout.endpoint)
    for wave in range(1, count + 1):
        if len(_indices(draft, rollout, rollout.stage, wave, count)) == count:
            return wave
    return 1


def _least(stage: StagePinned, count: int) -> int:
    """Old replicas that a stage needs beside the candidate's: what still answers the rest, or has to, as a control."""
    if stage.kind in ("waves", "all"):
        return 0
    # Copies take no request away from the old ones, so at most one of them gives way to a mirror.
    rest = count - 1 if stage.kind == "mirror" else math.floor((1.0 - stage.share) * count + _CLOSE)
    return min(count, max(1, rest))


def fresh_for(draft: Draft, rollout: RolloutMemory) -> int:
    """How many fresh replicas of the old version the present stage can have as its control: as many as the candidate's.

    0: it needs none, or there is no room, or the share is so large that the old ones would be left with too little, or
    the old version cannot be started any more.
    """
    stage = rollout.stages[rollout.stage]
    if stage.kind not in ("canary", "ab") or stage.share > waves.FRESH_MOST + _CLOSE or not _startable(draft, rollout):
        return 0
    count = normal_of(draft, rollout.endpoint)
    wanted = len(_indices(draft, rollout, rollout.stage, rollout.wave, count))
    old, new = _sizes(draft, rollout)
    whole = old.times(count + wanted).and_(new.times(wanted))
    return wanted if count and _capacity(draft, rollout).fits(whole) else 0


def _startable(draft: Draft, rollout: RolloutMemory) -> bool:
    """Whether the registry still has the old version."""
    about = (rollout.model, version_number(rollout.control))
    return any((v.model, v.number) == about and v.servable for v in draft.s.observed.versions)


def fresh_lost(draft: Draft, rollout: RolloutMemory) -> str:
    """Why a rollout has to do without its fresh control, in words; "" where it has it, can get it, or wants none."""
    if not rollout.fresh:
        return ""
    name = revision_name(rollout.endpoint, fresh_of(rollout.control))
    if any(revision_of(one) == name and memory.failures > 1 for one, memory in draft.processes.items()):
        return "do not stay up"
    if not rollout.ready and not fresh_for(draft, rollout):
        return "cannot be started"
    count = normal_of(draft, rollout.endpoint)
    indices = _indices(draft, rollout, rollout.stage, rollout.wave, count)
    lost = any(not answers(draft, f"{name}-{index}") for index in indices)
    return "cannot be started again" if lost and not _startable(draft, rollout) else ""


def queued(draft: Draft, rollout: RolloutMemory) -> str:
    """Why a rollout's new replicas are not started: an earlier rollout has the room; "" where they are, or may be."""
    return placed(draft, rollout.endpoint).waits if limits_of(draft.s.desired.stack).is_limited else ""


def cramped(draft: Draft, rollout: RolloutMemory) -> str:
    """Why the present stage can't be had at all, since nothing fits beside what it needs; "" where it can, or could."""
    stack, count = draft.s.desired.stack, normal_of(draft, rollout.endpoint)
    old, new = _sizes(draft, rollout)
    least = old.times(_least(rollout.stages[rollout.stage], count))
    alone = _capacity(draft, rollout, alone=True)  # what an earlier rollout has is only waited for
    if free(alone, least, new) or lenders(draft, rollout):
        return ""
    beside = "its only replica" if count <= 1 else f"{count} replicas"
    return f"there is no room for another replica of `{rollout.endpoint}` beside {beside}: {said(stack)} may be used"


# --- room, among all endpoints


def _sizes(draft: Draft, rollout: RolloutMemory) -> tuple[Size, Size]:
    """What one replica of the old version takes, and one of the new."""
    launch = rollout.launch
    old = size_in(draft, rollout.endpoint, rollout.control)
    return old, old if launch is None else size_of(draft.s.desired.stack.serving[rollout.endpoint], launch)


def _order(rollout: RolloutMemory) -> tuple[bool, float, str]:
    """Who comes first: one that only waits for other endpoints any more lets these have the room."""
    return rollout.done, rollout.began, rollout.endpoint


def _capacity(draft: Draft, rollout: RolloutMemory, *, alone: bool = False) -> Room:
    """What all replicas of a rollout's endpoint together may take, beside the others'.

    Those that the others have anyway come first, then what rollouts need that began earlier (not those, if `alone`).
    """
    counts = normal(draft)
    whole = limits_of(draft.s.desired.stack)
    for name, count in counts.items():
        whole = whole.less(live_size(draft, name).times(count))
    own = live_size(draft, rollout.endpoint).times(counts[rollout.endpoint])
    if not alone:
        for other in sorted(draft.rollouts.values(), key=_order):
            if other.endpoint != rollout.endpoint and _order(other) < _order(rollout):
                whole = whole.less(_extra(draft, other, whole))
    return whole.more(own)


def _extra(draft: Draft, rollout: RolloutMemory, left: Room) -> Size:
    """What a rollout takes beside its endpoint's own replicas at most, from now to its end, of what is left."""
    count, (old, new) = normal_of(draft, rollout.endpoint), _sizes(draft, rollout)
    present = len(_indices(draft, rollout, rollout.stage, rollout.wave, count))
    most = new.times(present).and_(old.times(present if rollout.fresh else 0))
    for later in range(rollout.stage, len(rollout.stages)):
        most = most.or_(new.times(len(_indices(draft, rollout, later, count, count))))
    return left.of(most) if free(left, Size(), new) else Size()


def _queued(draft: Draft, rollout: RolloutMemory, count: int, new: Sequence[Named], capacity: Room) -> str:
    """Why a candidate waits: an earlier rollout has the room that it could have beside its old replicas."""
    old, one = _sizes(draft, rollout)
    base = old.times(count)
    earlier = [r for r in draft.rollouts.values() if r.endpoint != rollout.endpoint and _order(r) < _order(rollout)]
    if not earlier or free(capacity, base, one) or any(takes_room(draft, process) for process, _ in new):
        return ""
    later = _capacity(draft, rollout, alone=True)
    if not free(capacity, one, old):  # nobody would answer meanwhile, and what is above others' least can be lent then
        counts = normal(draft)
        for other in earlier:
            above = _above(draft, other.endpoint, counts[other.endpoint])
            later = later.more(live_size(draft, other.endpoint).times(above))
    if not free(later, base, one):
        return ""
    first = min(earlier, key=_order).endpoint
    there = said(draft.s.desired.stack)
    return f"its new replicas wait: the rollout of `{first}` has the room, and began first ({there})"


def lenders(draft: Draft, rollout: RolloutMemory) -> dict[str, int]:
    """Replicas of other endpoints, by name, that make room for the first of the candidate's where nothing is free.

    Idle ones above the least number; busy ones above it, too, where nobody would answer for the endpoint otherwise.
    """
    count, (old, new) = normal_of(draft, rollout.endpoint), _sizes(draft, rollout)
    whole, capacity = old.times(count).and_(new), _capacity(draft, rollout)
    if capacity.fits(whole):
        return {}
    short = Size(max(0.0, whole.cores - capacity.cores), max(0.0, whole.memory - capacity.memory))
    counts = {name: there for name, there in normal(draft).items() if name not in draft.rollouts}
    counts.pop(rollout.endpoint, None)
    ones = {name: live_size(draft, name) for name in counts}
    above = {name: _above(draft, name, there) for name, there in counts.items()}
    idle = {name: min(above[name], _idle(draft, name, there)) for name, there in counts.items()}
    found = lent(short, ones, idle)
    return found if found or free(capacity, new, old) else lent(short, ones, above)


def _above(draft: Draft, name: str, there: int) -> int:
    """Replicas above an endpoint's least number."""
    stack = draft.s.desired.stack
    return max(0, there - stack.serving[name].replicas.low * regions_of(stack, stack.serving[name]))


def _idle(draft: Draft, name: str, there: int) -> int:
    """Replicas that have nothing to do; 0 while nobody knows."""
    load = draft.s.observed.loads.get(name)
    if load is None:
        return 0
    return max(0, there - math.ceil((load.waiting + load.running) / (draft.s.desired.stack.serving[name].at_once or 1)))


def ceiling(draft: Draft, name: str) -> int | None:
    """The most replicas that an endpoint may scale to beside the others and all rollouts; None where nothing limits."""
    limits = limits_of(draft.s.desired.stack)
    if not limits.is_limited:
        return None
    counts, left = normal(draft), limits
    for other, count in counts.items():
        left = left.less(live_size(draft, other).times(count))
    most = waves.MANY
    for rollout in sorted(draft.rollouts.values(), key=_order):
        left = left.less(_extra(draft, rollout, left))
        if rollout.endpoint != name:
            most = min(most, counts[name] - lenders(draft, rollout).get(name, 0))
    one = live_size(draft, name)
    return min(most, free(left.more(one.times(counts[name])), Size(), one))


# --- which ones


def _standing(draft: Draft, rollout: RolloutMemory, old: Sequence[Named], new: Sequence[Named], fresh: int) -> Exchange:
    """Where the exchange stands, by what is seen."""
    return Exchange(
        normal=len(old),
        wanted=len(new),
        least=_least(rollout.stages[rollout.stage], len(old)),
        extra=fresh,
        old_answering=sum(answers(draft, process) for process, _ in old),
        new_answering=sum(answers(draft, process) for process, _ in new),
        new_held=sum(held(draft, process) for process, _ in new),
        new_there=sum(takes_room(draft, process) for process, _ in new),
    )


def _first(draft: Draft, new: Sequence[Named], most: int) -> tuple[Named, ...]:
    """The first of the new ones: those that are there already, then by their numbers."""
    chosen = sorted(range(len(new)), key=lambda at: (not takes_room(draft, new[at][0]), at))[:most]
    return tuple(new[at] for at in sorted(chosen))


def _kept(draft: Draft, old: Sequence[Named], most: int, new: Sequence[Named]) -> tuple[Named, ...]:
    """Which old ones stay: first those go that do not answer, then those of regions that have most new ones."""
    kept = list(old)
    answering = {process for process, _ in old if answers(draft, process)} if len(kept) > most else set()
    normally, there = Counter(region for _, region in old), Counter(region for _, region in (*old, *new))

    def goes_first(at: int) -> tuple[bool, int, int]:
        process, region = kept[at]
        return process not in answering, there[region] - normally[region], at

    while len(kept) > most:
        there[kept.pop(max(range(len(kept)), key=goes_first))[1]] -= 1
    return tuple(kept)
