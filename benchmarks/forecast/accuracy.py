"""How far the forecasts are from measurements that they were not fitted to.

    python benchmarks/forecast/accuracy.py --fit FILE [--test FILE] [--published FILE] [--holdout SHARE]

What this is: a fit on one CSV and the errors on another, by model, GPU, engine and precision. Without `--test`, each
group (model x GPU x engine x precision) is left out in turn; with `--holdout 0.3`, that share of the points of all
groups, drawn at random (five draws), twins of one run always together. Who calls it: `make bench-forecast`, people.
What it must never do: fit on a point that it then judges by.

The last line is JSON: points and mean absolute percentage errors, of all and of dense models on H100 and H200.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from published import compare

from mainspring.errors import InputError, MainspringError
from mainspring.forecast.accuracy import Error, Errors, by, dense_hopper, errors, mean
from mainspring.forecast.calibrate import calibrate, moves, without
from mainspring.forecast.measurements import Measurement, read

DRAWS = 5
SHOWN = 5
LINE = "{:<48.48} {:>6} {:>7} {:>7} {:>7}"


def read_file(path: Path, *, once: bool = True) -> list[Measurement]:
    """The rows of a file; those that can't be read are counted aloud."""
    complaints: list[InputError] = []
    points = read(path.read_text(encoding="utf-8"), path.name, complaints, once=once)
    for one in complaints[:SHOWN]:
        print(f"left out: {one.message}", file=sys.stderr)
    if complaints:
        print(f"left out: {len(complaints)} rows of {path.name} that can't be read", file=sys.stderr)
    return points


def each_left_out(points: Sequence[Measurement]) -> list[Error]:
    """Errors of each group by a fit on all others."""
    start = moves(points)
    groups = sorted({one.group for one in points})
    found: list[Error] = []
    for i, group in enumerate(groups):
        print(f"\rleaving out group {i + 1} of {len(groups)}", end="", file=sys.stderr, flush=True)
        known = without(points, {group}, start)
        found += errors([one for one in points if one.group == group], known)
    print(file=sys.stderr)
    return found


def held_out(points: Sequence[Measurement], share: float) -> list[Error]:
    """Errors of a random share of the points by a fit on the others, in several draws."""
    twins: dict[tuple[float, float], list[Measurement]] = {}
    for one in points:
        twins.setdefault((one.ttft, one.tpot), []).append(one)
    found: list[Error] = []
    for draw in range(DRAWS):
        runs = list(twins.values())
        random.Random(draw).shuffle(runs)
        cut = round(len(runs) * share)
        known = calibrate([one for run in runs[cut:] for one in run], folds=0)
        found += errors([one for run in runs[:cut] for one in run], known)
    return found


def show(title: str, rows: Sequence[Errors]) -> None:
    """One table."""
    print(LINE.format(title, "points", "tpot %", "e2e %", "ttft %"))
    for one in rows:
        print(LINE.format(one.name, one.points, f"{one.tpot:.1f}", f"{one.e2e:.1f}", f"{one.ttft:.1f}"))
    print()


def report(found: Sequence[Error], fitted: set[str]) -> None:
    """All tables, and the line of JSON."""
    dense = [one for one in found if dense_hopper(one.point)]
    show("by model", by(found, lambda one: one.setup.shape.name))
    show("by GPU", by(found, lambda one: one.setup.gpu.name))
    show("by engine", by(found, lambda one: one.setup.engine))
    show("by precision", by(found, lambda one: one.setup.precision))
    show("by group", by(found, lambda one: one.group.replace("|", " ")))
    known = [one for one in found if one.point.group in fitted]
    dense_known = [one for one in dense if one.point.group in fitted]
    rows = [
        mean("all groups", found),
        mean("groups that were fitted", known),
        mean("groups that were not", [one for one in found if one.point.group not in fitted]),
        mean("dense models on H100 and H200", dense),
        mean("dense models on H100 and H200, fitted", dense_known),
    ]
    show("in all", [one for one in rows if one.points])
    print(json.dumps({**line(mean("", found)), "dense_hopper": line(mean("", dense))}), flush=True)


def line(told: Errors) -> dict[str, float]:
    """The figures of the last line."""
    return {
        "points": told.points,
        "tpot_mape": round(told.tpot, 2),
        "e2e_mape": round(told.e2e, 2),
        "ttft_mape": round(told.ttft, 2),
    }


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=Path, required=True, metavar="FILE")
    parser.add_argument("--test", type=Path, metavar="FILE")
    parser.add_argument("--published", type=Path, metavar="FILE")
    parser.add_argument("--holdout", type=float, metavar="SHARE")
    asked = parser.parse_args()
    try:
        points = read_file(asked.fit)
        if asked.published:
            compare(asked.published, calibrate(points))
        if asked.test:
            report(errors(read_file(asked.test, once=False), calibrate(points, folds=0)), {one.group for one in points})
        elif asked.holdout:
            report(held_out(points, asked.holdout), {one.group for one in points})
        else:
            report(each_left_out(points), set())
    except (OSError, MainspringError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
