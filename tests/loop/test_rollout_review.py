"""What a review found of rollouts: edits of the stack file, clocks, pauses and given up versions in mid-rollout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mainspring.loop.memory import Memory, RolloutMemory, Scope, from_json, to_json
from mainspring.loop.readings import ArmsQuery
from mainspring.loop.rollout_clock import put_back
from mainspring.loop.window import rollout_queries
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs, Conduct
from tests.loop.rolling import challenge, chat, living, routes, stack, version
from tests.loop.stacks import ends, records, told, under_way

MINUTE = 1 / 1440  # of a day
SHORT = [{"canary": "30%", "for": "20m", "otherwise": "proceed"}, {"all": "100%"}]


def weights(loop: VirtualLoop, name: str = "chat") -> dict[str, int]:
    """What each revision gets, of 10,000."""
    return {one.name: one.weight for one in routes(loop, name).revisions}


def in_canary(given: Stack, **more: Any) -> VirtualLoop:
    """A loop in the first stage of version 2 of `chat`."""
    loop = challenge(living(given, **more)).run(days=3 * MINUTE)
    assert under_way(loop, "chat").ready
    return loop


# --- the stack file changes


def test_another_model_behind_an_endpoint_ends_the_rollout() -> None:
    """An edit of `model:` ends the rollout of the old model's version; nothing of its number is served of the new."""
    loop = in_canary(chat(rollout=SHORT))
    loop.world.versions += [version("other", "1"), replace(version("other", "2"), verdict="refused")]
    loop.world.aliases["other"] = {"champion": "1"}
    loop.stack = chat(model="other@champion", rollout=SHORT)
    loop.run(days=60 * MINUTE)
    assert weights(loop) == {"chat-1": 10_000}
    assert ends(loop) == ["superseded"]
    assert "serves `other` now" in told(loop, "RolloutSuperseded")[0]


def test_an_endpoint_that_is_renamed_ends_its_rollout_with_a_word() -> None:
    """A rollout behind an endpoint that is gone ends with an event and a record; it begins behind the new name."""
    loop = in_canary(stack({"chat": {"model": "chat@champion", "rollout": SHORT}}))
    loop.stack = stack({"talk": {"model": "chat@champion", "rollout": SHORT}})
    loop.run(days=3 * MINUTE)
    assert [one["endpoint"] for one in records(loop, "superseded")] == ["chat"]
    assert "no endpoint `chat` any more" in told(loop, "RolloutSuperseded")[0]
    assert under_way(loop, "talk").candidate == "2"


def test_a_rollout_in_waves_ends_with_its_endpoint() -> None:
    """Also where the stage counts waves, which nobody can count of an endpoint that is gone."""
    waves = [{"waves": "1 replica", "for": "20m", "otherwise": "proceed"}]
    loop = in_canary(stack({"chat": {"rollout": waves}, "other": {}}))
    loop.stack = stack({"other": {}})
    loop.run(days=3 * MINUTE)
    assert ends(loop) == ["superseded"]


def test_only_the_endpoint_that_is_gone_loses_its_rollout() -> None:
    """Behind the other endpoint of the model the version goes on where it was."""
    both = {name: {"model": "chat@champion", "rollout": SHORT} for name in ("one", "two")}
    loop = challenge(living(stack(both))).run(days=3 * MINUTE)
    began = under_way(loop, "one").began
    loop.stack = stack({"one": both["one"]})
    loop.run(days=3 * MINUTE)
    assert under_way(loop, "one").began == began
    assert [one["endpoint"] for one in records(loop, "superseded")] == ["two"]


def test_a_region_that_is_gone_ends_a_rollout_that_needs_it() -> None:
    """A stage in a region that the file has no more does not wait for ever: the rollout begins anew by the file."""
    there = [{"canary": "30%", "in": "us", "for": "20m", "otherwise": "proceed"}, {"all": "100%"}]
    loop = in_canary(chat({"regions": ["us", "eu"]}, rollout=there))
    loop.stack = chat({"regions": ["eu"]}, rollout=SHORT)
    loop.run(days=60 * MINUTE)
    assert "is in region `us` no more" in told(loop, "RolloutSuperseded")[0]
    assert ends(loop) == ["superseded", "promoted"]


# --- `control: watch`


@pytest.mark.parametrize("verb", ["abort", "promote", "pause", "undo"])
def test_watch_takes_no_command(verb: str) -> None:
    """Under `control: watch` commands are refused, and what is remembered and routed stays."""
    loop = in_canary(chat(rollout=SHORT))
    before = weights(loop)
    loop.stack = chat({"control": "watch"}, rollout=SHORT)
    loop.ask(verb, "chat")
    asked = next(iter(loop.store.requests())).id
    loop.run(days=60 * MINUTE)
    answer = loop.store.answers(asked)
    assert answer is not None
    assert (answer.accepted, answer.message) == (False, "`control: watch` changes nothing")
    assert weights(loop) == before
    assert not under_way(loop, "chat").paused
    assert ends(loop) == []


def test_watch_only_says_what_would_be_done() -> None:
    """A candidate that fails under `control: watch` is not given up in memory while it goes on answering."""
    conduct = {"2": Conduct(error_rate=0.0)}
    beliefs = Beliefs(requests_per_day=100_000, conduct=conduct)
    loop = in_canary(chat(rollout=SHORT), beliefs=beliefs)
    loop.stack = chat({"control": "watch"}, rollout=SHORT)
    conduct["2"] = Conduct(error_rate=0.5)
    loop.run(days=15 * MINUTE)
    assert under_way(loop, "chat").candidate == "2"
    assert any("would be given up" in one.why for one in loop.store.waiting())
    assert told(loop, "RolloutAborted") == []
    loop.stack = chat(rollout=SHORT)
    loop.run(days=2 * MINUTE)
    assert ends(loop) == ["aborted"]


def test_watch_begins_no_rollout() -> None:
    """A challenger under `control: watch` waits, and the loop comes to rest."""
    loop = living(chat(rollout=SHORT))
    loop.stack = chat({"control": "watch"}, rollout=SHORT)
    challenge(loop).run(days=100 * MINUTE)
    assert loop.store.load()[1].rollouts == {}
    assert told(loop, "RolloutBegan") == []
    assert any("would be rolled out" in one.why for one in loop.store.waiting())


# --- clocks


def remembered(loop: VirtualLoop) -> RolloutMemory:
    """The rollout, read from what was kept: as the next controller would."""
    return from_json(to_json(loop.store.load()[1])).rollouts["chat"]


@pytest.mark.parametrize("seconds", [60.0, 3600.0, 7 * 86400.0])
def test_a_clock_set_back_blinds_no_rollout(seconds: float) -> None:
    """After the clock was set back evidence is asked for from then on, up to now, with the share of now."""
    loop = in_canary(chat(rollout=SHORT))
    loop.world.wall -= seconds
    loop.run(days=1 * MINUTE)
    rollout, now = remembered(loop), loop.world.wall
    assert rollout.stage_began <= now
    for query in rollout_queries(rollout, now):
        assert query.since <= query.until <= now
    last = rollout_queries(rollout, now)[-1]
    assert isinstance(last, ArmsQuery)
    assert [share for at, share in last.shares if at <= last.since] == [0.3]
    assert all(at <= now for at, _ in rollout.shares)
    assert all(end <= now or begun <= now for begun, end in rollout.skip)
    assert "was set back" in told(loop, "ClockSetBack")[0]


def test_a_clock_that_is_set_back_in_the_middle_of_scopes() -> None:
    """Scopes that had begun by then end then; those that had not are forgotten; twice set back holds too."""
    loop = in_canary(chat(rollout=SHORT))
    rollout = replace(
        under_way(loop, "chat"),
        scopes=(Scope(100.0, "us"), Scope(500.0)),
        shares=((100.0, 0.1), (500.0, 0.2), (700.0, 0.5)),
        mirrors=((50.0, 1.0, ""), (90.0, 0.0, "")),
        skip=((90.0, 110.0), (590.0, 620.0), (700.0, 730.0)),
        mirror_since=50.0,
        live_since=100.0,
        stage_began=700.0,
    )
    once = put_back(rollout, 600.0)
    assert once.scopes == (Scope(100.0, "us"), Scope(500.0, until=600.0), Scope(600.0))
    assert once.shares == ((100.0, 0.1), (500.0, 0.2), (600.0, 0.5))
    assert once.mirrors == rollout.mirrors
    assert once.skip == ((90.0, 110.0), (590.0, 600.0))
    assert (once.mirror_since, once.live_since, once.stage_began) == (50.0, 100.0, 600.0)
    twice = put_back(once, 400.0)
    assert twice.scopes == (Scope(100.0, "us", until=400.0), Scope(400.0))
    assert put_back(twice, 10.0).scopes == (Scope(10.0),)
    assert put_back(twice, 10.0).live_since == 10.0
    assert to_json(Memory(rollouts={"chat": twice}))


def test_records_grow_sparse_where_a_short_stage_waits() -> None:
    """A stage of half a minute that waits for certainty is not noted down each second for ever."""
    rollout = [{"canary": "30%", "for": "30s"}, {"all": "100%"}]
    loop = living(chat(rollout=rollout, objective={"availability": "99.9%"}), beliefs=Beliefs(requests_per_day=2000))
    challenge(loop).run(days=10 * MINUTE)
    before = len(records(loop, "look"))
    for _ in range(600):
        loop.run(days=1 / 86400)
    assert "chat" in loop.store.load()[1].rollouts
    assert 5 <= len(records(loop, "look")) - before <= 20


# --- pauses, and stages without room


def test_a_paused_rollout_leaves_no_stage_out() -> None:
    """A stage that room was taken from while a person had paused it is not left out for the last one."""
    stages = [{"mirror": "100%", "for": "10m"}, {"canary": "30%", "for": "20m"}, {"all": "100%"}]

    def given(others: int) -> Stack:
        one = {"replicas": 1, "cores": 1}
        return stack({"chat": {**one, "rollout": stages}, "other": {**one, "replicas": others}}, cores=3)

    loop = in_canary(given(1))
    loop.ask("promote", "chat", stage=True)
    ask = next(iter(loop.store.requests()))
    loop.store.ask(replace(ask, id="later", verb="pause", args={}))
    loop.stack = given(2)
    loop.run(days=30 * MINUTE)
    assert weights(loop)["chat-1"] == 10_000
    assert (under_way(loop, "chat").stage, under_way(loop, "chat").paused) == (1, True)


def test_a_stage_without_room_leaves_the_others_as_they_are() -> None:
    """A mirror that has no room is left out; the canary behind it is walked down."""
    stages = [{"mirror": "100%", "for": "10m"}, *SHORT]
    loop = living(chat({"cores": 4}, replicas=4, threads=1, rollout=stages))
    loop.stack = chat({"cores": 4}, replicas=4, threads=2, rollout=stages)
    loop.run(days=60 * MINUTE)
    assert told(loop, "StageSkipped")[0].startswith("mirror is left out")
    assert any("canary 30%" in one for one in told(loop, "StageBegan"))
    assert "its stages are over, of which 1 was left out" in told(loop, "Promoted")[-1]
    (skipped,) = [r.value for r in loop.store.records("rollout") if r.value["kind"] == "skipped"]
    assert (skipped["number"], skipped["stage"]) == (1, "mirror")
    assert skipped["why"].startswith("there is no room")


def test_a_promotion_that_nothing_watched_is_said_to_be_one() -> None:
    """Where no stage had room the candidate takes all requests without having been watched: that is a warning."""
    loop = living(chat({"cores": 1}, replicas=1, cores=1, rollout=SHORT))
    challenge(loop).run(days=60 * MINUTE)
    last = next(kept.event for kept in loop.store.events() if kept.event.reason == "Promoted")
    assert "without being watched" in last.message
    assert last.level == "warning"


# --- given up


def test_a_version_made_anew_under_an_old_number_may_be_tried() -> None:
    """What was given up is a version's content: a model that was deleted and made anew counts from 1 again."""
    loop = in_canary(chat(rollout=SHORT))
    loop.ask("abort", "chat")
    loop.run(days=5 * MINUTE)
    assert loop.store.load()[1].aborted == ("chat/2/d2",)
    loop.world.versions[-1] = replace(version("chat", "2"), digest="anew", artefact="/anew/2")
    challenge_again(loop)
    assert under_way(loop, "chat").candidate == "2"


def test_a_version_that_was_given_up_stays_so() -> None:
    """The same content is not tried again, also by a memory that an older Mainspring wrote without digests."""
    loop = in_canary(chat(rollout=SHORT))
    loop.ask("abort", "chat")
    loop.run(days=5 * MINUTE)
    revision, memory = loop.store.load()
    assert memory.aborted == ("chat/2/d2",)
    loop.world.versions[-1] = version("chat", "2")
    challenge_again(loop)
    assert loop.store.load()[1].rollouts == {}
    assert revision


def challenge_again(loop: VirtualLoop) -> None:
    """Name version 2 challenger, and let the loop run."""
    loop.world.aliases.setdefault("chat", {})["challenger"] = "2"
    loop.run(days=5 * MINUTE)


def test_a_deleted_version_is_forgotten() -> None:
    """Nothing is remembered of a version that the registry has no more."""
    loop = in_canary(chat(rollout=SHORT))
    loop.world.versions.pop()
    loop.world.aliases["chat"].pop("challenger", None)
    loop.run(days=5 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert loop.store.load()[1].aborted == ()
