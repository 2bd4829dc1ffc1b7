"""What begins a rollout, what queues, and what a newer one does to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mainspring.loop.memory import from_json, to_json
from mainspring.stack.model import Stack
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import Beliefs, Conduct
from tests.loop.stacks import ends, passed, records, service, standing, told, under_way

MINUTE = 1 / 1440
CANARY = {"canary": "10%", "for": "10m"}
ALL = {"all": "100%"}
BUSY = Beliefs(requests_per_day=500_000)


def threads(number: int, **changes: Any) -> Stack:
    """The service with so many threads for each replica."""
    return service(CANARY, ALL, threads=number, **changes)


def test_what_is_told_beforehand() -> None:
    """The event says what the first stage can find out at the traffic that the file has, and so does the record."""
    stack = service(CANARY, ALL, objective={"availability": "99.9%"}, traffic={"requests": "500k/day"})
    loop = passed(standing(stack, beliefs=BUSY), "2").run()
    (message,) = told(loop, "RolloutBegan")
    assert "version 2 of `scorer` is rolled out against version 1" in message
    assert "requests: it detects" in message
    (record,) = records(loop, "began")
    assert record["soak"]
    assert record["soak"][0] in message
    assert [stage["kind"] for stage in record["walk"]] == ["canary", "all"]


def test_unknown_traffic_is_said_to_be_unknown() -> None:
    """Without a rate nobody can say how long it takes, and nothing is made up."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run()
    assert "nothing is known of the traffic" in told(loop, "RolloutBegan")[0]


def test_a_later_edit_is_for_the_next_rollout() -> None:
    """Stages, bounds and promises are those of the file when the rollout began, also through a restart."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run(days=4 * MINUTE)
    before = under_way(loop)
    loop.stack = service({"canary": "50%", "for": "1m"}, ALL, abort={"errors": "90%"})
    loop.run(days=4 * MINUTE)
    after = under_way(loop)
    assert (after.stages, after.terms) == (before.stages, before.terms)
    memory = loop.store.load()[1]
    assert from_json(to_json(memory)) == memory


def test_a_newer_version_takes_the_place_of_the_one_under_way() -> None:
    """The newer challenger is rolled out; the older one is not refused."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run(days=4 * MINUTE)
    passed(loop, "3").run(days=4 * MINUTE)
    assert ends(loop) == ["superseded"]
    assert under_way(loop).candidate == "3"
    assert [v.verdict for v in loop.world.versions] == ["passed"] * 3
    loop.run(days=12 * MINUTE)
    assert loop.world.aliases["scorer"] == {"champion": "3", "previous": "1"}
    assert ends(loop) == ["superseded", "promoted"]


def test_a_version_that_a_pipeline_makes_meanwhile_is_named_by_the_loop() -> None:
    """Nobody has to name it: it has passed later than the one under way."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run(days=4 * MINUTE)
    passed(loop, "3", challenger=False).run(days=2 * MINUTE)
    assert under_way(loop).candidate == "3"
    assert loop.world.aliases["scorer"]["challenger"] == "3"


def test_an_older_version_named_by_hand_is_not_overtaken_by_what_was_there() -> None:
    """Who names version 2 while 3 is rolled out gets 2; 3, which was there before, does not take it back."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2", challenger=False)
    passed(loop, "3").run(days=4 * MINUTE)
    loop.world.aliases["scorer"]["challenger"] = "2"
    loop.run(days=4 * MINUTE)
    assert under_way(loop).candidate == "2"
    loop.run(days=4 * MINUTE)
    assert ends(loop) == ["superseded"]


def test_an_overtaken_version_may_be_tried_again() -> None:
    """When the newer one is given up, the older one has its turn."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run(days=4 * MINUTE)
    passed(loop, "3").run(days=4 * MINUTE)
    loop.ask("abort", "api")
    loop.run(days=1 * MINUTE)
    assert under_way(loop).candidate == "2"
    assert ends(loop) == ["superseded", "aborted"]


def test_a_refused_version_cannot_overtake() -> None:
    """A challenger that was refused is taken back, and it is told why; the rollout goes on."""
    loop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run(days=4 * MINUTE)
    passed(loop, "3")
    loop.world.versions[-1] = replace(loop.world.versions[-1], verdict="refused", note="too slow")
    loop.run(days=2 * MINUTE)
    assert under_way(loop).candidate == "2"
    assert loop.world.aliases["scorer"]["challenger"] == "2"
    assert "too slow" in told(loop, "ChallengerRefused")[0]


def test_changed_settings_are_rolled_out_as_a_version_is() -> None:
    """The same version with new settings is the candidate, and in the end what answers."""
    loop = standing(threads(1), beliefs=BUSY)
    loop.stack = threads(2)
    loop.run(days=4 * MINUTE)
    rollout = under_way(loop)
    assert (rollout.candidate, rollout.control, rollout.generation) == ("1.2", "1", 2)
    assert "threads 1 -> 2" in told(loop, "RolloutBegan")[0]
    assert {name for name in loop.story()["answering"] if "api" in name} >= {"api-1-0", "api-1.2-0"}
    loop.run(days=12 * MINUTE)
    assert ends(loop) == ["promoted"]
    assert records(loop, "promoted")[0]["change"] == "settings"
    assert loop.story()["answering"] == ["api-1.2-0", "gateway-0"]
    assert loop.world.aliases["scorer"] == {"champion": "1"}


def test_bad_settings_are_given_up_and_not_tried_again() -> None:
    """The old settings go on; the file's are tried again only when it says others."""
    loop = standing(threads(1), beliefs=replace(BUSY, conduct={"1.2": Conduct(error_rate=0.05)}))
    loop.stack = threads(2)
    loop.run(days=12 * MINUTE)
    assert ends(loop) == ["aborted"]
    assert loop.story()["answering"] == ["api-1-0", "gateway-0"]
    assert [v.verdict for v in loop.world.versions] == ["passed"]
    assert any(c.type == "Settings" and c.status == "false" for c in loop.store.conditions())
    loop.stack = threads(4)
    loop.run(days=4 * MINUTE)
    assert under_way(loop).candidate == "1.3"


def test_settings_that_change_again_begin_anew() -> None:
    """The file's newest settings are rolled out; back to the live ones ends it, and nobody was refused."""
    loop = standing(threads(1), beliefs=BUSY)
    loop.stack = threads(2)
    loop.run(days=4 * MINUTE)
    loop.stack = threads(4)
    loop.run(days=4 * MINUTE)
    assert under_way(loop).candidate == "1.3"
    loop.stack = threads(1)
    loop.run(days=4 * MINUTE)
    assert ends(loop) == ["superseded", "superseded"]
    assert loop.story()["answering"] == ["api-1-0", "gateway-0"]
    loop.stack = threads(2)
    loop.run(days=4 * MINUTE)
    assert under_way(loop).candidate == "1.4"


def test_a_version_and_settings_queue() -> None:
    """Settings that change while a version is rolled out wait for it, and then the new version gets them."""
    loop = passed(standing(threads(1), beliefs=BUSY), "2").run(days=4 * MINUTE)
    loop.stack = threads(2)
    loop.run(days=4 * MINUTE)
    assert under_way(loop).candidate == "2"
    loop.run(days=7 * MINUTE)
    assert under_way(loop).candidate == "2.2"
    passed(loop, "3").run(days=1 * MINUTE)
    assert under_way(loop).candidate == "2.2"
    loop.run(days=30 * MINUTE)
    assert ends(loop) == ["promoted"] * 3
    assert loop.story()["answering"] == ["api-3.2-0", "gateway-0"]


def test_what_waits_behind_a_rollout_is_said() -> None:
    """A version waits for the settings of another endpoint of its model, in a sentence."""
    stack = threads(1)
    other = stack.serving["api"].model_copy(update={"threads": 2})
    two = stack.model_copy(update={"serving": {**stack.serving, "other": stack.serving["api"]}})
    loop = standing(two, beliefs=BUSY)
    loop.stack = two.model_copy(update={"serving": {**two.serving, "other": other}})
    loop.run(days=2 * MINUTE)
    passed(loop, "2").run(days=2 * MINUTE)
    why = next(w.why for w in loop.store.waiting() if w.what == "endpoint/api")
    assert why == "version 2 waits for the rollout of version 1 with settings 2 behind `other`"
    loop.run(days=40 * MINUTE)
    assert ends(loop) == ["promoted"] * 3
    assert {"api-2-0", "other-2.2-0"} < set(loop.story()["answering"])


def test_suggest_asks_before_settings_are_rolled_out() -> None:
    """With `control: suggest` changed settings are a proposal, which `approve` begins."""
    loop = standing(threads(1), beliefs=BUSY)
    loop.stack = threads(2, control="suggest")
    loop.run(days=4 * MINUTE)
    assert not loop.store.load()[1].rollouts
    (step,) = [w.what.removeprefix("approval/") for w in loop.store.waiting() if "are rolled out" in w.why]
    loop.ask("approve", step)
    asked = loop.store.requests()[0].id
    loop.run(days=1 * MINUTE)
    assert under_way(loop).candidate == "1.2"
    answer = loop.store.answers(asked)
    assert answer is not None
    assert answer.accepted


def test_watch_begins_nothing() -> None:
    """With `control: watch` changed settings stay in the file."""
    loop = standing(threads(1), beliefs=BUSY)
    loop.stack = threads(2, control="watch")
    loop.run(days=4 * MINUTE)
    assert not loop.store.load()[1].rollouts
    assert loop.story()["answering"] == ["api-1-0", "gateway-0"]


def test_an_abort_of_settings_by_a_person() -> None:
    """Abort, with a reason, ends a rollout of settings; undo of one under way does the same."""
    for verb in ("abort", "undo"):
        loop = standing(threads(1), beliefs=BUSY)
        loop.stack = threads(2)
        loop.run(days=4 * MINUTE)
        loop.ask(verb, "api", why="no need")
        loop.run(days=4 * MINUTE)
        assert ends(loop) == ["aborted"]
        assert "by tester: no need" in records(loop, "aborted")[0]["message"]
        assert loop.story()["answering"] == ["api-1-0", "gateway-0"]


def test_promote_of_settings_by_a_person() -> None:
    """`promote` takes new settings at once."""
    loop = standing(threads(1), beliefs=BUSY)
    loop.stack = threads(2)
    loop.run(days=4 * MINUTE)
    loop.ask("promote", "api")
    loop.run()
    assert ends(loop) == ["promoted"]
    assert loop.story()["answering"] == ["api-1.2-0", "gateway-0"]


def test_a_memory_of_an_older_mainspring_in_mid_rollout() -> None:
    """What is not in it has its default, and the rollout ends as it would have."""
    loop: VirtualLoop = passed(standing(service(CANARY, ALL), beliefs=BUSY), "2").run(days=4 * MINUTE)
    memory = loop.store.load()[1]
    kept = under_way(loop)
    old = replace(
        kept, terms=None, live_since=None, shares=(), skip=(), scopes=(), fresh=0, noted=None, states=(),
        stages=tuple(replace(stage, otherwise="proceed") for stage in kept.stages),
    )  # fmt: skip
    loop.store._book.memory = replace(memory, rollouts={"api": old}, endpoints={})
    loop.run(days=4 * MINUTE)
    assert under_way(loop).terms is not None
    loop.run(days=10 * MINUTE)
    assert ends(loop) == ["promoted"]
