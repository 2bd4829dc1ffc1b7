"""Conditions of endpoints and pipelines: what a person sees first."""

from __future__ import annotations

from mainspring.loop.draft import Draft
from mainspring.loop.room import count_of, regions_of, scales


def conditions(draft: Draft) -> None:
    """Say of each endpoint whether it answers, and of each pipeline whether it works."""
    stack = draft.s.desired.stack
    table = draft.s.observed.routes
    for name, endpoint in stack.serving.items():
        about = f"endpoint/{name}"
        routes = table.endpoints.get(name) if table else None
        answering = [r.name for r in routes.revisions if r.replicas and r.takes] if routes else []
        model = draft.models.get(endpoint.model_name)
        if answering:
            draft.condition(about, "Ready", ok=True, reason="Answers", message=f"{', '.join(answering)}")
        elif model is None or not model.champion:
            why = f"no version of `{endpoint.model_name}` has passed its gates yet"
            draft.condition(about, "Ready", ok=False, reason="NoVersion", message=why)
        elif scales(endpoint) and count_of(draft, name, endpoint, regions_of(stack, endpoint)) == 0:
            message = "no replica, since nobody asks; the next request starts one"
            draft.condition(about, "Ready", ok=True, reason="AtZero", message=message)
        else:
            draft.condition(about, "Ready", ok=False, reason="NoReplica", message="no replica is ready; requests wait")
    for name in stack.pipelines:
        active = [m.id for m in draft.runs.values() if m.pipeline == name]
        if active:
            draft.condition(f"pipeline/{name}", "Running", ok=True, reason="Works", message=f"{active[0]} works")
