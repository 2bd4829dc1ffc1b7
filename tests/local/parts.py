"""A registry and runs of plain JSON files, for tests of the local world without its siblings."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import RunSeen, VersionSeen
from mainspring.testing import faults
from mainspring.worlds.local.clock import LiveClock
from mainspring.worlds.local.folder import LocalFolder
from mainspring.worlds.local.shim import write_whole
from mainspring.worlds.local.world import LocalWorld, Programs

STANDINS = str(Path(__file__).with_name("standins.py"))
PROGRAMS = Programs((STANDINS, "replica"), (STANDINS, "gateway"), (STANDINS, "run"))


class JsonRegistry:
    """A registry in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.down = False
        self.asked = 0
        self._seen = -1

    def changed(self) -> bool:
        if self.down:
            raise ConnectionError("no answer")
        return self._mtime() != self._seen

    def versions(self) -> tuple[VersionSeen, ...]:
        self.asked += 1
        self._seen = self._mtime()
        return tuple(VersionSeen(**row) for row in self._read()["versions"])

    def aliases(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = self._read()["aliases"]
        return found

    def register(self, model: str, run: str) -> str:
        kept = self._read()
        if all(row["run"] != run for row in kept["versions"]):
            result = json.loads((self.path.parent / "runs" / run / "result.json").read_text())
            number = str(len(kept["versions"]) + 1)
            version = VersionSeen(model, number, run, result["digest"], result["artefact"])
            kept["versions"].append(dataclasses.asdict(version))
            self._write(kept)
        return ""

    def set_alias(self, model: str, alias: str, number: str) -> None:
        kept = self._read()
        kept["aliases"].setdefault(model, {}).pop(alias, None)
        if number:
            kept["aliases"][model][alias] = number
        self._write(kept)

    def record_verdict(self, model: str, number: str, verdict: str, note: str, numbers: str) -> None:
        kept = self._read()
        for row in kept["versions"]:
            if (row["model"], row["number"]) == (model, number):
                row.update(verdict=verdict, note=note)
        self._write(kept)

    def _mtime(self) -> int:
        return self.path.stat().st_mtime_ns if self.path.exists() else 0

    def _read(self) -> dict[str, Any]:
        if self.down:
            raise ConnectionError("no answer")
        if not self.path.exists():
            return {"versions": [], "aliases": {}}
        kept: dict[str, Any] = json.loads(self.path.read_text())
        return kept

    def _write(self, kept: dict[str, Any]) -> None:
        write_whole(str(self.path), json.dumps(kept).encode())


class JsonRuns:
    """Run folders of spec.json, state.json and result.json."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.prepared = 0
        self.reads = 0

    def prepare(self, spec: StartRun) -> Path:
        self.prepared += 1
        folder = self.state / "runs" / spec.run
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(str(folder / "spec.json"), json.dumps(dataclasses.asdict(spec)).encode())
        return folder

    def read(self, folder: Path) -> RunSeen:
        self.reads += 1
        spec = json.loads((folder / "spec.json").read_text())
        seen = RunSeen(spec["run"], spec["pipeline"], spec["attempt"], "running")
        if (folder / "result.json").exists():
            result = json.loads((folder / "result.json").read_text())
            if result["attempt"] == spec["attempt"]:
                return dataclasses.replace(seen, **result)
        return seen


class Here:
    """A local world in a fresh folder, and a hand on it."""

    pipeline = "delay"
    failing = "failing"

    def __init__(self, base: Path, programs: Programs = PROGRAMS) -> None:
        self.base = base
        self.state = base / ".mainspring"
        self.artefact = base / "artefact"
        self.artefact.mkdir(exist_ok=True)
        self.folder = LocalFolder(self.state)
        self.clock = LiveClock()
        self.registry = JsonRegistry(self.state / "registry.json")
        self.runs = JsonRuns(self.state)
        self.programs = programs
        self.world = self.reborn()

    def reborn(self) -> LocalWorld:
        """The world as a new controller would see it."""
        stack = self.base / "mainspring.yaml"
        return LocalWorld(self.state, stack, self.registry, self.runs, self.clock.mono, sys.executable, self.programs)

    def how(self, what: str) -> None:
        """Tell the stand-in replica how to behave."""
        (self.artefact / "manifest.json").write_text(json.dumps({"how": what}))

    def advance(self, seconds: float) -> None:
        """Really wait."""
        import time

        time.sleep(seconds)

    def crash(self, name: str) -> None:
        """Kill the program, not its shim."""
        faults.wait_until(lambda: self.world.processes.child(name) > 0, f"a child of {name}")
        faults.kill(self.world.processes.child(name))


@contextmanager
def here(base: Path, programs: Programs = PROGRAMS) -> Iterator[Here]:
    """A local world that leaves nothing behind."""
    found = Here(base, programs)
    try:
        yield found
    finally:
        found.world.processes.kill_all()
        found.folder.close()
