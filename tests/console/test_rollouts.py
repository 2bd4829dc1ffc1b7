"""A rollout as the control API tells it: from memory, routes, processes and the latest verdict."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mainspring.console import views
from mainspring.console.api import api
from mainspring.console.rollouts import began, rollout
from mainspring.controller import Look
from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable
from mainspring.decide.scale import Load
from mainspring.decide.terms import Terms
from mainspring.loop.memory import Launch, Memory, ModelMemory, RolloutMemory, StagePinned
from mainspring.loop.plan import Record, Waiting
from mainspring.loop.snapshot import Desired, Observed, ProcessSeen
from mainspring.stack.load import parse
from mainspring.testing.builders import EPOCH, a_plan

STACK = b"""\
mainspring: 1
stack: shop
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  chat: {model: chat@champion, runtime: llamacpp, replicas: 2}
"""
STAGES = (
    StagePinned("mirror", 1.0, 60.0),
    StagePinned("canary", 0.05, 7200.0, region="east", otherwise="wait"),
    StagePinned("waves", 1.0, 21_600.0, step=1, per_region=True),
)
UNDER_WAY = RolloutMemory(
    endpoint="chat",
    model="chat",
    candidate="4",
    control="3",
    stages=STAGES,
    abort_errors=None,
    abort_p95=None,
    margin=0.005,
    confidence=0.95,
    began=EPOCH,
    fresh=1,
    stage=1,
    stage_began=EPOCH + 60,
    stage_watched=60.0,
    ready=True,
)
CHECK = {"name": "errors", "evidence": 2.0, "threshold": 40.0, "certainty": 1.5, "wanted": 20.0, "requests_left": 1000}


def a_look(memory: RolloutMemory = UNDER_WAY, judged: dict[str, Any] | None = None, **routed: Any) -> Look:
    """An hour into the canary: one new replica is ready, of the fresh control none yet, two old ones."""
    names = (("chat-4-0", "ready"), ("chat-3.fresh-0", "starting"), ("chat-3-0", "ready"), ("chat-3-1", "ready"))
    seen = tuple(ProcessSeen(name, "replica", 1, state) for name, state in names)
    revisions = (
        RevisionRoute("chat-3", "3", 10_000, ("127.0.0.1:1",), regional={"east": 9_500}),
        RevisionRoute("chat-4", "4", 0, ("127.0.0.1:2",), regional={"east": 500}),
    )
    table = RouteTable(7, {"chat": EndpointRoutes(revisions, **routed)})
    plan = a_plan(
        Memory(watched=3_660.0, models={"chat": ModelMemory("3")}, rollouts={"chat": memory}),
        waiting=(Waiting("endpoint/chat", "canary of version 4: watched for 1 h of 2 h"), Waiting("loop", "x")),
        judged=judged or {},
    )
    stack = parse(STACK, "mainspring.yaml")
    return Look(1, EPOCH + 3_660, Desired(stack, "r1"), Observed(processes=seen, routes=table), plan)


def a_record(at: float, **value: Any) -> Record:
    """A record of the rollout."""
    told = {"kind": "look", "endpoint": "chat", "version": "4", "checks": [CHECK], "message": f"at {at:g}"}
    return Record("rollout", f"{at}", EPOCH + at, told | value)


def test_where_it_is_and_who_answers() -> None:
    """Stages with their state, seconds watched, both arms with what is ready, and what is waited for."""
    told = rollout(UNDER_WAY, a_look())
    assert [one["state"] for one in told["stages"]] == ["done", "here", "to come"]
    assert (told["stage"], told["number"], told["elapsed"], told["left"]) == ("canary", 2, 3_600.0, 3_600.0)
    arms = [(one["arm"], one["version"], one["share"], one["ready"], one["wanted"]) for one in told["arms"]]
    assert arms == [("candidate", "4", 0.05, 1, 1), ("fresh", "3.fresh", 0.0, 0, 1), ("control", "3", 0.95, 2, 2)]
    assert told["how"] == "surge"
    assert told["waits"] == ["canary of version 4: watched for 1 h of 2 h"]
    assert (told["checks"], told["judged"], told["requests"], told["change"]) == ([], None, None, "version")
    settings = rollout(replace(UNDER_WAY, launch=Launch(), candidate="3.2"), a_look())
    assert settings["change"] == "settings"
    assert rollout(replace(UNDER_WAY, ready=False), a_look())["elapsed"] == 0.0
    mirrored = a_look(mirror="chat-4", mirror_share=10_000)
    assert rollout(UNDER_WAY, mirrored)["arms"][0]["mirror"] == 1.0


def test_the_verdict_of_this_cycle_goes_before_the_record() -> None:
    """What was judged just now; else the latest record of this try, and no other."""
    records = [
        a_record(-9.0, soak=["old"]),  # an earlier try with the same version
        a_record(0.0, kind="began", checks=None, soak=["5 % is 694 requests"]),
        a_record(60.0, requests=10.0, per_second=0.5),
        a_record(90.0, endpoint="other", requests=99.0),
    ]
    kept = rollout(UNDER_WAY, a_look(), records)
    assert (kept["message"], kept["requests"], kept["judged"]) == ("at 60", 10.0, EPOCH + 60)
    assert kept["checks"][0]["seconds_left"] == 2_000.0
    assert kept["soak"] == ["5 % is 694 requests"]
    now = rollout(UNDER_WAY, a_look(judged={"chat": a_record(0, requests=12.0, length=900.0).value}), records)
    assert (now["requests"], now["judged"], now["seconds"]) == (12.0, EPOCH + 3_660, 900.0)


@pytest.mark.parametrize(("left", "rate"), [(None, 0.5), (1000, None), (1000, 0.0)])
def test_how_long_still_is_not_known_without_both(left: object, rate: object) -> None:
    """Neither without a number of requests nor without a rate."""
    value = a_record(0, checks=[CHECK | {"requests_left": left}], per_second=rate).value
    assert rollout(UNDER_WAY, a_look(judged={"chat": value}))["checks"][0]["seconds_left"] is None


def test_endpoints_carry_it_as_json() -> None:
    """With every number that JSON knows; an infinite one is null."""
    judged = {"chat": a_record(0, checks=[CHECK | {"evidence": math.inf}]).value}
    (row,) = views.endpoints(a_look(judged=judged))
    assert row["rollout"]["checks"][0]["evidence"] is None
    assert [(one["label"], one["regional"]) for one in row["revisions"]] == [
        ("3", {"east": 0.95}),
        ("4", {"east": 0.05}),
    ]
    json.dumps(row, allow_nan=False)


def test_what_it_can_find_out_is_told_for_the_traffic_of_late() -> None:
    """At what the gateway sees; as recorded where it sees nothing, or the stage has no share of requests."""
    terms = Terms(promised_errors=0.001)
    look, load = a_look(), Load(0.0, 0, 1, oldest=0.0, rate=9.0, slow=5.787, seconds=1.0)
    busy = replace(look, observed=replace(look.observed, loads={"chat": load}))
    told = rollout(replace(UNDER_WAY, terms=terms), busy)["soak"]
    assert told[0].startswith("5 % of east for 2 h is 2,088 requests: it detects")
    recorded = [a_record(0.0, kind="began", checks=None, soak=["as it was said"])]
    assert rollout(replace(UNDER_WAY, terms=terms), look, recorded)["soak"] == ["as it was said"]
    assert rollout(replace(UNDER_WAY, terms=terms, stage=2, wave=1), busy, recorded)["soak"] == ["as it was said"]


def test_records_are_asked_for_from_the_oldest_rollout_on() -> None:
    """And from never, where none is under way."""
    assert began(a_look()) == EPOCH
    look = a_look()
    none = replace(look, plan=replace(look.plan, memory=Memory()))
    assert began(none) == math.inf
    assert views.endpoints(none)[0]["rollout"] is None


def test_looks_can_be_left_out_of_the_records() -> None:
    """Of a long rollout there are many, and who asks how the last ones ended wants none."""
    kept = [a_record(60.0), a_record(99.0, kind="promoted")]
    store = SimpleNamespace(records=lambda kind, since: kept if kind == "rollout" else [])
    app = api(SimpleNamespace(parts=SimpleNamespace(store=store)))  # type: ignore[arg-type]  # all that it reads here
    client = TestClient(app)
    assert [one["value"]["kind"] for one in client.get("/v1/records?kind=rollout").json()] == ["look", "promoted"]
    assert [one["value"]["kind"] for one in client.get("/v1/records?kind=rollout&but=look").json()] == ["promoted"]
