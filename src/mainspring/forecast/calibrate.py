"""Fit the coefficients of the performance model to measurements.

What this is: a robust, partially pooled fit, in the logarithm of both times at once; pure. Who calls it: `mainspring
calibrate`, benchmarks, and `python -m mainspring.forecast.calibrate FILE OUT`, which makes the document that is part
of the package. What it must never do: look at a point that it was not given.

Each coefficient is a sum over the levels of a setup (`levels.py`), each with a normal prior around zero; what a group's
points leave over is a Gaussian process (`residual.py`). All of it is one Gaussian model around the current
linearisation, solved exactly in the space of the points, again and again (Gauss-Newton), with weights that take the
force from outliers (Huber). On top of a prior (the built-in coefficients) only the levels of one's own group move.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mainspring.forecast import equations
from mainspring.forecast.coefficients import Coefficients, nothing
from mainspring.forecast.equations import NAMES
from mainspring.forecast.levels import OWN, PRIOR, levels
from mainspring.forecast.measurements import Measurement, read
from mainspring.forecast.residual import Anchors, covariance, joined, place
from mainspring.forecast.terms import Floats, Terms, stack, terms

NOISE = (0.03, 0.12)
"""Standard deviations of the noise of one measurement, in log(tpot) and log(ttft)."""

LEFT = (0.2, 0.45)
"""Standard deviations of what the equations leave over in a group."""

TURN = 1.5
"""Standard deviations from which a point counts as an outlier (Huber)."""

ROUNDS = 12
FOLDS = 5
"""Parts into which groups are cut to see how far off a group is that was left out."""

STRIDE = 0.5
"""The most that a coefficient's logarithm moves in one round, at one level."""

CUT = 1.0
"""Errors beyond this count as this in a spread: a few rows are plain wrong."""


@dataclass(slots=True)
class Problem:
    """Points as arrays. The first half of a long vector is log(tpot), the second log(ttft)."""

    points: Sequence[Measurement]
    cases: Terms
    load: Floats
    measured: Floats
    base: Floats  # names x points: coefficients before the fit
    offset: Floats  # corrections before the fit
    members: Floats  # points x levels: 1 where a point belongs
    keys: list[str]  # of the levels
    wide: Floats  # variance of each level
    left: Floats  # prior covariance of what is left over
    anchors: dict[str, tuple[list[int], Anchors]]

    def logs(self, moved: Floats) -> Floats:
        """Coefficients of each point: names x points."""
        return self.base + moved @ self.members.T

    def told(self, logs: Floats) -> Floats:
        """What the equations say, without what is left over."""
        times = equations.loop(self.cases, self.load, dict(zip(NAMES, logs, strict=True)))
        return np.concatenate([np.log(times.tpot), np.log(times.ttft)]) + self.offset

    def slopes(self, logs: Floats, told: Floats) -> Floats:
        """Derivative of each value by each coefficient: names x values."""
        by, small = np.empty((len(NAMES), len(told))), 1e-3
        for k in range(len(NAMES)):
            moved = logs.copy()
            moved[k] += small
            by[k] = (self.told(moved) - told) / small
        return by


def calibrate(
    points: Sequence[Measurement], prior: Coefficients | None = None, *, folds: int = FOLDS, source: str = ""
) -> Coefficients:
    """Fit to `points`, on top of `prior` if there is one.

    `folds`: parts of the groups to leave out in turn, to learn how far off groups are that were not measured; 0: don't.
    """
    found = _fit(points, prior, None, ROUNDS)[0]
    spreads = dict(prior.spreads) if prior else {}
    spreads.update(found.spreads)
    if folds and prior is None:
        apart = _left_out(points, folds)
        if apart is not None:
            spreads["extrapolated"] = apart
    return replace(found, spreads=spreads, source=source or f"{len(points)} measurements")


def without(points: Sequence[Measurement], groups: set[str], moved: dict[str, Floats]) -> Coefficients:
    """As `calibrate` without the points of some groups, starting from the levels `moved` of a fit with them."""
    return _fit([one for one in points if one.group not in groups], None, moved, 4)[0]


def moves(points: Sequence[Measurement]) -> dict[str, Floats]:
    """The levels of a fit, to start another from."""
    return _fit(points, None, None, ROUNDS)[1]


def _fit(
    points: Sequence[Measurement], prior: Coefficients | None, start: dict[str, Floats] | None, rounds: int
) -> tuple[Coefficients, dict[str, Floats]]:
    problem = _problem(points, prior)
    moved = np.zeros((len(NAMES), len(problem.keys)))
    if start:
        moved = np.array([start.get(key, np.zeros(len(NAMES))) for key in problem.keys]).T
    weights = np.ones(2 * len(points))
    for turn in range(rounds):
        whole = turn == rounds - 1 or start is not None
        moved, weights = _round(problem, moved, weights, 1.0 if whole else 0.6, 2.0 if start else STRIDE)
    anchors, spreads = _remainder(problem, moved, weights)
    found = _coefficients(problem, moved, anchors, spreads, prior)
    return found, dict(zip(problem.keys, moved.T, strict=True))


def _problem(points: Sequence[Measurement], prior: Coefficients | None) -> Problem:
    base = prior or nothing()
    own = [
        tuple(key for key in levels(one.setup, one.setup.version) if prior is None or key.split(":")[0] in OWN)
        for one in points
    ]
    keys = sorted({key for row in own for key in row})
    index = {key: i for i, key in enumerate(keys)}
    members = np.zeros((len(points), len(keys)))
    for i, row in enumerate(own):
        members[i, [index[key] for key in row]] = 1.0
    anchors = _anchors(points)
    left = np.zeros((len(points), len(points)))
    for held, block in anchors.values():
        left[np.ix_(held, held)] = covariance(block, block)
    return Problem(
        points=points,
        cases=stack([terms(one.setup, one.mean_prompt, one.mean_output, burst=one.burst) for one in points]),
        load=np.array([one.concurrency for one in points]),
        measured=np.log(np.array([one.tpot for one in points] + [one.ttft for one in points])),
        base=np.array([list(base.logs(one.setup).values()) for one in points]).T,
        offset=_offset(anchors, base, len(points)),
        members=members,
        keys=keys,
        wide=np.array([PRIOR[key.split(":")[0]] ** 2 for key in keys]),
        left=left,
        anchors=anchors,
    )


def _anchors(points: Sequence[Measurement]) -> dict[str, tuple[list[int], Anchors]]:
    """The points of each group, as places; no weights yet."""
    rows: dict[str, list[int]] = {}
    for i, one in enumerate(points):
        rows.setdefault(one.group, []).append(i)
    found = {}
    for key, held in rows.items():
        mine = [points[i] for i in held]
        found[key] = (
            held,
            Anchors(
                np.array([place(one.setup, one.mean_prompt, one.mean_output, one.concurrency) for one in mine]),
                np.array([one.setup.attention_dp > 1 for one in mine]),
                np.array([one.setup.expert_parallel > 1 for one in mine]),
                tuple(one.setup.version for one in mine),
                np.zeros(len(mine)),
                np.zeros(len(mine)),
            ),
        )
    return found


def _offset(anchors: dict[str, tuple[list[int], Anchors]], base: Coefficients, count: int) -> Floats:
    """The corrections that are there already."""
    offset = np.zeros(2 * count)
    for key, (held, block) in anchors.items():
        before = base.anchors.get(key)
        if before is not None:
            kernel = covariance(block, before)
            offset[held] = kernel @ before.tpot
            offset[[count + i for i in held]] = kernel @ before.ttft
    return offset


def _noise(count: int, weights: Floats) -> Floats:
    return np.repeat(NOISE, count) ** 2 / weights


def _robust(errors: Floats, count: int) -> Floats:
    return np.asarray(1.0 / np.maximum(1.0, np.abs(errors) / np.repeat(NOISE, count) / TURN))


def _round(problem: Problem, moved: Floats, weights: Floats, damping: float, stride: float) -> tuple[Floats, Floats]:
    """One step of Gauss-Newton, solved in the space of the points."""
    count = len(problem.points)
    logs = problem.logs(moved)
    told = problem.told(logs)
    by = problem.slopes(logs, told)
    shift = np.tile(moved @ problem.members.T, (1, 2))
    target = problem.measured - told + (by * shift).sum(axis=0)
    shared = (problem.members * problem.wide) @ problem.members.T
    matrix = (by.T @ by) * np.tile(shared, (2, 2))
    matrix[:count, :count] += LEFT[0] ** 2 * problem.left
    matrix[count:, count:] += LEFT[1] ** 2 * problem.left
    noise = _noise(count, weights)
    matrix[np.diag_indices(2 * count)] += noise
    dual = np.linalg.solve(matrix, target)
    spread = by * dual
    new = problem.wide * ((spread[:, :count] + spread[:, count:]) @ problem.members)
    step = np.clip(new - moved, -stride, stride)
    return moved + damping * step, 0.5 * weights + 0.5 * _robust(noise * dual, count)


def _remainder(
    problem: Problem, moved: Floats, weights: Floats
) -> tuple[dict[str, Anchors], dict[str, tuple[float, float]]]:
    """What the equations leave over in each group: weights of its points, and the error at points left out."""
    count = len(problem.points)
    rest = problem.measured - problem.told(problem.logs(moved))
    found, spreads, errors = {}, {}, ([], [])  # type: ignore[var-annotated]
    for key, (held, block) in problem.anchors.items():
        kernel = covariance(block, block)
        pair, wide = [], []
        for half in (0, 1):
            at = [half * count + i for i in held]
            dual, apart = _smooth(LEFT[half] ** 2 * kernel, rest[at], weights[at], NOISE[half])
            pair.append(LEFT[half] ** 2 * dual)
            errors[half].extend(apart)
            wide.append(_width(apart))
        found[key] = replace(block, tpot=pair[0], ttft=pair[1])
        if len(held) >= 10:
            spreads[f"group:{key}"] = (wide[0], wide[1])
    spreads["fitted"] = (_width(np.array(errors[0])), _width(np.array(errors[1])))
    return found, spreads


def _smooth(kernel: Floats, rest: Floats, weights: Floats, noise: float) -> tuple[Floats, Floats]:
    """Weights of the points of one group, and the error at each if it is left out (Rasmussen and Williams 5.12)."""
    inverse: Floats = np.eye(len(rest))
    dual = rest
    for _ in range(6):
        off = noise**2 / weights
        inverse = np.asarray(np.linalg.inv(kernel + np.diag(off)))
        dual = inverse @ rest
        weights = 1.0 / np.maximum(1.0, np.abs(off * dual) / noise / TURN)
    return dual, dual / np.diag(inverse)


def _width(errors: Floats) -> float:
    return float(np.sqrt(np.mean(np.clip(errors, -CUT, CUT) ** 2))) if len(errors) else 0.0


def _left_out(points: Sequence[Measurement], folds: int) -> tuple[float, float] | None:
    """How far off groups are that were left out, `folds` parts of them in turn."""
    groups = sorted({one.group for one in points})
    if len(groups) < 2 * folds:
        return None
    start = moves(points)
    errors: tuple[list[float], list[float]] = ([], [])
    for k in range(folds):
        out = set(groups[k::folds])
        found = without(points, out, start)
        held = [one for one in points if one.group in out]
        problem = _problem(held, found)
        rest = problem.measured - problem.told(problem.logs(np.zeros((len(NAMES), len(problem.keys)))))
        errors[0].extend(rest[: len(held)])
        errors[1].extend(rest[len(held) :])
    return _width(np.array(errors[0])), _width(np.array(errors[1]))


def _coefficients(
    problem: Problem,
    moved: Floats,
    anchors: dict[str, Anchors],
    spreads: dict[str, tuple[float, float]],
    prior: Coefficients | None,
) -> Coefficients:
    deltas = dict(prior.deltas) if prior else {}
    for key, row in zip(problem.keys, moved.T, strict=True):
        deltas[key] = tuple(float(a + b) for a, b in zip(deltas.get(key, (0.0,) * len(NAMES)), row, strict=True))
    counts = dict(prior.points) if prior else {}
    for one in problem.points:
        for key in levels(one.setup, one.setup.version):
            counts[key] = counts.get(key, 0) + 1
    held = dict(prior.anchors) if prior else {}
    for key, block in anchors.items():
        held[key] = joined(held[key], block) if key in held else block
    return Coefficients("", deltas, counts, held, spreads)


def main(arguments: Sequence[str]) -> int:
    """`python -m mainspring.forecast.calibrate FILE OUT`: make the document that is part of the package."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m mainspring.forecast.calibrate FILE OUT\n")
        return 2
    file = Path(arguments[0])
    points = read(file.read_text(encoding="utf-8"), file.name)
    found = calibrate(points, source=f"{len(points)} measurements of {file.name}")
    Path(arguments[1]).write_text(found.text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
