"""Checks of means: tokens and cost beside the control, feedback, paired rows, and the metric of an A/B test.

What this is: pure; betting e-values (`decide/bets.py`) from the sums of both arms to a `Check`.
Who calls it: `decide/rollout.py`. What it must never do: decide what follows.

Each value is taken as it came, given those before it. Of answers of one user, or rows of one day, that are alike,
the evidence is about these users and these days.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from mainspring.decide.arms import AMOUNTS, Sums
from mainspring.decide.bets import Beside, Sample, between, interval, mean_above, sample
from mainspring.decide.checks import percent
from mainspring.decide.sequential import told
from mainspring.decide.terms import Check, State
from mainspring.decide.times import dense

TOPS: tuple[float, ...] = tuple(AMOUNTS[0] * 4.0**k for k in range(1, 18))
"""Amounts above which more counts as this much: one of them is chosen by what was seen, for a part of the evidence."""
ROUNDED = 0.0005
"""By so much at most a loss difference on paired rows was rounded."""
_LOWER = np.array((0.0, *AMOUNTS))
_UPPER = np.array((*AMOUNTS, AMOUNTS[-1] * 4.0))
_MIDDLE = np.array((*AMOUNTS, AMOUNTS[-1] * AMOUNTS[1] / AMOUNTS[0])) / (AMOUNTS[1] / AMOUNTS[0]) ** 0.5


def amounts(own: Sums, rest: Sums, name: Literal["tokens", "cost"], fraction: float, threshold: float) -> Check:
    """Output tokens, or seconds of compute, of an answer: on average more than `fraction` over the control's?

    The e-value is against "the candidate's amounts are distributed as 1 + fraction times the control's, or below"
    (stochastic order), of whatever law. That is more than a statement on means: a version that never gives the
    control's rare long answers, and longer ones else, is not so distributed though its mean is lower. So it is bad only
    where the mean that was seen is over the bound, too. Under what is bet against,
    cut off at (1 + fraction) times a top and at the top, their means are so too. One of 17 tops is taken, the
    least above 99 of 100 of the control's, for a 17th of its evidence: that is at most the mean over all of them.
    Buckets: the candidate's count by their lower edges, the control's by their upper ones.
    """
    field: Literal["tokens", "compute"] = "tokens" if name == "tokens" else "compute"
    mine, theirs = (dense(getattr(arm, field), len(_LOWER)) for arm in (own, rest))
    title, what = f"{name} over control", "output tokens" if name == "tokens" else "seconds of compute"
    if not mine.sum() or not theirs.sum():
        return Check(title, "unknown", f"{what} of both versions are not known", threshold=threshold)
    ratio = 1.0 + fraction
    high = _UPPER[int(np.argmax(theirs.cumsum() >= 0.99 * theirs.sum()))]
    top = min((t for t in TOPS if t >= high), default=TOPS[-1])
    candidate = Sample(np.minimum(_LOWER / ratio, top)[mine > 0] / top, mine[mine > 0])
    control = Sample(np.minimum(_UPPER, top)[theirs > 0] / top, theirs[theirs > 0])
    evidence = float(told(Beside(candidate, control).log(0.0) - math.log(len(TOPS))))
    means = [float(_MIDDLE @ counts / counts.sum()) for counts in (mine, theirs)]
    text = f"{means[0]:.4g} {what} an answer, {means[1]:.4g} of the old version's; {percent(fraction)} more may be"
    numbers = {"candidate": means[0], "control": means[1], "bound": fraction}
    numbers |= {"ratio": means[0] / means[1]} if means[1] else {}
    numbers |= {"answers": float(mine.sum()), "control_answers": float(theirs.sum())}
    state: State = "bad" if evidence >= threshold and means[0] > ratio * means[1] else "open"
    return Check(title, state, text, evidence, threshold, numbers=numbers)


def score(own: Sums, rest: Sums, worse: float, threshold: float, untold: int) -> Check:
    """Feedback (0 to 1, more is better): on average worse than the control's by more than `worse`?"""
    mine, theirs = sample(own.scores), sample(rest.scores)
    if not mine.size or not theirs.size:
        return Check("score", "unknown", "no feedback on both versions has come", threshold=threshold)
    above, below = Beside(mine, theirs), Beside(mine.mirrored, theirs.mirrored)
    evidence = float(told(below.log(worse)))
    text = f"feedback {mine.mean:.3f} on {int(mine.size):,} answers, the old version's {theirs.mean:.3f} on "
    text += f"{int(theirs.size):,}; {worse:.3g} less may be"
    numbers = _numbers(mine, theirs, between(above, below, 2.0 / threshold)) | {"bound": worse, "untold": float(untold)}
    return _check("score", text, evidence, threshold, numbers)


def pairs(differences: tuple[tuple[float, int], ...], margin: float, threshold: float) -> Check:
    """Paired rows: is the mean loss difference (candidate - control, -1 to 1) surely above the margin?

    About the rows that were seen, row by row; bounds with days as clusters are told beside (`paired_difference`).
    """
    rows = sum(n for _, n in differences)
    if not rows:
        return Check("pairs", "unknown", "no paired row has its outcome yet", threshold=threshold)
    seen = sample(tuple(((value - ROUNDED + 1.0) / 2.0, n) for value, n in differences), 512)
    mean = math.fsum(v * n for v, n in differences) / rows
    evidence = mean_above(seen, (1.0 + min(max(margin, -0.999), 0.999)) / 2.0)
    text = f"loss {mean:+.4f} beside the old version's on {rows:,} paired rows, {margin:+.4f} may be"
    low, high = (2.0 * end - 1.0 for end in interval(seen, 2.0 / threshold))
    numbers = {"difference": mean, "low": low, "high": high + 2 * ROUNDED, "rows": float(rows), "bound": margin}
    return _check("pairs", text, evidence, threshold, numbers)


def ab(own: Sums, rest: Sums, metric: str, alpha: float) -> Check:
    """The metric of an A/B test: the difference of its means, with an interval that holds at any look.

    "bad": lost, surely worse than the control; "certain": won. Each end of the interval is wrong with probability
    `alpha` at most; losing gives the rollout up, so it is a part of the chance of a false abort.
    """
    mine, theirs = sample(own.metric), sample(rest.metric)
    threshold = 1.0 / alpha
    if not mine.size or not theirs.size:
        return Check("ab", "unknown", f"no `{metric}` of both versions has come", 1.0, threshold, 1.0, threshold)
    above, below = Beside(mine, theirs), Beside(mine.mirrored, theirs.mirrored)
    low, high = between(above, below, 2.0 * alpha)
    worse, better = float(told(below.log(0.0))), float(told(above.log(0.0)))
    sure = f"{percent(1 - 2 * alpha)} sure"
    text = f"`{metric}` {mine.mean:.4g} on {int(mine.size):,} answers, the old version's {theirs.mean:.4g} on "
    text += f"{int(theirs.size):,}: difference {mine.mean - theirs.mean:+.4f}, {low:+.4f} to {high:+.4f} ({sure})"
    state: State = "bad" if worse >= threshold else "certain" if better >= threshold else "open"
    risk = "" if state == "certain" else f"`{metric}` may be worse by up to {max(-low, 0.0):.4f} ({sure})"
    numbers = _numbers(mine, theirs, (low, high))
    return Check("ab", state, text, worse, threshold, better, threshold, None, numbers, risk)


def _numbers(mine: Sample, theirs: Sample, ends: tuple[float, float]) -> dict[str, float]:
    """Both means, their difference and its confidence sequence."""
    means = {"candidate": mine.mean, "control": theirs.mean, "difference": mine.mean - theirs.mean}
    return means | {"low": ends[0], "high": ends[1], "answers": mine.size, "control_answers": theirs.size}


def _check(name: str, text: str, evidence: float, threshold: float, numbers: dict[str, float]) -> Check:
    return Check(name, "bad" if evidence >= threshold else "open", text, evidence, threshold, numbers=numbers)
