"""Odd worlds: what is deleted, removed, refused or stopped under the loop's feet must not stop or starve it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from mainspring.decide.arms import Arms, Counts, Slice
from mainspring.decide.rollout import Bound, Evidence, Looked, Terms, judge
from mainspring.loop.plan import Plan, RegisterVersion, StartReplica, Step
from mainspring.loop.ports import Accepted, Refused
from mainspring.monitoring.predictions import PredictionStore
from mainspring.stack.model import Stack
from mainspring.stack.serving import Abort
from mainspring.testing.virtual import VirtualLoop
from tests.loop.stacks import MARCH, flights


def with_endpoint(stack: Stack, name: str, **parts: Any) -> Stack:
    """The same stack with an endpoint that is like `delay` but for some parts."""
    endpoint = stack.serving["delay"].model_copy(update=parts)
    return stack.model_copy(update={"serving": {**stack.serving, name: endpoint}})


def two_endpoints() -> Stack:
    """Two endpoints that follow one model: `delay` rolls out in a day, `other` in four."""
    slow = flights(rollout=[{"canary": "10%", "for": "4d"}, {"all": "100%"}]).serving["delay"].rollout
    return with_endpoint(flights(rollout=[{"canary": "10%", "for": "1d"}, {"all": "100%"}]), "other", rollout=slow)


def named(loop: VirtualLoop) -> VirtualLoop:
    """Version 5, which has passed, is named challenger."""
    loop.world.add_version("delay", "5", "theirs", (MARCH - 60 * 86400, MARCH))
    loop.world.versions[-1] = type(loop.world.versions[-1])("delay", "5", "", "d", "theirs", "passed")
    loop.world.aliases["delay"]["challenger"] = "5"
    return loop


def weights(loop: VirtualLoop, _: Plan) -> None:
    """Every endpoint that has a version shares out all of its traffic, to somebody."""
    for name, routes in (loop.world.routes.endpoints if loop.world.routes else {}).items():
        if routes.revisions:
            assert sum(r.weight for r in routes.revisions) == 10_000, name


def test_down_in_mid_run_and_up_again_resumes_the_run() -> None:
    """A run that `down` has stopped is resumed by the next `up`, and ends as ever."""
    loop = VirtualLoop(flights(), MARCH)

    def down(loop: VirtualLoop, _: Plan) -> None:
        loop.down = loop.down or "delay-1" in loop.world.runs

    loop.each = down
    loop.run()
    assert loop.world.runs["delay-1"].lost
    loop.each, loop.down = lambda *_: None, False
    loop.run()
    assert [v.verdict for v in loop.world.versions] == ["passed"]
    assert loop.story()["answering"] == ["delay-1-0", "gateway-0"]
    assert loop.world.runs["delay-1"].spec.attempt == 2


def test_a_run_of_a_removed_pipeline_is_stopped() -> None:
    """A pipeline that is taken out of the file takes its running process with it."""
    loop = VirtualLoop(flights(), MARCH)

    def remove(loop: VirtualLoop, _: Plan) -> None:
        if "delay-1" in loop.world.runs:
            loop.stack = flights().model_copy(update={"pipelines": {}})

    loop.each = remove
    loop.run()
    assert loop.world.runs["delay-1"].lost


def test_ready_is_told_once() -> None:
    """A process that stays ready is no event in every cycle."""
    loop = VirtualLoop(flights(), MARCH).run(days=5)
    told = [kept for kept in loop.store.events(limit=1000) if kept.event.reason == "Ready"]
    assert told
    assert all(kept.count == 1 for kept in told)


def test_a_candidate_that_died_in_its_canary_is_not_promoted() -> None:
    """A version that does not stay up is given up in whatever stage, though no bound on errors is set."""
    stack = flights(rollout=[{"canary": "10%", "for": "1d"}, {"all": "100%"}], restarts="3 per 10m")
    stack = with_endpoint(stack, "delay", abort=Abort())
    loop = named(VirtualLoop(stack, MARCH).run(days=0.1)).run(days=0.5)
    assert loop.store.load()[1].rollouts["delay"].ready
    loop.each = lambda loop, plan: loop.world.crash("delay-5-0")
    loop.run(days=2)
    assert loop.story()["aliases"]["delay"] == {"champion": "1"}
    assert loop.story()["routes"]["delay"] == [("1", 10_000)]


def test_all_at_once_waits_until_the_new_version_answers() -> None:
    """A rollout of one stage never leaves the endpoint without a replica."""
    loop = named(VirtualLoop(flights(rollout=[{"all": "100%"}]), MARCH).run(days=0.1))

    def answers(loop: VirtualLoop, _: Plan) -> None:
        assert loop.world.routes is not None
        assert any(r.replicas and r.weight for r in loop.world.routes.endpoints["delay"].revisions)

    loop.each = answers
    loop.run(days=1)
    assert loop.story()["aliases"]["delay"]["champion"] == "5"


def test_two_endpoints_of_one_model_end_their_rollout_together() -> None:
    """The quicker endpoint waits for the slower: a model has one champion, and no stage is skipped."""
    loop = named(VirtualLoop(two_endpoints(), MARCH).run(days=0.1))
    loop.each = weights
    loop.run(days=2)
    assert loop.story()["aliases"]["delay"]["champion"] == "1"
    assert loop.story()["routes"]["other"] == [("1", 8_000), ("1", 1_000), ("5", 1_000)]  # one of them fresh
    loop.run(days=3)
    assert loop.story()["aliases"]["delay"]["champion"] == "5"
    assert not loop.store.load()[1].rollouts


def test_a_version_given_up_behind_one_endpoint_is_given_up_behind_all() -> None:
    """A refused version takes traffic nowhere."""
    loop = named(VirtualLoop(two_endpoints(), MARCH).run(days=0.1))
    loop.run(days=0.5)
    loop.ask("abort", "delay")
    loop.each = weights
    loop.run(days=1)
    assert not loop.store.load()[1].rollouts
    assert loop.story()["routes"]["other"] == [("1", 10_000)]


def test_a_candidate_deleted_from_the_registry_is_given_up() -> None:
    """A version that is deleted while it is rolled out ends its rollout; the loop comes to rest."""
    loop = named(VirtualLoop(flights(), MARCH).run(days=0.1)).run(days=0.5)
    loop.world.versions = [v for v in loop.world.versions if v.number != "5"]
    loop.world.aliases["delay"].pop("challenger")
    loop.run(days=1)
    assert not loop.store.load()[1].rollouts
    assert loop.story()["answering"] == ["delay-1-0", "gateway-0"]


def test_a_champion_deleted_from_the_registry_goes_on_answering() -> None:
    """What still answers is not stopped, and nothing is tried again and again."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    loop.world.versions.clear()
    loop.world.aliases["delay"].clear()
    loop.run(days=1)
    assert loop.story()["answering"] == ["delay-1-0", "gateway-0"]
    assert any("deleted" in w.why for w in loop.store.waiting())


def test_undo_does_not_go_back_to_a_deleted_version() -> None:
    """A previous version that is gone is nothing to go back to."""
    loop = named(VirtualLoop(flights(rollout=[{"all": "100%"}]), MARCH).run(days=0.1)).run(days=1)
    loop.world.versions = [v for v in loop.world.versions if v.number != "1"]
    loop.world.aliases["delay"].pop("previous")
    loop.ask("undo", "delay")
    loop.run()
    assert loop.store.load()[1].models["delay"].champion == "5"


def test_version_numbers_need_not_be_numbers() -> None:
    """A registry whose versions have names raises nothing."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    for number in ("v2", "1.5"):
        loop.world.add_version("delay", number, f"artefact-{number}", (MARCH - 60 * 86400, MARCH))
        loop.world.versions[-1] = type(loop.world.versions[-1])("delay", number, "", "d", number, "passed")
    loop.run(days=1)
    assert loop.story()["aliases"]["delay"]["champion"] == "1"


def refusing(loop: VirtualLoop, kind: type, counts: list[int]) -> None:
    """Have the world refuse all actions of a kind, and count them."""
    begin = type(loop.world).begin

    class Refusing(type(loop.world)):  # type: ignore[misc]
        def begin(self, step: Step) -> Accepted | Refused:
            if isinstance(step.action, kind):
                counts.append(1)
                return Refused("no")
            return begin(self, step)

    loop.world.__class__ = Refusing


def test_a_model_that_cannot_be_registered_is_no_endless_rush() -> None:
    """A registration that is refused is tried ever more seldom, and nobody waits for it for ever."""
    loop, counts = VirtualLoop(flights(), MARCH), list[int]()
    loop.world = type("W", (type(loop.world),), {})(beliefs=loop.beliefs, wall=MARCH)
    refusing(loop, RegisterVersion, counts)
    loop.run(days=0.05)
    assert 2 < len(counts) < 60


def test_a_replica_whose_start_is_refused_is_tried_with_backoff() -> None:
    """An artefact that is not there any more is not asked for in every cycle."""
    loop, counts = VirtualLoop(flights(), MARCH), list[int]()
    loop.world = type("W", (type(loop.world),), {})(beliefs=loop.beliefs, wall=MARCH)
    refusing(loop, StartReplica, counts)
    loop.run(days=0.5)
    assert 2 < len(counts) < 60


def test_a_share_too_small_for_the_table_is_its_smallest() -> None:
    """`canary: 0.001%` is one part of 10,000, and the stage begins."""
    rollout = [{"canary": "0.001%", "for": "1d"}, {"all": "100%"}]
    loop = named(VirtualLoop(flights(rollout=rollout), MARCH).run(days=0.1)).run(days=0.2)
    assert loop.story()["routes"]["delay"] == [("1", 9_998), ("1", 1), ("5", 1)]


def test_no_restarts_at_all_is_a_limit_too() -> None:
    """`restarts: 0 per 10m` does not give a candidate up that never died."""
    loop = named(VirtualLoop(flights(restarts="0 per 10m"), MARCH).run(days=0.1)).run(days=0.5)
    assert "delay" in loop.store.load()[1].rollouts


def test_bounds_at_the_ends_raise_nothing() -> None:
    """`errors: 100%` and `0%` are bounds like others."""
    evidence = Evidence(Arms((Slice(0, 0, Counts(100, 100), Counts(100)),)))
    for errors in (0.0, 1.0):
        verdict = judge(Terms(errors=(Bound(errors),)), evidence, Looked("canary", 0.5, elapsed=1.0, length=1.0))
        assert verdict.kind == ("abort" if errors == 0.0 else "advance")


def test_suggested_retraining_waits_for_its_approval() -> None:
    """What a look, or a person, asked for is proposed until it is approved; the proposal keeps its id."""
    loop = VirtualLoop(flights(control="suggest"), MARCH).run(days=0.1)
    loop.ask("run", "delay")
    loop.run(days=25)
    assert [v.number for v in loop.world.versions] == ["1"]
    proposed = [w.what.removeprefix("approval/") for w in loop.store.waiting() if "StartRun" in w.why]
    assert len(proposed) == 1
    loop.run(days=1)
    loop.ask("approve", proposed[0])
    loop.run()
    assert [v.number for v in loop.world.versions] == ["1", "2"]


def test_the_run_uses_the_stack_that_was_applied(tmp_path: Path) -> None:
    """A run is of the text that was applied when it was asked for, not of the file that is edited meanwhile."""
    from mainspring.loop.plan import StartRun
    from mainspring.pipelines.child import Signals
    from mainspring.pipelines.host import _attempt
    from mainspring.pipelines.seen import prepare_run

    folder = prepare_run(tmp_path, StartRun("delay-1", 1, "delay", "first", None, MARCH, ""))
    text = "mainspring: 1\nstack: applied\ncompute: {here: {machine: this}}\norchestration: {where: here}\n"
    (folder / "stack.yaml").write_text(text)
    (tmp_path / "mainspring.yaml").write_text("mainspring: [")
    result = _attempt(folder, tmp_path, tmp_path / "mainspring.yaml", Signals())
    assert "has no pipeline `delay`" in result["error"]


def test_the_named_outcome_counts(tmp_path: Path) -> None:
    """Of an outcome of several fields the one that the stack names counts, from when it is named."""
    store = PredictionStore(tmp_path / "predictions.db", tmp_path, lambda *_: None)
    told = {"k": "t", "endpoint": "delay", "id": "a", "at": MARCH, "truth": {"another": 0.0, "late": 1.0}}
    (tmp_path / "gateway-0-00-0.jsonl").write_text(json.dumps(told) + "\n")
    store.name_truths({"delay": "late"})
    assert store.ingest() == 1
    store.close()
    rows = sqlite3.connect(tmp_path / "predictions.db").execute("SELECT id, value FROM truths").fetchall()
    assert rows == [("a", 1.0)]
