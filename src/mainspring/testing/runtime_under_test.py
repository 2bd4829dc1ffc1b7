"""One replica of a runtime as the world starts it: shim, keeper or own module, server; started, asked, hurt, stopped.

Who calls it: the conformance suite of runtimes, benchmarks, tests of faults. What it must never do: leave a process
behind (use it as a context), or speak to a server other than the gateway does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mainspring.artefacts.load import load_manifest
from mainspring.artefacts.manifest import Field
from mainspring.loop.snapshot import ProcessSeen
from mainspring.replicas.kept.child import descendants
from mainspring.runtimes.descriptor import KEPT, Runtime
from mainspring.testing.faults import is_alive
from mainspring.testing.serving import Reply, call
from mainspring.wire.dialects import Served, Speech, spoken
from mainspring.worlds.local.processes import ALIVE, Command, Processes

SLACK = 15.0
"""Seconds that a busy machine may take for what is at once on a quiet one."""
KEY = "k3y-of-the-gateway"
OWN = "/v2/models/-/infer"
"""Where Mainspring's own replicas are asked."""


@dataclass
class UnderTest:
    """A replica in a state folder of its own."""

    runtime: Runtime
    state: Path  # the state folder
    artefact: Path
    code: Path  # folder of code snapshots
    endpoint: str = "judge"
    version: str = "1"
    broken: Path | None = None  # an artefact that the server can't load, though its digest is right
    words: tuple[str, ...] = ()  # the runtime's own
    options: tuple[str, ...] = ()  # of the replica's own command line
    env: Mapping[str, str] = field(default_factory=dict)
    patience: float = 120.0  # seconds from its start until it is ready
    drain: float = 3.0  # seconds that it waits for requests under way, after SIGTERM
    protocol: str = ""  # what it speaks; "": what the runtime does
    generation: int = 0
    seen: set[int] = field(default_factory=set)  # process ids that were its own

    def __post_init__(self) -> None:
        self.processes = Processes(self.state / "processes", self.state / "logs", sys.executable, time.monotonic)
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "upstream.key").write_text(KEY)
        self.protocol = self.protocol or self.runtime.protocol

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    # --- its life

    @property
    def grace(self) -> float:
        """Seconds from SIGTERM until nothing is left of it, whatever its server does, on a busy machine."""
        return self.drain + (self.runtime.server.grace if self.runtime.server else 0.0) + SLACK

    @property
    def name(self) -> str:
        """Of the process: revision and number."""
        return f"{self.revision}-0"

    @property
    def revision(self) -> str:
        """What its model is called in a server."""
        return f"{self.endpoint}-{self.version}"

    @property
    def is_kept(self) -> bool:
        """Whether a keeper stands between the shim and the server."""
        return self.runtime.module == KEPT

    def start(self, artefact: Path | None = None) -> None:
        """Start the next generation, as the world does."""
        self.generation += 1
        announce = self.state / "processes" / self.name / "address.json"
        argv = [sys.executable, "-m", self.runtime.module]
        for word, value in {
            "--artefact": artefact or self.artefact, "--name": self.name, "--model": self.endpoint,
            "--version": self.version, "--code": self.code, "--announce": announce, "--threads": 1,
            "--batch-size": 32, "--batch-wait": 0.002, "--key-file": self.state / "upstream.key", "--drain": self.drain,
        }.items():  # fmt: skip
            argv += [word, str(value)]
        argv += self.options
        if self.is_kept:
            argv += ["--runtime", self.runtime.name, "--", *self.words]
        else:
            argv += self.words
        command = Command(tuple(argv), str(self.state), {"PYTHONSAFEPATH": "1", "GOMP_SPINCOUNT": "1000", **self.env})
        why = self.processes.start(self.name, "replica", self.generation, command)
        assert not why, why

    def look(self) -> ProcessSeen:
        """How it is now."""
        [found] = [one for one in self.processes.observe() if one.name == self.name]
        return found

    def up(self) -> ProcessSeen:
        """See that it is ready: start it unless it runs."""
        if not self.generation or self.look().state not in ("starting", "ready"):
            self.gone()
            self.start()
        found = self.until(lambda seen: seen.state != "starting", "ready", self.patience)
        assert found.state == "ready", f"{found}\n{self.log()}"
        self.seen.update(self.pids())
        return found

    def until(self, holds: Callable[[ProcessSeen], bool], what: str, seconds: float) -> ProcessSeen:
        """Look until something holds."""
        end = time.monotonic() + seconds
        while not holds(found := self.look()):
            assert time.monotonic() < end, f"not {what} within {seconds:g} s: {found}\n{self.log()}"
            time.sleep(0.05)
        return found

    def gone(self, seconds: float = 60.0) -> ProcessSeen | None:
        """Wait until it has ended, and nothing that it started is left."""
        if not self.generation:
            return None
        found = self.until(lambda seen: seen.state not in ALIVE, "gone", seconds)
        end = time.monotonic() + 10.0
        while left := [pid for pid in self.seen if is_alive(pid)]:
            if time.monotonic() > end:
                told = [_told(pid) for pid in left]
                self.end()  # so that the next test begins with none of it
                self.seen.clear()
                raise AssertionError(f"left behind by {found}: {told}")
            time.sleep(0.05)
        self.seen.clear()
        return found

    def stop(self, grace: float) -> None:
        """Ask it to end."""
        self.seen.update(self.pids())
        self.processes.stop(self.name, self.generation, grace)

    def end(self) -> None:
        """Kill it with all that it started."""
        self.processes.kill_all()
        for pid in self.seen:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    # --- its processes

    @property
    def child(self) -> int:
        """The process id of the keeper, or of the runtime's own process."""
        return self.processes.child(self.name)

    def pids(self) -> list[int]:
        """The keeper (or the own process), and all that it has started."""
        child = self.child
        return [child, *descendants(child)] if child else []

    def server(self) -> int:
        """The process id of the server itself."""
        if not self.is_kept:
            return self.child
        return int(self.until_gauges(lambda said: bool(said.get("server")))["server"])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all that it started; not to the keeper."""
        for pid in [one for one in self.pids() if not (self.is_kept and one == self.child)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def gauges(self) -> dict[str, Any]:
        """What the keeper has read of the server's own metrics, at its last look; empty before the first."""
        try:
            said: dict[str, Any] = json.loads((self.state / "processes" / self.name / "gauges.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return said if said.get("pid") == self.child else {}

    def until_gauges(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 20.0) -> dict[str, Any]:
        """Look at the gauges until something holds."""
        end = time.monotonic() + seconds
        while not holds(said := self.gauges()):
            assert time.monotonic() < end, f"not within {seconds:g} s; at last {said}\n{self.log()}"
            time.sleep(0.1)
        return said

    def log(self, lines: int = 40) -> str:
        """The end of its log."""
        path = self.state / "logs" / f"{self.name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else "no log"

    # --- asking

    @property
    def fields(self) -> Sequence[Field]:
        """What a request carries."""
        return load_manifest(self.artefact).inputs

    @property
    def spoken(self) -> Speech | None:
        """The dialect of its revision, as the gateway has it; None where requests are sent as they are."""
        manifest = load_manifest(self.artefact)
        inputs = tuple((one.name, one.datatype) for one in manifest.inputs)
        return spoken(self.protocol, Served(self.endpoint, self.version, self.revision, inputs, manifest.output))

    def ask(self, body: bytes, timeout: float = 60.0) -> Reply:
        """Ask with a canonical request, in the runtime's dialect; the answer is canonical too where it is a 200."""
        return asked(self.look().address, self.spoken, body, timeout)

    def ask_all(self, bodies: Sequence[bytes], timeout: float = 60.0) -> list[Reply]:
        """Ask with all at once."""
        address, dialect = self.look().address, self.spoken
        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(lambda body: asked(address, dialect, body, timeout), bodies))

    def scores(self, body: bytes) -> list[float]:
        """The numbers of an answer, which must be one."""
        reply = self.ask(body)
        assert reply.status == 200, f"{reply}\n{self.log()}"
        [output] = reply.json()["outputs"]
        assert output["shape"] == [len(output["data"])]
        return [float(one) for one in output["data"]]


def asked(address: str, dialect: Speech | None, body: bytes, timeout: float = 60.0) -> Reply:
    """One canonical request, sent as the gateway would send it; the answer is canonical too."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    if dialect is None:
        return call(address, "POST", OWN, body, headers, timeout)
    sent = dialect.ask(body)
    reply = call(address, "POST", sent.line.decode().split()[1], sent.body, headers, timeout)
    status, canonical = dialect.answer(sent, reply.status, reply.body)
    return Reply(status, reply.headers, canonical)


def _told(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"{pid} " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return str(pid)
