"""A look by monitoring: judge drift and quality every so often, and ask for a new version when they say so."""

from __future__ import annotations

from dataclasses import asdict

from mainspring.decide import drift as drifting
from mainspring.decide import quality as qualities
from mainspring.loop.draft import Draft
from mainspring.loop.readings import Drift, Quality, Unknown
from mainspring.loop.runs import begin_for
from mainspring.loop.window import drift_query, due, quality_query


def look(draft: Draft) -> None:
    """Take the look that is due, if one is; each look is taken once, in order."""
    end = due(draft.s.memory, draft.s.desired, draft.now)
    if end is None:
        upcoming = due_next(draft)
        if upcoming is not None:
            draft.wakes.append(upcoming)
        return
    fired: dict[str, str] = {}  # watch: the model it fired for
    for name, endpoint in draft.s.desired.stack.serving.items():
        model = draft.s.memory.models.get(endpoint.model_name)  # the champion that was asked about
        if model is None or not model.champion:
            continue
        for watch in _drifts(draft, name, endpoint.model_name, model.champion, end):
            fired[watch] = endpoint.model_name
        for watch in _qualities(draft, name, end):
            fired[watch] = endpoint.model_name
    draft.looked = end
    draft.wakes.append(end + draft.s.desired.stack.monitoring.every)
    draft.wait(
        "monitoring", "the next look", self_ending=end + draft.s.desired.stack.monitoring.every <= draft.now.wall
    )
    for pipeline, spec in draft.s.desired.stack.pipelines.items():
        causes = [w for w in spec.retrain.when if fired.get(w) == spec.produces]
        if causes:
            begin_for(draft, pipeline, ", ".join(causes))


def due_next(draft: Draft) -> float | None:
    """When the next look is, in event time."""
    monitoring = draft.s.desired.stack.monitoring
    last = draft.looked if draft.looked is not None else draft.s.memory.began
    if last is None or not (monitoring.drift or monitoring.quality):
        return None
    return last + monitoring.every


def _drifts(draft: Draft, endpoint: str, model: str, version: str, end: float) -> list[str]:
    fired = []
    monitoring = draft.s.desired.stack.monitoring
    for name, watch in monitoring.drift.items():
        reading = draft.reading(drift_query(endpoint, model, version, watch, end, monitoring.every), Drift)
        about = f"drift/{name}"
        key = f"{endpoint}/{name}/{end:.0f}"
        if isinstance(reading, Unknown):
            draft.condition(about, "Steady", ok=None, reason="Unknown", message=reading.why)
            draft.record("drift", key, end, {"endpoint": endpoint, "watch": name, "unknown": reading.why})
            continue
        verdict = drifting.judge(watch, reading, monitoring.every)
        features = [asdict(f) for f in verdict.features]
        value = {"endpoint": endpoint, "watch": name, "version": version, "fired": verdict.fired, "rows": reading.rows}
        draft.record("drift", key, end, value | {"features": features, "message": verdict.message})
        reason = "DriftDetected" if verdict.fired else "Steady"
        draft.condition(about, "Steady", ok=not verdict.fired, reason=reason, message=verdict.message)
        if verdict.fired:
            draft.tell(reason, about, verdict.message, key=key, level="warning", kind="drift")
            fired.append(name)
    return fired


def _qualities(draft: Draft, endpoint: str, end: float) -> list[str]:
    fired = []
    for name, spec in draft.s.desired.stack.monitoring.quality.items():
        reading = draft.reading(quality_query(endpoint, spec, end), Quality)
        about = f"quality/{name}"
        key = f"{endpoint}/{name}/{end:.0f}"
        if isinstance(reading, Unknown):
            draft.condition(about, "Good", ok=None, reason="Unknown", message=reading.why)
            draft.record("quality", key, end, {"endpoint": endpoint, "watch": name, "unknown": reading.why})
            continue
        verdict = qualities.judge(spec, reading)
        value = {"endpoint": endpoint, "watch": name, "fired": verdict.fired, "value": verdict.value}
        value |= {"rows": reading.rows, "untold": reading.untold, "message": verdict.message}
        draft.record("quality", key, end, value)
        ok = None if verdict.value is None else not verdict.fired
        reason = "QualityLow" if verdict.fired else "Good"
        draft.condition(about, "Good", ok=ok, reason=reason, message=verdict.message)
        if verdict.fired:
            draft.tell(reason, about, verdict.message, key=key, level="warning", kind="drift")
            fired.append(name)
    return fired
