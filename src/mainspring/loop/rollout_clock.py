"""A wall clock that was set back in the middle of a rollout: its evidence begins anew at the new time.

What this is: moments that lie ahead of now, put back to now; without it a rollout would look at nothing until the
clock has come that far again, while its candidate goes on answering. Who calls it: the rollout's state machine, first.
What it must never do: judge.

Records of the time that comes twice cannot be told apart by their times: those from before the clock was set back are
counted again when it gets there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from mainspring.decide.rollout import in_words
from mainspring.loop.draft import Draft
from mainspring.loop.memory import RolloutMemory, Scope
from mainspring.loop.rollout_told import tell

ALLOWED = 1.0  # seconds that a clock which is kept right may go back

E = TypeVar("E", tuple[float, float], tuple[float, float, str])


def set_back(draft: Draft) -> bool:
    """Put what rollouts remember back to now, where the wall clock was set back; nothing is judged in that cycle."""
    last, now = draft.s.memory.last, draft.now.wall
    if last is None or now >= last.wall - ALLOWED or not draft.rollouts:
        return False
    message = f"the clock was set back by {in_words(last.wall - now)}: evidence of the rollout begins anew now"
    for name, rollout in draft.rollouts.items():
        draft.rollouts[name] = put_back(rollout, now)
        tell(draft, rollout, "ClockSetBack", f"clock/{draft.now.mono:.0f}", message, level="warning")
        draft.wait(f"endpoint/{name}", "its evidence begins anew", self_ending=True)
    return True


def put_back(rollout: RolloutMemory, now: float) -> RolloutMemory:
    """A rollout that remembers nothing later than `now` (event time); a scope that had begun ends, a new one begins."""
    return replace(
        rollout,
        stage_began=min(rollout.stage_began, now),
        mirror_since=None if rollout.mirror_since is None else min(rollout.mirror_since, now),
        live_since=None if rollout.live_since is None else min(rollout.live_since, now),
        scopes=_scopes(rollout.scopes, now),
        shares=_put_back(rollout.shares, now),
        mirrors=_put_back(rollout.mirrors, now),
        skip=tuple((begun, min(end, now)) for begun, end in rollout.skip if begun < now),
        noted=None,
    )


def _scopes(scopes: tuple[Scope, ...], now: float) -> tuple[Scope, ...]:
    if not scopes:
        return ()
    over = [scope for scope in scopes if scope.since < now]
    ends = [scope.until if scope.until is None else min(scope.until, now) for scope in over]
    if over and ends[-1] is None:
        ends[-1] = now
    kept = tuple(replace(scope, until=end) for scope, end in zip(over, ends, strict=True))
    return (*kept, replace(scopes[-1], since=now, until=None))


def _put_back(entries: tuple[E, ...], now: float) -> tuple[E, ...]:
    """Changes up to `now`, and what held last from `now` on."""
    kept: list[E] = [entry for entry in entries if entry[0] < now]
    if entries and (not kept or kept[-1][1:] != entries[-1][1:]):
        kept.append((now, *entries[-1][1:]))
    return tuple(kept)
