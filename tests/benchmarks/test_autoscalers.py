"""The rules of the other autoscalers, held against their documentation; and who is compared with whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.decide.scale import Load

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def peers(monkeypatch):
    """The module of the others' rules."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from autoscalers import peers

    return peers


@pytest.fixture
def scaling(monkeypatch):
    """The benchmark."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scaling

    return scaling


def load(at: float, running: int, waiting: int = 0) -> Load:
    """So many in flight."""
    return Load(at, waiting, running, 0.0, 0.0, 0.0, 1.0)


def through(scaler, counts, ready=None):
    """What it wants, second by second; replicas are ready at once, or as `ready` says."""
    wants, there = [], 1
    for at, count in enumerate(counts):
        there = scaler.decide(load(float(at), *count), ready or there, 0, float(at), 0.0)[0]
        wants.append(there)
    return wants


@pytest.mark.parametrize(
    ("used", "ready", "starting", "wanted"),
    [
        (2.0, 1, 0, 4),  # "if the current metric value is 200m, and the desired value is 100m": doubled
        (0.25, 1, 0, 1),  # halved, and rounded up
        (1.08, 2, 0, 2),  # within 10 % of the target nothing happens
        (1.2, 2, 0, 3),
        (1.5, 1, 3, 4),  # pods that are not ready count as unused: no further scale-up
        (3.0, 1, 3, 6),
    ],
)
def test_hpa_desires(peers, used, ready, starting, wanted) -> None:
    """ceil(current x metric / target), with the tolerance, and pods that are not ready."""
    assert peers.Hpa(0.5, 8, 1, 40).desired(used, ready, starting) == wanted


def test_hpa_walks(peers) -> None:
    """At most 4 pods or 100 % more in 15 s; fewer only after 5 minutes in which no more were wanted."""
    behaviour = peers.Behaviour(1, 40)
    assert behaviour.step(0.0, 1, 30) == 5
    assert behaviour.step(15.0, 5, 30) == 10
    assert behaviour.step(30.0, 10, 30) == 20
    assert behaviour.step(45.0, 30, 2) == 30
    assert behaviour.step(320.0, 30, 2) == 30
    assert behaviour.step(331.0, 30, 2) == 2


def test_hpa_asks_each_15_seconds(peers) -> None:
    """Between two looks nothing changes."""
    wants = through(peers.Hpa(0.8, 4, 1, 40), [(8 + at,) for at in range(40)])
    changes = [at for at in range(1, 40) if wants[at] != wants[at - 1]]
    assert changes
    assert all(at % 15 == 0 for at in changes)


def test_keda(peers) -> None:
    """ceil(length / target), what waits and what runs; 0 to 1 at a poll; to 0 after the cooldown."""
    assert through(peers.Keda(5.0, 1, 40), [(8, 9)] * 20)[-1] == 4
    assert through(peers.Keda(5.0, 1, 40, in_flight=False), [(8, 9)] * 20)[-1] == 2
    wants = through(peers.Keda(5.0, 0, 40), [(1,)] * 10 + [(0,)] * 400)
    gone = wants.index(0)
    assert 300 <= gone <= 340
    scaler = peers.Keda(5.0, 0, 40, want=0)
    assert [scaler.decide(load(at, 0, 1), 0, 0, at, 0.0)[0] for at in (0.0, 1.0)] == [1, 1]


def test_kpa_is_stable(peers) -> None:
    """A steady concurrency over the target, by the mean of a minute."""
    assert through(peers.Kpa(5.6, 1, 40), [(11,)] * 100, ready=2)[-1] == 2
    assert through(peers.Kpa(5.6, 1, 40), [(12,)] * 100, ready=2)[-1] == 3


def test_kpa_panics(peers) -> None:
    """Twice what the pods can take, in 6 s: up by the short window, and not down for a minute after."""
    counts = [(5,)] * 60 + [(60,)] * 10 + [(0,)] * 200
    wants = through(peers.Kpa(5.0, 1, 40), counts)
    top = max(wants)
    assert top == 12
    last = max(at for at, want in enumerate(wants) if want == top)
    assert last >= 70 + 50
    assert wants[-1] == 1


def test_kpa_to_zero(peers) -> None:
    """After a minute of nothing and 30 s of grace."""
    wants = through(peers.Kpa(5.0, 0, 40), [(1,)] * 5 + [(0,)] * 200)
    assert 60 + 30 <= wants.index(0) <= 5 + 60 + 30 + 4


def test_unknown_does_nothing(peers) -> None:
    """None of the others does anything without a metric."""
    for scaler in (peers.Hpa(0.8, 4, 1, 9), peers.Keda(5.0, 1, 9), peers.Kpa(5.0, 1, 9)):
        assert scaler.decide(None, 3, 1, 5.0, 0.0)[0] == 4


def test_the_rival(scaling) -> None:
    """The cheapest that kept as many; where none did, the cheapest that is within half a point of the best."""
    made = {name: scaling.Result((kept,), (hours,)) for name, kept, hours in
            [("Mainspring", 0.98, 8.0), ("a", 0.99, 12.0), ("b", 0.984, 10.0), ("c", 0.97, 5.0)]}  # fmt: skip
    assert scaling.rival(made) == "b"
    figure = scaling.judged("x", made)
    assert (figure.value, figure.met) == (0.8, True)
    best = made | {"Mainspring": scaling.Result((0.999,), (11.5,)), "d": scaling.Result((0.986,), (11.0,))}
    assert scaling.rival(best) == "d"  # b is more than half a point below the best of them, d is not, and is cheaper
    assert "none of theirs kept as many" in scaling.judged("x", best).compared_with
    assert scaling.judged("x", best).met is False


def test_what_is_reported_was_not_tuned_on(scaling, monkeypatch) -> None:
    """Neither shapes nor seeds nor times of service are shared."""
    from autoscalers import scenarios

    from mainspring.worlds.twin.arrivals import SHAPES

    assert not set(scenarios.TUNING) & set(SHAPES)
    assert not set(scenarios.TUNING_SEEDS) & set(scaling.SEEDS)
    assert scenarios.TUNING_SERVICE != scenarios.SERVICE
    assert sum("default" in name for name in scaling.CONTENDERS) == 3


def test_a_group_runs(scaling) -> None:
    """One short scenario with ours and one other: shares and hours that can be."""
    arrivals = scaling.shaped("steps", 1, 0.1, 2.0)
    one = scaling.Scenario("short", arrivals, scaling.fleet(arrivals, 5.0))
    for name in (scaling.OURS, "KPA 70% (default)"):
        kept, hours = scaling.run(one, name)
        assert 0.5 < kept <= 1.0
        assert 0.1 <= hours < 1.0
