"""`mainspring plan`: what would change, and what it costs. `up` shows the same table before it asks.

What this is: pure tables of two stacks (`plan_rows`, `differences`), and the verb. Who calls it: `cli/main.py`, `up`.
What it must never do: change anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from mainspring.cli.client import Client, NotUp
from mainspring.cli.key_limits import shown
from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.status import length
from mainspring.errors import InputError
from mainspring.loop.launches import changes, launch_of
from mainspring.loop.limits import tenant_route
from mainspring.loop.room import replicas
from mainspring.stack.load import check, parse
from mainspring.stack.model import Stack
from mainspring.stack.notes import notes
from mainspring.stack.resolve import revision
from mainspring.stack.rollout import Stage
from mainspring.stack.runnable import planned_only, wants_fleet
from mainspring.stack.serving import Endpoint
from mainspring.stack.tenants import Tenant

HOURS = 2629746.0 / 3600.0  # of a month


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One thing that would be there, or be another."""

    change: str  # "+" new | "~" another | "-" gone | "=" as it is
    what: str  # "endpoint/delay", "serving.delay.batch.size"
    detail: str
    usd_per_month: float | None = None  # None: it costs nothing by itself


def plan_rows(stack: Stack, applied: Stack | None = None) -> list[PlanRow]:
    """What `up` would do: everything of a new stack, or what differs from the one that is applied."""
    return list(_all(stack)) if applied is None else differences(applied, stack)


def differences(before: Stack, after: Stack) -> list[PlanRow]:
    """What differs between two stacks, by its path in the file."""
    old, new = _said_of(before), _said_of(after)
    rows = []
    for path in dict.fromkeys([*old, *new]):
        if path not in new:
            rows.append(PlanRow("-", path, _say(old[path])))
        elif path not in old:
            rows.append(PlanRow("+", path, _say(new[path])))
        elif old[path] != new[path]:
            rows.append(PlanRow("~", path, f"{_say(old[path])} -> {_say(new[path])}"))
    return rows + [row for name in after.serving if name in before.serving for row in _rolled(name, before, after)]


def _said_of(stack: Stack) -> dict[str, Any]:
    """Everything that a stack says, by its path; stages of rollouts as one line each."""
    walks = {f"serving.{name}.rollout": _walk(endpoint, ", ") for name, endpoint in stack.serving.items()}
    return _flat(stack.model_dump(mode="json", by_alias=True)) | walks


def _rolled(name: str, before: Stack, after: Stack) -> Iterator[PlanRow]:
    """What replicas are started with is not changed in place: that it is rolled out, and how."""
    endpoint = after.serving[name]
    what = changes(launch_of(before.serving[name]), launch_of(endpoint))
    if what:
        yield PlanRow("~", f"rollout/{name}", f"{what}: rolled out by {_walk(endpoint)}")


def _walk(endpoint: Endpoint, between: str = " -> ") -> str:
    """The stages of a rollout, one after the other."""
    return between.join(_stage(stage) for stage in endpoint.rollout)


def _stage(stage: Stage) -> str:
    if stage.waves is not None:
        return f"waves of {stage.waves}" + (f" within {length(stage.within)}" if stage.within else "")
    where = f" in {stage.in_}" if stage.in_ else ""
    return f"{stage.kind} {stage.share * 100:g}%{where}" + (f" {length(stage.for_)}" if stage.for_ else "")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _flat(part, f"{path}.{key}" if path else str(key))
    return found


def _say(value: Any) -> str:
    return "<none>" if value is None else str(value)


def _all(stack: Stack) -> Iterator[PlanRow]:
    where = stack.orchestration.where
    price = stack.compute[where].per_hour
    yield PlanRow("+", f"machine/{where}", f"${price:g}/h while it is up", price * HOURS)
    if stack.serving:
        gateway = stack.orchestration.gateway
        port = f"port {gateway.port}" if gateway.port else "a free port"
        yield PlanRow("+", "gateway", f"{gateway.workers} worker(s) on {port}")
    for name, endpoint in stack.serving.items():
        low, high = (len(replicas(stack, name, "", n)) for n in (endpoint.replicas.low, endpoint.replicas.high))
        count = f"{low}" if low == high else f"{low} to {high}"
        yield PlanRow("+", f"endpoint/{name}", f"{count} replica(s) of {endpoint.model}")
        for tenant, limits in endpoint.tenants.items():
            yield PlanRow("+", f"tenant/{name}/{tenant}", _limits(limits))
        if endpoint.words:
            yield PlanRow("+", f"runtime/{name}", f"{endpoint.runtime} {' '.join(endpoint.words)}")
        yield PlanRow("+", f"rollout/{name}", _walk(endpoint))
    for name, pipeline in stack.pipelines.items():
        rate = pipeline.retrain.at_most
        often = f"at most {rate.count:g} run(s) per {length(rate.per)}"
        runs = rate.per_month
        dollars = pipeline.budget * runs if pipeline.budget else None
        first = "first version at once" if stack.orchestration.control == "act" else "first version when let"
        yield PlanRow("+", f"pipeline/{name}", f"{first}; {often}", dollars)
    watches = [*stack.monitoring.drift, *stack.monitoring.quality]
    if watches:
        yield PlanRow("+", "monitoring", f"every {length(stack.monitoring.every)}: {', '.join(watches)}")


def _limits(tenant: Tenant) -> str:
    route = tenant_route(tenant)
    parts = shown(route.limits, route.context) or ["no limits"]
    return ", ".join([*parts, f"share {tenant.share:g}", *([tenant.priority] if tenant.priority != "normal" else [])])


def show(rows: list[PlanRow], stack: Stack, fmt: str = "table") -> None:
    """Write the table and its sum."""
    if fmt != "table":
        emit([asdict(row) for row in rows], fmt)
        return
    if not rows:
        talk("no changes")
        return
    table = [
        {"": row.change, "what": row.what, "detail": row.detail,
         "per_month": f"${row.usd_per_month:.2f}" if row.usd_per_month is not None else " "}
        for row in rows
    ]  # fmt: skip
    emit(table, "table", [("change", ""), "what", "detail", ("$/month", "per_month")])
    total = sum(row.usd_per_month or 0.0 for row in rows)
    if total and stack.cost.budget is not None:
        limit = stack.cost.budget.per_month
        word = "within" if total <= limit else "OVER"
        click.echo(f"in all ${total:.2f} a month at most, {word} the budget of ${limit:.2f} a month")
    elif total:
        click.echo(f"in all ${total:.2f} a month at most")


def foretold(stack: Stack) -> dict[str, Any]:
    """What the twin says `up` would do here, where nothing is up."""
    import time

    from mainspring.loop.draft import Snapshot
    from mainspring.loop.memory import Memory
    from mainspring.loop.snapshot import Desired, Now, Observed
    from mainspring.worlds.twin.foresee import foresee

    now = Now(time.time(), 0.0, 0.0)
    return foresee(Snapshot(now, Desired(stack, revision(stack)), Observed(), {}, Memory())).told(now.wall)


def show_foretold(told: dict[str, Any]) -> None:
    """Write the twin's steps, each with the seconds from now at which it would be begun."""
    if not told["steps"]:
        click.echo("the loop would do nothing")
        return
    click.echo("what the loop would do (the twin's forecast; times rest on assumptions):")
    steps = [{**step, "after": f"+{step['after']:.1f}s"} for step in told["steps"]]
    emit(steps, "table", ["after", "action", "because"])


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--endpoint", metavar="NAME", help="Show one endpoint in full, where there are many.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Where the page with plots goes.")
@pass_options
def plan(options: Options, path: Path | None, endpoint: str | None, report: Path | None) -> None:
    """Show what would change, what it will do and what it costs, before it is paid for.

    PATH is a stack file or its folder. Of a file that says what its traffic is: whether the fleet meets its objective,
    what binds, and what would be enough; the exit status is 3 when it does not. Of a file that runs on this machine:
    what differs from what is up, or all of it when nothing is up.
    """
    options.at(path)
    document = check(options.file)
    fleets = None
    if wants_fleet(document.stack):
        from mainspring.cli.fleet import judged, plan_fleet

        fleets = plan_fleet(options, document, endpoint, report)
    if planned_only(document.stack):
        if fleets is None:
            message = "no endpoint says what its traffic is, so there is nothing to plan"
            raise InputError("nothing-to-plan", message, "mainspring explain serving.traffic")
        if options.output != "table":  # the table was shown already
            emit(fleets.told(), options.output)
    else:
        _here(options, document.stack, None if fleets is None else fleets.told())
    if fleets is not None:
        judged(fleets)


def _here(options: Options, stack: Stack, fleet: dict[str, object] | None) -> None:
    """What would change on this machine; `fleet` goes with it as data."""
    more = {} if fleet is None else {"fleet": fleet}
    client = Client(options.state)
    try:
        applied = client.get("/v1/stack")
        coming = client.get("/v1/plan")
        text = options.file.read_text(encoding="utf-8")
        told = client.post("/v1/foresee", text)
    except NotUp:
        for note in notes(stack):
            talk(f"note: {note}")
        rows, told = plan_rows(stack), foretold(stack)
        if options.output != "table":
            emit({"changes": [asdict(row) for row in rows], "forecast": told, **more}, options.output)
            return
        show(rows, stack)
        show_foretold(told)
        talk("nothing is up: `mainspring up` does this")
        return
    before = parse(applied["text"].encode(), applied["path"])
    rows = [] if applied["revision"] == revision(stack) else plan_rows(stack, before)
    if options.output != "table":
        emit({"changes": [asdict(row) for row in rows], "next": coming, "forecast": told, **more}, options.output)
        return
    if rows:
        talk(f"`{options.file}` differs from what is applied; `mainspring up` applies it:")
        show(rows, stack)
    else:
        talk(f"`{options.file}` is what is applied")
    show_foretold(told)
    _next(coming)


def _next(coming: dict[str, Any]) -> None:
    if coming["steps"]:
        click.echo("next steps of the loop:")
        emit(coming["steps"], "table", ["action", "because"])
    for waiting in coming["waiting"]:
        click.echo(f"waits for {waiting['what']}: {waiting['why']}")
    if not coming["steps"] and not coming["waiting"]:
        click.echo("the loop has nothing to do")
