"""What the canary benchmark is run on, and beside: traffic is as said, the others' rules are their documents'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def busy():
    """A world in which something happens within minutes."""
    from canaries.traffic import World

    return World(per_day=5_000_000.0, share=0.2, seconds=600.0, errors=0.01)


def counts(candidate, candidate_bad, control=None, control_bad=None):
    """Counts of one run from lists by stretch."""
    from canaries.traffic import Counts as Made

    rows = [candidate, candidate_bad, control or [100] * len(candidate), control_bad or [0] * len(candidate)]
    arrays = [np.array([row]) for row in rows]
    return Made(*arrays, *[np.zeros_like(arrays[0])] * 3)


# -- the others ------------------------------------------------------------------------------------------------------


def test_argo_takes_one_more_than_its_limit(busy) -> None:
    """`failureLimit: 3` fails with the fourth measurement; 0 with the first; no request in a window is no failure."""
    from canaries.argo import Argo

    bad = counts([10, 0, 10, 10, 10, 10], [1, 0, 0, 1, 1, 1])
    assert Argo(0.95, 3, 1).by_errors(bad)[0] == pytest.approx(1.0)
    assert Argo(0.95, 2, 1).by_errors(bad)[0] == pytest.approx(5 / 6)
    assert Argo(0.95, 0, 2).by_errors(bad)[0] == pytest.approx(2 / 6)
    assert np.isnan(Argo(0.9, 0, 1).by_errors(bad)[0])  # nine of ten are enough then
    assert Argo(0.0, 0, 30).by_times(np.array([[2.0, np.nan, 3.5]]), 3.0)[0] == 15.0


def test_flagger_adds_failed_checks_up() -> None:
    """At the threshold it rolls back, whether or not checks in between were good."""
    from canaries.flagger import Flagger

    bad = counts([50] * 8, [1, 0, 1, 0, 0, 1, 0, 0])
    assert Flagger(0.99, 3, 1).by_errors(bad)[0] == pytest.approx(1.0)
    assert np.isnan(Flagger(0.99, 4, 1).by_errors(bad)[0])
    assert np.isnan(Flagger(0.97, 1, 1).by_errors(bad)[0])
    assert Flagger(threshold=2, window=6).by_times(np.array([[4.0, np.nan, 4.0]]), 3.0)[0] == 3.0


def test_the_z_test_is_the_textbooks() -> None:
    """20 of 400 beside 5 of 400 is z = 3.05; 9 beside 5 is no difference; nothing at all is none."""
    from canaries.ztest import Peeked

    assert Peeked(window=1).by_errors(counts([400], [20], [400], [5]))[0] == pytest.approx(1 / 6)
    assert Peeked(alpha=0.0013, window=1).by_errors(counts([400], [20], [400], [5]))[0] > 0  # z = 3.01
    assert np.isnan(Peeked(alpha=0.001, window=1).by_errors(counts([400], [20], [400], [5]))[0])  # z = 3.09
    assert np.isnan(Peeked(window=1).by_errors(counts([400], [9], [400], [5]))[0])
    assert np.isnan(Peeked(window=1).by_errors(counts([0], [0], [400], [5]))[0])


def test_kayenta_looks_at_the_shift() -> None:
    """A clear shift is High, none is not, and neither are minutes that have no value."""
    from canaries.kayenta import Kayenta

    random = np.random.default_rng(3)
    base, other = random.normal(10, 1, 60), random.normal(10, 1, 60)
    assert Kayenta().high(base + 3, other)
    assert not Kayenta().high(base, other)
    assert not Kayenta().high(base - 3, other)
    assert not Kayenta().high(np.full(60, np.nan), other)
    with_gaps = np.where(np.arange(60) % 3 == 0, np.nan, base + 3)
    assert Kayenta().by_points(with_gaps[None], other[None])[0] == 30.0


def test_kayentas_interval_is_scipys() -> None:
    """The lower end of the interval is the shift at which a two-sided rank test of 2 % just says so."""
    from canaries.kayenta import Kayenta
    from scipy.stats import mannwhitneyu

    random = np.random.default_rng(5)
    for shift in np.linspace(0.2, 2.0, 19):
        one, other = random.normal(shift, 1, 40), random.normal(0, 1, 40)
        low = np.sort((one[:, None] - other[None]).ravel())
        share = mannwhitneyu(one, other, method="asymptotic").pvalue
        if Kayenta(tolerance=0.0).high(one, other):
            assert share <= 0.0202
        else:
            assert share >= 0.0198 or np.median(low) < 0


# -- what is made up -------------------------------------------------------------------------------------------------


def test_traffic_is_what_it_says() -> None:
    """694 of the candidate's beside 13,194 in two hours, and errors as often as said."""
    from canaries import traffic

    world = traffic.World()
    made = traffic.count(traffic.draw(world, 40, (1,)), 0.05, (1,))
    assert made.candidate.sum() / 40 == pytest.approx(694, rel=0.02)
    assert made.control.sum() / 40 == pytest.approx(13_194, rel=0.01)
    assert made.candidate_bad.sum() / made.candidate.sum() == pytest.approx(0.05, rel=0.1)
    assert made.control_bad.sum() / made.control.sum() == pytest.approx(0.001, rel=0.15)
    assert (made.windows(30).candidate.sum(axis=1) == made.candidate.sum(axis=1)).all()
    again = traffic.count(traffic.draw(world, 40, (1,)), 0.05, (1,))
    assert (again.candidate_bad == made.candidate_bad).all()


def test_errors_only_add_to_each_other() -> None:
    """The same requests: who fails at 1 % also fails at 5 %."""
    from canaries import traffic

    requests = traffic.draw(traffic.World(), 10, (2,))
    few, many = (traffic.count(requests, share, (2,)).candidate_bad for share in (0.01, 0.05))
    assert (few <= many).all()


def both_bad(made) -> int:
    """Errors of both arms."""
    return int(made.candidate_bad.sum() + made.control_bad.sum())


def test_what_goes_wrong_goes_wrong_there() -> None:
    """An incident hits both arms while it lasts, a broken replica the control alone, a morning grows."""
    from canaries import traffic

    def made(**what):
        return traffic.count(traffic.draw(traffic.World(**what), 30, (3,)), 0.001, (3,))

    both = made(incident=(0.5, 0.6, 0.3))
    during = slice(360, 432)
    for bad, total in ((both.candidate_bad, both.candidate), (both.control_bad, both.control)):
        assert bad[:, during].sum() / total[:, during].sum() == pytest.approx(0.3, rel=0.15)
        assert bad[:, :360].sum() / total[:, :360].sum() < 0.003
    broken = made(bad=(0.25, 0.2))
    assert broken.control_bad.sum() / broken.control.sum() == pytest.approx(0.05, rel=0.1)
    assert broken.candidate_bad.sum() / broken.candidate.sum() < 0.003
    dying = made(deaths=(2.0, 10))
    lost = both_bad(dying) - both_bad(made())
    assert lost == pytest.approx(30 * 4 * 10, rel=0.3)
    assert (dying.control_bad >= 10).sum() == pytest.approx(30 * 4, rel=0.3)
    morning = made(rise=5.0).control.sum(axis=0)
    assert morning[-72:].sum() / morning[:72].sum() == pytest.approx(5.0, rel=0.25)


@pytest.mark.parametrize("sticky", [False, True])
def test_users_retry(sticky) -> None:
    """Retries follow failures, stay with a user's version where users keep theirs, and each user fails first once."""
    from canaries import traffic

    world = traffic.World(users=traffic.Users(count=300), retries=traffic.Retries(), sticky=sticky, share=0.3)
    requests = traffic.draw(world, 5, (4,))
    made = traffic.count(requests, 0.02, (4,))
    before = len(requests.cell)
    after = made.candidate.sum() + made.control.sum()
    fresh = (requests.chance < np.where(requests.candidate, 0.02, world.errors)).sum()
    assert after - before == pytest.approx(fresh * 0.9 * (1 - 0.72**5) / 0.28, rel=0.15)
    again = (made.candidate.sum() - requests.candidate.sum()) / (after - before)
    assert again == pytest.approx(0.9 if sticky else 0.3, abs=0.07)  # 0.9 of the failures are the candidate's
    assert made.candidate_first.sum() + made.control_first.sum() <= 5 * 300
    assert (made.candidate_first <= made.candidate_bad).all()
    if sticky:
        arms = {}
        for run, user, arm in zip(requests.cell // world.slices, requests.user, requests.candidate, strict=True):
            assert arms.setdefault((run, user), arm) == arm


def test_times_are_what_they_say() -> None:
    """1.5 % of the control's answers take over 3 s; what is slow for long prompts is slow for those alone."""
    from canaries import times, traffic

    requests = traffic.draw(traffic.World(share=0.5), 8, (5,))
    timed = times.draw(requests, times.Shape(), (5,))
    assert (timed.seconds > times.BOUND).mean() == pytest.approx(0.015, rel=0.1)
    seconds = timed.with_(requests, times.Slower(long=2.0))
    changed = seconds != timed.seconds
    assert (changed == (requests.candidate & (timed.prompt > times.LONG))).all()
    assert 0.1 < (timed.prompt > times.LONG).mean() < 0.25


def test_quantiles_are_numpys() -> None:
    """By group, as `inverted_cdf`; none of a group without values."""
    from canaries.times import quantiles

    random = np.random.default_rng(6)
    group, values = random.integers(0, 9, 400), random.random(400)
    found = quantiles(group, values, 10, 0.95)
    for one in range(9):
        assert found[one] == np.quantile(values[group == one], 0.95, method="inverted_cdf")
    assert np.isnan(found[9])
