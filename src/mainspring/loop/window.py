"""Which samples a cycle needs, and which look of monitoring is due.

What this is: pure choice of queries; the answers come from a `MetricSource`. Who calls it: `loop/cycle.py` before
it decides (`wanted`), and `loop/decide.py` when it judges a look (`due`). What it must never do: ask for samples
that nothing in this cycle uses (most cycles want none), or read a clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from mainspring.loop.memory import Memory, RolloutMemory
from mainspring.loop.readings import DriftQuery, PairsQuery, QualityQuery, Query, SpendQuery, TrafficQuery
from mainspring.loop.snapshot import Desired, Now, Observed
from mainspring.stack.monitoring import DriftSpec, QualitySpec

PREDICTION = ""  # the name under which the predicted score is asked for


def revision_name(endpoint: str, version: str) -> str:
    """Name one version behind an endpoint, as routes and records do."""
    return f"{endpoint}-{version}"


def drift_features(watch: DriftSpec) -> tuple[str, ...]:
    """List what a watch looks at: its raw columns, and `""` for the predicted score."""
    return tuple(dict.fromkeys(watch.features)) + ((PREDICTION,) if watch.prediction else ())


def due(memory: Memory, desired: Desired, now: Now) -> float | None:
    """Give the event time at which the next look's window ends, or None when no look is due.

    Looks are `monitoring.every` apart, counted from the first cycle; when several are due (the controller was
    down) they are taken in order, one in a cycle, so that each gets its own window.
    """
    monitoring = desired.stack.monitoring
    if desired.down or not (monitoring.drift or monitoring.quality) or monitoring.every <= 0:
        return None
    last = memory.looked if memory.looked is not None else memory.began
    if last is None:
        return None
    end = last + monitoring.every
    return end if end <= now.wall else None


def wanted(desired: Desired, memory: Memory, observed: Observed, now: Now) -> tuple[Query, ...]:  # noqa: ARG001  later
    """List the queries of this cycle, each once: evidence of rollouts under way, and of the look that is due.

    A rollout whose candidate has not answered yet (`ready` is false) has no evidence, and asks for nothing.
    `observed` is taken so that a later version may leave out what cannot have changed.
    """
    if desired.down:
        return ()
    queries: dict[Query, None] = {}
    for name in sorted(memory.rollouts):
        rollout = memory.rollouts[name]
        if rollout.ready:
            queries.update(dict.fromkeys(rollout_queries(rollout, now.wall)))
    budget = desired.stack.cost.budget
    if budget is not None:
        queries[SpendQuery(budget.per)] = None
    end = due(memory, desired, now)
    if end is not None:
        queries.update(dict.fromkeys(_look(desired, memory, end)))
    return tuple(queries)


def rollout_queries(rollout: RolloutMemory, now: float) -> tuple[TrafficQuery | PairsQuery, ...]:
    """What a rollout must know at `now` (event time): its candidate's answers, and pairs since mirroring began."""
    stage = rollout.stages[min(rollout.stage, len(rollout.stages) - 1)]
    candidate = revision_name(rollout.endpoint, rollout.candidate)
    role = "mirror" if stage.kind == "mirror" else "live"
    traffic = TrafficQuery(rollout.endpoint, candidate, role, rollout.stage_began, now)
    if rollout.mirror_since is None:
        return (traffic,)
    control = revision_name(rollout.endpoint, rollout.control)
    return (traffic, PairsQuery(rollout.endpoint, candidate, control, rollout.mirror_since, now))


def drift_query(endpoint: str, model: str, version: str, watch: DriftSpec, end: float, every: float) -> DriftQuery:
    """The window of one drift watch in the look that ends at `end`."""
    return DriftQuery(endpoint, model, version, drift_features(watch), end - every, end)


def quality_query(endpoint: str, spec: QualitySpec, end: float) -> QualityQuery:
    """The window of one quality watch in the look that ends at `end`."""
    return QualityQuery(endpoint, end - spec.over, end)


def _look(desired: Desired, memory: Memory, end: float) -> Iterator[Query]:
    monitoring = desired.stack.monitoring
    for name, endpoint in desired.stack.serving.items():
        model = memory.models.get(endpoint.model_name)
        if model is not None and model.champion:
            for watch in monitoring.drift.values():
                yield drift_query(name, endpoint.model_name, model.champion, watch, end, monitoring.every)
        if endpoint.truth is not None:
            for quality in monitoring.quality.values():
                yield quality_query(name, quality, end)
