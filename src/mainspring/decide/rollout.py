"""What becomes of a stage of a rollout: hold, advance or abort. Pure; one copy for loop, plan, twin and tests.

Abort rests on tests that are valid at any look (`decide/sequential.py`). No data means hold, never pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from mainspring.decide.sequential import evidence_above, student_quantile

ALPHA = 0.01  # the chance to abort a candidate that is within the bounds, for each bound, over the whole stage


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a candidate must hold, pinned when the rollout began."""

    errors: float | None  # share of failed answers
    p95: float | None  # seconds
    margin: float  # mean Brier loss by which it may be worse on paired rows
    confidence: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of the candidate in this stage (and, paired, since mirroring began)."""

    requests: int | None  # None: unknown
    errors: int = 0
    slow: int = 0  # undisturbed answers slower than the p95 bound
    timed: int = 0  # undisturbed answers
    days: tuple[tuple[int, float], ...] = ()  # paired rows by day: rows, sum of (candidate loss - control loss)
    told: bool = True  # outcomes come back, so that answers can be right or wrong; not so of language models


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """The verdict, in a sentence and in numbers."""

    kind: Literal["hold", "advance", "abort"]
    message: str
    numbers: dict[str, float] = field(default_factory=dict)


def paired_difference(days: tuple[tuple[int, float], ...], confidence: float) -> tuple[float, float, float]:
    """Mean loss difference (candidate - control) with a one-sided lower and upper bound, days as clusters.

    A ratio estimator over day totals with Student's t on days - 1 degrees of freedom (Cochran 1977,
    "Sampling Techniques", section 6.3): rows of one day share their weather, so days are the sample.
    Bounds are infinite with fewer than two days; all three are nan without rows.
    """
    rows = sum(n for n, _ in days)
    if rows == 0:
        return math.nan, math.nan, math.nan
    mean = math.fsum(d for _, d in days) / rows
    k = len(days)
    if k < 2:
        return mean, -math.inf, math.inf
    spread = math.fsum((d - mean * n) ** 2 for n, d in days)
    error = math.sqrt(k / (k - 1) * spread) / rows
    reach = student_quantile(confidence, k - 1) * error
    return mean, mean - reach, mean + reach


def in_words(seconds: float) -> str:
    """A length in the largest of h, min and s that it fills: `72 h`, `1.5 h`, `10 min`, `1 s`."""
    number, unit = next(((seconds / n, u) for n, u in ((3600, "h"), (60, "min")) if seconds >= n), (seconds, "s"))
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def judge_stage(bounds: Bounds, evidence: Evidence, *, elapsed: float, length: float) -> StageVerdict:
    """Judge a stage that was watched for `elapsed` of `length` seconds."""
    if evidence.requests is None or evidence.requests == 0:
        return StageVerdict("hold", "no answers of the new version are known yet")
    numbers = {"requests": float(evidence.requests), "errors": float(evidence.errors)}
    if bounds.errors is not None:
        e = evidence_above(evidence.errors, evidence.requests, min(max(bounds.errors, 1e-6), 1 - 1e-6))
        numbers["errors_evidence"] = e
        if e >= 1 / ALPHA:
            text = f"{evidence.errors} of {evidence.requests} answers failed, more than {bounds.errors:.1%}"
            return StageVerdict("abort", text, numbers)
    if bounds.p95 is not None and evidence.timed:
        e = evidence_above(evidence.slow, evidence.timed, 0.05)
        numbers["slow_evidence"] = e
        if e >= 1 / ALPHA:
            text = (
                f"{evidence.slow} of {evidence.timed} answers took over {bounds.p95 * 1e3:.0f} ms, more than 5 in 100"
            )
            return StageVerdict("abort", text, numbers)
    mean, low, high = paired_difference(evidence.days, bounds.confidence)
    text = "" if evidence.told else "; judged by errors and times alone, since no outcomes come back"
    if not math.isnan(mean):
        rows = sum(n for n, _ in evidence.days)
        numbers |= {"pairs": float(rows), "difference": mean}
        if math.isfinite(low):
            numbers |= {"low": low, "high": high}
        text = f", Brier {mean:+.4f} on {rows:,} pairs"
        if low > 0 and mean > bounds.margin:
            return StageVerdict("abort", f"worse than the live version{text}, surely above 0", numbers)
    if elapsed < length:
        return StageVerdict("hold", f"watched for {in_words(elapsed)} of {in_words(length)}", numbers)
    return StageVerdict("advance", f"{evidence.requests:,} answers, {evidence.errors} failed{text}", numbers)
