"""What is told of a rollout: its name in sentences, and the records that reports are drawn from.

What this is: values for `Plan.records` and `Plan.judged`. Who calls it: the rollout's state machine. What it must
never do: decide.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mainspring.decide.figures import figures
from mainspring.decide.rollout import Evidence, Looked, StageVerdict, in_words
from mainspring.loop.answering import answers
from mainspring.loop.draft import Draft
from mainspring.loop.labels import fresh_of, generation, version_number
from mainspring.loop.memory import RolloutMemory
from mainspring.loop.place import placed, waves_of

KINDS = (
    "began", "look", "stage", "skipped", "promoted", "aborted", "superseded", "undone", "paused", "resumed", "first",
)  # fmt: skip
"""Kinds of records of rollouts, `value["kind"]`; `look` is how one gets on, the others are decisions.

A `stage` that a person ended has `ended_by`; a stage that is `skipped` has `why`.
"""


def called(rollout: RolloutMemory) -> str:
    """Name what is rolled out: `version 4`, or `version 3 with settings 2`."""
    if rollout.launch is None:
        return f"version {version_number(rollout.candidate)}"
    return f"version {version_number(rollout.candidate)} with settings {generation(rollout.candidate)}"


def against(rollout: RolloutMemory) -> str:
    """Name what it is compared with."""
    if rollout.launch is None:
        return f"version {version_number(rollout.control)}"
    return f"the same with settings {generation(rollout.control)}"


def stage_in_short(draft: Draft, rollout: RolloutMemory) -> str:
    """The present stage by its name: `canary`, `wave 2 of 5`."""
    stage = rollout.stages[rollout.stage]
    return stage.kind if stage.kind != "waves" else f"wave {max(rollout.wave, 1)} of {waves_of(draft, rollout)}"


def stage_in_words(draft: Draft, rollout: RolloutMemory) -> str:
    """The present stage in full: `canary 5% of eu-west for 2 h`, `wave 2 of 5 for 1 h`."""
    stage, what = rollout.stages[rollout.stage], stage_in_short(draft, rollout)
    if stage.kind != "waves":
        what += f" {stage.share * 100:g}%" + (f" of {stage.region}" if stage.region else "")
    return f"{what} for {in_words(stage.seconds)}" if stage.seconds else what


def value(draft: Draft, rollout: RolloutMemory, kind: str, message: str) -> dict[str, Any]:
    """What every record of a rollout says; `endpoint`, `version` and `began` group those of one rollout."""
    stage = rollout.stages[rollout.stage]
    here = rollout.endpoint in draft.s.desired.stack.serving  # it has ended, where the stack file has it no more
    waves = waves_of(draft, rollout) if stage.kind == "waves" and here else 0
    return {
        "kind": kind,
        "endpoint": rollout.endpoint,
        "model": rollout.model,
        "version": rollout.candidate,
        "control": rollout.control,
        "began": rollout.began,
        "change": "version" if rollout.launch is None else "settings",
        "stage": stage.kind,
        "number": rollout.stage + 1,
        "stages": len(rollout.stages),
        "wave": max(rollout.wave, 1) if waves else 0,
        "waves": waves,
        "fresh": rollout.fresh,
        "message": message,
    }


def judged(
    draft: Draft, rollout: RolloutMemory, evidence: Evidence, how: Looked, verdict: StageVerdict, untold: int
) -> dict[str, Any]:
    """What was judged in this cycle, with every number."""
    seen = {name: number for name, number in figures(evidence.arms).items() if number is not None}
    return {
        **verdict.numbers,
        **seen,
        **value(draft, rollout, "look", verdict.message),
        "share": how.share,
        "elapsed": how.elapsed,
        "length": how.length,
        "per_second": how.per_second,
        "verdict": verdict.kind,
        "risk": verdict.risk,
        "checks": [asdict(check) for check in verdict.checks],
        "replicas": _replicas(draft, rollout),
        "untold": untold,
    }


def _replicas(draft: Draft, rollout: RolloutMemory) -> dict[str, list[int]]:
    """Of each arm: replicas that answer, and that the stage asks for."""
    asked = placed(draft, rollout.endpoint).stage
    arms = {"candidate": rollout.candidate, "control": rollout.control, "fresh": fresh_of(rollout.control)}
    there = {arm: [name for name, _ in asked.get(label, ())] for arm, label in arms.items()}
    return {arm: [sum(answers(draft, name) for name in names), len(names)] for arm, names in there.items()}


def record(draft: Draft, rollout: RolloutMemory, what: str, told: dict[str, Any]) -> None:
    """Keep a record of a rollout; `what` tells it from the others of the same rollout."""
    key = f"{rollout.endpoint}/{rollout.candidate}/{what}/{rollout.began:.0f}"
    draft.record("rollout", key, draft.now.wall, told)


def tell(draft: Draft, rollout: RolloutMemory, reason: str, what: str, message: str, *, level: str = "info") -> None:
    """Tell an event of a rollout, once."""
    about = f"endpoint/{rollout.endpoint}"
    key = f"{about}/rollout/{rollout.candidate}/{what}/{rollout.began:.0f}"
    draft.tell(reason, about, message, key=key, level=level, kind="rollout")
