"""What every benchmark ends with: figures, as a table of 80 columns and as `benchmarks/results/NAME.json`.

Who calls it: each benchmark of this folder; `make bench-figures` shows the figures that the last runs wrote.
What it must never do: leave out a figure whose aim was not met, or round one until it is.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH = 80
NAME, VALUE, UNIT = 38, 10, 11


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured. `compared_with` names something measured in the same run, with its value."""

    name: str
    value: float
    unit: str
    compared_with: str = ""
    aim: float | None = None
    met: bool | None = None


def figure(
    name: str,
    value: float,
    unit: str,
    compared_with: str = "",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Judge a figure by the aim that an issue gives; without one, `aim` and `met` are None."""
    if at_most is not None:
        return Figure(name, value, unit, compared_with, at_most, value <= at_most)
    if at_least is not None:
        return Figure(name, value, unit, compared_with, at_least, value >= at_least)
    return Figure(name, value, unit, compared_with)


def write(name: str, figures: Sequence[Figure], results: Path = RESULTS) -> Path:
    """Write `NAME.json`, whole or not at all: a list of figures. Returns where it lies."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump([asdict(one) for one in figures], file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


def read(path: Path) -> list[Figure]:
    """The figures that a benchmark wrote."""
    return [Figure(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def table(figures: Sequence[Figure]) -> str:
    """Figures as text of 80 columns; what each is compared with stands below it."""
    lines = [f"{'FIGURE':{NAME}} {'VALUE':>{VALUE}} {'UNIT':{UNIT}} AIM"]
    for one in figures:
        names = textwrap.wrap(one.name, NAME) or [""]
        lines += names[:-1]
        lines.append(f"{names[-1]:{NAME}} {number(one.value):>{VALUE}} {one.unit:{UNIT}} {_aim(one)}".rstrip())
        if one.compared_with:
            lines += textwrap.wrap(f"beside {one.compared_with}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def number(value: float) -> str:
    """Four digits that say something, and never fewer than the whole part: `0.2941`, `17.35`, `26021`."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}"


def _aim(one: Figure) -> str:
    if one.aim is None:
        return ""
    below = (one.value <= one.aim) == one.met
    return f"{'<=' if below else '>='} {number(one.aim)} {'met' if one.met else 'NOT MET'}"


def main() -> None:
    """Show what the last runs wrote."""
    for path in sorted(RESULTS.glob("*.json")):
        print(f"{path.stem}\n\n{table(read(path))}\n")


if __name__ == "__main__":
    main()
