"""What a stack file says that this version reads but does not act on yet, told plainly.

What this is: one table and one pure function. Who calls it: `validate`, `plan`, `up`. What it must never do: stop
anybody; a note is not an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mainspring.stack.model import Stack
from mainspring.stack.runnable import planned_only
from mainspring.stack.serving import Endpoint, Scale


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth knowing about a file that is right."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def notes(stack: Stack) -> tuple[Note, ...]:
    """All notes on a stack, in the file's order of sections."""
    reasons = planned_only(stack)
    if reasons:
        return (Note("orchestration.where", f"`plan` reads this file, `up` does not: {reasons[0]}"), *_cost(stack))
    return (*_serving(stack), *_pipelines(stack), *_monitoring(stack), *_cost(stack))


def _serving(stack: Stack) -> Iterator[Note]:
    made = {pipeline.produces for pipeline in stack.pipelines.values()}
    for name, endpoint in stack.serving.items():
        if endpoint.model_name not in made:
            message = f"no pipeline here produces `{endpoint.model_name}`: a version has to be registered by hand"
            yield Note(f"serving.{name}.model", message)
        if endpoint.scale is not None and endpoint.replicas.low == endpoint.replicas.high:
            message = f"`replicas: {endpoint.replicas}` is no range, so nothing is scaled: write `1..4`"
            yield Note(f"serving.{name}.scale", message)
        scale = endpoint.scale or Scale()
        if endpoint.replicas.low == 0 and scale.hold > endpoint.deadline:
            message = f"who waits for a first replica gets `timeout`, {endpoint.deadline:g} s, and not {scale.hold:g} s"
            yield Note(f"serving.{name}.scale.hold", message)
        yield from _stages(name, endpoint, endpoint.regions or stack.compute.regions)
        yield from _budgets(stack, name, endpoint)


def _stages(name: str, endpoint: Endpoint, regions: tuple[str, ...]) -> Iterator[Note]:
    for number, stage in enumerate(endpoint.rollout):
        where = f"serving.{name}.rollout.{number}"
        if stage.kind == "ab" and endpoint.route.split == "request":
            names = "`route: {split: user}`, or a header" if endpoint.is_language else "in `route.split` a header"
            message = f"users see both versions in turn: write {names} that names them"
            yield Note(f"{where}.ab", message)
        if stage.kind == "waves" and not (stage.within or stage.for_):
            yield Note(f"{where}.waves", "no wave is watched for any time: write `within: 6h`, or `for` of each wave")
        if stage.waves is not None and not stage.waves.per_region and len(regions) > 1:
            message = (
                "a wave may be in one region alone, and then regions are compared too: write `1 replica per region`"
            )
            yield Note(f"{where}.waves", message)


def _budgets(stack: Stack, name: str, endpoint: Endpoint) -> Iterator[Note]:
    pool = stack.compute.pools.get(stack.orchestration.where)
    if pool is None or pool.price is not None:
        return
    for tenant, limits in endpoint.tenants.items():
        if limits.budget is not None:
            message = f"nothing is charged to it: the pool `{stack.orchestration.where}` has no `price`"
            yield Note(f"serving.{name}.tenants.{tenant}.budget", message)


def _pipelines(stack: Stack) -> Iterator[Note]:
    for name, pipeline in stack.pipelines.items():
        if not stack.serving:
            yield Note(f"pipelines.{name}", "no endpoint in `serving` follows what this makes")
        if "features" not in pipeline.steps and pipeline.weights is None:
            message = "no step called `features`: requests carry the model's own inputs"
            yield Note(f"pipelines.{name}.steps", message)


def _monitoring(stack: Stack) -> Iterator[Note]:
    for name, alert in stack.monitoring.alerts.items():
        if alert.to != "console":
            message = f"nobody is called yet: events go to the event log, not to `{alert.to}`"
            yield Note(f"monitoring.alerts.{name}.to", message)
    watched = {watch for pipeline in stack.pipelines.values() for watch in pipeline.retrain.when}
    for section, names in (("drift", stack.monitoring.drift), ("quality", stack.monitoring.quality)):
        for name in names:
            if name not in watched:
                yield Note(f"monitoring.{section}.{name}", "watched and shown; no pipeline retrains when it fires")


def _cost(stack: Stack) -> Iterator[Note]:
    if stack.cost.budget is None and "when_over" in stack.cost.model_fields_set:
        yield Note("cost.when_over", "there is no `budget` to be over")
