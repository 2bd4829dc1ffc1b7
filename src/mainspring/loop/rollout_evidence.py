"""What a rollout is judged by: the readings of its scopes, put together.

What this is: from readings to `decide.rollout.Evidence`, and the terms that it is judged on. Who calls it: the
rollout's state machine. What it must never do: judge.
"""

from __future__ import annotations

import math
from dataclasses import replace

from mainspring.decide.arms import Arms, Units
from mainspring.decide.latest import Latest
from mainspring.decide.rollout import Bound, Evidence, Looked, Terms
from mainspring.loop.draft import Draft
from mainspring.loop.memory import RolloutMemory, Scope
from mainspring.loop.readings import ArmsQuery, Pairs, PairsQuery, Unknown
from mainspring.loop.window import rollout_queries
from mainspring.stack.model import Stack
from mainspring.stack.rollout import Over
from mainspring.stack.serving import Endpoint

_NEARLY = 1e-9  # of a slice
DEFAULT_MARGIN = 0.005  # Brier; where no gate says otherwise


def terms_of(stack: Stack, endpoint: Endpoint) -> Terms:
    """What the stack file says now of when a rollout of an endpoint is given up, and of what is promised."""
    abort, objective = endpoint.abort, endpoint.objective
    margin, confidence = DEFAULT_MARGIN, 0.95
    for spec in stack.pipelines.values():
        if spec.produces == endpoint.model_name and spec.gates.brier is not None:
            confidence = spec.gates.brier.confidence
            if spec.gates.brier.no_worse_by is not None:
                margin = spec.gates.brier.no_worse_by
    promised = None if objective.availability is None else 1.0 - objective.availability
    return Terms(
        errors=_bounds(abort.errors),
        p95=_bounds(abort.p95),
        ttft=_bounds(abort.ttft),
        tokens=abort.tokens.fraction if abort.tokens else None,
        cost=abort.cost.fraction if abort.cost else None,
        score=abort.score,
        margin=margin if endpoint.truth is not None else None,
        promised_errors=promised,
        promised_p95=objective.p95,
        promised_ttft=objective.ttft,
        alpha=abort.false_aborts,
        beta=abort.wrong_promotions,
        confidence=confidence,
    )


def _bounds(said: tuple[float | Over, ...]) -> tuple[Bound, ...]:
    return tuple(Bound(one.fraction, over=True) if isinstance(one, Over) else Bound(one) for one in said)


def brought_along(rollout: RolloutMemory) -> RolloutMemory:
    """A rollout that an older Mainspring began, as one of this version; others as they are.

    It goes on by what was pinned then: its bounds, nothing promised, and a stage whose time is over is left.
    """
    if rollout.terms is not None:
        return rollout
    terms = Terms(
        errors=() if rollout.abort_errors is None else (Bound(rollout.abort_errors),),
        p95=() if rollout.abort_p95 is None else (Bound(rollout.abort_p95),),
        margin=rollout.margin,
        confidence=rollout.confidence,
    )
    stage = rollout.stages[min(rollout.stage, len(rollout.stages) - 1)]
    live = rollout.ready and stage.kind in ("canary", "all")
    return replace(
        rollout,
        terms=terms,
        live_since=rollout.stage_began if live else None,
        shares=((rollout.stage_began, stage.share),) if live else (),
        scopes=(Scope(rollout.stage_began),) if live else (),
    )


def gathered(draft: Draft, rollout: RolloutMemory) -> tuple[Evidence, int]:
    """The evidence of this moment, and how many paired rows or answers still wait for their outcome."""
    found: list[tuple[ArmsQuery, Arms | Unknown]] = []
    pairs: Pairs | Unknown = Unknown("not mirrored")
    for query in _asked(draft, rollout):
        if isinstance(query, PairsQuery):
            pairs = draft.reading(query, Pairs)
        else:
            found.append((query, draft.reading(query, Arms)))
    together = joined(found)
    days: tuple[tuple[int, float], ...] = ()
    untold, differences = 0, Pairs((), 0).differences
    if isinstance(pairs, Pairs):
        days = tuple((d.rows, d.loss_candidate - d.loss_control) for d in pairs.days if d.rows)
        untold, differences = pairs.untold, pairs.differences
    told = draft.s.desired.stack.serving[rollout.endpoint].truth is not None
    if isinstance(together, Unknown):
        return Evidence(None, days, differences, told, together.why), untold
    return Evidence(together, days, differences, told), untold or together.untold


def _asked(draft: Draft, rollout: RolloutMemory) -> tuple[ArmsQuery | PairsQuery, ...]:
    """What was asked for in this cycle: by what was remembered, before anything was noted in it."""
    return rollout_queries(draft.s.memory.rollouts.get(rollout.endpoint, rollout), draft.now.wall)


_JOINED: Latest[Arms] = Latest()


def joined(found: list[tuple[ArmsQuery, Arms | Unknown]]) -> Arms | Unknown:
    """Put scopes behind each other: slices are numbered on; sums and users are of the last one.

    A scope without a single request has nothing to add. Unknown is what the last scope is, while nothing came before.
    """
    known = [arms for _, arms in found if isinstance(arms, Arms)]
    if not known:
        return next((arms for _, arms in found if isinstance(arms, Unknown)), Unknown("nobody asked"))
    if len(found) == 1:
        return known[0]
    ends = tuple((query.since, query.until if arms is not known[-1] else 0.0, query.width) for query, arms in found)
    return _JOINED.of(tuple(arms for _, arms in found), ends, lambda: _behind_each_other(found, known))


def _behind_each_other(found: list[tuple[ArmsQuery, Arms | Unknown]], known: list[Arms]) -> Arms:
    slices, before = [], 0
    for query, arms in found:
        if isinstance(arms, Arms):
            slices += [replace(one, at=one.at + before) for one in arms.slices]
        before += math.ceil((query.until - query.since) / query.width)
    routed = tuple(piece for arms in known for piece in arms.routed)
    earlier = tuple(units for arms in known[:-1] for units in _units(arms))
    return replace(known[-1], slices=tuple(slices), routed=routed, earlier=earlier)


def _units(arms: Arms) -> tuple[tuple[Units, Units, float], ...]:
    """Users or sessions of a scope that is over, with the largest share that the candidate had in it."""
    if arms.candidate_units is None or arms.control_units is None:
        return ()
    share = max((piece[0] for piece in arms.routed if 0 < piece[0] < 1), default=0.0)
    return ((arms.candidate_units, arms.control_units, share),)


def looked(draft: Draft, rollout: RolloutMemory, arms: Arms | None, share: float) -> Looked:
    """How the present stage (of waves: the present wave) stands.

    Its time gives nothing up while it does not count: before its replicas are ready, paused, or when all is done.
    """
    stage = rollout.stages[rollout.stage]
    counts = rollout.ready and not rollout.paused and not rollout.done
    return Looked(
        kind=stage.kind,
        share=share,
        elapsed=draft.now.watched - rollout.stage_watched if rollout.ready else 0.0,
        length=stage.seconds,
        otherwise=stage.otherwise if counts else "wait",
        metric=stage.metric,
        per_second=0.0 if arms is None else _per_second(draft, rollout, arms),
        requests=None if arms is None else _own(draft, rollout, arms),
        covered=None if arms is None else _covered(draft, rollout, arms),
    )


def _own(draft: Draft, rollout: RolloutMemory, arms: Arms) -> int | None:
    """The candidate's requests in slices that began in this stage (of a mirror: copies); None: not told."""
    queries = [query for query in _asked(draft, rollout) if isinstance(query, ArmsQuery)]
    last = queries[-1]
    if rollout.stages[rollout.stage].kind == "mirror":
        if last.mirror_since is None or not arms.mirrored_slices:
            return arms.mirrored.requests
        first = math.ceil((rollout.stage_began - last.mirror_since) / (last.mirror_width or last.width) - _NEARLY)
        return sum(one.candidate.requests for one in arms.mirrored_slices if one.at >= first)
    before = sum(math.ceil((query.until - query.since) / query.width) for query in queries[:-1])
    first = before + math.ceil((last.stage_since - last.since) / last.width - _NEARLY)
    return sum(one.candidate.requests for one in arms.slices if one.at >= first)


def _covered(draft: Draft, rollout: RolloutMemory, arms: Arms) -> float | None:
    """Seconds of this stage for which the evidence is whole, and a slice more, since that is not whole yet; or None."""
    last = [query for query in _asked(draft, rollout) if isinstance(query, ArmsQuery)][-1]
    since, whole, width = last.since, arms.whole, last.width
    if rollout.stages[rollout.stage].kind == "mirror":
        since, whole, width = last.mirror_since or last.since, arms.mirrored_whole, last.mirror_width or last.width
    if not whole:
        return None
    return since + whole + width - rollout.stage_began


def _per_second(draft: Draft, rollout: RolloutMemory, arms: Arms) -> float:
    """The candidate's requests a second of late: in this stage, of an hour at most."""
    if rollout.live_since is None:
        since = rollout.mirror_since
        return 0.0 if since is None or draft.now.wall <= since else arms.mirrored.requests / (draft.now.wall - since)
    queries = [query for query in _asked(draft, rollout) if isinstance(query, ArmsQuery)]
    last = queries[-1]
    before = sum(math.ceil((q.until - q.since) / q.width) for q in queries[:-1])
    whole = math.floor((last.until - last.since) / last.width)
    number = math.ceil((last.until - max(last.stage_since, last.until - 3600.0)) / last.width)
    number = max(1, min(whole, number))
    count = sum(one.candidate.requests for one in arms.slices if one.at >= before + whole - number)
    return count / (number * last.width)
