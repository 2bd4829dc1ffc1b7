"""Tests that stay valid however often one looks: e-processes for a share of bad requests.

An e-process is a running product whose expectation is at most 1 while the null hypothesis holds;
by Ville's inequality it ever exceeds 1/alpha with probability at most alpha (Ramdas, Grünwald, Vovk
and Shafer 2023, "Game-theoretic statistics and safe anytime-valid inference", sections 2 and 4).
Here: a uniform mixture of Bernoulli likelihood ratios over a grid above the bound. For any true
share at or under the bound each ratio is a supermartingale, hence so is their mean.
"""

from __future__ import annotations

import math

import numpy as np

GRID = 64


def evidence_above(bad: int, total: int, bound: float) -> float:
    """The e-value against "the share of bad requests is at most `bound`", after `bad` of `total`.

    Larger is stronger; 100 is reached with probability at most 1 % while the share is within the bound.
    Raises `ValueError` unless 0 < bound < 1 and 0 <= bad <= total.
    """
    if not 0 < bound < 1 or not 0 <= bad <= total:
        raise ValueError(f"`{bad}` of `{total}` against `{bound}` is not a count against a share")
    odds = np.exp(np.linspace(math.log(bound), math.log(1 - 1e-9), GRID + 1)[1:])
    log_ratio = bad * np.log(odds / bound) + (total - bad) * (np.log1p(-odds) - math.log1p(-bound))
    top = float(log_ratio.max())
    return float(math.exp(min(700.0, top + math.log(float(np.mean(np.exp(log_ratio - top)))))))


def evidence_below(bad: int, total: int, bound: float) -> float:
    """The e-value against "the share of bad requests is `bound` or more", after `bad` of `total`: promotion takes this.

    A mixture of Bernoulli likelihood ratios over shares below the bound, by Jeffreys' prior Beta(1/2, 1/2) cut off
    there (on a grid of the square root of the share, which is a mixture in its own right). 20 is reached with
    probability at most 5 % while the share is at the bound or above: without any error after 3,787 requests for 0.1 %,
    where one look, fixed beforehand, takes 2,995.
    Raises `ValueError` unless 0 < bound < 1 and 0 <= bad <= total.
    """
    if not 0 < bound < 1 or not 0 <= bad <= total:
        raise ValueError(f"`{bad}` of `{total}` against `{bound}` is not a count against a share")
    odds = bound * ((np.arange(4 * GRID) + 0.5) / (4 * GRID)) ** 2
    log_ratio = bad * np.log(odds / bound) + (total - bad) * (np.log1p(-odds) - math.log1p(-bound))
    top = float(log_ratio.max())
    return float(math.exp(min(700.0, top + math.log(float(np.mean(np.exp(log_ratio - top)))))))


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
        from statistics import NormalDist

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
