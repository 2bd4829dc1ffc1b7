"""Mainspring's own judgement over many runs at once: the functions of `decide/`, after each stretch of time.

What this is: arrays in, minutes out; and the same evidence as the `Arms` that `judge` takes, for the tests that hold
both to be one. Left out: while the split is surely off, which one as routed is in 1 % of the rollouts at most, `judge`
takes the share that each stretch got, or does not compare (times). Who calls it: `canaries/runs.py`,
`tests/benchmarks/test_canaries.py`. What it must never do: have a formula of its own.
"""

from __future__ import annotations

import math

import numpy as np

from canaries.found import first
from canaries.times import BOUND, Timed, bucket
from canaries.traffic import Bools, Counts, Floats, Ints, Requests, World
from mainspring.decide import arms, detect, times
from mainspring.decide.checks import SCOPE
from mainspring.decide.levels import levels
from mainspring.decide.rollout import Bound, Terms
from mainspring.decide.sequential import (
    FIRST,
    log_mean,
    rate_ratios,
    ratio_evidence,
    ratio_logs,
    renewed,
    share_above,
    share_path,
    without_bursts,
)

TERMS = Terms(errors=(Bound(0.0, over=True),), p95=(Bound(0.2, over=True),))
"""`abort: {p95: 20% over control}`: errors `0% over control` is the default."""
ALSO = Terms(errors=(Bound(0.0, over=True), Bound(0.01)), p95=(Bound(0.2, over=True),))
"""The same with `errors: [0% over control, 1%]`."""
SECONDS = Terms(p95=(Bound(BOUND),))
STRATA = len(arms.STRATA) + 1


def by_errors(
    counts: Counts, world: World, looks: tuple[int, ...], terms: Terms = TERMS, *, by_design: bool = True
) -> dict[int, Floats]:
    """Minutes until errors give a rollout up, by the number of stretches between two looks; NaN: never.

    The share is the one by design, as where the routes were one and the same all along, or what each stretch got.
    """
    alpha = levels(terms)
    over = evidence_of_errors(counts, world, by_design=by_design) >= 1.0 / alpha["errors over control"]
    for bound in (b.value for b in terms.errors if not b.over):
        over |= log_evidence_above(counts, world, bound) >= -math.log(alpha["errors"])
    return {every: first(over[:, every - 1 :: every], every) for every in looks}


def log_evidence_above(counts: Counts, world: World, bound: float) -> Floats:
    """Log of the evidence against a bound of its own after each stretch; where users keep their version of users.

    Those with an error, of as many as make the share that of the answers, or of all who came where that is more
    (`Tally.failures`).
    """
    if not world.sticky:
        bad, _ = without_bursts(counts.candidate_bad, counts.control_bad)
        return share_path(bad, counts.candidate, bound, path=True)
    bad, total = np.cumsum(counts.candidate_bad, axis=1), np.cumsum(counts.candidate, axis=1)
    failing = np.cumsum(counts.candidate_first, axis=1)
    users = np.maximum(np.cumsum(counts.candidate_new, axis=1), failing * total / np.maximum(bad, 1))
    logs = share_above(failing, users, bound)
    return np.log(FIRST * np.exp(np.minimum(logs, 700.0)) + 1.0 - FIRST)


def evidence_of_errors(counts: Counts, world: World, *, by_design: bool = True) -> Floats:
    """The evidence after each stretch: of users' first failures where users keep their version, else without bursts."""
    if world.sticky:
        bad, base = counts.candidate_first, counts.control_first
    else:
        bad, base = without_bursts(counts.candidate_bad, counts.control_bad)
    weight = world.share if by_design else None
    if not world.sticky:
        return ratio_evidence(bad, counts.candidate, base, counts.control, 1.0, weight, path=True, anew=True)
    over = ratio_evidence(bad, counts.candidate, base, counts.control, 1.0, weight, path=True)
    return SCOPE * over + 1.0 - SCOPE


def given_up(world: World, most: int, terms: Terms = TERMS) -> Ints:
    """The candidate's errors among so many of both (the index), from which they give a rollout up: one by one."""
    trials = np.arange(1, most + 1)

    def log_evidence(bad: Ints, total: Ints) -> Floats:
        one = ratio_evidence(bad[:, None], 0 * bad[:, None], (total - bad)[:, None], 0 * bad[:, None], 1.0, world.share)
        return np.log(FIRST * one + 1.0 - FIRST)  # what begins anew later adds hardly anything to that

    least = detect.boundary(log_evidence, 1.0 / levels(terms)["errors over control"], trials)
    return np.concatenate([[1], least])


def over_bound(requests: Requests, seconds: Floats) -> Floats:
    """Minutes until `abort: {p95: 3s}` gives a rollout up."""
    slices, mine = requests.world.slices, requests.candidate & timely(requests)
    shape, size = (requests.runs, slices), requests.runs * slices
    lower = np.array((0.0, *arms.EDGES))[bucket(seconds)]
    total = np.bincount(requests.cell[mine], minlength=size).reshape(shape)
    slow = np.bincount(requests.cell[mine & (lower >= BOUND)], minlength=size).reshape(shape)
    logs = share_path(slow, total, 1.0 - times.PART, path=True)
    return first(logs >= -math.log(levels(SECONDS)["p95"]))


def timely(requests: Requests) -> Bools:
    """Whose times count: where users keep their version, those of each one's first request in the stage."""
    return requests.new if requests.world.sticky else np.ones(len(requests.cell), dtype=bool)


def histograms(requests: Requests, timed: Timed, seconds: Floats, run: int, *, candidate: bool, of: Bools) -> Ints:
    """One run's answers of one arm by (stratum, stretch, bucket): those that are marked in `of`."""
    slices = requests.world.slices
    begin, end = np.searchsorted(requests.cell, (run * slices, (run + 1) * slices))
    part = slice(begin, end)
    which = (requests.candidate[part] == candidate) & of[part]
    cell = timed.stratum[part][which] * slices + requests.cell[part][which] - run * slices
    size = STRATA * slices * times.BUCKETS
    found = np.bincount(cell * times.BUCKETS + bucket(seconds[part][which]), minlength=size)
    return found.reshape(STRATA, slices, times.BUCKETS)


def over_control(requests: Requests, timed: Timed, versions: dict[str, Floats]) -> dict[str, Floats]:
    """Minutes until `abort: {p95: 20% over control}` gives a rollout up, for each version's times."""
    enough = -math.log(levels(TERMS)["p95 over control"])
    found, of = {name: np.full(requests.runs, np.nan) for name in versions}, timely(requests)
    for run in range(requests.runs):
        control = histograms(requests, timed, timed.seconds, run, candidate=False, of=of)
        for name, seconds in versions.items():
            mine = histograms(requests, timed, seconds, run, candidate=True, of=of)
            found[name][run] = first((path(mine, control) >= enough)[None])[0]
    return found


def path(candidate: Ints, control: Ints, factor: float = 1.2) -> Floats:
    """Log of the evidence of `decide/times.py`'s `beside` after each stretch."""
    others = rate_ratios(1.0, times.SERIOUS)
    logs = np.zeros((STRATA, len(others), candidate.shape[1]))
    alone = np.zeros((STRATA, candidate.shape[1]))
    for row, late, own, rest in zip(logs, alone, candidate, control, strict=True):
        one = times.blocks(own, rest, factor)
        if len(one.ends):
            after = ratio_logs(one.slow, one.answers, one.control_slow, one.control, 1.0, others, path=True)
            number = np.searchsorted(one.ends, np.arange(len(own)), side="right")  # blocks that are over by then
            row[:] = np.concatenate([np.zeros((len(after), 1)), after], axis=1)[:, number]
            late[:] = np.concatenate([[0.0], renewed(after, path=True)])[number]
    together = log_mean(logs.sum(axis=0))
    return log_mean(np.stack([together, log_mean(alone)]))


def judged(counts: Counts, world: World, run: int, until: int) -> arms.Arms:
    """What `judge` is given of a run after so many stretches; errors only."""
    slices = []
    for at in range(until):
        n, bad, rest, base = (int(a[run, at]) for a in
                              (counts.candidate, counts.candidate_bad, counts.control, counts.control_bad))  # fmt: skip
        slices.append(arms.Slice(at, 0, arms.Counts(n, bad), arms.Counts(rest, base), world.share))
    routed = (world.share, int(counts.candidate[run, :until].sum()), int(counts.control[run, :until].sum()))
    return arms.Arms(tuple(slices), routed=(routed,))
