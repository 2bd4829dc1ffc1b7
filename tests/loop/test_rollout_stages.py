"""The stages of a rollout, as sentences: mirror, canary, A/B, waves, all; and what ends each."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mainspring.decide.arms import Arms
from mainspring.loop.plan import Plan, StartReplica, Step
from mainspring.loop.ports import Accepted, Refused
from mainspring.loop.readings import ArmsQuery
from mainspring.loop.window import rollout_queries
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs, Conduct
from mainspring.worlds.twin.source import TwinSource
from mainspring.worlds.twin.world import TwinWorld
from tests.loop.stacks import ends, passed, records, service, standing, told, under_way

MINUTE = 1 / 1440  # days
BUSY = 500_000  # requests a day
CANARY = {"canary": "10%", "for": "20m"}
ALL = {"all": "100%"}


def busy(**conduct: Conduct) -> Beliefs:
    """Half a million requests a day; how version 2 behaves may be said."""
    return Beliefs(requests_per_day=BUSY, conduct={"2": conduct["two"]} if "two" in conduct else {})


def all_routed(loop: VirtualLoop, _: Plan) -> None:
    """Every endpoint that has a version shares out all of its requests."""
    for name, routes in (loop.world.routes.endpoints if loop.world.routes else {}).items():
        if routes.revisions:
            assert sum(r.weight for r in routes.revisions) == 10_000, name


def begun(stack: Stack, **parts: Any) -> VirtualLoop:
    """A loop in which version 2 was just named challenger."""
    loop = passed(standing(stack, **parts), "2")
    loop.each = all_routed
    return loop


def test_a_fine_version_walks_down_the_stages() -> None:
    """Mirror, canary, all: nothing is promised, so each ends with its time, and the version is the champion."""
    stages = ({"mirror": "100%", "for": "10m"}, CANARY, ALL)
    loop = begun(service(*stages), beliefs=busy()).run(days=35 * MINUTE)
    assert ends(loop) == ["promoted"]
    assert loop.world.aliases["scorer"] == {"champion": "2", "previous": "1"}
    assert [one["stage"] for one in records(loop, "stage")] == ["mirror", "canary"]
    assert [one["elapsed"] >= one["length"] > 0 for one in records(loop, "stage")] == [True, True]


def test_a_version_that_errs_is_given_up_long_before_the_stage_ends() -> None:
    """5 % of errors are found within minutes at half a million requests a day, at whatever look."""
    loop = begun(service({**CANARY, "for": "2h"}, ALL), beliefs=busy(two=Conduct(error_rate=0.05)))
    loop.run(days=30 * MINUTE)
    assert ends(loop) == ["aborted"]
    (end,) = records(loop, "aborted")
    assert end["elapsed"] < 1800
    assert end["requests"] > end["errors"] > 0
    assert any(check["state"] == "bad" and check["evidence"] >= check["threshold"] for check in end["checks"])
    assert loop.story()["routes"]["api"] == [("1", 10_000)]
    assert [v.verdict for v in loop.world.versions] == ["passed", "refused"]


def test_a_version_that_is_slower_than_the_old_one_is_given_up() -> None:
    """`p95: 20% over control` compares with what the old version takes at the same time."""
    stack = service({**CANARY, "for": "2h"}, ALL, abort={"p95": "20% over control"})
    loop = begun(stack, beliefs=busy(two=Conduct(latency=0.008))).run(days=40 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert "p95" in records(loop, "aborted")[0]["message"]


def test_without_certainty_it_waits_and_says_how_long() -> None:
    """Too few requests for 99.9 %: the stage is over, nothing is wrong, and it is held until it is certain."""
    stack = service({"canary": "50%", "for": "10m"}, ALL, objective={"availability": "99.9%"})
    loop = begun(stack, beliefs=busy()).run(days=12 * MINUTE)
    assert under_way(loop).stage == 0
    waits = next(w.why for w in loop.store.waiting() if w.what == "endpoint/api")
    assert "waits for certainty" in waits
    assert "more answers" in waits
    loop.run(days=30 * MINUTE)
    assert ends(loop) == ["promoted"]
    assert records(loop, "stage")[0]["elapsed"] > 900


def test_proceed_names_the_risk() -> None:
    """With `otherwise: proceed` the stage ends with its time, and the event has the risk with its number."""
    stack = service({**CANARY, "otherwise": "proceed"}, ALL, objective={"availability": "99.9%"})
    loop = begun(stack, beliefs=busy()).run(days=25 * MINUTE)
    assert ends(loop) == ["promoted"]
    (stage,) = records(loop, "stage")
    assert "0.1" in stage["risk"]
    assert stage["risk"] in told(loop, "StageJudged")[0]


def test_abort_gives_up_what_is_not_certain_in_time() -> None:
    """With `otherwise: abort` a version that could not be shown to be good is given up when the time is over."""
    stack = service({**CANARY, "otherwise": "abort"}, ALL, objective={"availability": "99.9%"})
    loop = begun(stack, beliefs=busy()).run(days=25 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert records(loop, "aborted")[0]["elapsed"] >= 1200


def test_no_requests_means_hold_whatever_otherwise_says() -> None:
    """No data is no evidence, for or against."""
    stack = service({**CANARY, "otherwise": "proceed"}, ALL)
    loop = begun(stack, beliefs=Beliefs(requests_per_day=0)).run(days=0.5)
    assert under_way(loop).stage == 0
    assert not records(loop, "look")


def test_waves_replace_the_replicas_one_after_the_other() -> None:
    """Each wave has its replicas, its share and its soak; the last one is watched too, and then it is the champion."""
    loop = begun(service({"waves": "1 replica", "within": "30m"}, replicas=3), beliefs=busy())
    shares = []

    def each(loop: VirtualLoop, plan: Plan) -> None:
        all_routed(loop, plan)
        rollout = loop.store.load()[1].rollouts.get("api")
        if rollout is not None and rollout.ready and (rollout.wave, rollout.shares[-1][1]) not in shares:
            shares.append((rollout.wave, rollout.shares[-1][1]))

    loop.each = each
    loop.run(days=35 * MINUTE)
    assert ends(loop) == ["promoted"]
    assert shares == [(1, 0.3333), (2, 0.6667), (3, 1.0)]
    waves = records(loop, "stage")
    assert [(one["wave"], one["waves"]) for one in waves] == [(1, 3), (2, 3), (3, 3)]
    assert all(one["length"] == 600 and one["elapsed"] >= 600 for one in waves)
    assert loop.story()["answering"] == ["api-2-0", "api-2-1", "api-2-2", "gateway-0"]


def test_a_version_that_fails_in_its_second_wave_is_rolled_back() -> None:
    """Errors that begin late are found in the wave in which they are; all requests go back to the old version."""
    loop = begun(service({"waves": "1 replica", "within": "60m"}, replicas=3), beliefs=busy())
    loop.run(days=25 * MINUTE)
    assert under_way(loop).wave == 2
    loop.world.beliefs = busy(two=Conduct(error_rate=0.05))
    loop.run(days=10 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert loop.story()["routes"]["api"] == [("1", 10_000)]
    assert loop.story()["answering"] == ["api-1-0", "api-1-1", "api-1-2", "gateway-0"]


def test_all_may_be_watched_too() -> None:
    """`all: 100%` with `for` keeps the old version until its time is over."""
    loop = begun(service({"all": "100%", "for": "20m"}), beliefs=busy())
    loop.run(days=10 * MINUTE)
    assert under_way(loop).stages[0].kind == "all"
    assert loop.story()["routes"]["api"][-1] == ("2", 10_000)
    assert "api-1-0" in loop.story()["answering"]
    loop.run(days=15 * MINUTE)
    assert ends(loop) == ["promoted"]


@pytest.mark.parametrize(("score", "end"), [(0.9, "promoted"), (0.6, "aborted")])
def test_an_ab_test_ends_when_one_version_has_won(score: float, end: str) -> None:
    """Users' feedback decides, before the time is over: the better version stays."""
    stack = service({"ab": "50%", "for": "12h", "metric": "liked"}, ALL)
    beliefs = Beliefs(requests_per_day=BUSY, feedback=0.5, score=0.75, conduct={"2": Conduct(score=score)})
    loop = begun(stack, beliefs=beliefs).run(days=60 * MINUTE)
    assert ends(loop) == [end]
    last = records(loop, "stage", "aborted")[-1]
    assert last["elapsed"] < 3600
    check = next(one for one in last["checks"] if one["name"] == "ab")
    assert check["numbers"]["low"] * check["numbers"]["high"] > 0


def test_a_paused_rollout_never_goes_on_but_is_still_given_up() -> None:
    """Pausing is no protection from evidence."""
    loop = begun(service(CANARY, ALL), beliefs=busy()).run(days=10 * MINUTE)
    loop.ask("pause", "api")
    loop.run(days=60 * MINUTE)
    assert under_way(loop).stage == 0
    assert any("still given up" in w.why for w in loop.store.waiting())
    loop.world.beliefs = busy(two=Conduct(error_rate=0.05))
    loop.run(days=20 * MINUTE)
    assert ends(loop) == ["aborted"]


def test_a_person_may_go_on_to_the_next_stage() -> None:
    """`promote --stage` ends the stage, with who did it and why; the next one is judged as ever."""
    loop = begun(service(CANARY, {"canary": "30%", "for": "2h"}, ALL), beliefs=busy()).run(days=5 * MINUTE)
    loop.ask("promote", "api", stage=True, why="known to be good")
    loop.run(days=3 * MINUTE)
    assert under_way(loop).stage == 1
    assert "ended by tester: known to be good" in told(loop, "StageJudged")[0]
    assert loop.story()["routes"]["api"][-1] == ("2", 3000)


def test_how_it_gets_on_is_recorded_now_and_then() -> None:
    """At most 48 records in the time of a stage, and one for each change of a check's state."""
    loop = begun(service(CANARY, ALL), beliefs=busy()).run(days=19 * MINUTE)
    looks = records(loop, "look")
    states = [[check["state"] for check in one["checks"]] for one in looks]
    changes = sum(a != b for a, b in itertools.pairwise(states))
    assert 10 <= len(looks) <= 49 + changes
    assert looks[-1]["share"] == 0.1
    assert looks[-1]["replicas"] == {"candidate": [1, 1], "control": [1, 1], "fresh": [1, 1]}
    assert looks[-1]["per_second"] == pytest.approx(BUSY / 86400 * 0.1, rel=0.2)


def test_evidence_is_of_one_region_and_then_of_all() -> None:
    """A canary in one region, then waves: two scopes, and the first's requests still count."""
    stages = ({"canary": "20%", "in": "us", "for": "20m"}, {"waves": "1 replica per region", "for": "10m"})
    stack = service(*stages, regions=["us", "eu"], replicas="2 per region")
    loop = begun(stack, beliefs=busy()).run(days=18 * MINUTE)
    before = records(loop, "look")[-1]
    assert before["requests"] == pytest.approx(18 * MINUTE * BUSY / 2 * 0.2, rel=0.2)
    loop.run(days=5 * MINUTE)
    rollout = under_way(loop)
    assert [scope.region for scope in rollout.scopes] == ["us", ""]
    assert records(loop, "look")[-1]["requests"] > before["requests"]
    loop.run(days=30 * MINUTE)
    assert ends(loop) == ["promoted"]


def test_times_of_cold_replicas_do_not_count() -> None:
    """The first 30 s of a stage, or a tenth of a short one, are left out; so are those after a replica has died."""
    loop = begun(service(CANARY, ALL), beliefs=busy()).run(days=3 * MINUTE)
    (warm,) = under_way(loop).skip
    assert warm[1] - warm[0] == 30.0
    loop.world.crash("api-1-0")
    loop.run(days=3 * MINUTE)
    assert len(under_way(loop).skip) == 2
    short = begun(service({"canary": "10%", "for": "100s"}, ALL), beliefs=busy()).run(days=20 / 86400)
    (warm,) = under_way(short).skip
    assert warm[1] - warm[0] == 10.0


def test_the_share_is_noted_as_the_workers_take_it_up() -> None:
    """From the writing of other routes until all workers go by them the share is not known, which is 0."""
    loop = begun(service(CANARY, {"canary": "30%", "for": "2h"}, ALL), beliefs=busy()).run(days=25 * MINUTE)
    shares = under_way(loop).shares
    assert [share for _, share in shares] == [0.1, 0.0, 0.3]
    assert 0 < shares[2][0] - shares[1][0] < 10


def test_what_is_copied_is_noted() -> None:
    """From the stage's beginning to its end, which share of which region, so that copies meet their own requests."""
    stages = ({"mirror": "50%", "in": "us", "for": "10m"}, {"mirror": "100%", "for": "10m"}, CANARY, ALL)
    stack = service(*stages, regions=["us", "eu"], replicas="2 per region")
    loop = begun(stack, beliefs=busy()).run(days=15 * MINUTE)
    mirrors = under_way(loop).mirrors
    assert [one[1:] for one in mirrors] == [(0.5, "us"), (0.0, ""), (1.0, "")]
    assert mirrors[0][0] == under_way(loop).mirror_since
    query = next(one for one in rollout_queries(under_way(loop), loop.world.wall) if isinstance(one, ArmsQuery))
    found = TwinSource(loop.world).samples([query])[query]
    assert isinstance(found, Arms)
    weights = {one.weight for one in found.mirrored_slices}
    assert weights == {1 / 3, 1 / 2}
    for weight, copied, live in ((1 / 3, 0.25, 0.5), (1 / 2, 1.0, 1.0)):
        mine = [one for one in found.mirrored_slices if one.weight == weight]
        second = sum(one.candidate.requests for one in mine) / len(mine)
        assert second == pytest.approx(BUSY / 86400 * copied, rel=0.05)
        assert sum(one.control.requests for one in mine) / len(mine) == pytest.approx(BUSY / 86400 * live, rel=0.05)
    loop.run(days=10 * MINUTE)
    assert [one[1] for one in under_way(loop).mirrors] == [0.5, 0.0, 1.0, 0.0]


def test_a_version_that_does_not_stay_up_is_given_up_in_its_wave() -> None:
    """Between waves a candidate is watched too."""
    loop = begun(service({"waves": "1 replica", "within": "4h"}, replicas=2), beliefs=busy()).run(days=5 * MINUTE)

    def kill(loop: VirtualLoop, _: Plan) -> None:
        loop.world.crash("api-2-0")

    loop.each = kill
    loop.run(days=5 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert "does not stay up" in records(loop, "aborted")[0]["message"]


def test_a_rollout_ends_where_there_is_no_room_beside_the_old_replicas() -> None:
    """On a full pool the canary is left out, with an event that says why; replicas are exchanged in place."""
    stack = service(CANARY, {"waves": "1 replica", "within": "20m"}, replicas=1, threads=2, here={"cores": 2})
    loop = begun(stack, beliefs=busy()).run(days=60 * MINUTE)
    assert ends(loop) == ["promoted"]
    assert "canary is left out" in told(loop, "StageSkipped")[0]
    assert loop.story()["answering"] == ["api-2-0", "gateway-0"]


def test_a_paused_stage_is_not_given_up_for_its_time() -> None:
    """`otherwise: abort` is about a stage that could go on: one that a person holds may take longer."""
    stack = service({**CANARY, "otherwise": "abort"}, ALL, objective={"availability": "99.9%"})
    loop = begun(stack, beliefs=busy()).run(days=5 * MINUTE)
    loop.ask("pause", "api")
    loop.run(days=30 * MINUTE)
    assert under_way(loop).paused
    loop.ask("resume", "api")
    loop.run(days=2 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert [one["kind"] for one in records(loop, "paused", "resumed")] == ["paused", "resumed"]


def test_a_candidate_that_cannot_be_started_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is refused again and again ends a rollout; it takes more of them than deaths, but not for ever."""
    loop = begun(service(CANARY, ALL), beliefs=busy())
    begin = TwinWorld.begin

    def refusing(world: TwinWorld, step: Step) -> Accepted | Refused:
        if isinstance(step.action, StartReplica) and step.action.version == "2":
            return Refused("its artefact is gone")
        return begin(world, step)

    monkeypatch.setattr(TwinWorld, "begin", refusing)
    loop.run(days=60 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert "cannot be started" in records(loop, "aborted")[0]["message"]
    assert loop.story()["routes"]["api"] == [("1", 10_000)]
