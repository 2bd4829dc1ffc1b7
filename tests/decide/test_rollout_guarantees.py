"""Both error guarantees of the judgement at many looks, by simulation from a seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.decide.test_rollout_judge import ERRORS, both, canary, said

from mainspring.decide.arms import Arms, Counts, Slice, Sums, Units
from mainspring.decide.rollout import Bound, Terms

RUNS, LOOKS, SHARE = 160, 16, 0.1


def per_request(rng: np.random.Generator, case: str) -> list[Arms]:
    """Arms at each look of one run of a healthy version, in a world as named."""
    found, slices, asked = [], [], [0, 0]
    for at in range(LOOKS):
        rate, p = 1_500, 0.004
        if case == "a day's course":
            rate, p = int(1_500 * (1 + 0.9 * math.sin(at))), 0.004 * (1 + 0.9 * math.cos(at))
        p = 0.3 if case == "an incident" and at in (5, 6) else p
        own = int(rng.binomial(rate, SHARE))
        base = 10 * p if case == "a bad control replica" else p
        mine, theirs = int(rng.binomial(own, p)), int(rng.binomial(rate - own, base))
        if case == "users who try again":  # each failure brings a request that fails again with a half; split anew
            again = int(rng.negative_binomial(max(mine + theirs, 1), 0.5)) if mine + theirs else 0
            hits = int(rng.binomial(again, SHARE))
            own, rate, mine, theirs = own + hits, rate + again, mine + hits, theirs + again - hits
        slices.append(Slice(at, 0, Counts(own, mine), Counts(rate - own, theirs), SHARE))
        asked = [asked[0] + own, asked[1] + rate - own]
        found.append(Arms(tuple(slices), routed=((SHARE, *asked),)))
    return found


def sticky(rng: np.random.Generator) -> list[Arms]:
    """The same where users keep their version, and one in fifty fails again and again."""
    found, slices = [], []
    units, failing, asked = [0, 0], [0, 0], [0, 0]
    for at in range(LOOKS):
        counts = []
        for arm, part in ((0, SHARE), (1, 1 - SHARE)):
            users = int(rng.poisson(300 * part))
            bad = int(rng.binomial(users, 0.02))
            tries = int(rng.geometric(0.15, bad).sum())
            units[arm], failing[arm], asked[arm] = (
                units[arm] + users,
                failing[arm] + bad,
                asked[arm] + 5 * users + tries,
            )
            counts.append(Counts(5 * users + tries, tries))
        slices.append(Slice(at, 0, *counts, SHARE))
        told = [Units(n, bad) for n, bad in zip(units, failing, strict=True)]
        found.append(Arms(tuple(slices), Sums(), Sums(), *told, routed=((SHARE, *asked),)))
    return found


CASES = ["steady", "a day's course", "an incident", "a bad control replica", "users who try again", "sticky users"]


@pytest.mark.parametrize("case", CASES)
def test_a_healthy_version_is_hardly_ever_given_up(seed: int, case: str) -> None:
    """5 % at most at many looks, whatever the traffic is like."""
    rng, aborted = np.random.default_rng(seed), 0
    for _ in range(RUNS):
        looks = sticky(rng) if case == "sticky users" else per_request(rng, case)
        aborted += any(said(arms, canary(60.0), ERRORS).kind == "abort" for arms in looks)
    assert aborted / RUNS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize("base", [0.01, 0.2], ids=["good control", "one bad control replica"])
def test_a_broken_promise_is_hardly_ever_called_kept(seed: int, base: float) -> None:
    """A version that fails exactly as often as it must not goes on in 5 % at most; a bad control changes nothing."""
    rng, wrong, right = np.random.default_rng(seed), 0, 0
    terms = Terms(promised_errors=0.01)
    for _ in range(300):
        looks = np.cumsum(rng.binomial(200, 0.01, 12)), np.cumsum(rng.binomial(200, 0.001, 12))
        control = np.cumsum(rng.binomial(1_800, base, 12))
        kinds = [
            [
                said(both(200 * k, int(bad[k - 1]), 1_800 * k, int(control[k - 1]), 0.1), canary(), terms).kind
                for k in (2, 4, 8, 12)
            ]
            for bad in looks
        ]
        wrong, right = wrong + ("advance" in kinds[0]), right + ("advance" in kinds[1])
    assert wrong / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert right / 300 > 0.9


def test_a_bad_version_is_given_up_beside_a_bad_control_replica(seed: int) -> None:
    """A bad control hides faults beside it; a bound of its own still finds them."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(60):
        bad, base = int(rng.binomial(400, 0.08)), int(rng.binomial(3_600, 0.15))
        arms = both(400, bad, 3_600, base, 0.1)
        assert said(arms, canary(60.0), ERRORS).kind == "hold"
        found += said(arms, canary(60.0), Terms(errors=(Bound(0.0, over=True), Bound(0.02)))).kind == "abort"
    assert found >= 57
