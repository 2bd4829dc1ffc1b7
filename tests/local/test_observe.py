"""The local world's own looking: registry, runs, routes, a full disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.loop.plan import RegisterVersion, SetAlias, SetRoutes, StartGateway
from mainspring.loop.ports import Accepted, Refused
from mainspring.testing import faults
from mainspring.testing.builders import a_replica, a_run, a_step, some_routes
from mainspring.worlds.local.folder import LocalFolder

from .parts import Here, here


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Here]:
    """A fresh world."""
    with here(tmp_path) as found:
        yield found


def ran(world: Here, pipeline: str) -> None:
    """A run that ended."""
    world.world.begin(a_step(a_run(pipeline)))
    faults.wait_until(lambda: all(run.state != "running" for run in world.world.observe().runs), "its end")


def test_a_silent_registry_shows_the_last_seen(world: Here) -> None:
    """With the registry down, versions stay as they were, `registry` is false, and telling it is refused."""
    ran(world, "delay")
    world.world.begin(a_step(RegisterVersion("delay", "delay-1")))
    assert len(world.world.observe().versions) == 1
    world.registry.down = True
    found = world.world.observe()
    assert (len(found.versions), found.registry) == (1, False)
    outcome = world.world.begin(a_step(SetAlias("delay", "champion", "1")))
    assert outcome == Refused("no answer")
    world.registry.down = False
    assert world.world.observe().registry


def test_the_registry_is_asked_only_when_it_changed(world: Here) -> None:
    """Ten looks are one question."""
    for _ in range(10):
        world.world.observe()
    assert world.registry.asked == 1


def test_a_run_is_read_only_when_its_files_changed(world: Here) -> None:
    """Ten looks at a finished run are one reading."""
    ran(world, "delay")
    world.world.observe()
    reads = world.runs.reads
    for _ in range(10):
        assert world.world.observe().runs[0].state == "succeeded"
    assert world.runs.reads == reads


def test_a_run_that_vanishes_is_lost(world: Here) -> None:
    """A run process that ends without a result is lost, retryable, and says its last line."""
    ran(world, "vanishing")
    found = world.world.observe().runs[0]
    assert (found.state, found.retryable, found.error) == ("lost", True, "MemoryError: gone")


def test_a_run_is_prepared_once(world: Here) -> None:
    """The same step again does not touch the folder; the next attempt renews it."""
    for _ in range(3):
        assert world.world.begin(a_step(a_run("vanishing"))) == Accepted()
    ran(world, "vanishing")
    assert world.runs.prepared == 1
    assert world.world.begin(a_step(a_run("vanishing", attempt=2))) == Accepted()
    assert world.runs.prepared == 2
    assert world.world.observe().runs[0].attempt == 2


def test_a_second_attempt_waits_for_the_first(world: Here) -> None:
    """While attempt 1 runs, attempt 2 is refused."""
    world.world.begin(a_step(a_run("delay")))
    outcome = world.world.begin(a_step(a_run("delay", attempt=2)))
    assert isinstance(outcome, Refused)


def test_a_damaged_run_is_shown(world: Here) -> None:
    """A run whose folder cannot be read is lost with a reason, and hides no other."""
    ran(world, "delay")
    for name, text in (("bad-1", "{"), ("bad-2", "[1]")):
        folder = world.state / "runs" / name
        folder.mkdir()
        (folder / "spec.json").write_text(text)
    runs = {run.id: run for run in world.world.observe().runs}
    assert {name: run.state for name, run in runs.items()} == {"bad-1": "lost", "bad-2": "lost", "delay-1": "succeeded"}


def test_the_oldest_ended_processes_are_removed(world: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many that ended, the newest are kept; a live one is never touched."""
    monkeypatch.setattr("mainspring.worlds.local.world.KEEP_ENDED", 5)
    world.world.begin(a_step(a_replica(str(world.artefact))))
    for number in range(10, 18):
        folder = world.state / "processes" / f"run-delay-{number}"
        folder.mkdir()
        ended = {"generation": 1, "token": "t", "kind": "run", "status": 0, "reason": "", "since": 1e9 + number}
        for file in ("spec.json", "exit.json"):
            (folder / file).write_text(json.dumps(ended))
    left = [seen.name for seen in world.world.observe().processes]
    assert left == ["delay-1-0", *(f"run-delay-{number}" for number in range(13, 18))]


def test_a_forgotten_run_is_not_seen(world: Here) -> None:
    """A run that is marked as forgotten is left out."""
    ran(world, "delay")
    (world.state / "runs" / "delay-1" / "forgotten").touch()
    assert world.world.observe().runs == ()


@pytest.mark.parametrize("junk", [b"", b"{", b'{"epoch": "x"}', b"\x00" * 100])
def test_damaged_routes_are_no_routes(world: Here, junk: bytes) -> None:
    """They are unknown, and are written anew."""
    (world.state / "routes.json").write_bytes(junk)
    assert world.world.observe().routes is None
    assert world.world.begin(a_step(SetRoutes(some_routes(3)))) == Accepted()
    assert world.world.observe().routes == some_routes(3)


def test_other_routes_under_the_same_epoch_are_refused(world: Here) -> None:
    """An acknowledged epoch means one table."""
    world.world.begin(a_step(SetRoutes(some_routes(3))))
    assert isinstance(world.world.begin(a_step(SetRoutes(some_routes(3, "127.0.0.1:1")))), Refused)


def test_an_ack_of_an_earlier_worker_does_not_count(world: Here) -> None:
    """An ack counts only with the process id of the worker that is alive."""
    world.world.begin(a_step(StartGateway("gateway-0", 1, 0)))
    (world.state / "acks" / "gateway-0.json").write_text(json.dumps({"epoch": 9, "pid": 1, "boot": "x"}))
    (world.state / "acks" / "gateway-7.json").write_text(json.dumps({"epoch": 9, "pid": 1, "boot": "x"}))
    assert world.world.observe().acked == {}


def test_a_missing_artefact_is_refused(world: Here) -> None:
    """The refusal names it."""
    outcome = world.world.begin(a_step(a_replica("/nonesuch")))
    assert outcome == Refused("the artefact `/nonesuch` is not there")


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    """Nothing can be begun, nothing raises, what was there is still there; with space again it goes on."""
    try:
        with faults.tiny_disk(tmp_path / "disk", "1m") as disk, here(disk) as world:
            world.world.begin(a_step(SetRoutes(some_routes(1))))
            world.world.begin(a_step(a_replica(str(world.artefact), name="delay-0-0")))
            faults.wait_until(lambda: world.world.observe().processes[0].state == "ready", "ready")
            filler = faults.fill(disk)
            assert (world.world.observe().free_disk or 0) < 4096
            for action in (SetRoutes(some_routes(2)), a_replica(str(world.artefact)), a_run()):
                outcome = world.world.begin(a_step(action))
                assert isinstance(outcome, Refused), action
                assert "no space" in outcome.why or "No space" in outcome.why
            assert world.world.observe().routes == some_routes(1)
            world.crash("delay-0-0")  # its exit status was given room at the start
            faults.wait_until(lambda: world.world.observe().processes[0].exit_status == -9, "its exit status")
            filler.unlink()
            assert world.world.begin(a_step(SetRoutes(some_routes(2)))) == Accepted()
            assert world.world.begin(a_step(a_replica(str(world.artefact)))) == Accepted()
            assert not list(disk.rglob("*.tmp-*"))
    except faults.CannotFault as error:
        pytest.skip(f"NOT TESTED: {error}")


def test_a_read_only_folder_refuses(tmp_path: Path) -> None:
    """A folder that became read-only refuses steps in a sentence, and can still be looked at."""
    try:
        with here(tmp_path) as world, faults.read_only(world.state):
            for action in (SetRoutes(some_routes(2)), a_replica(str(world.artefact))):
                outcome = world.world.begin(a_step(action))
                assert isinstance(outcome, Refused)
                assert "cannot be written" in outcome.why
            world.world.observe()
    except faults.CannotFault as error:
        pytest.skip(f"NOT TESTED: {error}")


def test_stale_files_are_cleaned(world: Here) -> None:
    """Temporary files, a dead socket and acks of no worker go; everything else stays."""
    world.world.begin(a_step(SetRoutes(some_routes(1))))
    world.folder.close()
    for name in ("routes.json.tmp-1", "acks/gateway-9.json", "acks/gateway-9.json.tmp-2", "control.sock"):
        (world.state / name).touch()
    with LocalFolder(world.state) as folder:
        folder.clean_stale()
    left = {str(path.relative_to(world.state)) for path in world.state.rglob("*") if path.is_file()}
    assert left == {"routes.json", "version", "controller.lock"}
