"""How many replicas an endpoint has: on what waits and what was promised, never on utilisation.

What this is: a pure, total function from what is believed of an endpoint's load, and what is remembered, to a number of
replicas with its reason. Who calls it: the loop at least every 10 seconds while `replicas` is a range; the twin, for
`mainspring simulate` and the benchmark. What it must never do: take what is not known for zero (it then holds), go over
what the budget allows, or give a new memory when nothing happened: memory is written to disk at each change.

How. Demand in busy slots (requests a second times the seconds of each) is judged as far ahead as a replica takes to
load: by how it grew over such a time of late, and by what the hour asked for in earlier weeks. `staffing.py` says how
many slots keep waits within the objective. Requests that will still wait when a new replica is there ask for more; a
burst that will be gone by then asks for none. More is started at once; one is stopped only when fewer were enough for
`down` seconds, all along. The constants were chosen on traffic that no benchmark reports (`benchmarks/autoscalers`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from statistics import median

from mainspring.decide.hours import UNSEEN, Hours, expected, noted, within
from mainspring.decide.staffing import growth, left_over, slots_for
from mainspring.stack.serving import Endpoint, Objective

STALE = 10.0
"""Seconds after which what was said of a load counts as not known."""
LOAD = 60.0
"""Seconds that a replica is taken to load before one was seen to."""
FAST = 10.0
"""Seconds that `Load.rate` is over."""
MINUTE = 60.0
"""Seconds that `Load.slow` is over, and that lie between two values of `Scaling.recent`."""
SURE = 0.5
"""Standard deviations that the last 10 s are taken lower, before they count for more than the last minute."""
DOUBT = 1.05
"""Demand is taken this much larger: rates and times are estimates."""
APART = 1.1
"""Fewer replicas are enough only for a demand this much larger again: what was just stopped isn't wanted back."""
GROWN = 0.8
"""Which quantile of the growth of late is held ready."""
REMEMBERED = 30
"""Minutes of demand that are remembered for it."""
LOADS = 5
"""Times to load that are remembered; their median is believed."""
RUED = 2.0
"""A replica that is wanted back within so many times the delay before it was stopped was stopped too soon."""
PATIENCE = 5
"""Doublings of that delay at most; it stays within `KEPT_MOST`."""
STEP = 0.1
"""Times of `peaks` and `asked` are exact to this share of `down` and `idle`, so that memory changes rarely."""
CLEARED = 0.5
"""What will still wait when new replicas are there is cleared within this share of the time to load."""
KEPT = 2.0
KEPT_LEAST, KEPT_MOST = 30.0, 300.0
"""Seconds that a replica which isn't needed is kept, where nobody says: what is dear to have again is kept longer."""
ROOM = 600.0
"""Seconds that a replica is taken to work on no more at once than engines showed when they let requests wait."""
LITTLE = 0.05
"""Busy slots of an earlier week that are too few to hold a replica ready for, where there may be none."""


@dataclass(frozen=True, slots=True)
class Load:
    """What gateway workers say of one endpoint, summed over the workers."""

    at: float  # Now.mono when the oldest of the workers' words was written
    waiting: int  # requests held at the gateway since no replica has room, or none is there
    running: int  # requests with replicas
    oldest: float  # seconds that the one that waits longest has waited
    rate: float  # requests that came, a second, over the last 10 s
    slow: float  # the same over the last 60 s
    seconds: float  # mean seconds with a replica, of those that ended in the last 60 s; nan: none ended
    room: int = 0  # requests that one replica works on at once, as engines show that let others wait; 0: none does


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of the week, in UTC, with replicas that are held ready."""

    days: tuple[int, ...]  # on which it begins; Monday is 0
    begin: float  # seconds after midnight
    end: float  # at or before `begin`: on the next day
    least: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What the stack file asks for, in seconds and replicas."""

    least: int
    most: int
    slots: int = 0  # requests that a replica works on at once; 0: nobody says, and `queue` stands for it
    queue: float = 4.0
    down: float | None = None  # None: `KEPT` times to load, within `KEPT_LEAST` and `KEPT_MOST`
    idle: float = 600.0
    ahead: float | None = None  # None: the time to load
    objective: float | None = None  # that a request may wait for a slot; None: as long as it then takes
    forecast: bool = True
    schedule: tuple[Period, ...] = ()
    ceiling: int | None = None  # replicas that the budget still allows
    room: int | None = None  # replicas that fit on the machine, beside the others and their rollouts


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is remembered of one endpoint; all numbers are finite, and all times but those of `hours` are `Now.mono`."""

    want: int = -1  # -1: nothing was decided yet
    since: float = 0.0  # when `want` last changed
    blind: bool = False  # the load was not known when last looked at
    seconds: float = 0.0  # that a request is with a replica, as last known; 0: never known
    loads: tuple[float, ...] = ()  # seconds that the last replicas took from their start to ready
    asked: float = -1.0  # when there last was a request, to `STEP` of `idle`
    calm: float = -1.0  # since when fewer than `want` are enough; -1: they are not
    peaks: tuple[tuple[float, int], ...] = ()  # when so many were needed at most since, fewer and fewer
    stopped: float = -1.0  # when one was last stopped that was not wanted back soon; -1: none, or it was
    patience: int = 0  # how many doublings longer than usual it is waited before one is stopped
    minute: int = -1  # of the last of `recent`
    recent: tuple[float, ...] = ()  # demand in busy slots, a value a minute
    hours: Hours = field(default_factory=Hours)
    room: int = 0  # requests that one replica was seen to work on at once, while others waited in it; 0: not of late
    pressed: float = -1.0  # when it was, to `STEP` of `ROOM`; -1: not of late

    @property
    def load_seconds(self) -> float:
        """Seconds that a replica takes to load; 0: none was seen to."""
        return median(self.loads) if self.loads else 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there are to be, why, and what to remember. `why` is for people, also when nothing changes."""

    want: int
    why: str
    memory: Scaling


@dataclass(frozen=True, slots=True)
class Need:
    """How many replicas are needed, how many would be comfortable, and why."""

    replicas: int
    enough: int  # with a demand `APART` larger; fewer than there are: one may be stopped
    why: str


def scale(
    rules: Rules, load: Load | None, ready: int, starting: int, memory: Scaling, mono: float, wall: float
) -> Decision:
    """Decide how many replicas there are to be.

    `ready` and `starting`: the replicas that serve, and those that will. `mono` only goes forward; `wall` may jump.
    The answer is within `rules.least` and `rules.most`, and over `rules.least` never over `rules.ceiling`.
    """
    low, high, bound = _bounds(rules, wall)
    before = memory.want if memory.want >= 0 else ready + starting
    if load is None or not _sound(load) or mono - load.at > STALE:
        known = "nothing is known of its load" if load is None else f"what is known is {mono - load.at:.0f} s old"
        if load is not None and not _sound(load):
            known = "what is said of its load makes no sense"
        want, why, memory = before, f"held, {known}", _blinded(memory, wall)
    else:
        memory = _learned(rules, load, memory, mono, wall)
        alone = _alone(rules, load, memory, mono)
        need = _need(rules, load, ready, before, memory, wall, alone=alone)
        want, why, memory = _settled(rules, need, before, memory, mono)
        if alone and need.replicas < want:
            want, why = need.replicas, f"nobody has asked for {mono - memory.asked:.0f} s, {need.why}"
        elif want == 0 < before and mono - memory.asked < rules.idle * (1.0 + STEP):
            want, why = 1, f"asked {max(0.0, mono - memory.asked):.0f} s ago"
    final = min(max(want, low), high)
    if final < want:
        why = f"{bound} allows no more than {final}, {why}"
    elif final > want:
        why = f"{'the schedule' if low > rules.least else 'the range'} asks for {final}, {why}"
    if final < before:  # that the last one that was stopped was not missed, makes up for one that was
        memory = replace(memory, stopped=mono, patience=max(0, memory.patience - (memory.stopped >= 0.0)))
    if final != memory.want:
        memory = replace(memory, want=final, since=mono)
    return Decision(final, f"{before} → {final}: {why}" if final != before else f"{final}: {why}", memory)


def loaded(memory: Scaling, seconds: float) -> Scaling:
    """The same, after a replica took so many seconds from its start to ready."""
    if not (math.isfinite(seconds) and seconds > 0.0):
        return memory
    return replace(memory, loads=(*memory.loads, round(seconds, 2))[-LOADS:])


def rules_of(endpoint: Endpoint, ceiling: int | None = None, regions: int = 1) -> Rules:
    """What the stack file says of one endpoint; `ceiling`: the replicas that the budget still allows.

    `regions`: how often a range `per region` counts; the rules are of all replicas together.
    """
    said = endpoint.scale
    low, high = endpoint.replicas.low * regions, endpoint.replicas.high * regions
    objective = may_wait(endpoint.objective)
    if said is None:
        return Rules(low, high, endpoint.at_once, objective=objective, ceiling=ceiling)
    periods = tuple(Period(one.on, one.from_, one.until, one.least * regions) for one in said.schedule)
    ahead = None if said.ahead == "load time" else said.ahead
    return Rules(
        low, high, endpoint.at_once, said.queue, said.down, said.idle, ahead, objective, said.forecast, periods, ceiling
    )  # fmt: skip


def may_wait(objective: Objective) -> float | None:
    """Seconds that a request may wait for a slot: half of the promise to the first token, or a quarter of the whole.

    The rest is for the work itself. None where neither is promised.
    """
    if objective.ttft is not None:
        return objective.ttft / 2.0
    whole = objective.p95 if objective.p95 is not None else objective.p99
    return None if whole is None else whole / 4.0


def _bounds(rules: Rules, wall: float) -> tuple[int, int, str]:
    """The fewest and the most replicas now, and what bounds the most."""
    low = max([rules.least, *(p.least for p in rules.schedule if within(p.days, p.begin, p.end, wall))])
    most, bound = rules.most, "the range"
    for ceiling, what in ((rules.ceiling, "the budget"), (rules.room, "the room")):
        if ceiling is not None and ceiling < most:
            # What the file holds ready all the time is no growth: a budget that is spent takes nobody's last replica.
            most, bound = max(rules.least, ceiling), what
    return min(low, most), most, bound


def _sound(load: Load) -> bool:
    numbers = (load.at, load.waiting, load.running, load.oldest, load.rate, load.slow, load.room)
    return all(math.isfinite(one) for one in numbers) and min(numbers[1:]) >= 0 and not math.isinf(load.seconds)


def _blinded(memory: Scaling, wall: float) -> Scaling:
    """Nothing is known: what has to hold all along begins anew."""
    if memory.blind:
        return memory
    hours = noted(memory.hours, UNSEEN, wall)
    return replace(memory, blind=True, calm=-1.0, peaks=(), minute=-1, recent=(), hours=hours)


def _learned(rules: Rules, load: Load, memory: Scaling, mono: float, wall: float) -> Scaling:
    """What a known load teaches. The same memory, not an equal one, where it teaches nothing new."""
    active = load.waiting > 0 or load.running > 0 or load.rate > 0.0
    fresh = memory.blind or memory.asked < 0.0
    often = STEP * rules.idle if rules.least == 0 else MINUTE  # nobody needs it exactly where one always stays
    if fresh or (active and load.at - memory.asked > often):
        memory = replace(memory, blind=False, asked=mono if fresh else max(memory.asked, load.at))
    if load.seconds > 0.0 and abs(load.seconds - memory.seconds) > 0.1 * memory.seconds:
        memory = replace(memory, seconds=round(load.seconds, 6))
    memory = _roomed(load, memory, mono)
    busy = load.slow * _seconds(load, memory)
    minute = int(mono // MINUTE)
    if minute != memory.minute and (busy > 0.0 or memory.recent):
        before = memory.recent if minute == memory.minute + 1 else ()
        recent = (*before, round(busy, 3))[-REMEMBERED:]
        memory = replace(memory, minute=minute, recent=recent if any(recent) else ())
    hours = noted(memory.hours, busy, wall)
    return memory if hours is memory.hours else replace(memory, hours=hours)


def _roomed(load: Load, memory: Scaling, mono: float) -> Scaling:
    """What engines show of how much they really work on at once: a full KV cache makes it less than their slots."""
    if load.room > 0:
        known = abs(load.room - memory.room) <= 1 and mono - memory.pressed <= STEP * ROOM
        return memory if known and memory.room else replace(memory, room=load.room, pressed=mono)
    gone = memory.room and mono - memory.pressed > ROOM
    return replace(memory, room=0, pressed=-1.0) if gone else memory


def _at_once(rules: Rules, memory: Scaling) -> int:
    """Requests that one replica works on at once: its slots, or the fewer that it was seen to have room for."""
    slots = rules.slots or memory.room or max(1, math.ceil(rules.queue))
    return min(slots, memory.room) if memory.room else slots


def _seconds(load: Load, memory: Scaling) -> float:
    """Seconds that a request is with a replica, as far as known; 0: not at all."""
    return load.seconds if load.seconds > 0.0 else memory.seconds


def _alone(rules: Rules, load: Load, memory: Scaling, mono: float) -> bool:
    """Whether nobody has asked for `idle` seconds, where there may then be none.

    The load of the minutes before, and how it grew, holds nothing up any more; what earlier weeks asked for at this
    hour still does.
    """
    quiet = load.waiting == 0 and load.running == 0 and load.rate == 0.0
    return rules.least == 0 and quiet and mono - memory.asked >= rules.idle * (1.0 + STEP)


def _need(rules: Rules, load: Load, ready: int, before: int, memory: Scaling, wall: float, *, alone: bool) -> Need:
    """How many replicas the load asks for; where nobody has asked for long (`alone`), earlier weeks alone do."""
    at_once = _at_once(rules, memory)
    seconds = _seconds(load, memory)
    here = load.waiting + load.running
    least = 1 if here > 0 or load.rate > 0.0 else 0
    if seconds <= 0.0:
        needed = max(least, math.ceil(here / (at_once + rules.queue)))
        return Need(needed, needed, f"{load.waiting} waiting, {load.running} running, none has ended yet")
    ahead = rules.ahead if rules.ahead is not None else memory.load_seconds or LOAD
    rate = 0.0 if alone else max(load.slow, load.rate - SURE * math.sqrt(load.rate / FAST))
    grows = 0.0 if alone else growth(memory.recent, ahead, MINUTE, GROWN)
    demand = (rate * seconds + grows) * DOUBT
    usual = _usual(rules, load.slow * seconds, ahead, memory, wall)
    coming = at_once * (ready + max(0, before - ready) / 2.0)  # those that start will be there half of the time
    left = left_over(load.waiting, rate, seconds, coming, ahead)
    wait = rules.objective if rules.objective is not None else seconds
    clear = 0.0
    if left > min(rules.queue * max(1, before), coming * wait / seconds):
        clear = left * seconds / max(wait, seconds, CLEARED * ahead)
    most = rules.most * at_once

    def replicas(busy: float) -> int:
        slots = slots_for(max(busy, usual), seconds, wait, most) + clear
        return max(least, math.ceil(slots / at_once))

    why = _told(load, demand, usual, left, seconds, ahead)
    return Need(replicas(demand), replicas(demand * APART), why)


def _usual(rules: Rules, now: float, ahead: float, memory: Scaling, wall: float) -> float:
    """Busy slots that earlier weeks had at the hour `ahead`, less where today has less than usual; 0 where unknown."""
    usual = expected(memory.hours, wall + ahead) if rules.forecast else None
    if usual is None or usual < LITTLE:
        return 0.0
    hour = expected(memory.hours, wall)
    if hour is None or hour < LITTLE:
        return usual
    return usual * min(1.0, now / hour)


def _told(load: Load, demand: float, usual: float, left: float, seconds: float, ahead: float) -> str:
    """The reason in a line."""
    work = load.waiting * seconds
    said = [f"{load.waiting} waiting, {work:.2g} s of work"] if load.waiting else []
    said.append(f"{load.rate:.3g} requests/s of {seconds:.2g} s each")
    if load.room:
        said.append(f"a replica works on {load.room} at once and lets others wait")
    if usual > demand:
        said.append(f"earlier weeks had {usual:.3g} busy slots at this hour")
    if left >= 1.0:
        said.append(f"{left:.0f} will wait in {ahead:.3g} s")
    said.append(f"load takes {ahead:.3g} s")
    return ", ".join(said)


def _settled(rules: Rules, need: Need, before: int, memory: Scaling, mono: float) -> tuple[int, str, Scaling]:
    """More at once; fewer only when they were enough for `down` seconds, all along."""
    down = _kept(rules, memory)
    if need.enough >= before:
        if memory.calm >= 0.0 or memory.peaks:
            memory = replace(memory, calm=-1.0, peaks=())
        if need.replicas > before and memory.stopped >= 0.0 and mono - memory.stopped <= RUED * down:
            memory = replace(memory, stopped=-1.0, patience=min(memory.patience + 1, PATIENCE))
        return max(before, need.replicas), need.why, memory
    peaks = _peaks(memory.peaks, need.enough, down, mono)
    if peaks != memory.peaks or memory.calm < 0.0:
        memory = replace(memory, peaks=peaks, calm=memory.calm if memory.calm >= 0.0 else mono)
    calm = mono - memory.calm
    if calm < down:
        return before, f"{need.enough} would do, for {calm:.0f} of {down:.0f} s, {need.why}", memory
    fewer = min(before, peaks[0][1])
    return fewer, f"{fewer} {'has' if fewer == 1 else 'have'} been enough for {down:.0f} s, {need.why}", memory


def _kept(rules: Rules, memory: Scaling) -> float:
    """For how long fewer replicas must have been enough: longer after one that was stopped was soon wanted back."""
    if rules.down is not None:
        return rules.down
    least = min(max(KEPT * (memory.load_seconds or LOAD), KEPT_LEAST), KEPT_MOST)
    return min(least * 2.0**memory.patience, KEPT_MOST)


def _peaks(peaks: tuple[tuple[float, int], ...], now: int, down: float, mono: float) -> tuple[tuple[float, int], ...]:
    """The highest needs of the last `down` seconds, each with when it was last there, fewer and fewer; never empty.

    A moment may be up to `STEP` of `down` too late, never too early: what comes and goes is not written each time.
    """
    if not peaks or now > peaks[-1][1]:
        peaks = (*(one for one in peaks if one[1] > now), (mono, now))
    elif now < peaks[-1][1] and mono - peaks[-1][0] >= STEP * down:
        peaks = (*peaks[:-1], (mono, peaks[-1][1]), (mono, now))
    while len(peaks) > 1 and mono - peaks[0][0] > down:
        peaks = peaks[1:]
    return peaks
