"""How far the loop may go alone: `watch`, `suggest`, `act`, and `down`."""

from __future__ import annotations

from mainspring.loop.draft import Snapshot
from mainspring.loop.memory import Memory, from_json, to_json
from mainspring.loop.snapshot import Desired, Now, Observed
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.foresee import foresee
from tests.loop.stacks import MARCH, flights


def test_watch_begins_nothing_and_says_what_it_would_do() -> None:
    """`control: watch` leaves the world alone."""
    loop = VirtualLoop(flights(control="watch"), MARCH).run(days=20)
    assert not loop.world.processes
    assert not loop.world.runs
    assert any("StartRun" in w.why for w in loop.store.waiting())


def test_suggest_waits_for_approval_of_changes_but_keeps_things_up() -> None:
    """`control: suggest` starts no run unasked; approved, it does; a crash is mended without asking."""
    loop = VirtualLoop(flights(control="suggest"), MARCH).run(days=1)
    assert not loop.world.runs
    step = next(w.what.removeprefix("approval/") for w in loop.store.waiting() if "StartRun" in w.why)
    loop.ask("approve", step)
    loop.run()
    assert [v.number for v in loop.world.versions] == ["1"]
    loop.world.crash("delay-1-0")
    loop.run()
    assert "delay-1-0" in loop.story()["answering"]


def test_down_leaves_no_process_and_up_again_is_the_same() -> None:
    """`down` stops everything, gateway before replicas; `up` brings the same versions back."""
    loop = VirtualLoop(flights(), MARCH).run(days=40)
    story = loop.story()
    loop.down = True
    loop.run()
    assert loop.story()["answering"] == []
    loop.down = False
    loop.run()
    assert loop.story() == story


def test_plan_is_the_twin_forked_from_the_live_snapshot() -> None:
    """`foresee` begins nothing in the world it forked from, and ends with everything up."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    loop.world.crash("delay-1-0")
    before = loop.story()
    snapshot = Snapshot(
        Now(loop.world.wall, loop.world.mono, 0.0),
        Desired(flights(), "r1"),
        loop.world.observe(),
        {},
        loop.store.load()[1],
    )
    path = foresee(snapshot)
    assert path.quiet
    assert next(type(step.action).__name__ for _, step in path.steps) == "StartReplica"
    assert loop.story() == before
    assert {p.name for p in path.observed.processes if p.state == "ready"} >= {"delay-1-0", "gateway-0"}


def test_foresee_from_nothing_shows_the_first_version() -> None:
    """`plan` in an empty folder shows the run, the gateway and the replica that `up` would start."""
    path = foresee(Snapshot(Now(MARCH, 0.0, 0.0), Desired(flights(), "r1"), Observed(), {}, Memory()))
    names = [type(step.action).__name__ for _, step in path.steps]
    assert names[0] == "StartRun"
    assert {"StartGateway", "StartReplica", "RegisterVersion", "RecordVerdict"} <= set(names)


def test_memory_survives_being_written() -> None:
    """What is remembered is the same after a round through JSON."""
    memory = VirtualLoop(flights(), MARCH).run(days=22).store.load()[1]
    assert memory.rollouts
    assert from_json(to_json(memory)) == memory


def test_a_newer_memory_means_hold() -> None:
    """What a newer Mainspring remembered is left alone."""
    loop = VirtualLoop(flights(), MARCH)
    path = foresee(Snapshot(Now(MARCH, 0.0, 0.0), Desired(loop.stack, "r1"), Observed(), {}, Memory(schema=99)))
    assert not path.steps


def test_changed_settings_reach_what_runs_and_nothing_else_is_touched() -> None:
    """A changed batch is rolled out behind the old replicas, without counting as a failure; then all is quiet."""
    loop = VirtualLoop(flights(), MARCH).run(days=1)
    endpoint = loop.stack.serving["delay"]
    other = endpoint.model_copy(update={"batch": endpoint.batch.model_copy(update={"size": 8})})
    loop.stack = loop.stack.model_copy(update={"serving": {"delay": other}})
    loop.run(days=6)
    running = {p.name: p.generation for p in loop.world.observe().processes if p.kind != "run" and p.state == "ready"}
    assert running == {"delay-1.2-0": 1, "gateway-0": 1}
    assert loop.store.load()[1].processes["delay-1.2-0"].failures == 0
    assert not any(e.event.reason == "Died" for e in loop.store.events())


def test_a_lost_memory_never_takes_an_old_run_for_a_new_one() -> None:
    """After the store was lost, a run that is asked for gets a number above all that the world still shows."""
    loop = VirtualLoop(flights(), MARCH).run(days=27)
    made = {v.run for v in loop.world.versions}
    loop.store = type(loop.store)()
    loop.run()
    loop.ask("run", "delay")
    loop.run()
    assert {v.run for v in loop.world.versions} - made == {f"delay-{len(made) + 1}"}
