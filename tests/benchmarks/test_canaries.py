"""The canary benchmark: ours over many runs is `judge`, promises are looked at after each request, all parts run."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mainspring.decide.arms import STRATA, Arms, Counts, Slice, Units
from mainspring.decide.rollout import Evidence, Looked, judge

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
STAGE = Looked("canary", 0.05, 600.0, 7200.0, "wait")


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def busy():
    """A world in which something happens within minutes."""
    from canaries.traffic import World

    return World(per_day=5_000_000.0, share=0.2, seconds=600.0, errors=0.01)


def check(evidence: Arms, name: str, terms):
    """One of the checks that `judge` made."""
    return next(one for one in judge(terms, Evidence(evidence), STAGE).checks if one.name == name)


# -- ours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("errors", [0.01, 0.05])
def test_errors_are_judged_by_judge(busy, seed, errors) -> None:
    """After each stretch the evidence is the check's, and the first time that it is enough is when `judge` aborts."""
    from canaries import ours, traffic

    made = traffic.count(traffic.draw(busy, 2, (seed,)), errors, (seed,))
    over = ours.evidence_of_errors(made, busy)
    minutes = ours.by_errors(made, busy, (1,))[1]
    for run in range(2):
        aborted = math.nan
        for until in range(1, busy.slices + 1, 1 if run else 7):
            seen = ours.judged(made, busy, run, until)
            one = check(seen, "errors over control", ours.TERMS)
            assert one.evidence == pytest.approx(over[run, until - 1], rel=1e-9)
            if run and math.isnan(aborted) and judge(ours.TERMS, Evidence(seen), STAGE).kind == "abort":
                aborted = until * traffic.WIDTH / 60
        assert not run or minutes[run] == pytest.approx(aborted, nan_ok=True)


@pytest.mark.parametrize("users", [400, 20_000])
def test_users_are_judged_by_judge(busy, users) -> None:
    """Where users keep their version each counts once, when it first fails: here as in `judge`.

    Of many users who ask once all count for a bound of its own, of few as many as make the share of errors the same.
    """
    from canaries import ours, traffic

    world = replace(busy, sticky=True, users=traffic.Users(count=users), retries=traffic.Retries())
    requests = traffic.draw(world, 1, (12,))
    made = traffic.count(requests, 0.03, (12,))
    path = ours.evidence_of_errors(made, world)[0]
    for until in (5, 25, 60):
        seen = [len(set(requests.user[(requests.cell < until) & (requests.candidate == arm)])) for arm in (True, False)]
        failing = [int(a[0, :until].sum()) for a in (made.candidate_first, made.control_first)]
        units = [Units(*pair) for pair in zip(seen, failing, strict=True)]
        assert seen[0] == made.candidate_new[0, :until].sum()
        arms = replace(ours.judged(made, world, 0, until), candidate_units=units[0], control_units=units[1])
        assert check(arms, "errors over control", ours.TERMS).evidence == pytest.approx(path[until - 1], rel=1e-9)
        alone = ours.log_evidence_above(made, world, 0.01)[0]
        as_answers = failing[0] * made.candidate[0, :until].sum() / max(made.candidate_bad[0, :until].sum(), 1)
        assert until < 60 or (as_answers < seen[0]) == (users > 400)
        assert math.log(check(arms, "errors", ours.ALSO).evidence) == pytest.approx(alone[until - 1], rel=1e-9)


def test_an_absolute_bound_is_judged_by_judge(busy) -> None:
    """With `errors: 1%` too, both aborts are at the same moment."""
    from canaries import ours, traffic

    made = traffic.count(traffic.draw(busy, 6, (11,)), 0.04, (11,))
    minutes = ours.by_errors(made, busy, (1,), ours.ALSO)[1]
    for run in range(6):
        kinds = [judge(ours.ALSO, Evidence(ours.judged(made, busy, run, u)), STAGE).kind for u in range(1, busy.slices)]
        aborted = (kinds.index("abort") + 1) * traffic.WIDTH / 60 if "abort" in kinds else math.nan
        assert minutes[run] == pytest.approx(aborted, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_times_are_judged_by_judge(busy, seed) -> None:
    """The evidence beside the control is the check's at every look, whether slower everywhere or for long prompts."""
    from canaries import ours, times, traffic

    requests = traffic.draw(busy, 1, (seed, 5))
    timed = times.draw(requests, times.Shape(), (seed, 6))
    for slower in (times.Slower(), times.Slower(all=1.5), times.Slower(long=2.0)):
        seconds = timed.with_(requests, slower)
        of = ours.timely(requests)
        assert of.all()
        arms = [ours.histograms(requests, timed, seconds, 0, candidate=mine, of=of) for mine in (True, False)]
        path = ours.path(*arms)
        for until in (3, 17, 40, busy.slices):
            one = check(evidence_of(*arms, until), "p95 over control", ours.TERMS)
            assert math.log(one.evidence) == pytest.approx(path[until - 1], rel=1e-6, abs=1e-9)
        bound = check(evidence_of(*arms, busy.slices), "p95", ours.SECONDS)
        aborts = bound.evidence >= bound.threshold
        assert not aborts or not math.isnan(ours.over_bound(requests, seconds)[0])


def test_of_users_one_time_counts(busy) -> None:
    """Where users keep their version, the time of each one's first request is in the histograms, and no other."""
    from canaries import ours, times, traffic

    requests = traffic.draw(replace(busy, sticky=True, users=traffic.Users(count=300)), 2, (13,))
    timed, of = times.draw(requests, times.Shape(), (13,)), ours.timely(requests)
    for run in range(2):
        sides = [ours.histograms(requests, timed, timed.seconds, run, candidate=arm, of=of) for arm in (True, False)]
        here = requests.cell // busy.slices == run
        for side, arm in zip(sides, (True, False), strict=True):
            assert side.sum() == len(set(requests.user[here & (requests.candidate == arm)]))


def evidence_of(candidate, control, until) -> Arms:
    """`Arms` from histograms by (stratum, stretch, bucket)."""

    def side(table) -> Counts:
        times = tuple((int(i), int(table[i])) for i in np.flatnonzero(table))
        return Counts(requests=int(table.sum()), times=times)

    slices = [
        Slice(at, stratum, side(candidate[stratum, at]), side(control[stratum, at]), 0.2)
        for at in range(until)
        for stratum in range(len(STRATA) + 1)
        if candidate[stratum, at].any() or control[stratum, at].any()
    ]
    return Arms(tuple(slices))


def test_alpha_is_what_judge_gives(busy) -> None:
    """The thresholds used are those of the checks that `judge` made."""
    from canaries import ours, traffic

    made = traffic.count(traffic.draw(busy, 1, (1,)), 0.01, (1,))
    one = check(ours.judged(made, busy, 0, 20), "errors over control", ours.ALSO)
    assert one.threshold == pytest.approx(1 / ours.levels(ours.ALSO)["errors over control"])
    assert sum(ours.levels(ours.ALSO).values()) <= ours.ALSO.alpha * (1 + 1e-9)


def test_a_promise_is_judged_by_judge() -> None:
    """`certain_from` is the first count at which the check calls the promise kept."""
    from canaries.promises import certain_from

    from mainspring.decide.rollout import Terms

    enough = certain_from(0.02, 0.05, 1_000)
    assert 180 < enough[0] < 200  # 3,787 for 0.1 %: a twentieth
    assert all(np.diff(enough) > 0)
    terms = Terms(promised_errors=0.02)
    for bad in (0, 1, 3):
        states = []
        for total in (int(enough[bad]) - 1, int(enough[bad])):
            arms = Arms((Slice(0, 0, Counts(total, bad), Counts(total * 19, bad * 19), 0.05),))
            states.append(check(arms, "errors", terms).state)
        assert states == ["open", "certain"]


@pytest.mark.parametrize("bad", [0, 2])
def test_a_promise_about_users_is_judged_by_judge(bad) -> None:
    """Where users keep their version it is certain at as many users, however many requests they make."""
    from canaries.promises import certain_from

    from mainspring.decide.rollout import Terms

    enough = int(certain_from(0.02, 0.05, 1_000)[bad])
    states = []
    for users in (enough - 1, enough):
        slices = (Slice(0, 0, Counts(5 * users, 3 * bad), Counts(95 * users, 0), 0.05),)
        units = {"candidate_units": Units(users, bad), "control_units": Units(19 * users, 0)}
        states.append(check(Arms(slices, **units), "errors", Terms(promised_errors=0.02)).state)
    assert states == ["open", "certain"]


def test_given_up_is_judged_by_judge() -> None:
    """From so many of the candidate's errors among all on `judge` aborts, and with one fewer it does not."""
    from canaries import ours
    from canaries.traffic import World

    least = ours.given_up(World(), 60)
    for total in (4, 12, 60):
        kinds = []
        for bad in (int(least[total]) - 1, int(least[total])):
            sides = [(Counts(10, int(i < bad)), Counts(190, int(i >= bad))) for i in range(total)]
            slices = tuple(Slice(i, 0, *pair, 0.05) for i, pair in enumerate(sides))
            arms = Arms(slices, routed=((0.05, 10 * total, 190 * total),))
            kinds.append(judge(ours.TERMS, Evidence(arms), STAGE).kind)
        assert kinds == ["hold", "abort"]


# -- promises ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [0.5, 1.0, 1.5])
def test_walks_are_request_by_request(truth) -> None:
    """The walk from error to error ends as often as one that looks after each request."""
    from canaries.promises import certain_from, clumped, ever_certain, walk
    from canaries.traffic import World

    promise, world = 0.1, World(seconds=4 * 3600.0, errors=0.002)
    enough = certain_from(promise, 0.05, 2_000)
    runs = 8_000
    hours, _ = walk(world, promise * truth, enough, None, runs, (7,))
    share = np.mean(~np.isnan(hours))
    random, most = np.random.default_rng(8), int(world.rate * world.share * world.seconds)
    bad = np.cumsum(random.random((runs, most), dtype=np.float32) < promise * truth, axis=1)
    slow = (np.arange(1, most + 1) >= enough[np.minimum(bad, len(enough) - 1)]).any(axis=1).mean()
    assert share == pytest.approx(slow, abs=0.015)
    assert ever_certain(promise * truth, enough, most) == pytest.approx(slow, abs=0.015)
    assert clumped(promise * truth, 1.0, enough, most, runs, (9,)).mean() == pytest.approx(slow, abs=0.015)
    if truth >= 1:
        assert share <= 0.05 + 3 * math.sqrt(0.05 / runs)


def test_given_up_ends_a_walk() -> None:
    """A version that fails ten times as often as the control is given up before it is certain, and not both."""
    from canaries import ours
    from canaries.promises import certain_from, events, walk
    from canaries.traffic import World

    world = World(seconds=86_400.0, errors=0.001)
    least = ours.given_up(world, events(world, 0.01))
    _, out = walk(world, 0.01, certain_from(0.001, 0.05, 20_000), least, 300, (10,))
    assert np.mean(~np.isnan(out)) > 0.95
    sure, out = walk(world, 0.01, certain_from(0.1, 0.05, 20_000), least, 300, (10,))  # a promise that is soon certain
    assert np.mean(~np.isnan(sure)) > 0.9
    assert not (~np.isnan(sure) & ~np.isnan(out)).any()


def test_rows_of_errors_deceive_and_users_are_not_requests() -> None:
    """Errors in rows of three make a promise look kept; a promise about users depends on how often each one asks."""
    from canaries.promises import by_user, certain_from, clumped

    enough = certain_from(0.02, 0.05, 20_000)
    assert clumped(0.02, 3.0, enough, 15_000, 3000, (3,)).mean() > 0.3
    once, thrice, often = (by_user(0.02, 3.0, asks, enough, 15_000) for asks in (1, 3, 10))
    assert once > 0.9  # two thirds of a percent of the users fail: the promise about them is kept
    assert thrice <= 0.05
    assert often < 0.001


@pytest.mark.parametrize("asks", [1, 4])
def test_shares_of_users_are_counted_ones(asks) -> None:
    """The share of failing users, and requests of each, are what drawn users with rows of errors have."""
    from canaries.promises import of_users

    failing, each = of_users(0.06, 3.0, asks)
    random, begins = np.random.default_rng(14), 0.02 / 0.96
    rows = (random.random((200_000, asks)) < begins) * random.geometric(1 / 3.0, (200_000, asks))
    requests = np.maximum(rows, 1).sum()
    assert rows.sum() / requests == pytest.approx(0.06, rel=0.05)
    assert (rows > 0).any(axis=1).mean() == pytest.approx(failing, rel=0.05)
    assert requests / 200_000 == pytest.approx(each, rel=0.01)


# -- what is told ----------------------------------------------------------------------------------------------------


def test_wilson() -> None:
    """10 of 100 is 5.52 to 17.44 % (Newcombe 1998's formula); none of 2,000 is below 0.2 %."""
    from canaries.found import Found, first, wilson

    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert wilson(0, 2000)[1] < 0.002
    one = Found.of(np.array([3.0, 5.0, np.nan, np.nan]))
    assert one.cell() == "50.0±35.0 (4)"
    assert np.isnan(first(np.array([[False, False]]))[0])
    assert first(np.array([[False, True]]), 30)[0] == 10.0


def test_parts_run(monkeypatch, tmp_path) -> None:
    """Each part on a few runs: a table for each, aims with what they are met by, a drawing that refers to nothing."""
    import canary

    monkeypatch.setattr(canary, "SIZES", ((500_000.0, 0.01),))
    monkeypatch.setattr(canary, "WORLDS", dict(list(canary.WORLDS.items())[:1]))
    with ThreadPoolExecutor(1) as pool:
        bench = canary.Bench(pool, 4)
        found = list(canary._parts(bench, ("errors", "times", "looks", "sizes", "promises"), tmp_path / "a.svg"))
    assert [name for name, _, _ in found] == ["errors", "times", "looks", "sizes", "promises"]
    assert all(text.count("|") > 20 for _, text, _ in found)
    aims = [one for _, _, figures in found for one in figures if one.aim is not None]
    assert len(aims) >= 8
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn.startswith("<svg xmlns")
    assert "href" not in drawn
    assert drawn.count("<polyline") >= 6
