"""How long `mainspring plan` takes from a cold start, on the examples.

    python benchmarks/plan.py [--starts N]

What this is: whole processes, timed from the outside, in turn with a Python that does nothing. Who calls it:
`make bench-plan`. What it must never do: keep anything warm between two starts but the machine's own file cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, figure, table, write

ROOT = Path(__file__).resolve().parent.parent
MAINSPRING = [sys.executable, "-m", "mainspring.cli.main"]
AIM = 5.0


def seconds(command: list[str], folder: Path) -> float:
    """Seconds of one process; it may end with 3, an objective that is not met."""
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False, env={**os.environ})
    took = time.perf_counter() - begun
    if done.returncode not in (0, 3):
        sys.exit(done.stderr.decode())
    return took


def bench(starts: int) -> list[Figure]:
    """The examples' plans, each so many times, in turn."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("03-case-study", "04-right-sizing"):
            (folder / name).mkdir()
            shutil.copy(ROOT / "examples" / name / "mainspring.yaml", folder / name)
        commands = {
            "nothing": [sys.executable, "-c", "pass"],
            "case": [*MAINSPRING, "plan", "03-case-study"],
            "many": [*MAINSPRING, "plan", "04-right-sizing"],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(starts):
            for name, command in commands.items():
                took[name].append(seconds(command, folder))
    middle = {name: statistics.median(values) for name, values in took.items()}
    least, most = min(took["case"]), max(took["case"])
    beside = f"python -c pass {middle['nothing'] * 1000:.0f} ms; from {least:.2f} to {most:.2f} s"
    return [
        figure(f"plan of the case study, median of {starts}", middle["case"], "s", beside, at_most=AIM),
        figure("the slowest of them", most, "s", at_most=AIM),
        figure("plan of twenty endpoints", middle["many"], "s", "the case study, one endpoint"),
    ]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5)
    found = bench(parser.parse_args().starts)
    print(table(found))
    write("plan", found)


if __name__ == "__main__":
    main()
