"""The control API, under /v1; described at /openapi.json.

What this is: HTTP to the controller's methods, and values to JSON. Who calls it: the command line, the console, a
person's own scripts. What it must never do: decide, or keep anything by itself.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from mainspring import __version__
from mainspring.console import costs, rollouts, views
from mainspring.console.roles import CALLER
from mainspring.controller import Controller, Look
from mainspring.errors import Conflict, EnvironmentError_, InputError, MainspringError, ObjectiveNotMet, StackError
from mainspring.facts.changes import Caller
from mainspring.loop.draft import Snapshot
from mainspring.loop.snapshot import Desired, Now
from mainspring.stack.load import parse
from mainspring.stack.notes import notes
from mainspring.stack.resolve import revision
from mainspring.worlds.local import logs
from mainspring.worlds.twin.foresee import foresee

_YAML = {"requestBody": {"required": True, "content": {"application/yaml": {"schema": {"type": "string"}}}}}
LONGEST = 300.0  # seconds that one call may wait

Remark = Annotated[str, Header(alias="X-Mainspring-User", max_length=64, description="a remark about who asks")]


def asker(request: Request, remark: Remark = "") -> Caller:
    """Who asks, as the door proved it; what the request says of itself is recorded as a remark."""
    caller: Caller = request.scope[CALLER]
    return replace(caller, remark=remark)


Asker = Annotated[Caller, Depends(asker)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Ask(_Strict):
    """Something that a person asks for."""

    verb: str = Field(max_length=40)
    """`run`, `quantize`, `gate`, `promote`, `abort`, `pause`, `resume`, `undo` or `approve`."""
    target: str = Field(max_length=200)
    """A pipeline, a model (of `quantize` and `gate`), an endpoint, or the id of a step."""
    args: dict[str, Any] = Field(default_factory=dict)
    """More, by name: of `quantize`, the precision `to`, and `version` (default: the champion); of `gate`, `version`; of
    what is said to a rollout, `why`; of `promote`, `stage` (true: only this stage ends)."""


class MoveClock(_Strict):
    """Where a replay's clock is moved to."""

    to: float = Field(allow_inf_nan=False)
    """Event time, POSIX seconds."""
    timeout: float = Field(default=60.0, ge=0, le=LONGEST)
    """Seconds to wait until all is quiet."""


class Challenge(_Strict):
    """A version to be judged and rolled out."""

    version: str = Field(pattern=r"^[0-9]{1,9}$")
    """The version's number."""


class Save(_Strict):
    """Where a backup is written."""

    to: str = Field(min_length=1, max_length=4096)
    """An absolute path of a file that is not there yet."""


def api(controller: Controller) -> FastAPI:
    """Make the API of a controller."""
    app = FastAPI(title="Mainspring control API", version=__version__, docs_url=None, redoc_url=None)
    _errors(app)
    _reading(app, controller)
    _planning(app, controller)
    _changing(app, controller)
    _waiting(app, controller)
    _files(app, controller)
    return app


def _errors(app: FastAPI) -> None:
    @app.exception_handler(MainspringError)
    async def told(_: Request, error: MainspringError) -> Response:
        body: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        if isinstance(error, StackError):
            body["problems"] = [views.plain(p) for p in error.problems]
        return JSONResponse(body, _status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        body = {"code": "bad-request", "message": f"`{where}`: {first['msg']}", "hint": "see /openapi.json"}
        return JSONResponse(body, 400)


def _status_of(error: MainspringError) -> int:
    kinds: list[tuple[type[MainspringError], int]] = [
        (StackError, 422), (InputError, 400), (Conflict, 409), (ObjectiveNotMet, 409), (EnvironmentError_, 503),
    ]  # fmt: skip
    if error.code.startswith("no-such-"):
        return 404
    return next((status for kind, status in kinds if isinstance(error, kind)), 500)


def _look(controller: Controller) -> Look:
    """The last look; before the first there is nothing to show."""
    look = controller.look
    if look is None:
        trouble = controller.trouble
        why = trouble.message if trouble else "the controller has not looked yet"
        raise EnvironmentError_("no-look-yet", why, trouble.hint if trouble else "try again in a second")
    return look


def _planning(app: FastAPI, controller: Controller) -> None:
    alone = asyncio.Semaphore(1)  # the twin may run for seconds: one at a time, and never in the way of others

    @app.get("/v1/plan", tags=["look"])
    def plan() -> Any:
        """What the last cycle decided."""
        look = _look(controller)
        return {**views.plan(look.plan), "cycle": look.number, "desired": look.desired.revision}

    @app.post("/v1/foresee", tags=["look"], openapi_extra=_YAML)
    async def foreseen(request: Request) -> Any:
        """The twin, forked from what is seen now and cycled until all is quiet, under the stack given (or applied)."""
        text = (await request.body()).decode("utf-8", "replace")
        look = _look(controller)
        desired = look.desired
        if text.strip():
            given = parse(text.encode(), "mainspring.yaml")
            desired = Desired(given, revision(given), clock=desired.clock)
        memory = look.plan.memory
        now = memory.last or Now(look.at, 0.0, 0.0)
        async with alone:
            found = await asyncio.to_thread(foresee, Snapshot(now, desired, look.observed, {}, memory))
        return found.told(now.wall)


def _reading(app: FastAPI, controller: Controller) -> None:
    store = controller.parts.store

    @app.get("/v1/status", tags=["look"])
    def status(*, counts: bool = True) -> Any:
        """The loop at a glance; `counts=false` leaves out what takes a walk through all predictions."""
        return _status(controller, counts=counts)

    @app.get("/v1/stack", tags=["look"])
    def stack() -> Any:
        """The stack that was applied last, as text."""
        kept = store.desired()
        if kept is None:
            raise InputError("no-such-stack", "no stack was applied", "mainspring up")
        return {"text": kept.text, "revision": kept.revision, "path": kept.path}

    @app.get("/v1/requests/{ident}", tags=["ask"])
    def answer(ident: str) -> Any:
        """What became of a request."""
        answer = store.answers(ident)
        if answer is not None:
            return {"id": ident, "answered": True, "accepted": answer.accepted, "message": answer.message}
        if not any(r.id == ident for r in store.requests()):
            raise InputError("no-such-request", f"there is no request `{ident[:40]}`", "mainspring events")
        return {"id": ident, "answered": False, "accepted": None, "message": ""}

    @app.get("/v1/events", tags=["look"])
    def events(since: float = float("-inf"), limit: Annotated[int, Query(ge=1, le=5000)] = 100) -> Any:
        """Events last seen at `since` (event time) or later, newest first."""
        return [views.event(kept) for kept in store.events(since, limit)]

    @app.get("/v1/records", tags=["look"])
    def records(kind: str, since: float = float("-inf"), but: Annotated[str, Query(max_length=20)] = "") -> Any:
        """What was judged: `drift`, `quality`, `gate`, `rollout`, `run`; oldest first.

        `but`: without those whose value has this `kind`, as `look` of rollouts, of which there are many.
        """
        kept = store.records(kind, since)
        return [views.plain(record) for record in kept if not but or record.value.get("kind") != but]

    @app.get("/v1/changes", tags=["look"])
    def changes(
        since: Annotated[float, Query(allow_inf_nan=False)] = 0.0,
        limit: Annotated[int, Query(ge=1, le=5000)] = 100,
        who: Annotated[str, Query(max_length=200)] = "",
    ) -> Any:
        """Who changed what from `since` on (real time, POSIX seconds), newest first; `who`: a part of who it was."""
        return [views.plain(change) for change in controller.changes(since, limit, who)]

    @app.get("/v1/steps", tags=["look"])
    def steps(limit: Annotated[int, Query(ge=1, le=5000)] = 100) -> Any:
        """Steps that were begun, newest first."""
        return [views.kept_step(kept) for kept in store.steps(limit)]

    @app.get("/v1/runs", tags=["look"])
    def runs() -> Any:
        """Runs of pipelines, in order: parameters, metrics, digests of data and code, verdicts."""
        return [views.listed(one) for one in controller.parts.runs()]

    @app.get("/v1/runs/{ident}", tags=["look"])
    def run(ident: str) -> Any:
        """One run, with its steps and the gate's numbers."""
        one = next((r for r in controller.parts.runs() if r.seen.id == ident), None)
        if one is None:
            raise InputError("no-such-run", f"there is no run `{ident[:60]}`", "mainspring runs list")
        return {**views.listed(one), "steps": views.plain(one.seen.steps), "gate": views.plain(one.seen.gate)}

    @app.get("/v1/versions", tags=["look"])
    def versions() -> Any:
        """Versions of models, with verdicts and aliases."""
        look = _look(controller)
        return [views.version(seen, look) for seen in look.observed.versions]

    @app.get("/v1/predictions/summary", tags=["look"])
    def predictions() -> Any:
        """Counts of requests and predictions by endpoint."""
        return views.plain(controller.parts.traffic())

    costs.add(app, controller)


def _status(controller: Controller, *, counts: bool) -> dict[str, Any]:
    look, trouble, store = _look(controller), controller.trouble, controller.parts.store
    kept = store.desired()
    stack = look.desired.stack
    spec_path = kept.path if kept else str(controller.parts.path)
    judged = [*store.records("drift"), *store.records("quality")]
    served = views.endpoints(look, store.records("rollout", rollouts.began(look)))
    recent = [views.event(e) for e in store.events(limit=60)]
    happened, told = recent[:10], [e for e in recent if e.get("kind")]  # told: of the loop's own doings
    conditions = [views.plain(c) for c in look.plan.conditions]
    if trouble is not None:
        message = f"{trouble.message} ({trouble.times} times in a row; tried again)"
        conditions.insert(0, {"about": "loop", "type": "Works", "status": "false", "reason": trouble.code,
                              "message": message})  # fmt: skip
    return {
        "stack": views.stack(stack, look.desired.revision, spec_path),
        "control": stack.orchestration.control,
        "down": controller.going_down,
        "boot": controller.boot,
        "clock": {"kind": "replay" if controller.clock_kind == "request" else "wall", "now": controller.event_time()},
        "cycle": look.number,
        "quiet": look.plan.quiet and trouble is None,
        "trouble": views.plain(trouble) if trouble else None,
        "gateway": views.gateway(look.observed),
        "endpoints": served,
        "models": views.models(look),
        "pipelines": views.pipelines(look),
        "rollouts": [e["rollout"] for e in served if e["rollout"]],
        "processes": views.processes(look.observed),
        "watches": views.watches(judged),
        "waiting": views.waits(look.plan, [trouble.message] if trouble else []),
        "conditions": conditions,
        "events": happened,
        "live": views.live(look),
        "event": told[0]["message"] if told else "",
        "spend": views.budget(stack, controller.parts.spend()) if counts else None,
        "predictions": views.plain(controller.parts.traffic()) if counts else None,
        "spoken": views.plain(controller.parts.spoken()),
        "registry": look.observed.registry,
        "free_disk": look.observed.free_disk,
    }


def _changing(app: FastAPI, controller: Controller) -> None:
    @app.put("/v1/stack", tags=["ask"], openapi_extra=_YAML)
    async def apply(request: Request, by: Asker, expected: str = "") -> Any:
        """Apply a stack file: its text is the body. With problems: 422, and all of them."""
        body = await request.body()
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError("bad-text", "a stack file is UTF-8 text", "mainspring validate") from None
        stack, changed = await asyncio.to_thread(controller.apply, text, by, expected)
        told = [str(note) for note in notes(stack)]
        return {"revision": controller.desired().revision, "changed": changed, "notes": told}

    @app.post("/v1/requests", status_code=202, tags=["ask"])
    def ask(asked: Ask, by: Asker) -> Any:
        """Ask for something; the next cycle answers it."""
        request = controller.ask(asked.verb, asked.target, asked.args, by)
        return {"id": request.id}

    @app.post("/v1/models/{model}/challenger", tags=["ask"])
    def challenge(model: str, named: Challenge, by: Asker) -> Any:
        """Name a version `challenger`: it is judged when it was not, and rolled out when it passes."""
        look = _look(controller)
        if not any(v.model == model and v.number == named.version for v in look.observed.versions):
            message = f"there is no version `{model[:60]}@{named.version}`"
            raise InputError("no-such-version", message, "mainspring models list")
        controller.name_challenger(model, named.version, by)
        return {"model": model, "challenger": named.version}

    @app.post("/v1/down", status_code=202, tags=["ask"])
    def down(by: Asker) -> Any:
        """Stop everything, then end."""
        controller.down(by)
        return {"down": True}


def _waiting(app: FastAPI, controller: Controller) -> None:
    # Own threads: those who wait long must not keep out those who look shortly.
    waiters = ThreadPoolExecutor(32, thread_name_prefix="wait")

    @app.post("/v1/clock", tags=["ask"])
    async def clock(move: MoveClock, by: Asker) -> Any:
        """Move a replay's clock, and wait until all is quiet at that time. 409 in live mode, or backwards."""
        run = asyncio.get_running_loop().run_in_executor
        return views.plain(await run(waiters, controller.advance, move.to, move.timeout, by))

    @app.get("/v1/wait", tags=["look"])
    async def wait(timeout: Annotated[float, Query(ge=0, le=LONGEST)] = 30.0) -> Any:
        """Wait until a cycle finds everything quiet."""
        run = asyncio.get_running_loop().run_in_executor
        return views.plain(await run(waiters, controller.until_quiet, timeout))


def _files(app: FastAPI, controller: Controller) -> None:
    @app.get("/v1/logs", tags=["look"])
    def names() -> Any:
        """Which logs there are."""
        return logs.names(controller.state)

    @app.get("/v1/logs/{name}", tags=["look"])
    def log(name: str, lines: Annotated[int, Query(ge=1, le=10_000)] = 100) -> Any:
        """The last lines of a log."""
        return {"name": name, "lines": logs.tail(controller.state, name, lines)}

    @app.post("/v1/backup", tags=["ask"])
    def backup(save: Save, by: Asker) -> Any:
        """Write the controller's memory to a new file."""
        to = Path(save.to)
        if not to.is_absolute():
            raise InputError("bad-path", f"`{save.to}` is not an absolute path", "mainspring backup FILE")
        controller.backup(to, by)
        return {"file": str(to)}
