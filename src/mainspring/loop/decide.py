"""The one decision: from a snapshot to a plan. Pure and total; one copy for loop, `plan`, twin and tests."""

from __future__ import annotations

from mainspring.loop.draft import Draft, Snapshot
from mainspring.loop.look import look
from mainspring.loop.memory import SCHEMA
from mainspring.loop.plan import Plan
from mainspring.loop.rollouts import roll
from mainspring.loop.runs import run
from mainspring.loop.scaling import rescale
from mainspring.loop.serve import serve
from mainspring.loop.status import conditions
from mainspring.loop.versions import settle_aliases


def decide(s: Snapshot) -> Plan:
    """Decide what is done next. The same snapshot gives the same plan.

    The order is that of the loop: what was made becomes a version, a version becomes a rollout, a
    rollout moves on, and what should answer is started and routed to.
    """
    draft = Draft.of(s)
    if s.memory.schema != SCHEMA:
        draft.wait("memory", f"schema {s.memory.schema} was written by another Mainspring; nothing is done")
        return draft.finish()
    run(draft)
    if not s.desired.down:
        settle_aliases(draft)
    roll(draft)
    if not s.desired.down:
        look(draft)
        rescale(draft)
    serve(draft)
    conditions(draft)
    _answer_rest(draft)
    return draft.finish()


def _answer_rest(draft: Draft) -> None:
    """Leave no request unanswered: an approval is used up, an unknown verb is said to be one."""
    answered = {answer.request for answer in draft.answers}
    begun = {step.id for step in draft.steps} | draft.begun
    for request in draft.s.requests:
        if request.id in answered:
            continue
        if request.verb == "approve":
            known = request.target in begun
            text = "begun" if known else f"step `{request.target}` is not proposed (any more): `mainspring status`"
            draft.answer(request, text, accepted=known)
        elif request.verb in ("run", "quantize", "gate") and _has_pipeline(draft, request.target):
            draft.answer(request, "`control: watch` begins nothing", accepted=False)
        else:
            draft.answer(request, f"there is no `{request.target}` to {request.verb}", accepted=False)


def _has_pipeline(draft: Draft, target: str) -> bool:
    """Whether a pipeline, or what it produces, is called that."""
    pipelines = draft.s.desired.stack.pipelines
    return target in pipelines or target in {spec.produces for spec in pipelines.values()}
