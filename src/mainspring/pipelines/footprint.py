"""What serving takes: bytes, memory, time of one row, rows a second; of two versions side by side.

What this is: the measurements that decide whether a conversion was worth it. The two take turns, row by row and block
by block, so that whatever else the machine does hits both; what is told is the median of some rounds, and how far the
rounds lie apart. Memory is measured in a fresh process (`python -m mainspring.pipelines.footprint ARTEFACT CODE`), as
what is resident with the model more than without it. Who calls it: the built-in step `gate`, in its own process.
What it must never do: judge (that is `decide/worth.py`).
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mainspring.artefacts import code
from mainspring.artefacts.load import MODEL, load_manifest
from mainspring.artefacts.score import Scorer
from mainspring.loop.snapshot import Footprint
from mainspring.pipelines.package import raw_columns
from mainspring.pipelines.spread import spread

if TYPE_CHECKING:
    import pandas as pd

ROUNDS = 12
FEWEST, BUDGET = 4, 10.0  # rounds that there are at least; seconds after which no other one begins
SINGLES = 60  # single rows in one round, of each
BLOCK = 2_048  # rows of one block, at most
BLOCKS = 3  # blocks in one round, of each; the fastest counts: whatever disturbs one only makes it slower
PATIENCE = 60.0  # seconds for a process that only loads a model

Columns = Mapping[str, Any]


def compare(
    rows: pd.DataFrame, candidate: Scorer, champion: Scorer, folders: tuple[Path, Path], code_root: Path
) -> tuple[Footprint, Footprint] | None:
    """The footprints of candidate and champion (`folders` are their artefacts'); None without rows."""
    if not len(rows):
        return None
    scorers = (candidate, champion)
    singles = [_singles(scorer, rows) for scorer in scorers]
    blocks = [raw_columns(rows.iloc[:BLOCK], scorer.manifest.inputs) for scorer in scorers]
    size = min(BLOCK, len(rows))
    p95: list[list[float]] = [[], []]
    rate: list[list[float]] = [[], []]
    until = time.monotonic() + BUDGET
    for number in range(-1, ROUNDS):  # the first one warms up
        if number >= FEWEST and time.monotonic() > until:
            break
        seconds: list[list[float]] = [[], []]
        for at in range(SINGLES):
            for which in (0, 1) if at % 2 else (1, 0):
                mine = singles[which]
                seconds[which].append(_seconds(scorers[which], mine[(max(number, 0) * SINGLES + at) % len(mine)]))
        for which in (0, 1) if number % 2 else (1, 0):
            rate[which].append(size / min(_seconds(scorers[which], blocks[which]) for _ in range(BLOCKS)))
            p95[which].append(float(np.quantile(seconds[which], 0.95)))
    resident = [process.result() for process in [_Weighing(folder, code_root) for folder in folders]]
    own, other = (
        Footprint(
            size=(folders[which] / MODEL).stat().st_size,
            memory=resident[which],
            latency_p95=float(np.median(p95[which][1:])),
            throughput=float(np.median(rate[which][1:])),
            latency_spread=spread(p95[which][1:]),
            throughput_spread=spread(rate[which][1:]),
        )
        for which in (0, 1)
    )
    return own, other


def _singles(scorer: Scorer, rows: pd.DataFrame) -> list[Columns]:
    """Single rows as requests bring them, evenly over all."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(ROUNDS * SINGLES, len(rows))).astype(np.int64))
    names = [field.name for field in scorer.manifest.inputs]
    whole = raw_columns(rows.iloc[chosen], scorer.manifest.inputs)
    columns = {name: whole[name].astype(object).where(whole[name].notna(), None).tolist() for name in names}
    return [{name: [columns[name][place]] for name in names} for place in range(len(chosen))]


def _seconds(scorer: Scorer, columns: Columns) -> float:
    began = time.perf_counter()
    scorer.score(columns)
    return time.perf_counter() - began


class _Weighing:
    """A fresh process that loads a model and says what that took."""

    def __init__(self, artefact: Path, code_root: Path) -> None:
        words = [sys.executable, "-m", "mainspring.pipelines.footprint", str(artefact), str(code_root)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)

    def result(self) -> float:
        """Bytes that it held more with the model than without it; nan when that cannot be found out."""
        try:
            said, _ = self._process.communicate(timeout=PATIENCE)
            return max(0.0, float(said))
        except (ValueError, subprocess.TimeoutExpired):
            return math.nan
        finally:
            self._process.kill()
            self._process.wait()


def _resident() -> int:
    """Bytes of this process that are in memory (Linux)."""
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main(artefact: str, code_root: str) -> None:
    """Load the model and say how much memory that took; the runtime and the user's own code are loaded before."""
    manifest = load_manifest(Path(artefact))
    if manifest.features:
        code.load(Path(code_root), manifest.code, manifest.features)
    before = _resident()
    scorer = Scorer(Path(artefact), Path(code_root))  # it also answers some rows, to see that they are independent
    print(_resident() - before)
    del scorer


if __name__ == "__main__":
    main(*sys.argv[1:])
