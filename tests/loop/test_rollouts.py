"""Rollouts and commands, as sentences."""

from __future__ import annotations

from mainspring.loop.plan import Plan
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import DAY, Beliefs
from tests.loop.stacks import MARCH, flights


def kinds(loop: VirtualLoop) -> list[str]:
    """What became of rollouts, oldest first, but for how they got on."""
    found = [r.value["kind"] for r in sorted(loop.store.records("rollout"), key=lambda r: r.at)]
    return [kind for kind in found if kind != "look"]


def rolling() -> VirtualLoop:
    """A loop that stands in the mirror stage of version 2, three weeks in."""
    loop = VirtualLoop(flights(), MARCH).run(days=22)
    assert "delay" in loop.store.load()[1].rollouts
    return loop


def test_a_version_that_errs_is_given_up_and_refused() -> None:
    """A candidate whose answers fail is given up; the registry says so and the champion keeps all traffic."""
    loop = rolling()
    loop.world.beliefs = Beliefs(error_rate=0.4)
    loop.run(days=2)
    assert kinds(loop)[-1] == "aborted"
    story = loop.story()
    assert story["routes"]["delay"] == [("1", 10_000)]
    assert [v[3] for v in story["versions"]] == ["passed", "refused"]
    assert "challenger" not in story["aliases"]["delay"]


def test_a_slow_version_is_given_up() -> None:
    """More than 5 in 100 answers over the bound end a rollout."""
    loop = rolling()
    loop.world.beliefs = Beliefs(latency=0.5)
    loop.run(days=2)
    assert kinds(loop)[-1] == "aborted"


def test_no_data_means_hold() -> None:
    """Without requests the stage holds for as long as it takes."""
    loop = rolling()
    loop.world.beliefs = Beliefs(requests_per_day=0)
    loop.run(days=10)
    assert loop.store.load()[1].rollouts["delay"].stage == 0


def test_pause_holds_and_resume_goes_on() -> None:
    """A paused rollout stays where it is, whatever time passes; resumed, it ends."""
    loop = rolling()
    loop.ask("pause", "delay")
    loop.run(days=10)
    assert loop.store.load()[1].rollouts["delay"].paused
    loop.ask("resume", "delay")
    loop.run(days=6)
    assert "promoted" in kinds(loop)


def test_abort_undo_and_promote_by_command() -> None:
    """A person may promote at once, go back to the last good version, and give a rollout up."""
    loop = rolling()
    loop.ask("promote", "delay")
    loop.run()
    assert loop.story()["aliases"]["delay"] == {"champion": "2", "previous": "1"}
    loop.ask("undo", "delay")
    held: list[bool] = []

    def answering(_: VirtualLoop, plan: Plan) -> None:
        table = loop.world.routes
        assert table is not None
        held.append(any(r.replicas and r.weight for r in table.endpoints["delay"].revisions))

    loop.each = answering
    loop.run()
    assert all(held), "the endpoint was without a replica while it was rolled back"
    assert loop.story()["aliases"]["delay"] == {"champion": "1"}
    assert loop.story()["routes"]["delay"] == [("1", 10_000)]
    assert loop.story()["answering"] == ["delay-1-0", "gateway-0"]


def test_unknown_targets_are_answered() -> None:
    """Nobody who asks is left without an answer."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    for verb, target in [
        ("abort", "delay"),
        ("promote", "nothing"),
        ("run", "nothing"),
        ("approve", "x"),
        ("undo", "delay"),
    ]:
        loop.ask(verb, target)
    asked = [r.id for r in loop.store.requests()]
    assert len(asked) == 5
    loop.run()
    assert not loop.store.requests()
    answers = [loop.store.answers(i) for i in asked]
    assert all(a is not None and not a.accepted for a in answers)


def test_a_champion_edited_by_hand_is_put_back() -> None:
    """`champion` is an output: a foreign edit is undone, with an event."""
    loop = VirtualLoop(flights(), MARCH).run(days=27)
    assert loop.story()["aliases"]["delay"]["champion"] == "2"
    loop.world.add_version("delay", "9", "foreign", (MARCH - 50 * DAY, MARCH))
    loop.world.aliases["delay"]["champion"] = "9"
    loop.run()
    assert loop.story()["aliases"]["delay"]["champion"] == "2"
    assert any(e.event.reason == "AliasPutBack" for e in loop.store.events())


def test_a_challenger_named_by_hand_goes_through_the_gates_first() -> None:
    """A version named `challenger` in any MLflow client is judged, then rolled out."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    loop.world.add_version("delay", "5", "theirs", (MARCH - 300 * DAY, MARCH))
    loop.world.aliases["delay"]["challenger"] = "5"
    loop.run()
    version = next(v for v in loop.world.versions if v.number == "5")
    assert version.verdict in ("passed", "refused")
    assert any(r.value.get("version") == "5" for r in loop.store.records("gate"))
    loop.run(days=5)
    if version.verdict == "passed":
        assert loop.story()["aliases"]["delay"]["champion"] == "5"


def test_a_candidate_that_does_not_stay_up_is_given_up() -> None:
    """A version whose replica dies again and again never takes traffic, and its rollout ends."""

    def kill(loop: VirtualLoop, plan: Plan) -> None:
        loop.world.crash("delay-2-0")

    loop = VirtualLoop(flights(restarts="3 per 10m"), MARCH).run(days=20.9)
    loop.each = kill
    loop.run(days=1.5)
    assert kinds(loop)[-1] == "aborted"
    assert loop.story()["routes"]["delay"] == [("1", 10_000)]


def test_a_refused_candidate_stays_in_the_registry_with_its_reason() -> None:
    """A gate that is not met refuses; the version stays, the champion too."""
    loop = VirtualLoop(flights(), MARCH).run(days=20)
    strict = flights(auc=0.99)
    loop.stack = strict
    loop.run(days=3)
    refused = [v for v in loop.world.versions if v.verdict == "refused"]
    assert refused
    assert "AUC" in refused[0].note
    assert loop.story()["aliases"]["delay"]["champion"] == "1"


def test_a_failed_first_run_waits_for_a_person() -> None:
    """A first run that fails is not repeated for ever; `mainspring run` starts another."""
    loop = VirtualLoop(flights(), MARCH)
    loop.world.failing["delay"] = "ValueError: no data"
    loop.run(days=3)
    assert [r.key for r in loop.store.records("run")] == ["delay-1"]
    assert any("mainspring run delay" in w.why for w in loop.store.waiting())
    loop.world.failing.clear()
    loop.ask("run", "delay")
    loop.run()
    assert loop.story()["answering"] == ["delay-1-0", "gateway-0"]


def test_registry_away_is_not_no_versions() -> None:
    """While the registry does not answer nothing is started anew and nothing is stopped."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    before = loop.story()["answering"]
    loop.world.registry_up = False
    loop.run(days=1)
    assert loop.story()["answering"] == before
    assert len(loop.store.records("run")) == 1
