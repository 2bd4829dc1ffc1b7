"""How often and when rules gave a rollout up: probabilities with their intervals, medians, and lines of a table.

Who calls it: `benchmarks/canary.py`. What it must never do: print a probability without saying how sure it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from canaries.traffic import WIDTH, Bools, Floats


def first(hit: Bools, length: int = 1) -> Floats:
    """Minutes until the first True along the second axis, of looks `length` stretches apart; NaN: never."""
    at = np.argmax(hit, axis=1)
    return np.where(hit.any(axis=1), (at + 1.0) * length * WIDTH / 60.0, np.nan)


def wilson(hits: int, runs: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a probability after `hits` of `runs` (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = hits / runs, z * z / runs
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / runs + weight / (4 * runs))
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True, slots=True)
class Found:
    """One rule on one version: of so many runs so many ended so, and when."""

    runs: int
    hits: int
    median: float  # minutes, of those that ended so; NaN of none

    @classmethod
    def of(cls, minutes: Floats) -> Found:
        """From minutes by run; NaN where it did not."""
        known = minutes[~np.isnan(minutes)]
        return cls(len(minutes), len(known), float(np.median(known)) if len(known) else math.nan)

    @property
    def share(self) -> float:
        """How often."""
        return self.hits / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of it."""
        return wilson(self.hits, self.runs)

    def cell(self) -> str:
        """`88.4±1.4 (45)`: how often in %, the longer side of its interval, and the median of minutes."""
        return self.rate() + (f" ({self.median:.0f})" if self.hits else "")

    def rate(self) -> str:
        """`88.4±1.4`."""
        low, high = self.interval
        return f"{self.share * 100:.1f}±{max(self.share - low, high - self.share) * 100:.1f}"

    def sure(self) -> str:
        """`3.1 % [2.4, 4.0]`: how often, with its interval."""
        low, high = self.interval
        return f"{self.share * 100:.2f} % [{low * 100:.2f}, {high * 100:.2f}]"


def rows(title: str, columns: list[str], found: dict[str, list[str]]) -> str:
    """A table in Markdown, as the documents show it."""
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in found.items()])
