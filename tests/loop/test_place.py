"""Which replicas there are of each revision, where, and which requests go to them."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.loop.draft import Draft, Snapshot
from mainspring.loop.launches import launch_of
from mainspring.loop.memory import EndpointMemory, Memory, ModelMemory, RolloutMemory, StagePinned
from mainspring.loop.place import cramped, fresh_for, placed, queued, waves_of
from mainspring.loop.room import limits_of, replicas
from mainspring.loop.snapshot import Desired, Now, Observed, ProcessSeen
from mainspring.stack.model import Stack
from tests.loop.rolling import Watch, challenge, chat, living, routes, stack, there, version

THREE = ["east", "west", "north"]


def rollout(*stages: StagePinned, **more: Any) -> RolloutMemory:
    """Version 2 against version 1."""
    return RolloutMemory("chat", "chat", "2", "1", stages, None, None, 0.0, 0.95, 0.0, **more)


def draft(given: Stack, going: RolloutMemory | None = None, *answering: str) -> Draft:
    """A cycle that sees these replicas answer."""
    launch = launch_of(given.serving["chat"])
    memory = Memory(
        models={"chat": ModelMemory("1")},
        rollouts={"chat": going} if going else {},
        endpoints={"chat": EndpointMemory(launch=launch)},
    )
    seen = tuple(ProcessSeen(name, "replica", 1, "ready", f"h:{at}") for at, name in enumerate(answering))
    observed = Observed(processes=seen, versions=(version("chat", "1"), version("chat", "2")))
    return Draft.of(Snapshot(Now(0.0, 0.0, 0.0), Desired(given, "r"), observed, {}, memory))


def names(found: tuple[tuple[str, str], ...]) -> list[str]:
    """Processes alone."""
    return [process for process, _ in found]


@pytest.mark.parametrize(
    ("share", "count", "wanted"), [(0.05, 1, 1), (0.05, 20, 1), (0.05, 21, 2), (0.1, 10, 1), (0.3, 4, 2), (1.0, 3, 3)]
)
def test_a_canary_is_as_large_as_its_share(share: float, count: int, wanted: int) -> None:
    """Its part of the replicas, rounded up, and one at least; the old ones stay where there is room."""
    going = rollout(StagePinned("canary", share, 60.0))
    place = placed(draft(chat(replicas=count), going), "chat")
    assert names(place.revisions["2"]) == [f"chat-2-{i}" for i in range(wanted)]
    assert names(place.revisions["1"]) == [f"chat-1-{i}" for i in range(count)]


@pytest.mark.parametrize(
    ("kind", "share", "cores", "fresh"),
    [
        ("canary", 0.3, None, 2), ("ab", 0.3, None, 2), ("canary", 0.3, 8, 2),
        ("canary", 0.3, 7, 0),  # no room for two more beside the candidate's two
        ("canary", 0.34, None, 0),  # the old ones would be left with less than a third
        ("mirror", 0.3, None, 0), ("all", 1.0, None, 0), ("waves", 1.0, None, 0),
    ],
)  # fmt: skip
def test_a_fresh_control_is_as_large_as_the_candidate(kind: str, share: float, cores: int | None, fresh: int) -> None:
    """As many fresh replicas of the old version, in stages that compare, where there is room for both."""
    given = chat({"cores": cores} if cores else None, replicas=4)
    going = rollout(StagePinned(kind, share, 60.0, step=1))
    found = fresh_for(draft(given), going)
    assert found == fresh
    place = placed(draft(given, rollout(StagePinned(kind, share, 60.0, step=1), fresh=found)), "chat")
    assert len(place.revisions.get("1.fresh", ())) == fresh


@pytest.mark.parametrize(
    ("stage", "more", "waves", "first"),
    [
        ({"step": 1}, {"replicas": 4}, 4, ["chat-2-0"]),
        ({"step": 3}, {"replicas": 4}, 2, ["chat-2-0", "chat-2-1", "chat-2-2"]),
        ({"step_share": 0.25}, {"replicas": 5}, 4, ["chat-2-0", "chat-2-1"]),
        ({"step": 1, "per_region": True}, {"replicas": "2 per region"}, 2, ["chat-2-0", "chat-2-1", "chat-2-2"]),
    ],
)
def test_waves(stage: dict[str, Any], more: dict[str, Any], waves: int, first: list[str]) -> None:
    """By replicas, by shares, and in each region at once."""
    given = chat({"regions": THREE}, **more)
    going = rollout(StagePinned("waves", 1.0, 60.0, **stage), wave=1)
    assert waves_of(draft(given, going), going) == waves
    assert names(placed(draft(given, going), "chat").revisions["2"]) == first


def test_waves_grow_beside_the_canary_before_them() -> None:
    """A wave never has fewer new replicas than the canary had: it adds to them."""
    stages = (StagePinned("canary", 0.3, 60.0), StagePinned("waves", 1.0, 60.0, step=1))
    for wave, wanted in ((1, 3), (2, 4)):
        going = rollout(*stages, stage=1, wave=wave)
        assert len(placed(draft(chat(replicas=4), going), "chat").revisions["2"]) == wanted
        assert waves_of(draft(chat(replicas=4), going), going) == 2


def test_a_canary_in_one_region_has_its_replicas_there() -> None:
    """Where requests of one region see it, it runs in that region, and so does its control."""
    going = rollout(StagePinned("canary", 0.3, 60.0, region="west"), fresh=1)
    place = placed(draft(chat({"regions": THREE}, replicas="2 per region"), going), "chat")
    assert place.revisions["2"] == (("chat-2-1", "west"),)
    assert place.revisions["1.fresh"] == (("chat-1.fresh-1", "west"),)


def test_a_canary_everywhere_is_in_each_region() -> None:
    """Nobody's requests go to another region for it."""
    going = rollout(StagePinned("canary", 0.05, 60.0))
    place = placed(draft(chat({"regions": THREE}, replicas="2 per region"), going), "chat")
    assert [region for _, region in place.revisions["2"]] == THREE


def test_requests_of_one_region_see_the_canary() -> None:
    """Its weight is in that region's alone; the others' requests all go to the old version, and all sums are 10,000."""
    stages = [{"canary": "30%", "in": "west", "for": "20m", "otherwise": "proceed"}, {"all": "100%"}]
    given = chat({"regions": THREE}, replicas="1 per region", rollout=stages)
    loop = living(given)
    loop.each = Watch(least={"chat": 3})
    challenge(loop).run(days=5 / 1440)
    told = {one.name: (one.weight, one.regional) for one in routes(loop).revisions}
    assert told == {
        "chat-1": (10_000, {"west": 4_000}), "chat-1.fresh": (0, {"west": 3_000}), "chat-2": (0, {"west": 3_000})
    }  # fmt: skip
    loop.run(days=1)
    assert [(one.name, one.weight, one.regional) for one in routes(loop).revisions] == [("chat-2", 10_000, {})]


def test_copies_of_one_regions_requests() -> None:
    """A mirror in one region copies only its requests."""
    stages = [{"mirror": "50%", "in": "west", "for": "20m", "otherwise": "proceed"}, {"all": "100%"}]
    loop = living(chat({"regions": THREE}, replicas="1 per region", rollout=stages))
    challenge(loop).run(days=5 / 1440)
    told = routes(loop)
    assert (told.mirror, told.mirror_share, told.mirror_region) == ("chat-2", 5_000, "west")
    assert there(loop.world, "ready")[-1] == "chat-2-1"


def test_a_share_is_kept_until_the_next_stage_is_ready() -> None:
    """Between 5 % and 50 % of four replicas the candidate goes on with what it has, and never falls back to nothing."""
    stages = [
        {"canary": "5%", "for": "20m", "otherwise": "proceed"}, {"canary": "50%", "for": "20m", "otherwise": "proceed"},
        {"all": "100%"},
    ]  # fmt: skip
    loop = living(chat(replicas=4, rollout=stages))
    loop.each = watch = Watch(least={"chat": 4})
    challenge(loop).run(days=1)
    shares = [dict(weights).get("chat-2", 0) for weights in watch.weights["chat"]]
    assert shares == sorted(shares)
    assert sorted({share for share in shares if share <= 5_000}) == [0, 500, 5_000]


def test_one_death_is_held_through() -> None:
    """A candidate that dies keeps its share while it starts again; a second death in a row gives it back."""
    loop = living(chat())
    challenge(loop).run(days=5 / 1440)
    loop.each = watch = Watch()
    loop.world.crash("chat-2-0")
    loop.run()
    assert [dict(weights)["chat-2"] for weights in watch.weights["chat"]] == [3_000] * len(watch.weights["chat"])
    watch.weights.clear()

    def again(now: Any, plan: Any) -> None:
        watch(now, plan)
        if now.world.processes["chat-2-0"].generation < 4:
            now.world.crash("chat-2-0")

    loop.each = again
    loop.run(days=2 / 1440)
    assert any("chat-2" not in dict(weights) for weights in watch.weights["chat"])


@pytest.mark.parametrize(
    ("count", "cores", "is_cramped"), [(1, 1, True), (1, 2, False), (2, 2, False), (2, None, False)]
)
def test_cramped(count: int, cores: int | None, is_cramped: bool) -> None:
    """A stage that compares can't be had beside the only replica of a full pool."""
    given = chat({"cores": cores} if cores else None, replicas=count)
    going = rollout(StagePinned("canary", 0.1, 60.0))
    said = cramped(draft(given, going), going)
    assert bool(said) == is_cramped
    assert not said or said.endswith("beside its only replica: 1 core of `here` may be used")
    assert queued(draft(given, going), going) == ""


def test_a_mirror_takes_one_old_replica_at_most() -> None:
    """The old ones still answer everything, so that at most one of them makes room for copies."""
    going = rollout(StagePinned("mirror", 1.0, 60.0))
    there = ("chat-1-0", "chat-1-1", "chat-1-2")
    place = placed(draft(chat({"cores": 3}, replicas=3), going, *there), "chat")
    assert (names(place.revisions["1"]), names(place.revisions["2"])) == (["chat-1-0", "chat-1-1"], ["chat-2-0"])
    assert names(place.stage["2"]) == ["chat-2-0"]


def test_those_that_do_not_answer_go_first() -> None:
    """In place, an old replica that is down makes room before one that answers."""
    going = rollout(StagePinned("all", 1.0, 0.0))
    place = placed(draft(chat({"cores": 3}, replicas=3), going, "chat-1-1", "chat-1-2"), "chat")
    assert names(place.revisions["1"]) == ["chat-1-1", "chat-1-2"]
    assert place.how == "in place"


def test_what_may_be_used_is_in_the_file() -> None:
    """`cores` and `memory` beside `machine: this`; what a replica takes is its `cores`, else its threads."""
    assert not limits_of(chat()).is_limited
    given = chat({"cores": 6, "memory": "4GB"}, replicas=2, cores=1.5, memory="1GB")
    going = rollout(StagePinned("all", 1.0, 0.0))
    there = ("chat-1-0", "chat-1-1")
    place = placed(draft(given, going, *there), "chat")
    assert (place.how, len(place.revisions["2"])) == ("surge", 2)
    tight = chat({"cores": 6, "memory": "3GB"}, replicas=2, cores=1.5, memory="1GB")
    place = placed(draft(tight, going, *there), "chat")
    assert (place.how, len(place.revisions["1"]), len(place.revisions["2"])) == ("surge", 2, 1)


def test_more_than_fits_is_not_started() -> None:
    """A number of replicas that has no room any more is cut down, the file's first endpoint first."""
    loop = living(stack({"a": {"replicas": "1..3"}, "b": {"replicas": 1}}, cores=4))
    assert len(there(loop.world, "ready")) == 2
    assert replicas(loop.stack, "a", "1.fresh", 2) == (("a-1.fresh-0", ""), ("a-1.fresh-1", ""))
