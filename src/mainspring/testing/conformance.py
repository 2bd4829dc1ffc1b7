"""What every world must do, as tests. A world that passes may stand behind the loop.

    class TestMyWorld(WorldConformance):
        @pytest.fixture
        def world(self) -> Iterator[WorldUnderTest]: ...

Who calls it: pytest, through such a subclass. What it must never do: know which world it tests.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mainspring.loop.plan import (
    Action,
    RecordVerdict,
    RegisterVersion,
    SetAlias,
    SetRoutes,
    StartGateway,
    StopProcess,
)
from mainspring.loop.ports import Accepted, Refused, World
from mainspring.loop.snapshot import Observed, ProcessSeen, RunSeen, VersionSeen
from mainspring.testing.builders import a_replica, a_run, a_step, some_routes

GATEWAY = StartGateway("gateway-0", 1, 0)


class WorldUnderTest(Protocol):
    """A fresh world, and a hand on it."""

    @property
    def world(self) -> World:
        """The world."""

    @property
    def artefact(self) -> Path:
        """A folder that a replica can serve."""

    @property
    def pipeline(self) -> str:
        """A pipeline of the stack whose runs succeed; its model has the same name."""

    @property
    def failing(self) -> str:
        """A pipeline whose runs fail."""

    def advance(self, seconds: float) -> None:
        """Let time pass: really, or virtually."""

    def crash(self, name: str) -> None:
        """Kill a process as `kill -9` would."""


class Looking:
    """How the tests look and begin."""

    tick = 0.05  # seconds between two looks
    patience = 30.0  # seconds, of the world's own time

    def until(self, world: WorldUnderTest, holds: Callable[[Observed], bool], what: str) -> Observed:
        """Look until something holds."""
        waited = 0.0
        while not holds(seen := world.world.observe()):
            assert waited < self.patience, f"not within {self.patience:g} s: {what}; the last look was {seen}"
            world.advance(self.tick)
            waited += self.tick
        return seen

    def begin(self, world: WorldUnderTest, action: Action) -> None:
        """Begin an action, which must be accepted."""
        outcome = world.world.begin(a_step(action))
        assert isinstance(outcome, Accepted), outcome

    def ready(self, world: WorldUnderTest, action: Action, name: str) -> ProcessSeen:
        """Begin a process and wait until it is ready."""
        self.begin(world, action)
        seen = self.until(world, lambda seen: _state(seen, name) in ("ready", "exited", "lost"), f"{name} ready")
        found = _process(seen, name)
        assert found.state == "ready", found
        return found

    def ran(self, world: WorldUnderTest, pipeline: str, number: int = 1) -> RunSeen:
        """Begin a run and wait for its end."""
        run = f"{pipeline}-{number}"
        self.begin(world, a_run(pipeline, number))
        seen = self.until(world, lambda seen: _run(seen, run).state != "running", f"the end of {run}")
        return _run(seen, run)

    def registered(self, world: WorldUnderTest) -> VersionSeen:
        """Run a pipeline and register what it made."""
        run = self.ran(world, world.pipeline)
        assert run.state == "succeeded", run
        self.begin(world, RegisterVersion(world.pipeline, run.id))
        seen = self.until(world, lambda seen: bool(seen.versions), "a version")
        return seen.versions[0]


class ProcessConformance(Looking):
    """Replicas, as an example of what is started and stopped."""

    def test_nothing_is_seen_in_a_fresh_world(self, world: WorldUnderTest) -> None:
        """A fresh world is empty, and its registry answers."""
        seen = world.world.observe()
        assert (seen.processes, seen.versions, seen.runs, seen.routes, seen.acked) == ((), (), (), None, {})
        assert seen.registry

    def test_a_replica_starts_and_becomes_ready(self, world: WorldUnderTest) -> None:
        """It is seen at once as starting, and then as ready with an address."""
        self.begin(world, a_replica(str(world.artefact)))
        first = _process(world.world.observe(), "delay-1-0")
        assert first.state in ("starting", "ready")
        assert (first.kind, first.generation) == ("replica", 1)
        found = self.ready(world, a_replica(str(world.artefact)), "delay-1-0")
        host, _, port = found.address.rpartition(":")
        assert host
        assert int(port) > 0
        assert found.exit_status is None

    def test_beginning_twice_is_beginning_once(self, world: WorldUnderTest) -> None:
        """The same step again is accepted and changes nothing, be it ready or ended."""
        found = self.ready(world, a_replica(str(world.artefact)), "delay-1-0")
        self.begin(world, a_replica(str(world.artefact)))
        assert world.world.observe().processes == (found,)
        world.crash("delay-1-0")
        self.until(world, lambda seen: _state(seen, "delay-1-0") in ("exited", "lost"), "the crash")
        self.begin(world, a_replica(str(world.artefact)))
        world.advance(self.tick)
        assert _state(world.world.observe(), "delay-1-0") in ("exited", "lost")

    def test_a_stopped_process_ends(self, world: WorldUnderTest) -> None:
        """After a stop it is never ready again, and exits; stopping it again is accepted."""
        self.ready(world, a_replica(str(world.artefact)), "delay-1-0")
        self.begin(world, StopProcess("delay-1-0", 1, 5.0))
        assert _state(world.world.observe(), "delay-1-0") in ("stopping", "exited")
        self.until(world, lambda seen: _state(seen, "delay-1-0") in ("exited", "absent"), "its exit")
        self.begin(world, StopProcess("delay-1-0", 1, 5.0))

    def test_stopping_what_is_not_there_is_accepted(self, world: WorldUnderTest) -> None:
        """What is wanted holds already."""
        self.begin(world, StopProcess("delay-9-0", 1, 5.0))
        assert world.world.observe().processes == ()

    def test_a_next_generation_takes_the_place_of_one_that_ended(self, world: WorldUnderTest) -> None:
        """Generation 2 is ready under the same name, and a late step of generation 1 does not touch it."""
        self.ready(world, a_replica(str(world.artefact)), "delay-1-0")
        self.begin(world, StopProcess("delay-1-0", 1, 5.0))
        self.until(world, lambda seen: _state(seen, "delay-1-0") in ("exited", "absent"), "its exit")
        second = a_replica(str(world.artefact), generation=2)
        found = self.ready(world, second, "delay-1-0")
        assert found.generation == 2
        self.begin(world, StopProcess("delay-1-0", 1, 0.0))
        world.world.begin(a_step(a_replica(str(world.artefact))))
        world.advance(self.tick)
        after = _process(world.world.observe(), "delay-1-0")
        assert (after.generation, after.state) == (2, "ready")

    def test_a_crash_is_seen_with_its_reason(self, world: WorldUnderTest) -> None:
        """A killed process is exited or lost, says why, and keeps its generation."""
        self.ready(world, a_replica(str(world.artefact)), "delay-1-0")
        world.crash("delay-1-0")
        seen = self.until(world, lambda seen: _state(seen, "delay-1-0") != "ready", "the crash")
        found = _process(seen, "delay-1-0")
        assert found.state in ("exited", "lost")
        assert found.generation == 1
        assert found.reason
        assert found.exit_status != 0


class RunConformance(Looking):
    """Runs of pipelines."""

    def test_a_run_succeeds_with_a_result(self, world: WorldUnderTest) -> None:
        """It is seen as running, then as succeeded with an artefact and its digest."""
        self.begin(world, a_run(world.pipeline))
        first = _run(world.world.observe(), f"{world.pipeline}-1")
        assert first.state == "running"
        assert first.attempt == 1
        run = self.ran(world, world.pipeline)
        assert run.state == "succeeded", run
        assert run.pipeline == world.pipeline
        assert run.artefact
        assert run.digest

    def test_a_failing_run_says_why(self, world: WorldUnderTest) -> None:
        """It is seen as failed, with an error, and is not worth another attempt."""
        run = self.ran(world, world.failing)
        assert run.state == "failed", run
        assert run.error
        assert not run.retryable

    def test_a_killed_run_is_lost_and_may_be_resumed(self, world: WorldUnderTest) -> None:
        """It is retryable, and a second attempt of the same run succeeds."""
        name = f"{world.pipeline}-1"
        self.begin(world, a_run(world.pipeline))
        self.until(
            world, lambda seen: _process(seen, f"run-{name}").pid > 0 or _run(seen, name).attempt == 1, "its start"
        )
        world.crash(f"run-{name}")
        seen = self.until(world, lambda seen: _run(seen, name).state != "running", "its loss")
        assert _run(seen, name).state == "lost"
        assert _run(seen, name).retryable
        assert _run(seen, name).error
        self.begin(world, a_run(world.pipeline, attempt=2))
        assert _run(world.world.observe(), name).state == "running"
        seen = self.until(world, lambda seen: _run(seen, name).state != "running", "its end")
        assert (_run(seen, name).state, _run(seen, name).attempt) == ("succeeded", 2)


class RegistryConformance(Looking):
    """Versions, aliases, verdicts."""

    def test_registering_a_run_twice_makes_one_version(self, world: WorldUnderTest) -> None:
        """The version names its run, and has an artefact."""
        version = self.registered(world)
        assert (version.model, version.run) == (world.pipeline, f"{world.pipeline}-1")
        assert version.artefact
        assert version.digest
        assert version.servable
        self.begin(world, RegisterVersion(world.pipeline, version.run))
        assert len(world.world.observe().versions) == 1

    def test_a_run_without_an_artefact_is_not_registered(self, world: WorldUnderTest) -> None:
        """It is refused in a sentence, be the run failed or unknown."""
        self.ran(world, world.failing)
        for run in (f"{world.failing}-1", "nobody-7"):
            outcome = world.world.begin(a_step(RegisterVersion(world.pipeline, run)))
            assert isinstance(outcome, Refused)
            assert outcome.why

    def test_an_alias_is_set_and_taken_away(self, world: WorldUnderTest) -> None:
        """Aliases are seen as they were set."""
        version = self.registered(world)
        for _ in range(2):
            self.begin(world, SetAlias(version.model, "champion", version.number))
            assert world.world.observe().aliases[version.model]["champion"] == version.number
        for _ in range(2):
            self.begin(world, SetAlias(version.model, "champion", ""))
            assert "champion" not in world.world.observe().aliases.get(version.model, {})

    def test_a_verdict_is_seen(self, world: WorldUnderTest) -> None:
        """The verdict and its note lie beside the version."""
        version = self.registered(world)
        self.begin(world, RecordVerdict(version.model, version.number, "refused", "worse by 0.02", "{}"))
        found = world.world.observe().versions[0]
        assert (found.verdict, found.note) == ("refused", "worse by 0.02")


class RouteConformance(Looking):
    """Routes, and gateways that follow them."""

    def test_routes_are_seen_and_acknowledged(self, world: WorldUnderTest) -> None:
        """A live gateway acknowledges each epoch; a dead one acknowledges nothing."""
        self.begin(world, SetRoutes(some_routes(1)))
        assert world.world.observe().routes == some_routes(1)
        self.ready(world, GATEWAY, "gateway-0")
        self.until(world, lambda seen: seen.acked.get("gateway-0") == 1, "epoch 1 acknowledged")
        self.begin(world, SetRoutes(some_routes(2, "127.0.0.1:9")))
        self.until(world, lambda seen: seen.acked.get("gateway-0") == 2, "epoch 2 acknowledged")
        world.crash("gateway-0")
        self.until(world, lambda seen: _state(seen, "gateway-0") in ("exited", "lost"), "the crash")
        assert world.world.observe().acked == {}

    def test_an_earlier_epoch_is_refused(self, world: WorldUnderTest) -> None:
        """Routes never go back; the same table again is accepted."""
        self.begin(world, SetRoutes(some_routes(5)))
        outcome = world.world.begin(a_step(SetRoutes(some_routes(4))))
        assert isinstance(outcome, Refused)
        assert outcome.why
        self.begin(world, SetRoutes(some_routes(5)))
        seen = world.world.observe().routes
        assert seen is not None
        assert seen.epoch == 5


class WorldConformance(ProcessConformance, RunConformance, RegistryConformance, RouteConformance):
    """All of it: subclass it, and give a fixture `world`."""


def _process(seen: Observed, name: str) -> ProcessSeen:
    absent = ProcessSeen(name, "", 0, "absent")
    return next((process for process in seen.processes if process.name == name), absent)


def _state(seen: Observed, name: str) -> str:
    return _process(seen, name).state


def _run(seen: Observed, name: str) -> RunSeen:
    return next((run for run in seen.runs if run.id == name), RunSeen(name, "", 0, "absent"))
