"""The loop's own figures: the demo's times, what the gateway adds, memory while serving, and the command line's start.

Run: `make bench-loop` (March and April of the demo), `make bench-loop ARGS=--full` (the whole year, with its aim).
The demo runs as a user runs it, in a temporary folder, with a gateway on a free port; each figure stands beside
something measured in the same run. What it must never do: time anything while the demo's replay goes on, other than
the replay itself and the memory of its processes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from figures import Figure, figure, table, write
from predictive import judged, measure, runner

from mainspring.artefacts.load import load_manifest
from mainspring.cli.control_client import Control
from mainspring.cli.demo import flights, replay

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "01-flights"
MAINSPRING = [sys.executable, "-m", "mainspring.cli.main"]
YEAR, SPRING = "2013-12-31", "2013-04-30"
STARTS = 9  # times that a command is started; an odd number, for the median
SAMPLE = 1.0  # seconds between two looks at the memory
IN_FLIGHT = 24  # requests, as the demo has them
MIB = 1024.0  # kB


@dataclass
class Memory:
    """The most memory that each part had at once, MiB, watched from a thread while the demo serves."""

    state: Path
    most: dict[tuple[str, str], float] = field(default_factory=dict)  # (part, "Rss" or "Pss")
    looks: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look until `stop`."""
        while not self._over.wait(SAMPLE):
            self.looks += 1
            for part, pid in self._processes():
                for kind, size in memory(pid).items():
                    self.most[part, kind] = max(self.most.get((part, kind), 0.0), size)

    def stop(self) -> None:
        """Let `watch` return."""
        self._over.set()

    def _processes(self) -> list[tuple[str, int]]:
        workers = list(self.state.glob("processes/*/address.json"))
        found = [("gateway" if p.parent.name.startswith("gateway-") else "replica", p) for p in workers]
        found.append(("controller", self.state / "controller.json"))
        told = []
        for part, path in found:
            try:
                told.append((part, int(json.loads(path.read_bytes())["pid"])))
            except (OSError, ValueError, KeyError):
                continue  # it ended between the two calls
        return told


def memory(pid: int | str) -> dict[str, float]:
    """`Rss` and `Pss` of a process, MiB; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {line[:3]: float(line.split()[1]) / MIB for line in lines if line.startswith(("Rss:", "Pss:"))}


def seconds_of(command: Sequence[str], folder: Path) -> float:
    """How long a command takes from its start to its end; raises when it fails."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def starts(commands: dict[str, Sequence[str]], folder: Path) -> dict[str, float]:
    """The median time of each command, ms; they take turns, so that noise hits all. The first turn is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(STARTS + 1):
        for name, command in commands.items():
            took = seconds_of(command, folder) * 1000
            if turn:
                taken[name].append(took)
    return {name: statistics.median(times) for name, times in taken.items()}


def lay_out(folder: Path) -> Path:
    """Lay the demo's files where the demo expects them, with a gateway on a free port; the demo's folder."""
    place = folder / ".mainspring" / "demo" / "flights"
    place.mkdir(parents=True)
    (place / "flights.py").write_bytes((EXAMPLE / "flights.py").read_bytes())
    stack = (EXAMPLE / "mainspring.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(i for i, line in enumerate(stack) if line.startswith("orchestration:"))
    stack.insert(at + 1, "  gateway: {port: 0}\n")
    (place / "mainspring.yaml").write_text("".join(stack), encoding="utf-8")
    return place


def play(folder: Path, place: Path, until: str) -> tuple[float, Memory]:
    """Run the demo and leave its stack up: seconds of the whole command, and the memory of its processes."""
    watcher = Memory(place / ".mainspring")
    thread = threading.Thread(target=watcher.watch, daemon=True)
    thread.start()
    began = time.perf_counter()
    try:
        command = [*MAINSPRING, "demo", "flights", "--until", until, "--in-flight", str(IN_FLIGHT), "--keep-up"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # its progress goes to stderr
        return time.perf_counter() - began, watcher
    finally:
        watcher.stop()
        thread.join()


def demo_figures(place: Path, took: float, rows: flights.Flights, *, full: bool) -> list[Figure]:
    """The demo's own times, from what it wrote down."""
    days, _ = flights.days_kept(place)
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    sent = sum(day.result.requests for day in days)
    requests = sum(day.result.seconds for day in days)
    whole = sum(day.seconds for day in days)
    alone = asked_directly(place, rows)
    span = f"{days[0].day} to {days[-1].day}"
    beside = f"the replica asked directly, the first week's requests: {alone:.0f} requests/s"
    return [
        figure(f"the demo, {span}", took, "s", f"its requests alone: {requests:.1f} s", at_most=360 if full else None),
        figure("the replay in it", whole, "s", f"its requests alone: {requests:.1f} s"),
        figure(f"replay, {IN_FLIGHT} in flight", sent / requests, "requests/s", beside),
        figure("requests of the replay", sent, "requests", f"answers that the report knows: {report['answers']}"),
        figure("answers lost", sent - report["answers"], "requests", f"requests sent: {sent}", at_most=0),
        figure("errors of the replay", report["errors"], "requests", f"requests sent: {sent}", at_most=0),
    ]


def asked_directly(place: Path, rows: flights.Flights) -> float:
    """Requests per second of the live replica, asked without the gateway with the first week's requests."""
    path = next(p for p in place.glob(".mainspring/processes/*/address.json") if not p.parent.name.startswith("gatew"))
    address = str(json.loads(path.read_bytes())["address"])
    bodies = rows.bodies(rows.rows(flights.BEGIN, flights.BEGIN + 7 * flights.DAY))
    return replay.run(replay.send_day(address, bodies, IN_FLIGHT)).per_second


def run_figures(place: Path) -> list[Figure]:
    """Seconds of the runs: the first beside its functions called in one process, the others beside the first."""
    told = {}
    for path in place.glob(".mainspring/runs/*/state.json"):
        run = json.loads(path.read_bytes())
        told[int(run["run"].rpartition("-")[2])] = float(run["seconds"])
    first, *others = [told[number] for number in sorted(told)]
    # A process of its own, because libraries read the number of threads once, when they are loaded.
    show = [sys.executable, "-c", "import loop; print(loop.in_one_process())"]
    here = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    said = subprocess.run(show, check=True, capture_output=True, text=True, env=here, cwd=Path(__file__).parent)
    alone = f"its functions called in one process, 1 thread: {float(said.stdout):.1f} s"
    made = [figure("the first run", first, "s", alone)]
    if others:
        name = f"a run that retrains, median of {len(others)}"
        made.append(figure(name, statistics.median(others), "s", f"the first run, on fewer rows: {first:.1f} s"))
    return made


def in_one_process() -> float:
    """Seconds of the first run's steps as plain calls: no processes, no cache, no packaging, no gate."""
    steps = example()
    began = time.perf_counter()
    source = flights.data_folder()
    read = [pd.read_csv(next(source.glob(f"{name}.csv*"))) for name in ("flights", "weather", "planes")]
    rows = steps.ingest(*read)
    rows = rows[rows["time"] < pd.Timestamp(flights.BEGIN, unit="s", tz="UTC")]
    steps.check(rows)
    columns = steps.features(rows)
    steps.validate(steps.train(columns, rows, 0), columns, rows)
    return time.perf_counter() - began


def example() -> ModuleType:
    """The example's module, which is in no package."""
    spec = importlib.util.spec_from_file_location("_flights_steps", EXAMPLE / "flights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def memory_figures(watcher: Memory) -> list[Figure]:
    """The most memory of each part, beside a Python that has loaded what that part cannot do without."""
    floor = {"controller": "pass", "gateway": "import asyncio", "replica": "import onnxruntime, pandas"}
    made = []
    for part, code in floor.items():
        show = f"{code}; print(open('/proc/self/smaps_rollup').read())"
        text = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True).stdout
        bare = {line[:3]: float(line.split()[1]) / MIB for line in text.splitlines() if line[1:4] == "ss:"}
        for kind in ("Rss", "Pss"):
            beside = f"`python -c '{code}'`: {bare[kind]:.1f} MiB"
            made.append(figure(f"{part}, largest {kind.upper()}", watcher.most[part, kind], "MiB", beside))
    return made


def start_figures(folder: Path, stack: Path) -> list[Figure]:
    """Start-up of the command line, with the demo's controller alive."""
    took = starts(
        {
            "python": [sys.executable, "-c", "pass"],
            "help": [*MAINSPRING, "--help"],
            "status": [*MAINSPRING, "-f", str(stack), "status"],
        },
        folder,
    )
    beside = f"`python -c pass`: {took['python']:.0f} ms"
    return [
        figure(f"mainspring --help, median of {STARTS}", took["help"], "ms", beside, at_most=300),
        figure(f"mainspring status, median of {STARTS}", took["status"], "ms", beside, at_most=600),
    ]


def bench(folder: Path, arguments: Any) -> list[Figure]:
    """All of it, one after the other; the stack is down at the end, whatever happens."""
    place = lay_out(folder)
    control = Control(place / "mainspring.yaml")
    try:
        took, watcher = play(folder, place, YEAR if arguments.full else arguments.until)
        first = min(place.glob(".mainspring/artefacts/delay/*/manifest.json"), key=lambda p: p.stat().st_mtime)
        rows = flights.Flights.of(place, load_manifest(first.parent).inputs)
        made = demo_figures(place, took, rows, full=arguments.full)
        late = memory_figures(watcher) + start_figures(folder, place / "mainspring.yaml")
    finally:
        control.down()
    made += run_figures(place)
    told = judged(measure(arguments.seconds, arguments.rounds, runner()))
    return made + [one for one in told if one.name.startswith("gateway adds")] + late


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description="The demo's times, latency, memory and start-up.")
    parser.add_argument("--until", default=SPRING, help="the last day of the demo (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help=f"the whole year, until {YEAR}, which has an aim: 360 s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round of the latency's measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of the latency's measurement")
    arguments = parser.parse_args()
    # As a user starts it: without bytecode each process would take seconds longer, and that is not what is measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="bench-loop-") as folder:
        made = bench(Path(folder), arguments)
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n\n{table(made)}\n\nfigures: {write('loop', made)}")


if __name__ == "__main__":
    main()
