"""Tests that stay valid however often one looks: e-processes for shares of bad requests, alone and beside a control.

An e-process is a running product whose expectation is at most 1 while the null hypothesis holds;
by Ville's inequality it ever exceeds 1/alpha with probability at most alpha (Ramdas, Grünwald, Vovk
and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", sections 2 and 4).
Here all of them are mixtures of likelihood ratios over a fixed grid: each ratio is a supermartingale under
the null hypothesis, hence so is their mean. All functions take arrays, so that many runs are judged at once.

What this is: formulas. Who calls it: `decide/checks.py`, `decide/soak.py`, benchmarks.
What it must never do: know what is counted.
"""

from __future__ import annotations

import math
from bisect import insort
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

GRID = 64
LARGEST = 700.0
"""Logarithm of the largest e-value that is told: more is not needed by anybody, and is no float any more."""

WIDE = 20_000
"""Counts that are judged at once: of many runs a part at a time, since all rate ratios of it have to be in memory."""

BURST = 2.0
"""Errors of a slice, in the median of those of earlier slices, from which on they are taken for one fault."""

FIRST = 0.85
"""The part of the money that is bet from the first slice on; the rest is for faults that begin later (`renewed`)."""
AHEAD = 720
"""Slices in which half of that rest is bet, evenly: as many as a first stage has; then as the inverse square."""

SERIOUS = 15.0
"""Middle of the prior on how many times more often than allowed, less one, a candidate fails; see `rate_ratios`."""


def evidence_above(bad: int, total: int, bound: float) -> float:
    """The e-value against "the share of bad requests is at most `bound`", after `bad` of `total`.

    Larger is stronger; 100 is reached with probability at most 1 % while the share is within the bound.
    Raises `ValueError` unless 0 < bound < 1 and 0 <= bad <= total.
    """
    _refuse(bad, total, bound)
    return float(told(share_above(bad, total, bound)))


def evidence_below(bad: int, total: int, bound: float) -> float:
    """The e-value against "the share of bad requests is `bound` or more", after `bad` of `total`: promotion takes this.

    A mixture of Bernoulli likelihood ratios over shares below the bound, by Jeffreys' prior Beta(1/2, 1/2) cut off
    there (on a grid of the square root of the share, which is a mixture in its own right). 20 is reached with
    probability at most 5 % while the share is at the bound or above: without any error after 3,787 requests for 0.1 %,
    where one look, fixed beforehand, takes 2,995.
    Raises `ValueError` unless 0 < bound < 1 and 0 <= bad <= total.
    """
    _refuse(bad, total, bound)
    return float(told(share_below(bad, total, bound)))


def share_above(bad: ArrayLike, total: ArrayLike, bound: float) -> Floats:
    """Logarithm of `evidence_above`, for arrays of counts of any shape; counts may be fractions."""
    return log_mean(_shares(bad, total, bound, _larger(bound)))


def share_path(bad: ArrayLike, total: ArrayLike, bound: float, *, path: bool = False) -> Floats:
    """As `share_above`, from counts of each slice (..., slices) in order of time: finds what begins late (`renewed`).

    The result has the shape (...), or with `path` (..., slices).
    """
    steps = np.cumsum(np.asarray(bad, float), axis=-1), np.cumsum(np.asarray(total, float), axis=-1)
    return renewed(_shares(*steps, bound, _larger(bound)), path=path)


def _larger(bound: float) -> Floats:
    found: Floats = np.exp(np.linspace(math.log(bound), math.log(1 - 1e-9), GRID + 1)[1:])
    return found


def share_below(bad: ArrayLike, total: ArrayLike, bound: float) -> Floats:
    """Logarithm of `evidence_below`, for arrays of counts of any shape; counts may be fractions."""
    return log_mean(_shares(bad, total, bound, bound * ((np.arange(4 * GRID) + 0.5) / (4 * GRID)) ** 2))


def ratio_evidence(
    candidate_bad: ArrayLike,
    candidate_all: ArrayLike,
    control_bad: ArrayLike,
    control_all: ArrayLike,
    ratio: float = 1.0,
    weight: ArrayLike | None = None,
    *,
    path: bool = False,
    serious: float = SERIOUS,
    anew: bool = False,
) -> Floats:
    """The e-value against "the candidate's rate of errors is at most `ratio` times the control's".

    Conditional on errors. Counts are arrays (..., slices): both arms in the same stretch of time. `weight` is the
    candidate's share of the requests by design (0, or None: the share that it really got in the slice); with it
    the numbers of requests do not matter. The result has the shape (...), or with `path` (..., slices): the evidence
    after each slice. With `anew` it also finds what begins late (`renewed`); slices are in order of time then.

    With w the share, each error is the candidate's with probability theta = r w / (r w + 1 - w) at most, whatever the
    rate of errors is at the time: a day's course or an incident that hits both arms says nothing. For each r' above
    the ratio, the likelihood ratio of theta(r') to theta(r) has an expectation of 1 at most in a slice:
    each request is a factor of its own, and which requests the candidate got is random. Shares by design: the factors
    are independent. Shares really got: drawing without replacement is negatively associated (Joag-Dev and Proschan
    1983; for r = 1 it is Hoeffding 1963, theorem 4), so the expectation of the product is at most that of independent
    draws. Requests may differ in how often they fail. Where a slice is narrow the share by design is much the
    stronger: a slice with one request of the candidate's and an error in it has, by what it got, a share to match.

    The prior on r' is `rate_ratios`.
    """
    others = rate_ratios(ratio, serious)
    counts = (candidate_bad, candidate_all, control_bad, control_all)
    return _mixed(counts, ratio, others, weight, path=path, anew=anew)


def without_bursts(candidate_bad: ArrayLike, control_bad: ArrayLike) -> tuple[Floats, Floats]:
    """Errors of both arms (..., slices) in order of time, where many in one slice count as few: for `ratio_evidence`.

    A replica that dies takes all its requests with it: that is one finding, not ten. So the errors of a slice, of both
    arms together, count as `BURST` times the median of earlier slices at most (not their mean: bursts would make room
    for the next), and as one at least. The likelihood ratio of a slice is raised
    to a power of 1 at most by that, which depends on earlier slices and on how many errors there are, not on whose they
    are: given these its expectation is still 1 at most (Jensen). That is exact for shares by design, and for `ratio` 1;
    for shares really got and another ratio it is where errors are rare.
    A version that fails all the time is found some slices later, a hundredth of its first stage at most.
    """
    bad, base = np.broadcast_arrays(np.asarray(candidate_bad, float), np.asarray(control_bad, float))
    together = bad + base
    usual = np.zeros(together.shape)
    for row, medians in zip(together.reshape(-1, together.shape[-1]), usual.reshape(-1, usual.shape[-1]), strict=True):
        medians[:] = _medians_before(row.tolist())
    part = np.minimum(1.0, np.maximum(1.0, BURST * usual) / np.maximum(together, 1.0))
    return bad * part, base * part


def _medians_before(counts: list[float]) -> list[float]:
    """The (lower) median of what is before each; 0 before the first."""
    ordered: list[float] = []
    found = []
    for count in counts:
        found.append(ordered[(len(ordered) - 1) // 2] if ordered else 0.0)
        insort(ordered, count)
    return found


def renewed(logs: Floats, *, path: bool = False) -> Floats:
    """The logarithm of an e-value that also finds what begins late, from cumulative logs (others, ..., slices).

    `logs` are those of likelihood ratios after each slice, as `ratio_logs` gives with `path`. Long good
    conduct is a debt that a new fault would have to work off first. So the gambler bets `FIRST` of the money from the
    first slice on, and begins anew with a part of the rest at every later one (known beforehand: half of it within the
    first `AHEAD` slices, evenly); what has not begun is cash. A mean of e-processes that begin at fixed times is one.
    """
    slices = logs.shape[-1]
    if not slices:
        return np.zeros(logs.shape[1:] if path else logs.shape[1:-1])
    begins = np.arange(1, slices)
    money = np.concatenate([[FIRST], (1.0 - FIRST) * AHEAD / ((AHEAD + begins - 1.0) * (AHEAD + begins))])
    before = np.concatenate([np.zeros((*logs.shape[:-1], 1)), logs[..., :-1]], axis=-1)
    begun = np.log(money) - before
    cash = np.log((1.0 - FIRST) * AHEAD / (AHEAD + np.arange(slices)))
    if path:
        after: Floats = np.logaddexp(log_mean(logs + np.logaddexp.accumulate(begun, axis=-1)), cash)
        return after
    top = begun.max(axis=-1)
    ends = logs[..., -1] + top + np.log(np.exp(begun - top[..., None]).sum(axis=-1))
    found: Floats = np.logaddexp(log_mean(ends), cash[-1])
    return found


@cache
def rate_ratios(ratio: float, serious: float = SERIOUS) -> Floats:
    """The prior on how much more often the candidate fails: rate ratios above `ratio`, each as likely as the others.

    Of r'/r - 1, half is lognormal about `serious` (a standard deviation of 1.2 in its logarithm: faults of 4 to 60
    times), seven sixteenths are log-logistic about it (heavy tails both ways; where the candidate has a sixteenth of
    the traffic this is uniform in theta), a sixteenth is log-uniform from 1 to 30 %, so that small faults are found
    where traffic is much. It is one prior for all shares of traffic, so that evidence from stages with other shares
    adds up, and is near the best of those tried for serious faults.

    Median minutes at 500,000 requests a day, a control that fails in 0.1 %, a threshold of 40 (4,000 runs), beside
    those of other priors: uniform in theta, log-uniform in r' from 1 to 1,000, the lognormal part alone.

    | the candidate gets     | fails in | this | theta | log-uniform | lognormal |
    |------------------------|----------|------|-------|-------------|-----------|
    | 5 % of a third         | 1 %      | 55   | 61    | 64          | 55        |
    |                        | 2 %      | 21   | 22    | 22          | 21        |
    |                        | 5 %      | 7.2  | 7.2   | 7.2         | 7.2       |
    | 1 % of all             | 1 %      | 81   | 93    | 96          | 78        |
    |                        | 5 %      | 9.9  | 7.7   | 10          | 9.9       |
    | 50 % of all, at 50,000 | 0.5 %    | 135  | 156   | 143         | 125       |
    |                        | 2 %      | 21   | 25    | 18          | 18        |
    """
    found = []
    for number, shape in ((32, _lognormal), (28, _loglogistic), (4, _loguniform)):
        found.append(shape((np.arange(number) + 0.5) / number, serious))
    ratios: Floats = ratio * (1.0 + np.concatenate(found))
    ratios.flags.writeable = False  # it is kept
    return ratios


def ratio_below(
    candidate_bad: ArrayLike,
    candidate_all: ArrayLike,
    control_bad: ArrayLike,
    control_all: ArrayLike,
    ratio: float,
    weight: ArrayLike | None = None,
    *,
    path: bool = False,
) -> Floats:
    """The e-value against "the candidate's rate of errors is `ratio` times the control's or more": the certificate.

    As `ratio_evidence`, the other way about; the prior is uniform in the square root of r'/r, as in `evidence_below`.
    """
    others = ratio * ((np.arange(GRID) + 0.5) / GRID) ** 2
    counts = (candidate_bad, candidate_all, control_bad, control_all)
    return _mixed(counts, ratio, others, weight, path=path)


def ratio_logs(
    candidate_bad: ArrayLike,
    candidate_all: ArrayLike,
    control_bad: ArrayLike,
    control_all: ArrayLike,
    ratio: float,
    others: Floats,
    weight: ArrayLike | None = None,
    *,
    path: bool = False,
) -> Floats:
    """Log likelihood ratios of each of `others` to `ratio`: the shape of `ratio_evidence`, after one axis for `others`.

    log theta'/theta = log r'/r + d and log (1 - theta')/(1 - theta) = d, with d = log (r w + 1 - w)/(r' w + 1 - w).
    """
    bad, base = np.asarray(candidate_bad, float), np.asarray(control_bad, float)
    own, rest = np.asarray(candidate_all, float), np.asarray(control_all, float)
    got = own / np.maximum(own + rest, 1.0)
    w = got if weight is None else np.where(np.asarray(weight, float) > 0, np.asarray(weight, float), got)
    usual = np.log(ratio * w + 1.0 - w)
    many = others.reshape((-1,) + (1,) * np.broadcast(bad, w).ndim)
    steps: Floats = bad * np.log(many / ratio) + (bad + base) * (usual - np.log(many * w + 1.0 - w))
    found: Floats = steps.cumsum(axis=-1) if path else steps.sum(axis=-1)
    return found


def _mixed(
    counts: tuple[ArrayLike, ...],
    ratio: float,
    others: Floats,
    weight: ArrayLike | None,
    *,
    path: bool,
    anew: bool = False,
) -> Floats:
    """E-values of the mixture over `others`, many runs a part at a time."""
    arrays = np.broadcast_arrays(*counts, 0.0 if weight is None else weight)
    *lead, slices = arrays[0].shape or (1,)
    rows = [array.reshape(math.prod(lead), slices) for array in arrays]
    part = max(1, WIDE // max(slices, 1))
    found = []
    for i in range(0, max(len(rows[0]), 1), part):
        bad, own, base, rest, share = (row[i : i + part] for row in rows)
        logs = ratio_logs(bad, own, base, rest, ratio, others, share, path=path or anew)
        found.append(renewed(logs, path=path) if anew else log_mean(logs))
    shape = arrays[0].shape if path else arrays[0].shape[:-1]
    return told(np.concatenate(found).reshape(shape))


def log_mean(logs: Floats) -> Floats:
    """Logarithm of the mean of exp(logs) over the first axis."""
    top = logs.max(axis=0)
    found: Floats = top + np.log(np.mean(np.exp(logs - top), axis=0))
    return found


def told(logs: Any) -> Floats:
    """E-values from their logarithms, finite."""
    found: Floats = np.exp(np.minimum(logs, LARGEST))
    return found


def _lognormal(u: Floats, middle: float) -> Floats:
    return middle * np.exp(1.2 * np.array([NormalDist().inv_cdf(x) for x in u.tolist()]))


def _loglogistic(u: Floats, middle: float) -> Floats:
    return middle * u / (1.0 - u)


def _loguniform(u: Floats, _: float) -> Floats:
    return 0.01 * 30.0**u


def _shares(bad: ArrayLike, total: ArrayLike, bound: float, others: Floats) -> Floats:
    hits, misses = np.asarray(bad, float), np.asarray(total, float) - np.asarray(bad, float)
    shape = (-1,) + (1,) * hits.ndim
    up, down = np.log(others / bound), np.log1p(-others) - math.log1p(-bound)
    found: Floats = hits * up.reshape(shape) + misses * down.reshape(shape)
    return found


def _refuse(bad: int, total: int, bound: float) -> None:
    if not 0 < bound < 1 or not 0 <= bad <= total:
        raise ValueError(f"`{bad}` of `{total}` against `{bound}` is not a count against a share")


def student_quantile(share: float, df: int) -> float:
    """Upper quantile of Student's t by Hill's expansion (Communications of the ACM 13, 1970, algorithm 396).

    `share` is the one-sided level, such as 0.95; `df` the degrees of freedom, 1 or more.
    """
    two_sided = 2 * (1 - share)
    if df == 1:
        return 1 / math.tan(two_sided * math.pi / 2)
    if df == 2:
        return math.sqrt(2 / (two_sided * (2 - two_sided)) - 2)
    a = 1 / (df - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * df
    y = (d * two_sided) ** (2 / df)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(two_sided / 2)
        y = x * x
        if df < 5:
            c += 0.3 * (df - 4.5) * (x + 0.6)
        c = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + c
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((df + 6) / (df * y) - 0.089 * d - 0.822) * (df + 2) * 3) + 0.5 / (df + 4)) * y - 1) * (df + 1) / (
            df + 2
        ) + 1 / y
    return math.sqrt(df * y)
