"""Whether a new version is made now. Pure; called by the loop at each look, schedule and command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.stack.pipelines import Retrain


@dataclass(frozen=True, slots=True)
class Situation:
    """What else is going on, in event time (POSIX seconds)."""

    now: float
    starts: Sequence[float]  # of earlier triggered runs, oldest first
    busy: str = ""  # "run delay-3 works", "a rollout is under way": no new run beside it
    over_budget: str = ""  # the sentence that says so


@dataclass(frozen=True, slots=True)
class Retraining:
    """`start`, or `why` not and, when known, from when on (`again`)."""

    start: bool
    why: str
    again: float | None = None


def retrain(spec: Retrain, cause: str, situation: Situation) -> Retraining:
    """Decide for one cause ("weather-drift", "schedule"): cool-down, limit per period, budget, one at a time."""
    if situation.busy:
        return Retraining(start=False, why=f"{cause}: {situation.busy}")
    if situation.over_budget:
        return Retraining(start=False, why=f"{cause}: {situation.over_budget}")
    starts = situation.starts
    if starts and situation.now < starts[-1] + spec.cooldown:
        return Retraining(
            start=False, why=f"{cause}: cooling down since the last run", again=starts[-1] + spec.cooldown
        )
    limit = int(spec.at_most.count)
    recent = [start for start in starts if start > situation.now - spec.at_most.per]
    if len(recent) >= limit:
        again = recent[-limit] + spec.at_most.per if limit else None
        return Retraining(start=False, why=f"{cause}: {limit} runs in the period already", again=again)
    return Retraining(start=True, why=cause)
