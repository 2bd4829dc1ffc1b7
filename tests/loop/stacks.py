"""Stacks for the tests of the loop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mainspring.stack.model import Stack

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
