"""The digital twin: a world in virtual time behind the same ports. The one simulated world, and the fake of the tests.

Who calls it: `mainspring plan`, the tests of the whole loop, later `simulate`. What it must never do: read a clock,
wait, or let anything depend on how often it was asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mainspring.decide.routes import RouteTable
from mainspring.decide.scale import Load
from mainspring.loop.plan import (
    RecordVerdict,
    RegisterVersion,
    SetAlias,
    SetRoutes,
    StartGateway,
    StartReplica,
    StartRun,
    Step,
    StopProcess,
)
from mainspring.loop.ports import Accepted, Refused
from mainspring.loop.snapshot import (
    DayLoss,
    Footprint,
    GateNumbers,
    Now,
    Observed,
    ProcessSeen,
    RunSeen,
    StepSeen,
    VersionSeen,
)
from mainspring.stack.model import Stack
from mainspring.stack.pipelines import Gates
from mainspring.worlds.twin.beliefs import DAY, Beliefs, mean_loss, noise
from mainspring.worlds.twin.gates import believed


@dataclass(slots=True)
class TwinProcess:
    """A simulated process."""

    name: str
    kind: str
    generation: int
    began: float
    ready_at: float
    stop_at: float = math.inf
    died: str = ""
    port: int = 0


@dataclass(slots=True)
class TwinRun:
    """A simulated run of a pipeline."""

    spec: StartRun
    began: float
    ends: float
    lost: bool = False
    fails: str = ""
    made: RunSeen | None = None  # once it has ended well


@dataclass(slots=True)
class TwinWorld:
    """A world of its own: `advance` is the only way that time passes in it."""

    beliefs: Beliefs = field(default_factory=Beliefs)
    seed: int = 0
    wall: float = 0.0
    mono: float = 0.0
    processes: dict[str, TwinProcess] = field(default_factory=dict)
    runs: dict[str, TwinRun] = field(default_factory=dict)
    seen_runs: dict[str, RunSeen] = field(default_factory=dict)  # of a fork: runs that had ended before
    versions: list[VersionSeen] = field(default_factory=list)
    trained: dict[str, tuple[float, float]] = field(default_factory=dict)  # artefact: from, until
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    routes: RouteTable | None = None
    routed: list[tuple[float, float, RouteTable]] = field(default_factory=list)  # wall, mono, table
    registry_up: bool = True
    failing: dict[str, str] = field(default_factory=dict)  # run: how it fails
    gates: dict[str, Gates] = field(default_factory=dict)  # pipeline: what is asked there
    ports: int = 40000
    cores: int = 1
    loads: Callable[[TwinWorld], dict[str, Load]] = lambda _: {}  # what gateways would say; nothing: unknown

    # -- the port -------------------------------------------------------------------------------

    def observe(self) -> Observed:
        """See everything as it is at this moment."""
        return Observed(
            processes=tuple(self._see(p) for p in self.processes.values()) + tuple(self._run_processes()),
            versions=tuple(self.versions),
            aliases={model: dict(names) for model, names in self.aliases.items()},
            runs=tuple(self.seen_runs.values()) + tuple(self._see_run(r) for r in self.runs.values()),
            routes=self.routes,
            acked=self._acked(),
            registry=self.registry_up,
            cores=self.cores,
            loads=self.loads(self),
        )

    def begin(self, step: Step) -> Accepted | Refused:
        """Begin a step; what was begun before is not begun again."""
        action = step.action
        if isinstance(action, StartReplica | StartGateway):
            return self._start(action)
        if isinstance(action, StopProcess):
            return self._stop(action)
        if isinstance(action, SetRoutes):
            return self._route(action.table)
        if isinstance(action, StartRun):
            return self._run(action)
        if not self.registry_up:
            return Refused("the registry does not answer")
        if isinstance(action, RegisterVersion):
            return self._register(action)
        if isinstance(action, RecordVerdict):
            return self._verdict(action)
        return self._alias(action)

    # -- time and faults ------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.mono += seconds

    def next_change(self) -> float | None:
        """Seconds until something changes by itself; None when nothing will."""
        moments = [p.ready_at for p in self.processes.values() if not p.died]
        moments += [p.stop_at for p in self.processes.values() if not p.died and math.isfinite(p.stop_at)]
        moments += [r.ends for r in self.runs.values() if not r.lost]
        if self.routed:
            moments.append(self.routed[-1][1] + self.beliefs.ack_seconds)
        later = [m - self.mono for m in moments if m > self.mono]
        return min(later, default=None)

    def crash(self, name: str) -> None:
        """Kill a process as `kill -9` would; the name of a run's process is `run-ID`."""
        if name.startswith("run-") and name[4:] in self.runs:
            run = self.runs[name[4:]]
            if self.mono < run.ends:
                run.lost = True
        elif name in self.processes and not self.processes[name].died:
            self.processes[name].died = "killed by signal 9"

    # -- processes ------------------------------------------------------------------------------

    def _start(self, action: StartReplica | StartGateway) -> Accepted | Refused:
        present = self.processes.get(action.name)
        if present is not None and present.generation >= action.generation:
            return Accepted()
        if present is not None and self._state(present) in ("starting", "ready", "stopping"):
            return Refused(f"{action.name} still runs as generation {present.generation}")
        gateway = isinstance(action, StartGateway)
        mean = self.beliefs.gateway_start if gateway else self.beliefs.replica_start
        took = mean * (0.5 + noise(self.seed, action.name, action.generation).random())
        kind = "gateway" if gateway else "replica"
        self.ports += 1
        port = action.port if isinstance(action, StartGateway) and action.port else self.ports
        self.processes[action.name] = TwinProcess(
            action.name, kind, action.generation, self.mono, self.mono + took, port=port
        )
        return Accepted()

    def _stop(self, action: StopProcess) -> Accepted:
        run = self.runs.get(action.name.removeprefix("run-"))
        if action.name.startswith("run-") and run is not None:
            run.lost = run.lost or self.mono < run.ends
            return Accepted()
        present = self.processes.get(action.name)
        if present is not None and present.generation == action.generation and math.isinf(present.stop_at):
            present.stop_at = self.mono + self.beliefs.process_stop
        return Accepted()

    def _state(self, process: TwinProcess) -> str:
        if process.died or self.mono >= process.stop_at:
            return "exited"
        if math.isfinite(process.stop_at):
            return "stopping"
        return "ready" if self.mono >= process.ready_at else "starting"

    def _see(self, process: TwinProcess) -> ProcessSeen:
        state = self._state(process)
        status = None if state != "exited" else -9 if process.died else 0
        address = f"127.0.0.1:{process.port}" if state in ("ready", "stopping") else ""
        return ProcessSeen(
            process.name,
            process.kind,
            process.generation,
            state,
            address,
            exit_status=status,
            reason=process.died,
            since=process.began,
        )

    def _run_processes(self) -> list[ProcessSeen]:
        seen = []
        for name, run in self.runs.items():
            state = "lost" if run.lost else "ready" if self.mono < run.ends else "exited"
            status = 0 if state == "exited" else None
            seen.append(ProcessSeen(f"run-{name}", "run", run.spec.attempt, state, exit_status=status, since=run.began))
        return seen

    # -- routes ---------------------------------------------------------------------------------

    def _route(self, table: RouteTable) -> Accepted | Refused:
        if self.routes is not None and table.epoch < self.routes.epoch:
            return Refused(f"epoch {table.epoch} is older than {self.routes.epoch}")
        if self.routes is None or table.epoch > self.routes.epoch:
            self.routes = table
            self.routed.append((self.wall, self.mono, table))
        return Accepted()

    def _acked(self) -> dict[str, int]:
        alive = [p for p in self.processes.values() if p.kind == "gateway" and self._state(p) in ("ready", "stopping")]
        acked: dict[str, int] = {}
        for process in alive:
            taken = [
                table.epoch
                for _, mono, table in self.routed
                if self.mono >= max(mono, process.ready_at) + self.beliefs.ack_seconds
            ]
            acked[process.name] = max(taken, default=0)
        return acked

    def expect(self, stack: Stack) -> None:
        """Believe that what only a real model can show (evaluations, checks of the user's own) is as it should be."""
        self.gates = {name: pipeline.gates for name, pipeline in stack.pipelines.items()}

    # -- runs and versions ----------------------------------------------------------------------

    def _run(self, spec: StartRun) -> Accepted:
        present = self.runs.get(spec.run)
        if present is None or present.spec.attempt < spec.attempt:
            took = self.beliefs.run_seconds * (0.5 + noise(self.seed, spec.run, spec.attempt).random())
            fails = self.failing.get(spec.pipeline, "")
            self.runs[spec.run] = TwinRun(spec, self.mono, self.mono + took, fails=fails)
        return Accepted()

    def _see_run(self, run: TwinRun) -> RunSeen:
        spec = run.spec
        if run.lost:
            return RunSeen(spec.run, spec.pipeline, spec.attempt, "lost", error="it was killed", retryable=True)
        if self.mono < run.ends:
            return RunSeen(spec.run, spec.pipeline, spec.attempt, "running", (StepSeen("train", "running", 1),))
        if run.fails:
            return RunSeen(spec.run, spec.pipeline, spec.attempt, "failed", error=run.fails)
        if run.made is None:
            run.made = self._made(run)
        return run.made

    def _made(self, run: TwinRun) -> RunSeen:
        spec = run.spec
        artefact = spec.candidate or f"twin/{spec.run}"
        return RunSeen(
            spec.run,
            spec.pipeline,
            spec.attempt,
            "succeeded",
            (StepSeen("train", "succeeded", 1, run.ends - run.began),),
            artefact=artefact,
            digest=f"sha256:twin-{spec.run}",
            gate=self._gate(spec, artefact),
            seconds=self.beliefs.run_seconds,
        )

    def _gate(self, spec: StartRun, artefact: str) -> GateNumbers:
        until = int(spec.until // DAY)
        held_out = range(until - 14, until)
        mine = self.trained.get(artefact) or self._learned(spec)
        theirs = self.trained.get(spec.champion)
        rows = self.beliefs.requests_per_day
        days = []
        for day in held_out:
            candidate = rows * mean_loss(self.beliefs, self.seed, day, *mine, spec.source or artefact)
            champion = rows * mean_loss(self.beliefs, self.seed, day, *theirs, spec.champion) if theirs else math.nan
            days.append(DayLoss(day, rows, candidate, champion))
        champion_auc = 0.7 if theirs else math.nan
        asked = self.gates.get(spec.pipeline, Gates())
        numbers = GateNumbers(
            rows * len(days),
            tuple(days),
            0.72,
            champion_auc,
            0.002,
            champion=spec.champion_version,
            converted=spec.convert,
            own=self._footprint(self.beliefs.converted_size) if spec.convert else None,
            other=self._footprint(1.0) if spec.convert else None,
        )
        return believed(asked, numbers)

    def _footprint(self, share: float) -> Footprint:
        """Of weights of this share of the bytes that a version has; in memory they are as they were."""
        return Footprint(int(share * self.beliefs.version_size), 0.0, 0.002, math.nan)

    def _learned(self, spec: StartRun) -> tuple[float, float]:
        if spec.source in self.trained:
            return self.trained[spec.source]  # converted: it knows what its source knows
        since = spec.since if spec.since is not None else spec.until - 60 * DAY
        return since, spec.until if spec.first else spec.until - 14 * DAY

    def _register(self, action: RegisterVersion) -> Accepted | Refused:
        if any(v.run == action.run for v in self.versions):
            return Accepted()
        run = self.runs.get(action.run)
        if run is None or self.mono < run.ends or run.lost or run.fails:
            return Refused(f"run {action.run} has made nothing")
        seen = self._see_run(run)
        number = str(1 + max((int(v.number) for v in self.versions if v.model == action.model), default=0))
        self.add_version(action.model, number, seen.artefact, self._learned(run.spec), run=action.run)
        return Accepted()

    def add_version(self, model: str, number: str, artefact: str, trained: tuple[float, float], run: str = "") -> None:
        """Put a version into the registry, as any MLflow client may."""
        self.trained[artefact] = trained
        self.versions.append(VersionSeen(model, number, run, f"sha256:{artefact}", artefact, created=self.wall))

    def _verdict(self, action: RecordVerdict) -> Accepted | Refused:
        for index, version in enumerate(self.versions):
            if version.model == action.model and version.number == action.number:
                self.versions[index] = replace(version, verdict=action.verdict, note=action.note)
                return Accepted()
        return Refused(f"there is no version {action.number} of `{action.model}`")

    def _alias(self, action: SetAlias) -> Accepted | Refused:
        names = self.aliases.setdefault(action.model, {})
        if not action.number:
            names.pop(action.alias, None)
            return Accepted()
        if not any(v.model == action.model and v.number == action.number for v in self.versions):
            return Refused(f"there is no version {action.number} of `{action.model}`")
        names[action.alias] = action.number
        return Accepted()


@dataclass(slots=True)
class TwinClock:
    """The twin's time, through the port."""

    world: TwinWorld
    cap: float = math.inf  # the longest gap that counts as watched, seconds

    def now(self, watched: float, last: Now | None) -> Now:
        """The virtual moment."""
        gap = 0.0 if last is None else min(self.cap, max(0.0, self.world.wall - last.wall))
        return Now(self.world.wall, self.world.mono, watched + gap)
