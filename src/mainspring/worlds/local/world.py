"""This machine as a world: replicas, gateway workers and runs are processes; routes are a file.

What this is: the `World` port over processes, the model registry and run folders. The registry and the runs are
given as ports, for they are siblings. Who calls it: the cycle (through the port); `app` makes it.
What it must never do: decide anything, wait for a process, or raise because one part of the machine is broken.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec

import mainspring
from mainspring.decide.routes import RouteTable
from mainspring.errors import MainspringError
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
from mainspring.loop.ports import Accepted, Refused, World
from mainspring.loop.snapshot import Observed, ProcessSeen, RunSeen, VersionSeen
from mainspring.runtimes.catalog import runtimes
from mainspring.worlds.local import loads, secrets
from mainspring.worlds.local.processes import ALIVE, Command, JsonFiles, Processes
from mainspring.worlds.local.shim import write_whole

KEEP_ENDED = 100  # processes that ended and are still shown


class Registry(Protocol):
    """The model registry. Any method may raise; that is shown as `registry=False` or a refusal."""

    def changed(self) -> bool:
        """Say whether anything may have changed since the last `versions` and `aliases`; cheap."""

    def versions(self) -> tuple[VersionSeen, ...]:
        """All versions of all models of the stack."""

    def aliases(self) -> Mapping[str, Mapping[str, str]]:
        """model: {alias: number}."""

    def register(self, model: str, run: str, /) -> object:
        """Make the artefact of a run a version; the same run again changes nothing."""

    def set_alias(self, model: str, alias: str, number: str, /) -> object:
        """Point an alias at a version, or take it away when `number` is empty."""

    def record_verdict(self, model: str, number: str, verdict: str, note: str, numbers: str, /) -> object:
        """Write a verdict (`numbers` is JSON) beside a version; the same again changes nothing."""


class Runs(Protocol):
    """The run folders of pipelines."""

    def prepare(self, spec: StartRun, /) -> Path:
        """Make (or, for a higher attempt, renew) the folder of a run; the same again changes nothing."""

    def read(self, folder: Path, /) -> RunSeen:
        """Read what a run has written down so far."""


@dataclass(frozen=True, slots=True)
class Programs:
    """What the three kinds of process run, after the Python executable."""

    replica: tuple[str, ...] = ("-m", "{module}")
    gateway: tuple[str, ...] = ("-m", "mainspring.gateway")
    run: tuple[str, ...] = ("-m", "mainspring.pipelines.host")


class LocalWorld(World):
    """Where things run: here."""

    def __init__(
        self,
        state: Path,
        stack: Path,
        registry: Registry,
        runs: Runs,
        mono: Callable[[], float],
        python: str = sys.executable,
        programs: Programs | None = None,
    ) -> None:
        self._state = Path(os.path.abspath(state))
        self._stack = Path(os.path.abspath(stack))
        self._registry = registry
        self._runs = runs
        self._python = python
        self._mono = mono
        self._programs = programs or Programs()
        self.processes = Processes(self._state / "processes", self._state / "logs", python, mono)
        self._files = JsonFiles()
        self._stale = True  # the registry is to be asked, whatever it says
        self._versions: tuple[VersionSeen, ...] = ()
        self._aliases: dict[str, dict[str, str]] = {}
        self._read: dict[str, tuple[tuple[int, ...], RunSeen]] = {}
        self._routes_read: tuple[tuple[int, ...], RouteTable | None] = ((), None)

    # -- observe -------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        """Look at everything once; a broken part is shown as lost or unknown."""
        processes = self.processes.observe()
        processes = self._prune(processes)
        answered = self._ask_registry()
        return Observed(
            processes=processes,
            versions=self._versions,
            aliases=self._aliases,
            runs=self._see_runs({seen.name: seen for seen in processes}),
            routes=self._routes(),
            acked=self._acked(processes),
            registry=answered,
            free_disk=self._free_disk(),
            cores=os.cpu_count() or 0,
            loads=loads.read(
                self._state / "loads", processes, self._mono(), time.monotonic(), self._state / "processes"
            ),
        )

    def _prune(self, processes: tuple[ProcessSeen, ...]) -> tuple[ProcessSeen, ...]:
        """Remove the folders of those that ended longest ago, so that years of runs do not slow each look."""
        ended = sorted((seen for seen in processes if seen.state == "exited"), key=lambda seen: seen.since)
        surplus = len(ended) - KEEP_ENDED
        if surplus <= KEEP_ENDED // 5:
            return processes
        removed = {seen.name for seen in ended[:surplus] if self.processes.remove(seen.name)}
        return tuple(seen for seen in processes if seen.name not in removed)

    def _ask_registry(self) -> bool:
        try:
            if self._registry.changed() or self._stale:
                self._stale = True
                versions = tuple(self._registry.versions())
                aliases = {model: dict(given) for model, given in self._registry.aliases().items()}
                self._versions, self._aliases, self._stale = versions, aliases, False
        except Exception:
            self._stale = True
            return False
        return True

    def _see_runs(self, processes: Mapping[str, ProcessSeen]) -> tuple[RunSeen, ...]:
        try:
            names = sorted(entry.name for entry in os.scandir(self._state / "runs") if entry.is_dir())
        except OSError:
            return ()
        found = []
        for name in names:
            folder = self._state / "runs" / name
            if not (folder / "forgotten").exists() and ((folder / "spec.json").exists() or f"run-{name}" in processes):
                found.append(_combined(name, self._read_run(folder), processes.get(f"run-{name}")))
        return tuple(found)

    def _read_run(self, folder: Path) -> RunSeen | str:
        """What the run's folder says, or why it says nothing; read again only when its files changed."""
        key: tuple[int, ...] = ()
        for file in ("spec.json", "state.json", "result.json"):
            try:
                stat = os.stat(folder / file)
                key += (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            except OSError:
                key += (0,)
        cached = self._read.get(folder.name)
        if cached is not None and cached[0] == key:
            return cached[1]
        try:
            run = self._runs.read(folder)
        except Exception as error:
            return f"its folder `{folder}` cannot be read: {error}"
        self._read[folder.name] = (key, run)
        return run

    def _routes(self) -> RouteTable | None:
        path = self._state / "routes.json"
        try:
            stat = os.stat(path)
            key = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if self._routes_read[0] != key:
                self._routes_read = (key, msgspec.json.decode(path.read_bytes(), type=RouteTable))
        except (OSError, msgspec.MsgspecError):
            return None
        return self._routes_read[1]

    def _acked(self, processes: tuple[ProcessSeen, ...]) -> dict[str, int]:
        acked = {}
        for seen in processes:
            if seen.kind == "gateway" and seen.state in ALIVE:
                ack = self._files.read(str(self._state / "acks" / f"{seen.name}.json"))
                if ack is not None and ack.get("pid") == seen.pid and isinstance(ack.get("epoch"), int):
                    acked[seen.name] = ack["epoch"]
        return acked

    def _free_disk(self) -> int | None:
        try:
            found = os.statvfs(self._state)
        except OSError:
            return None
        return found.f_bavail * found.f_frsize

    # -- begin ---------------------------------------------------------------------------------------------------

    def begin(self, step: Step) -> Accepted | Refused:
        """Begin a step; what the machine or the registry says against it is a refusal, never an exception."""
        try:
            why = self._begin(step)
        except MainspringError as error:
            return Refused(error.message)
        except OSError as error:
            return Refused(_sentence(error, self._state))
        except Exception as error:
            return Refused(f"{type(error).__name__}: {error}")
        return Refused(why) if why else Accepted()

    def _begin(self, step: Step) -> str:
        match step.action:
            case StartReplica() | StartGateway() | StartRun() as action:
                return self._start(action)
            case StopProcess(name, generation, grace):
                return self.processes.stop(name, generation, grace)
            case SetRoutes(table):
                return self._set_routes(table)
            case RegisterVersion() | RecordVerdict() | SetAlias() as action:
                return self._tell_registry(action)

    def _start(self, action: StartReplica | StartGateway | StartRun) -> str:
        match action:
            case StartReplica():
                if action.runtime not in runtimes():
                    return f"there is no runtime `{action.runtime}`: a package that brought it is not installed"
                artefact = Path(action.artefact)
                if not artefact.is_dir():
                    return f"the artefact `{artefact}` is not there"
                name, kind, generation = action.name, "replica", action.generation
            case StartGateway():
                name, kind, generation = action.name, "gateway", action.generation
            case StartRun():
                name, kind, generation = f"run-{action.run}", "run", action.attempt
                present = self._present(name)
                if present is not None and present.generation == generation and present.state != "lost":
                    return ""  # begun before: its folder is the run's now
                if present is None or present.generation < generation:
                    if present is not None and present.state in ALIVE:
                        return f"attempt {present.generation} of run `{action.run}` still runs"
                    self._runs.prepare(action)
        return self.processes.start(name, kind, generation, self.command(action))

    def _present(self, name: str) -> ProcessSeen | None:
        return next((seen for seen in self.processes.observe() if seen.name == name), None)

    def command(self, action: StartReplica | StartGateway | StartRun) -> Command:
        """Give the command line and the environment of a process."""
        folder = str(self._stack.parent)
        common = {
            "PYTHONPATH": _module_path(),
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        match action:
            case StartReplica():
                threads = {f"{library}_NUM_THREADS": str(action.threads) for library in ("OMP", "OPENBLAS", "MKL")}
                # Threads that spin while they wait make llama.cpp 10 to 30 times slower beside any other work.
                env = {**common, **threads, "PYTHONSAFEPATH": "1", "GOMP_SPINCOUNT": "1000"}
                module = runtimes()[action.runtime].module
                program = (part.format(runtime=action.runtime, module=module) for part in self._programs.replica)
                return Command((self._python, *program, *self._replica(action)), folder, env)
            case StartGateway():
                argv = (self._python, *self._programs.gateway, *self._gateway(action))
                return Command(argv, folder, {**common, "PYTHONSAFEPATH": "1"})
            case StartRun():
                options = ("--run", str(self._state / "runs" / action.run), "--state", str(self._state))
                argv = (self._python, *self._programs.run, *options, "--stack", str(self._stack))
                return Command(argv, folder, {**common, "PYTHONHASHSEED": "0"})

    def _replica(self, action: StartReplica) -> tuple[str, ...]:
        options = {
            "--artefact": action.artefact,
            "--name": action.name,
            "--model": action.model,
            "--version": action.version,
            "--code": str(self._state / "code"),
            "--announce": self._announce(action.name),
            "--threads": str(action.threads),
            "--batch-size": str(action.batch_size),
            "--batch-wait": str(action.batch_wait),
        }
        given = tuple(part for option in options.items() for part in option)
        if action.digest:
            given = (*given, "--digest", action.digest)
        key = () if action.runtime == "onnx" else ("--key-file", str(secrets.upstream(self._state)))
        return (*given, *key, *action.options)

    def _gateway(self, action: StartGateway) -> tuple[str, ...]:
        options = {
            "--name": action.name,
            "--routes": str(self._state / "routes.json"),
            "--acks": str(self._state / "acks"),
            "--segments": str(self._state / "segments"),
            "--announce": self._announce(action.name),
            "--port": str(action.port),
            "--keys": str(secrets.keys(self._state)),
            "--pepper": str(secrets.pepper(self._state)),
            "--upstream-key": str(secrets.upstream(self._state)),
            "--processes": str(self._state / "processes"),
            "--ledger": str(self._state / "meter" / "ledger"),
            "--used": str(self._state / "meter" / "used.json"),
            "--loads": str(self._state / "loads"),
        }
        given = tuple(part for option in options.items() for part in option)
        return (*given, "--workers-share") if action.workers > 1 else given

    def _announce(self, name: str) -> str:
        return str(self._state / "processes" / name / "address.json")

    def _set_routes(self, table: RouteTable) -> str:
        present = self._routes()
        if present is not None and table.epoch <= present.epoch:
            if table == present:
                return ""
            return f"routes of epoch {present.epoch} are there already, and {table.epoch} is not later"
        write_whole(str(self._state / "routes.json"), msgspec.json.encode(table, order="deterministic"))
        return ""

    def _tell_registry(self, action: RegisterVersion | RecordVerdict | SetAlias) -> str:
        self._stale = True
        match action:
            case RegisterVersion(model, run):
                seen = self._read_run(self._state / "runs" / run)
                if isinstance(seen, str):
                    return seen
                if seen.state != "succeeded" or not seen.artefact:
                    return f"run `{run}` has no artefact to register"
                self._registry.register(model, run)
            case RecordVerdict(model, number, verdict, note, numbers):
                self._registry.record_verdict(model, number, verdict, note, numbers)
            case SetAlias(model, alias, number):
                self._registry.set_alias(model, alias, number)
        return ""


def _combined(name: str, read: RunSeen | str, process: ProcessSeen | None) -> RunSeen:
    """What is true of a run, of what it wrote and of how its process is."""
    attempt = process.generation if process is not None else 0
    if isinstance(read, str):
        read = RunSeen(id=name, pipeline=name.rpartition("-")[0], attempt=attempt, state="running", error=read)
    if read.attempt < attempt:  # what it wrote is of an earlier attempt
        read = replace(read, attempt=attempt, state="running", artefact="", digest="", gate=None, error="")
    if read.state in ("succeeded", "failed"):
        return read
    if process is not None and process.state in ALIVE:
        return replace(read, state="running")
    why = process.reason if process is not None else "its process was never started"
    return replace(read, state="lost", retryable=True, error=why or read.error or "it ended without a result")


def _module_path() -> str:
    """PYTHONPATH of the children: they run the same Mainspring as we do, from any folder."""
    given = [os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    ours = str(Path(mainspring.__file__).resolve().parents[1])
    if ours not in given and os.path.basename(ours) not in ("site-packages", "dist-packages"):
        given.insert(0, ours)
    return os.pathsep.join(given)


def _sentence(error: OSError, state: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left on the disk of `{state}`"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"`{error.filename or state}` cannot be written: {error.strerror}"
    return str(error)
