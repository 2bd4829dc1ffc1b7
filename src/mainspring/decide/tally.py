"""The evidence of a rollout added up once, for all checks.

What this is: sums over slices, pure. Who calls it: `decide/checks.py`, through `decide/rollout.py`.
What it must never do: weigh anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mainspring.decide.arms import STRATA, Arms, Counts, Histogram, Slice, Units
from mainspring.decide.times import BUCKETS, LOWER, Blocks, counted, cut, dense

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Field = Literal["times", "firsts"]


@dataclass(frozen=True, slots=True)
class Tally:
    """Both arms' counts over the whole rollout."""

    arms: Arms
    requests: int  # the candidate's, that users saw
    errors: int
    control_requests: int
    control_errors: int
    groups: Floats
    """(slices, 8), in order of time: share by design, 0 where it is not known; the candidate's errors, refusals and
    requests; the control's; the candidate's whose clients left. Requests of all lengths together."""

    @property
    def refused(self) -> tuple[int, int]:
        """Answers with 4xx: the candidate's, the control's."""
        return int(self.groups[:, 2].sum()), int(self.groups[:, 5].sum())

    @property
    def left(self) -> int:
        """The candidate's requests, that users made, whose clients left: neither answered nor failed."""
        return int(self.groups[:, 7].sum())

    @property
    def answered(self) -> int:
        """The candidate's, that users saw, which were answered or failed: not refused, and nobody left."""
        return self.requests - self.refused[0] - self.left

    @property
    def copied(self) -> int:
        """Copies that were answered or failed."""
        return _answered(self.arms.mirrored)

    @property
    def units(self) -> tuple[Units, Units] | None:
        """Users or sessions of both arms, where the split is made by them."""
        own, rest = self.arms.candidate_units, self.arms.control_units
        return (own, rest) if own is not None and rest is not None else None

    @property
    def users_of_one(self) -> float:
        """Users or sessions of a request, on average over both arms; 1 where the split is made for each request."""
        if self.units is None:
            return 1.0
        return min(1.0, sum(one.seen for one in self.units) / max(1, self.requests + self.control_requests))

    @property
    def promised(self) -> tuple[float, float]:
        """What a promise about errors is judged by: how many were bad, and of how many.

        Answers, live and copied; where users keep their version users: those with an error, of those who never were
        refused and never left. A user who fails once counts as one who always does, so this is on the safe side; of
        scopes behind each other, which have the same users, all errors count, and the users of one. Copies are so many
        users as live requests.
        """
        bad, copied = self.arms.mirrored.errors, self.copied
        if self.units is None:
            return self.errors + bad, self.answered + copied
        scopes = [self.units[0], *(one for one, _, _ in self.arms.earlier)]
        failing = sum(one.failing for one in scopes)
        users = max(one.seen - one.refused - one.left for one in scopes)
        return failing + bad, max(failing, users) + max(bad, copied * self.users_of_one)

    @property
    def failures(self) -> tuple[Floats, Floats]:
        """What a bound on errors is judged by: bad ones and all, copies first, then slice by slice.

        Where users keep their version, users with an error, of as many as make the share that of the answers, or of
        all users where that is more: one who tries again and again is one finding, and a rare error of many no fault.
        """
        mirrored, rate = self.arms.mirrored, self.users_of_one
        if self.units is None:
            live, bad = self.groups[:, 3] - self.groups[:, 2] - self.groups[:, 7], self.groups[:, 1]
        else:
            one = self.units[0]
            share = self.errors / max(1, self.answered)
            bad = np.array([float(one.failing)])
            live = np.array([max(float(one.seen), one.failing / share if share else 0.0)])
        if not mirrored.requests:
            return bad, live
        return np.concatenate([[mirrored.errors * rate], bad]), np.concatenate([[self.copied * rate], live])

    def times(self, name: Field) -> Floats:
        """The candidate's histogram, live and mirrored."""
        return _sum(self.arms.slices, name) + dense(getattr(self.arms.mirrored, name))

    @property
    def waited(self) -> Floats:
        """How long those had waited who left, live and mirrored."""
        return _sum(self.arms.slices, "waited") + dense(self.arms.mirrored.waited)

    def slow(self, name: Field, limit: float) -> tuple[Floats, Floats]:
        """Answers surely over a limit, and all, copies first, then slice by slice; who left counts by the real time."""
        counts = [self.arms.mirrored, *(one.candidate for one in self.arms.slices)]
        fields = ("times", "waited") if name == "times" else ("firsts",)
        bad, total = np.zeros(len(counts)), np.zeros(len(counts))
        for part in fields:
            rows, buckets, many = _flat([getattr(one, part) for one in counts])
            total += np.bincount(rows, many, len(counts))
            bad += np.bincount(rows, many * (limit <= LOWER[buckets]), len(counts))
        return bad, total

    def blocks(self, name: Field, factor: float) -> list[Blocks]:
        """Slow answers beside the control, for each stratum of prompt length; who left counts by the real time."""
        found = []
        for stratum in range(len(STRATA) + 1):
            mine = [one for one in self.arms.slices if one.stratum == stratum]
            if mine:
                own, rest = _cells(mine, "candidate", name), _cells(mine, "control", name)
                ends = cut(own.totals(len(mine)), rest.totals(len(mine)))
                found.append(counted(own.matrix(ends), rest.matrix(ends), ends, factor))
        return found


def tally(arms: Arms) -> Tally:
    """Add up all slices."""
    groups: dict[tuple[int, float], list[int]] = {}
    for one in arms.slices:
        own, rest = one.candidate, one.control
        group = groups.setdefault((one.at, one.weight), [0] * 7)
        group[0] += own.errors
        group[1] += own.refused
        group[2] += own.requests
        group[3] += rest.errors
        group[4] += rest.refused
        group[5] += rest.requests
        group[6] += own.left
    table = np.array([(weight, *counts) for (_, weight), counts in groups.items()], np.float64).reshape(-1, 8)
    errors, _, requests, control_errors, _, control_requests, _ = (int(n) for n in table[:, 1:].sum(axis=0))
    return Tally(arms, requests, errors, control_requests, control_errors, table)


def _answered(counts: Counts) -> int:
    return max(counts.errors, counts.requests - counts.refused - counts.left)


@dataclass(frozen=True, slots=True)
class _Cells:
    """Histograms of many slices: a row for each bucket that something fell into."""

    rows: Ints  # number of the slice
    buckets: Ints
    many: Floats

    def totals(self, slices: int) -> Floats:
        return np.bincount(self.rows, self.many, slices).astype(np.float64)

    def matrix(self, ends: Ints) -> Floats:
        """Added up over blocks of slices that end so: (blocks, buckets); what is behind the last is left out."""
        block = np.searchsorted(ends, self.rows)
        cells = np.bincount(block * BUCKETS + self.buckets, self.many, (len(ends) + 1) * BUCKETS).astype(np.float64)
        return cells.reshape(-1, BUCKETS)[: len(ends)]


def _cells(slices: list[Slice], arm: Literal["candidate", "control"], name: Field) -> _Cells:
    parts = [_flat([getattr(getattr(one, arm), name) for one in slices])]
    if name == "times":
        parts.append(_flat([getattr(one, arm).waited for one in slices]))
    return _Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _sum(slices: tuple[Slice, ...], name: str) -> Floats:
    _, buckets, many = _flat([getattr(one.candidate, name) for one in slices])
    return np.bincount(buckets, many, BUCKETS).astype(np.float64)


def _flat(histograms: list[Histogram]) -> tuple[Ints, Ints, Floats]:
    """Of all histograms one behind the other: its number, bucket, count."""
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(histograms)), dtype=np.int64).reshape(-1, 2)
    rows = np.repeat(np.arange(len(histograms)), [len(one) for one in histograms])
    return rows, flat[:, 0], flat[:, 1].astype(np.float64)
