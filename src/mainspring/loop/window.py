"""Which samples a cycle needs, and which look of monitoring is due.

What this is: pure choice of queries; the answers come from a `MetricSource`. Who calls it: `loop/cycle.py` before
it decides (`wanted`), and `loop/decide.py` when it judges a look (`due`). What it must never do: ask for samples
that nothing in this cycle uses (most cycles want none), or read a clock.
"""

from __future__ import annotations

from collections.abc import Iterator

from mainspring.decide.arms import width_of
from mainspring.loop.labels import fresh_of
from mainspring.loop.memory import Memory, RolloutMemory, Scope, StagePinned
from mainspring.loop.readings import ArmsQuery, DriftQuery, PairsQuery, QualityQuery, Query, SpendQuery
from mainspring.loop.snapshot import Desired, Now, Observed
from mainspring.stack.monitoring import DriftSpec, QualitySpec

PREDICTION = ""  # the name under which the predicted score is asked for


def revision_name(endpoint: str, label: str) -> str:
    """Name one revision behind an endpoint by its label (`labels.py`), as routes and records do."""
    return f"{endpoint}-{label}"


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

    A rollout whose candidate has not answered yet has no evidence, and asks for nothing.
    `observed` is taken so that a later version may leave out what cannot have changed.
    """
    if desired.down:
        return ()
    queries: dict[Query, None] = {}
    for name in sorted(memory.rollouts):
        rollout = memory.rollouts[name]
        if rollout.ready or rollout.live_since is not None:
            queries.update(dict.fromkeys(rollout_queries(rollout, now.wall)))
    budget = desired.stack.cost.budget
    if budget is not None:
        queries[SpendQuery(budget.per)] = None
    end = due(memory, desired, now)
    if end is not None:
        queries.update(dict.fromkeys(_look(desired, memory, end)))
    return tuple(queries)


def slice_width(stages: tuple[StagePinned, ...]) -> float:
    """Seconds of a slice of a rollout's evidence: a 720th of its first stage that users see, 1 s to 1 h.

    A 720th of a sixth of all such stages at least (of waves: of one wave), so that there are not too many.
    """
    seen = [stage.seconds for stage in stages if stage.kind != "mirror"]
    return width_of(max(seen[0], sum(seen) / 6)) if seen else width_of(0.0)


def mirror_width(stages: tuple[StagePinned, ...]) -> float:
    """Seconds of a slice of copies: a 720th of the longest mirror stage, 1 s to 1 h."""
    return width_of(max((stage.seconds for stage in stages if stage.kind == "mirror"), default=0.0))


def rollout_queries(rollout: RolloutMemory, now: float) -> tuple[ArmsQuery | PairsQuery, ...]:
    """What a rollout must know at `now` (event time): what both arms did, by scope, and pairs since mirroring began.

    A rollout has more than one scope where its stages look at different requests: first at those of one region, then
    at all. Inside a scope both arms have the same requests, so that each is a fair comparison; the tests go over all of
    them, one behind the other.
    """
    scopes = rollout.scopes or (Scope(_first_seen(rollout, now)),)
    ends = tuple(
        after if scope.until is None else scope.until
        for scope, after in zip(scopes, (*(scope.since for scope in scopes[1:]), now), strict=True)
    )
    last = len(scopes) - 1
    queries: list[ArmsQuery | PairsQuery] = [
        _arms_query(rollout, scope, until, last=number == last)
        for number, (scope, until) in enumerate(zip(scopes, ends, strict=True))
    ]
    paired = rollout.terms is None or rollout.terms.margin is not None
    if rollout.mirror_since is not None and paired:
        candidate, control = (revision_name(rollout.endpoint, one) for one in (rollout.candidate, rollout.control))
        queries.append(PairsQuery(rollout.endpoint, candidate, control, rollout.mirror_since, now))
    return tuple(queries)


def _first_seen(rollout: RolloutMemory, now: float) -> float:
    """When the candidate first answered anybody: users, else the mirror; `now` when it has not yet."""
    seen = (rollout.live_since, rollout.mirror_since)
    return next((moment for moment in seen if moment is not None), now)


def _arms_query(rollout: RolloutMemory, scope: Scope, until: float, *, last: bool) -> ArmsQuery:
    stage = rollout.stages[min(rollout.stage, len(rollout.stages) - 1)]
    control = revision_name(rollout.endpoint, rollout.control)
    fresh = revision_name(rollout.endpoint, fresh_of(rollout.control))
    begun = [entry for entry in rollout.shares if entry[0] <= scope.since][-1:]
    return ArmsQuery(
        endpoint=rollout.endpoint,
        candidate=revision_name(rollout.endpoint, rollout.candidate),
        control=(control, fresh),
        fresh=fresh if scope.fresh else "",
        since=scope.since,
        until=until,
        width=slice_width(rollout.stages) if rollout.live_since is not None else mirror_width(rollout.stages),
        stage_since=max(scope.since, rollout.stage_began) if last else scope.since,
        mirror_since=rollout.mirror_since if last else None,
        shares=(*begun, *(entry for entry in rollout.shares if scope.since < entry[0] < until)),
        skip=tuple(entry for entry in rollout.skip if entry[1] > scope.since and entry[0] < until),
        sticky=rollout.sticky,
        region=scope.region,
        score=rollout.feedback,
        metric=stage.metric if last else "",
        lag=rollout.lag,
        mirror_width=mirror_width(rollout.stages) if last and rollout.mirror_since is not None else 0.0,
        mirrors=rollout.mirrors if last else (),
    )


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
