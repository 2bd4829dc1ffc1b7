"""Whether a language model's answers are good enough: scores of an evaluation set against what the stack file asks.

What this is: one pure function, `judge_eval`. Who calls it: `decide/gate.py`. What it must never do: compare two
versions on other items than the same ones, or call a set large enough that is not.

`at_least` is about the mean of the items that were asked. Beside it stands the Wilson score interval (Wilson 1927,
J. Am. Stat. Assoc. 22) for other prompts of the kind: scores between 0 and 1 vary no more than zeros and ones of
the same mean, so it is never too narrow for them. `no_worse_by` resamples the items' paired differences (Efron and
Tibshirani 1993, chapter 8), as the gate of other models resamples days. Where no item got worse, resampling sees no
doubt at all; a loss in a share s of prompts is missed by n items with probability (1 - s)^n, and that bound is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Protocol

import numpy as np

from mainspring.decide.verdict import Item, item, signed
from mainspring.stack.pipelines import EvalGate

RESAMPLES = 2_000
MIN_ITEMS = 10
MANY = 10**9


class EvalNumbers(Protocol):
    """The scores of one evaluation: `loop.snapshot.EvalNumbers`, which lies above this package."""

    @property
    def candidate(self) -> Sequence[float]: ...
    @property
    def champion(self) -> Sequence[float]: ...


def judge_eval(name: str, gate: EvalGate, scores: EvalNumbers | None, champion: str, seed: int) -> list[Item]:
    """The verdicts of one evaluation; `champion` is the version compared with, "" for none."""
    where = f"evals.{name}"
    own = tuple(scores.candidate) if scores is not None else ()
    if not own:
        return [item(where, False, f"Eval `{name}` was not run", {})]
    if len(own) < MIN_ITEMS:
        sentence = f"Eval `{name}` can't be judged on {_items(own)} (at least {MIN_ITEMS} are needed)"
        return [item(where, False, sentence, {"items": float(len(own))})]
    found = []
    if gate.at_least is not None:
        found.append(_at_least(where, name, gate.at_least, gate.confidence, own))
    if gate.no_worse_by is not None:
        assert scores is not None
        found.append(_no_worse(where, name, gate, own, tuple(scores.champion), champion, seed))
    return found


def wilson(mean: float, items: int, confidence: float) -> tuple[float, float]:
    """The two-sided Wilson score interval of a mean of scores in 0 to 1; (0, 1) without items."""
    if items == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (mean + z * z / (2 * items)) / (1 + z * z / items)
    reach = z / (1 + z * z / items) * math.sqrt(mean * (1 - mean) / items + z * z / (4 * items * items))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def needed(bound: float, confidence: float) -> int:
    """How many items, all perfect, it takes to be sure that the true mean is at least `bound`."""
    if bound <= 0:
        return 1
    return MANY if bound >= 1 else math.ceil(math.log(1 - confidence) / math.log(bound))


def missed(items: int, confidence: float) -> float:
    """The largest share of prompts that may have got worse although none of so many items did."""
    return float(1.0 - (1.0 - confidence) ** (1.0 / items))


def paired_difference(
    own: Sequence[float], other: Sequence[float], confidence: float, seed: int
) -> tuple[float, float, float]:
    """The mean paired difference (candidate - champion; more is better) with one-sided bounds at `confidence`."""
    differences = np.asarray(own, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    count = len(differences)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.quantile(draws @ differences / count, [1 - confidence, confidence])
    return math.fsum(differences) / count, float(low), float(high)


def _items(own: Sequence[float]) -> str:
    return f"{len(own)} item{'' if len(own) == 1 else 's'}"


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _at_least(where: str, name: str, bound: float, confidence: float, own: tuple[float, ...]) -> Item:
    mean = _mean(own)
    low, high = wilson(mean, len(own), confidence)
    sentence = (
        f"Eval `{name}` {mean:.2f} on {_items(own)} ({confidence * 100:.4g}% interval {low:.2f} to {high:.2f}),"
        f" wanted at least {bound:.4g}"
    )
    most = needed(bound, confidence)
    if len(own) < most <= 10**6:
        sentence += f"; {_items(own)} can't make sure of it, {most:,} without a flaw could"
    elif most > 10**6:
        sentence += f"; no number of items makes sure of {bound:.4g}"
    elif low < bound <= mean:
        sentence += f"; it is not {confidence * 100:.4g}% sure of other prompts"
    told = {"candidate": mean, "low": low, "high": high, "bound": bound, "items": float(len(own))}
    return item(where, mean >= bound, sentence, told)


def _no_worse(
    where: str,
    name: str,
    gate: EvalGate,
    own: tuple[float, ...],
    other: tuple[float, ...],
    champion: str,
    seed: int,
) -> Item:
    mean = _mean(own)
    told = {"candidate": mean, "items": float(len(own))}
    if not champion:
        sentence = f"Eval `{name}` {mean:.2f} on {_items(own)}; there is no champion to compare with"
        return item(where, True, sentence, told)
    if len(other) != len(own):
        sentence = f"Eval `{name}` has {_items(own)}, and {len(other)} of version {champion}: they can't be paired"
        return item(where, False, sentence, told)
    assert gate.no_worse_by is not None
    difference, low, high = paired_difference(own, other, gate.confidence, seed)
    sentence = (
        f"Eval `{name}` {mean:.2f} vs {_mean(other):.2f} of version {champion} on {_items(own)}:"
        f" difference {signed(difference, 2)}, {gate.confidence * 100:.4g}% sure it is no worse than {signed(low, 2)}"
        f" (allowed {signed(-gate.no_worse_by, 2)})"
    )
    blind = missed(len(own), gate.confidence)
    if all(a >= b for a, b in zip(own, other, strict=True)) and blind > gate.no_worse_by:
        sentence += f"; no item got worse, and so few can miss a loss in {blind:.0%} of prompts"
    told |= {"champion": _mean(other), "difference": difference, "low": low, "high": high}
    return item(where, low >= -gate.no_worse_by, sentence, told)
