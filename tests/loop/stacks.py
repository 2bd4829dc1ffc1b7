"""Stacks for the tests of the loop."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from mainspring.loop.memory import RolloutMemory
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import DAY

MARCH = datetime(2013, 3, 1, tzinfo=UTC).timestamp()


def flights(**changes: Any) -> Stack:
    """The flights stack in little; `control`, `replicas`, `rollout`, `restarts` and `retrain` may be changed."""
    rollout = [{"mirror": "100%", "for": "3d"}, {"canary": "10%", "for": "1d"}, {"all": "100%"}]
    retrain = {"when": ["weather", "worse"], "at_most": "2 per month", "cooldown": "7d"}
    return Stack.model_validate(
        {
            "mainspring": 1,
            "stack": "flights",
            "compute": {"here": {"machine": "this", "price": "$0.10/h"}},
            "orchestration": {
                "where": "here",
                "control": changes.get("control", "act"),
                "restarts": changes.get("restarts", "5 per 10m"),
            },
            "serving": {
                "delay": {
                    "model": "delay@champion",
                    "replicas": changes.get("replicas", 1),
                    "truth": {"field": "late", "within": "3d"},
                    "rollout": changes.get("rollout", rollout),
                    "abort": {"errors": "5%", "p95": "100ms"},
                }
            },
            "pipelines": {
                "delay": {
                    "produces": "delay",
                    "first": {"from": "2013-01-01", "to": "2013-02-28"},
                    "steps": {"ingest": "m:ingest", "train": "m:train"},
                    "gates": {"brier": {"no_worse_by": 0.005}, "auc": {"at_least": changes.get("auc", 0.6)}},
                    "retrain": changes.get("retrain", retrain),
                }
            },
            "monitoring": {
                "every": "7d",
                "drift": {"weather": {"features": ["temp"]}},
                "quality": {"worse": {"brier_skill": "below 10%", "over": "14d"}},
            },
        }
    )


def service(*stages: dict[str, Any], **changes: Any) -> Stack:
    """One endpoint `api` of a model that nobody trains; keys of the endpoint, `control`, `compute` may be given."""
    here = {"machine": "this", **changes.pop("here", {})}
    regions = changes.pop("regions", None)
    return Stack.model_validate(
        {
            "mainspring": 1,
            "stack": "service",
            "compute": {"here": here, **({"regions": regions} if regions else {})},
            "orchestration": {"where": "here", "control": changes.pop("control", "act"), "restarts": "3 per 10m"},
            "serving": {"api": {"model": "scorer@champion", "rollout": list(stages), **changes}},
        }
    )


def passed(loop: VirtualLoop, number: str, *, challenger: bool = True, model: str = "scorer") -> VirtualLoop:
    """A version that has passed its gates; it is named challenger unless told otherwise."""
    loop.world.add_version(model, number, f"made/{number}", (loop.world.wall - 60 * DAY, loop.world.wall))
    loop.world.versions[-1] = replace(loop.world.versions[-1], verdict="passed")
    if challenger:
        loop.world.aliases.setdefault(model, {})["challenger"] = number
    return loop


def standing(stack: Stack, **parts: Any) -> VirtualLoop:
    """A loop whose version 1 answers; `parts` are of `VirtualLoop`."""
    loop = VirtualLoop(stack, MARCH, **parts)
    return passed(loop, "1", challenger=False).run(days=0.01)


def under_way(loop: VirtualLoop, name: str = "api") -> RolloutMemory:
    """The rollout of an endpoint."""
    return loop.store.load()[1].rollouts[name]


def records(loop: VirtualLoop, *kinds: str) -> list[dict[str, Any]]:
    """What records of rollouts say, oldest first; of some kinds."""
    found = sorted(loop.store.records("rollout"), key=lambda r: r.at)
    return [r.value for r in found if not kinds or r.value["kind"] in kinds]


def ends(loop: VirtualLoop) -> list[str]:
    """How rollouts ended, oldest first."""
    return [one["kind"] for one in records(loop, "promoted", "aborted", "superseded", "undone")]


def told(loop: VirtualLoop, reason: str) -> list[str]:
    """The messages of events of a reason, oldest first."""
    found = reversed(loop.store.events(limit=10_000))
    return [kept.event.message for kept in found if kept.event.reason == reason]
