"""Whether the groups of a column are served alike: how far they differ in a metric, and how sure that is.

What this is: one pure function, `judge_groups`. Who calls it: `decide/gate.py`. What it must never do: take a
difference that nobody can tell from none for none.

All pairs of groups must be shown to differ by less than the bound. For one pair that is a one-sided test at
`confidence`: the difference that was seen, and t standard errors more, below the bound. To claim it of all pairs at
once needs no correction: that is an intersection-union test (Berger 1982, Technometrics 24). Standard errors come with
the measurement (days as blocks); two groups are taken to err independently, which is on the careful side where a bad
day is bad for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from mainspring.decide.sequential import student_quantile
from mainspring.decide.verdict import Item, item
from mainspring.stack.pipelines import GroupGate


class GroupNumbers(Protocol):
    """One group of a bias check: `loop.snapshot.GroupNumbers`, which lies above this package."""

    @property
    def check(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def value(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def days(self) -> int: ...


def student(confidence: float, freedom: int) -> float:
    """The one-sided quantile of Student's t; infinite without a degree of freedom."""
    if freedom < 1:
        return math.inf
    if confidence <= 0.5:
        return 0.0 if confidence == 0.5 else -student(1 - confidence, freedom)
    return student_quantile(confidence, freedom)


def judge_groups(name: str, gate: GroupGate, groups: Sequence[GroupNumbers]) -> Item:
    """The verdict on one bias check; fewer than two groups with enough rows are refused."""
    judged = sorted(
        (g for g in groups if g.rows >= gate.min_rows and math.isfinite(g.value)), key=lambda g: (g.value, g.group)
    )
    told = {f"group.{g.group}": g.value for g in judged}
    if len(judged) < 2:
        sentence = f"Groups of `{gate.column}`: fewer than two have {gate.min_rows} rows, so nothing can be compared"
        return item(f"groups.{name}", False, sentence, told)
    low, high = judged[0], judged[-1]
    gap = high.value - low.value
    pairs = [(a, b) for at, a in enumerate(judged) for b in judged[at + 1 :]]
    (first, second), upper = max(((pair, _upper(*pair, gate.confidence)) for pair in pairs), key=lambda one: one[1])
    sentence = (
        f"Groups of `{gate.column}`: {gate.metric} from {low.value:.4f} (`{low.group}`) to {high.value:.4f}"
        f" (`{high.group}`), {gap:.4f} apart"
    )
    passed = upper <= gate.differ_at_most
    if gate.confidence > 0.5:
        known = f"{upper:.4f}" if math.isfinite(upper) else "anything"
        sentence += f"; {gate.confidence * 100:.4g}% sure that no two are more than {known} apart"
        if not passed and gap <= gate.differ_at_most:
            sentence += f" (`{first.group}` with {first.rows:,} rows, `{second.group}` with {second.rows:,})"
    sentence += f" (allowed {gate.differ_at_most:g})"
    return item(f"groups.{name}", passed, sentence, told | {"gap": gap, "high": upper, "bound": gate.differ_at_most})


def _upper(first: GroupNumbers, second: GroupNumbers, confidence: float) -> float:
    """How far two groups may lie apart, at most, at `confidence`."""
    gap = abs(second.value - first.value)
    if confidence <= 0.5:
        return gap
    reach = student(confidence, min(first.days, second.days) - 1) * math.hypot(first.error, second.error)
    return math.inf if math.isnan(reach) else gap + reach
