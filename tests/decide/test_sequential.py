"""E-processes for shares and rate ratios: their expectation under the null, their direction, their false alarms."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.sequential import (
    evidence_above,
    evidence_below,
    ratio_below,
    ratio_evidence,
    share_above,
    share_below,
    share_path,
    without_bursts,
)

COUNTS = st.integers(0, 400)


def binomial(n: int, p: float) -> list[float]:
    """Chances of 0 to n."""
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@given(st.integers(1, 9), st.integers(1, 25), st.data())
def test_errors_that_fall_on_either_arm_by_chance_are_no_evidence(own: int, rest: int, data: st.DataObject) -> None:
    """Exactly, whichever requests fail: over all ways to draw the candidate's, the expectation is at most 1."""
    bad = data.draw(st.integers(0, own + rest))
    expected = 0.0
    for x in range(max(0, bad - rest), min(bad, own) + 1):
        chance = math.comb(own, x) * math.comb(rest, bad - x) / math.comb(own + rest, bad)
        expected += chance * float(ratio_evidence([x], [own], [bad - x], [rest]))
    assert expected <= 1 + 1e-9


@given(st.integers(1, 7), st.integers(1, 12), st.floats(1.0, 4.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_rate_within_its_ratio_is_no_evidence(own: int, rest: int, ratio: float, p: float, part: float) -> None:
    """Exactly, by the share it got: where the candidate fails at most `ratio` times as often, it is at most 1."""
    p /= ratio
    mine, theirs = binomial(own, part * ratio * p), binomial(rest, p)
    expected = sum(
        mine[x] * theirs[y] * float(ratio_evidence([x], [own], [y], [rest], ratio))
        for x, y in product(range(own + 1), range(rest + 1))
    )
    assert expected <= 1 + 1e-9


@given(st.integers(1, 8), st.floats(0.01, 0.9), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_by_the_share_of_the_design_too(n: int, w: float, ratio: float, p: float) -> None:
    """Exactly, where each request goes to the candidate with the share of the design: at most 1, and so over slices."""
    p /= ratio
    mine, theirs = w * ratio * p, (1 - w) * p
    once = twice = 0.0
    chances = {
        (x, y): math.factorial(n)
        / (math.factorial(x) * math.factorial(y) * math.factorial(n - x - y))
        * mine**x
        * theirs**y
        * (1 - mine - theirs) ** (n - x - y)
        for x, y in product(range(n + 1), repeat=2)
        if x + y <= n
    }
    pairs = np.array(list(chances))
    weights = np.array(list(chances.values()))
    once = float(weights @ ratio_evidence(pairs[:, :1], 0, pairs[:, 1:], 0, ratio, w))
    both = np.array(list(product(range(len(pairs)), repeat=2)))
    slices = pairs[both]
    twice = float(weights[both].prod(axis=1) @ ratio_evidence(slices[..., 0], 0, slices[..., 1], 0, ratio, w))
    assert once <= 1 + 1e-9
    assert twice <= 1 + 1e-9


@given(st.integers(1, 7), st.integers(1, 12), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_the_certificate_is_no_evidence_at_its_ratio(own: int, rest: int, ratio: float, p: float) -> None:
    """Exactly: where the candidate fails `ratio` times as often, the certificate's expectation is at most 1."""
    p /= ratio
    mine, theirs = binomial(own, ratio * p), binomial(rest, p)
    expected = sum(
        mine[x] * theirs[y] * float(ratio_below([x], [own], [y], [rest], ratio))
        for x, y in product(range(own + 1), range(rest + 1))
    )
    assert expected <= 1 + 1e-9


@given(st.integers(0, 40), st.floats(0.001, 0.999), st.floats(0.0, 1.0))
def test_shares_within_the_bound_are_no_evidence(n: int, bound: float, part: float) -> None:
    """Exactly: the expectation is at most 1 for every share on the side of the null hypothesis, either way about."""
    bad = np.arange(n + 1)
    above, below = np.exp(share_above(bad, n, bound)), np.exp(share_below(bad, n, bound))
    assert np.dot(binomial(n, part * bound), above) <= 1 + 1e-9
    assert np.dot(binomial(n, bound + part * (1 - bound)), below) <= 1 + 1e-9


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.floats(0.5, 5.0), st.sampled_from([0.0, 0.01, 0.05, 0.5, 0.99]))
def test_each_error_counts_in_its_direction(x: int, own: int, y: int, rest: int, ratio: float, w: float) -> None:
    """One more error of the candidate's never lowers the evidence, one of the control's never raises it."""
    own, rest = own + x + 1, rest + y + 1
    here = float(ratio_evidence([x], [own], [y], [rest], ratio, w))
    assert 0.0 <= here < math.inf
    assert ratio_evidence([x + 1], [own], [y], [rest], ratio, w) >= here * (1 - 1e-9)
    assert ratio_evidence([x], [own], [y + 1], [rest], ratio, w) <= here * (1 + 1e-9)
    sure = float(ratio_below([x], [own], [y], [rest], ratio, w))
    assert 0.0 <= sure < math.inf
    assert ratio_below([x + 1], [own], [y], [rest], ratio, w) <= sure * (1 + 1e-9)
    assert ratio_below([x], [own], [y + 1], [rest], ratio, w) >= sure * (1 - 1e-9)


@given(st.lists(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS), min_size=1, max_size=8), st.randoms())
def test_slices_have_no_order_and_paths_end_where_all_is(slices: list[tuple[int, ...]], random: object) -> None:
    """Whatever the order of slices the evidence is one; a path ends there; a run beside others is the same run."""
    own = np.array([(x, x + a, y, y + b) for x, a, y, b in slices], dtype=float).T
    shuffled = list(range(len(slices)))
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = float(ratio_evidence(*own, 1.2))
    assert ratio_evidence(*own[:, shuffled], 1.2) == pytest.approx(whole, rel=1e-9)
    path = ratio_evidence(*own, 1.2, path=True)
    assert path.shape == (len(slices),)
    assert path[-1] == pytest.approx(whole, rel=1e-9)
    runs = ratio_evidence(*np.stack([own, own * 2], axis=1), 1.2)
    assert runs[0] == pytest.approx(whole, rel=1e-9)


def test_nothing_seen_is_no_evidence() -> None:
    """Without a request, without an error, or with one arm alone, the e-value is 1."""
    for counts in ([0, 0, 0, 0], [0, 50, 0, 900], [3, 3, 0, 0], [0, 0, 7, 90]):
        assert float(ratio_evidence(*([n] for n in counts))) == pytest.approx(1.0)
    assert evidence_above(0, 0, 0.1) == evidence_below(0, 0, 0.1) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="`3` of `2`"):
        evidence_above(3, 2, 0.1)
    with pytest.raises(ValueError, match="not a count"):
        evidence_below(1, 2, 1.0)


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(1e-9, 1 - 1e-9))
def test_large_counts_stay_numbers(bad: int, good: int, bound: float) -> None:
    """Millions of requests give a number still, and the two sides never both say yes."""
    above, below = evidence_above(bad, bad + good, bound), evidence_below(bad, bad + good, bound)
    assert 0.0 <= above < math.inf
    assert 0.0 <= below < math.inf
    assert min(above, below) < 20


def streams(rng: np.random.Generator, runs: int, rate: np.ndarray, w: float, errors: float, control: float):
    """Errors of both arms by slice: arrivals at `rate` a slice, so many of them failing."""
    return rng.poisson(rate * w * errors, (runs, len(rate))), rng.poisson(rate * (1 - w) * control, (runs, len(rate)))


@pytest.mark.parametrize("w", [0.01, 0.05, 0.5])
def test_false_alarms_at_every_look_in_a_days_course(seed: int, w: float) -> None:
    """Traffic and the rate of errors both swing, with an incident that hits both arms: 5 % at most, at any look."""
    rng = np.random.default_rng(seed)
    day = 1 + 0.8 * np.sin(np.linspace(0, 4 * np.pi, 240))
    errors = 0.002 * (1 + 5 * (np.arange(240) % 80 < 4)) * day
    x, y = streams(rng, 3_000, 2_000 * day, w, errors, errors)
    alarms = (ratio_evidence(x, 0 * x, y, 0 * y, 1.0, w, path=True) >= 20).any(axis=1).mean()
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 3_000)


@pytest.mark.parametrize(("errors", "minutes"), [(0.02, 23.0), (0.05, 8.0)])
def test_the_case_studys_faults_are_found_in_time(seed: int, errors: float, minutes: float) -> None:
    """5 % of one of three regions at 500,000 requests a day, errors' part of alpha 2.5 %: median minutes."""
    rng = np.random.default_rng(seed)
    per_slice = np.full(720, 500_000 / 86_400 / 3 * 10)
    x, y = streams(rng, 1_000, per_slice, 0.05, errors, 0.001)
    found = ratio_evidence(x, 0 * x, y, 0 * y, 1.0, 0.05, path=True) >= 40
    first = np.where(found.any(axis=1), found.argmax(axis=1) + 1, 10**6) / 6
    assert np.median(first) <= minutes
    assert found.any(axis=1).mean() > 0.98


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.02, 0.98), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_bursts_count_as_few_and_are_no_evidence(first: int, bad: int, w: float, ratio: float, part: float) -> None:
    """Exactly, whatever the errors of a slice, by the design's share: after earlier ones it gains nothing."""
    theta = ratio * w / (ratio * w + 1 - w) * part
    chances = binomial(bad, theta)
    own = np.stack([np.full(bad + 1, 0), np.arange(bad + 1)], axis=1)
    rest = np.stack([np.full(bad + 1, first), bad - np.arange(bad + 1)], axis=1)
    mine, theirs = without_bursts(own, rest)
    before = float(ratio_evidence(mine[0, :1], 0, theirs[0, :1], 0, ratio, w))
    assert np.dot(chances, ratio_evidence(mine, 0, theirs, 0, ratio, w)) <= before * (1 + 1e-9)
    assert (mine + theirs <= own + rest + 1e-9).all()
    assert ((mine + theirs)[:, 0] <= 1 + 1e-9).all()


@given(st.integers(1, 6), st.integers(1, 14), st.integers(0, 20))
def test_bursts_by_the_share_it_got(own: int, rest: int, bad: int) -> None:
    """Exactly, for a ratio of 1, over all ways to draw the candidate's requests: at most 1."""
    bad = min(bad, own + rest)
    expected = 0.0
    for x in range(max(0, bad - rest), min(bad, own) + 1):
        mine, theirs = without_bursts([x], [bad - x])
        chance = math.comb(own, x) * math.comb(rest, bad - x) / math.comb(own + rest, bad)
        expected += chance * float(ratio_evidence(mine, [own], theirs, [rest]))
    assert expected <= 1 + 1e-9


def test_one_replica_that_dies_gives_nothing_up() -> None:
    """Ten errors at once are one finding, ten in ten slices are ten; twice as many as is usual all count."""
    burst, apart = np.array([0.0] * 5 + [10.0] + [0.0] * 10), np.array([0.0] * 6 + [1.0] * 10)
    for bad, found in ((burst, False), (apart, True)):
        mine, theirs = without_bursts(bad, 0 * bad)
        assert (ratio_evidence(mine, 0, theirs, 0, 1.0, 0.3) >= 33) == found
    mine, _ = without_bursts([1.0, 1.0, 5.0], [3.0, 3.0, 3.0])
    assert mine[-1] == pytest.approx(5.0)  # 8 in all, as 4 are usual
    mine, _ = without_bursts([1.0, 1.0, 21.0], [3.0, 3.0, 3.0])
    assert mine[-1] == pytest.approx(7.0)
    mine, _ = without_bursts([1.0, 1.0, 21.0, 21.0], [3.0, 3.0, 3.0, 3.0])
    assert mine[-1] == mine[-2]  # a burst makes no room for the next


def test_bursts_of_both_versions_give_nothing_up(seed: int) -> None:
    """One slice in twenty with a crash that takes twenty requests of either, beside single errors: 3 % at most."""
    rng = np.random.default_rng(seed)
    runs, share = 400, 0.05
    errors = rng.poisson(1.0, (runs, 720))
    mine = rng.binomial(errors, share)
    crashed, whose = rng.random((2, runs, 720))
    bad = mine + 20 * ((crashed < 0.05) & (whose < share))
    base = errors - mine + 20 * ((crashed < 0.05) & (whose >= share))
    bad, base = without_bursts(bad, base)
    alarms = (ratio_evidence(bad, 0 * bad, base, 0 * base, 1.0, share, path=True, anew=True) >= 1 / 0.03).any(axis=1)
    assert alarms.mean() <= 0.03 + 3 * math.sqrt(0.03 * 0.97 / runs)


def paths(length: int, chance: float) -> tuple[np.ndarray, np.ndarray]:
    """All ways in which so many errors may fall on the candidate, and how likely each is."""
    ways = np.array(list(product((0.0, 1.0), repeat=length)))
    return ways, np.prod(np.where(ways == 1, chance, 1 - chance), axis=1)


@given(st.integers(1, 8), st.floats(0.01, 0.9), st.floats(1.0, 4.0), st.floats(0.0, 1.0))
def test_beginning_anew_is_no_evidence(n: int, w: float, ratio: float, part: float) -> None:
    """Exactly, over all orders of errors: the expectation is at most 1, of a path at its end, too."""
    ways, chances = paths(n, ratio * w / (ratio * w + 1 - w) * part)
    found = ratio_evidence(ways, 0 * ways, 1 - ways, 0 * ways, ratio, w, anew=True)
    assert chances @ found <= 1 + 1e-9
    path = ratio_evidence(ways, 0 * ways, 1 - ways, 0 * ways, ratio, w, anew=True, path=True)
    np.testing.assert_allclose(path[:, -1], found, rtol=1e-9)
    ways, chances = paths(n, w * part)
    assert chances @ np.exp(share_path(ways, np.ones_like(ways), w)) <= 1 + 1e-9


def test_a_fault_that_begins_late_is_found_soon() -> None:
    """After a day of good answers, 5 % of errors take no five times as long as at once."""
    rng = np.random.default_rng(4)
    day, after = 8_640, 720
    requests = rng.poisson(19.29, (20, day + after))
    own = rng.binomial(requests, 0.05)
    bad = rng.binomial(own, np.where(np.arange(day + after) < day, 0.001, 0.05))
    base = rng.binomial(requests - own, 0.001)
    minutes = []
    for anew in (True, False):
        found = ratio_evidence(bad, own, base, requests - own, 1.0, 0.05, path=True, anew=anew)[:, day:] >= 1 / 0.03
        minutes.append(np.median(np.where(found.any(axis=1), found.argmax(axis=1) + 1, after)) / 6)
    assert minutes[0] < 30
    assert minutes[0] < minutes[1] / 2
    alone = share_path(bad, own, 0.01, path=True)[:, day:] >= math.log(50)
    assert np.median(np.where(alone.any(axis=1), alone.argmax(axis=1) + 1, after)) / 6 < 60


def test_a_narrow_slice_says_more_by_design() -> None:
    """An error in a slice with one request of the candidate's weighs more by the design's share than by what it got."""
    got = float(ratio_evidence([1, 1], [2, 2], [0, 0], [19, 19]))
    design = float(ratio_evidence([1, 1], [2, 2], [0, 0], [19, 19], 1.0, 0.05))
    assert design > 2 * got
