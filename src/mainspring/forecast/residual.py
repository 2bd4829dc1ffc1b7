"""What the equations leave over in a group that was measured, smoothed between its points.

What this is: a Gaussian process over (log2 concurrency, GPUs, prompt, output) within one group, and its evaluation;
pure. Who calls it: `coefficients.py`, `steady.py`, `calibrate.py`. What it must never do: reach beyond the range of the
points (a place outside is treated as the nearest inside), or into another group.

Kernel: Matern 3/2 in scaled distance (Rasmussen and Williams 2006, 4.17), times a factor for each of version, copies of
the attention part and spread experts that differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mainspring.forecast.setup import Setup
from mainspring.forecast.terms import Floats

LENGTHS = np.array([4.0, 3.0, 4.0, 4.0])
"""Doublings over which a residual changes: of concurrency, GPUs, prompt, output."""

ALIKE = {"version": 0.25, "copies": 0.3, "spread": 0.5}
"""Share of a residual that carries over to points that differ in this."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """The points of one group, and their weights."""

    place: Floats  # n x 4: log2 of concurrency, GPUs, prompt, output
    copies: npt.NDArray[np.bool_]
    spread: npt.NDArray[np.bool_]
    version: tuple[str, ...]
    tpot: Floats  # weight of each point in the logarithm of tpot
    ttft: Floats
    low: Floats = field(init=False)
    high: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Find the range that the points span."""
        object.__setattr__(self, "low", self.place.min(axis=0))
        object.__setattr__(self, "high", self.place.max(axis=0))

    def __len__(self) -> int:
        """How many points."""
        return len(self.tpot)


def place(setup: Setup, prompt: float, output: float, concurrency: float) -> tuple[float, float, float, float]:
    """Where a point lies: log2 of concurrency, GPUs, prompt and output."""
    got = np.log2(np.maximum([concurrency, setup.gpus, prompt, output], 1.0))
    return float(got[0]), float(got[1]), float(got[2]), float(got[3])


def matern(squared: Floats) -> Floats:
    """The kernel of a squared scaled distance."""
    far = np.sqrt(3.0 * squared)
    return np.asarray((1.0 + far) * np.exp(-far))


def covariance(a: Anchors, b: Anchors) -> Floats:
    """The kernel between points of one group, for a variance of one."""
    apart = (a.place[:, None, :] - b.place[None, :, :]) / LENGTHS
    alike = np.where(a.copies[:, None] == b.copies[None, :], 1.0, ALIKE["copies"])
    alike = alike * np.where(a.spread[:, None] == b.spread[None, :], 1.0, ALIKE["spread"])
    same = np.array(a.version)[:, None] == np.array(b.version)[None, :]
    return matern((apart**2).sum(axis=2)) * alike * np.where(same, 1.0, ALIKE["version"])


def correction(
    anchors: Anchors, setup: Setup, version: str, prompts: Floats, output: float, concurrencies: Floats
) -> tuple[Floats, Floats]:
    """What to add to log(tpot) and log(ttft) at each prompt (rows) and concurrency (columns)."""

    def apart(axis: int, at: Floats) -> Floats:
        inside = np.clip(np.log2(np.maximum(at, 1.0)), anchors.low[axis], anchors.high[axis])
        return np.asarray(((inside[:, None] - anchors.place[None, :, axis]) / LENGTHS[axis]) ** 2)

    alike = np.where(anchors.copies == (setup.attention_dp > 1), 1.0, ALIKE["copies"])
    alike = alike * np.where(anchors.spread == (setup.expert_parallel > 1), 1.0, ALIKE["spread"])
    alike = alike * np.where(np.array(anchors.version) == version, 1.0, ALIKE["version"])
    still = apart(1, np.array([float(setup.gpus)])) + apart(3, np.array([float(output)]))
    squared = (apart(2, prompts) + still)[:, None, :] + apart(0, concurrencies)[None, :, :]
    kernel = matern(squared)
    return kernel @ (alike * anchors.tpot), kernel @ (alike * anchors.ttft)


def joined(a: Anchors, b: Anchors) -> Anchors:
    """The points of both: corrections add up."""
    return Anchors(
        np.concatenate([a.place, b.place]),
        np.concatenate([a.copies, b.copies]),
        np.concatenate([a.spread, b.spread]),
        a.version + b.version,
        np.concatenate([a.tpot, b.tpot]),
        np.concatenate([a.ttft, b.ttft]),
    )
