"""The simulated day: nothing is lost, queues are those of the theory, replicas load and drain, belief is not truth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.scale import Load, Rules
from mainspring.worlds.twin.arrivals import SHAPES, Arrivals, Lengths, drawn, of_trace
from mainspring.worlds.twin.queueing import Fleet, Ours, Outcome, simulate
from mainspring.worlds.twin.service import Service

PLAIN = Service(0.0, 0.0, 1.0, 0.0, "a second a token")
QUICK = Service()


@dataclass
class Fixed:
    """Does what a list says, by the second; remembers what it heard."""

    wants: dict[float, int]
    heard: list[Load | None] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    want: int = -1

    def decide(self, load, ready, starting, mono, wall):
        self.heard.append(load)
        self.want = self.wants.get(mono, ready + starting if self.want < 0 else self.want)
        return self.want, "as told"

    def loaded(self, seconds):
        self.loads.append(seconds)


def some(times: list[float], output: float = 1.0, seconds: float = 100.0, tenant: list[int] | None = None) -> Arrivals:
    """Requests at these times, all alike."""
    at = np.array(times)
    return Arrivals(
        at, np.ones(len(at)), np.full(len(at), output), seconds, "told", None if tenant is None else np.array(tenant),
        ("everyone",) if tenant is None else ("loud", "quiet"),
    )  # fmt: skip


def poisson(rate: float, mean: float, seconds: float, seed: int) -> Arrivals:
    """Poisson arrivals with exponential times of service."""
    found = drawn(np.full(int(seconds), rate), Lengths(), seed, "M/M/n")
    return replace(found, output=np.random.default_rng(seed).exponential(mean, len(found)))


def test_waits_are_erlangs() -> None:
    """An M/M/n queue: the share that waits, and the mean wait, are Erlang C's within the noise."""
    slots, busy, mean = 8, 6.0, 2.0
    found = simulate(poisson(busy / mean, mean, 60_000.0, 3), Fleet(slots=slots, queue=10**6), PLAIN, Fixed({}))
    terms = [busy**k / math.factorial(k) for k in range(slots)]
    many = busy**slots / math.factorial(slots) * slots / (slots - busy)
    waits = many / (sum(terms) + many)
    assert float((found.wait > 0).mean()) == pytest.approx(waits, rel=0.1)
    assert float(np.nanmean(found.wait)) == pytest.approx(waits * mean / (slots - busy), rel=0.15)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.1, 8), st.integers(1, 300), st.sampled_from([0, 1]), st.floats(0.0, 0.5))
def test_nothing_is_lost(seed: int, rate: float, queue: int, least: int, gaps: float) -> None:
    """Each request is served, refused, or has waited too long; slots and queue are never exceeded."""
    arrivals = drawn(SHAPES["burst"](rate, 400.0, seed), Lengths(), seed, "burst")
    fleet = Fleet(slots=3, load=20.0, queue=queue, hold=15.0, timeout=30.0, begin=least, gaps=gaps)
    found = simulate(arrivals, fleet, QUICK, Ours(Rules(least, 6, 3, objective=1.0, idle=60.0, down=30.0)), seed)
    served = int(np.isfinite(found.wait).sum())
    assert served + found.refused + found.expired == len(arrivals)
    assert float(np.nanmin(found.wait, initial=0.0)) >= 0.0
    assert float((found.waiting + found.running).max(initial=0.0)) <= queue
    assert float(found.ready.max()) <= 6
    assert found.ready.sum() / 3600.0 <= found.replica_hours + 0.1


def test_same_seed_same_day() -> None:
    """Everything random is from the seed."""
    arrivals = drawn(SHAPES["burst"](3.0, 1800.0, 5), Lengths(), 5, "burst")

    def day(seed: int) -> Outcome:
        return simulate(arrivals, Fleet(gaps=0.1), QUICK, Ours(Rules(1, 9, 8)), seed)

    first, again, other = day(1), day(1), day(2)
    assert np.array_equal(first.wait, again.wait, equal_nan=True)
    assert first.changes == again.changes
    assert [one.at for one in other.changes] != [one.at for one in first.changes]


def test_hours_are_paid_from_start_to_end() -> None:
    """Two replicas for 100 s; a third from second 10, stopped at 60, which has to finish what it does."""
    quiet = simulate(some([]), Fleet(begin=2), PLAIN, Fixed({}))
    assert quiet.replica_hours == pytest.approx(200 / 3600)
    loading = simulate(some([]), Fleet(begin=2, load=20.0), PLAIN, Fixed({10.0: 3, 60.0: 2}))
    assert loading.replica_hours == pytest.approx(250 / 3600)
    busy = simulate(some([1.0, 1.1], output=80.0), Fleet(slots=1, begin=2), PLAIN, Fixed({50.0: 1}))
    assert busy.replica_hours == pytest.approx((100 + 81.1) / 3600, abs=1e-4)
    assert np.isfinite(busy.latency).all()  # draining loses no stream


def test_replicas_take_their_time() -> None:
    """A request that is held for the first replica waits for it to load, and the scaler hears how long it took."""
    scaler = Fixed({5.0: 1})
    found = simulate(some([4.2]), Fleet(begin=0, load=20.0), PLAIN, scaler)
    assert 5.0 + 18.0 <= 4.2 + found.wait[0] <= 5.0 + 22.0 + 1.0
    assert scaler.loads == [pytest.approx(20.0, rel=0.1)]


def test_held_only_so_long() -> None:
    """Without a replica a request waits `hold` seconds; with one, `timeout`."""
    found = simulate(some([1.0, 2.0]), Fleet(begin=0, hold=10.0), PLAIN, Fixed({}))
    assert found.expired == 2
    assert float(found.waiting[20:].max()) == 0.0
    late = simulate(some([1.0, 2.0], output=50.0), Fleet(slots=1, timeout=30.0), PLAIN, Fixed({}))
    assert (late.expired, int(np.isfinite(late.wait).sum())) == (1, 1)


def test_a_full_queue_refuses() -> None:
    """One more than may be inside is refused, and counts as not in time."""
    found = simulate(some([1.0, 1.1, 1.2, 1.3], output=5.0), Fleet(slots=1, queue=2), PLAIN, Fixed({}))
    assert found.refused == 2
    assert found.attainment(10.0) == 0.5


def test_belief_is_late_and_has_gaps() -> None:
    """A second is heard of after the delay; in a blind stretch the last words stay, and grow old."""
    scaler = Fixed({})
    simulate(some([1.5]), Fleet(delay=3.0, blind=((20.0, 40.0),)), PLAIN, scaler)
    ages = [None if one is None else at - one.at for at, one in enumerate(scaler.heard)]
    assert ages[:4] == [None] * 4
    assert ages[5] == 3.0
    assert max(ages[25:43]) > 15.0
    assert ages[50] == 3.0
    rates = [one.rate for one in scaler.heard if one is not None]
    assert rates[1] == 0.5  # one request in the first two seconds


def test_one_tenant_does_not_wait_for_another() -> None:
    """A thousand requests of a loud tenant at once: those of a quiet one go in turn with them."""
    times = [1.0] * 1000 + [2.0 + at for at in range(20)]
    tenant = [0] * 1000 + [1] * 20
    fleet = Fleet(slots=4, queue=5000)
    fair = simulate(some(times, 1.0, 400.0, tenant), fleet, PLAIN, Fixed({}))
    plain = simulate(some(times, 1.0, 400.0), fleet, PLAIN, Fixed({}))
    assert float(fair.wait[1000:].max()) < 3.0
    assert float(plain.wait[1000:].min()) > 100.0
    assert float(np.nansum(fair.latency)) == pytest.approx(float(np.nansum(plain.latency)), rel=0.01)


def test_a_full_queue_makes_room_for_the_quiet() -> None:
    """In a full queue the tenant with the most waiting gives way."""
    times, tenant = [1.0] * 50 + [1.5], [0] * 50 + [1]
    found = simulate(some(times, 5.0, 100.0, tenant), Fleet(slots=1, queue=10), PLAIN, Fixed({}))
    assert np.isfinite(found.wait[50])
    assert found.refused == 41


def test_our_decision_scales_to_and_from_zero() -> None:
    """Nothing for a while: no replica; the next request is held, served, and told of."""
    found = simulate(
        some([1.0, 500.0], seconds=600.0), Fleet(begin=1, load=5.0), PLAIN, Ours(Rules(0, 2, 8, idle=60.0, down=30.0))
    )
    wants = [one.want for one in found.changes]
    assert wants in ([1, 0, 1], [1, 0, 1, 0])
    assert 5.0 <= found.wait[1] <= 9.0
    assert any("1 waiting" in one.why for one in found.changes)


def test_blind_holds() -> None:
    """Nobody hears anything for ten minutes of a quiet time: nothing is stopped until somebody does."""
    fleet = Fleet(begin=4, load=5.0, blind=((10.0, 600.0),))
    found = simulate(some([], seconds=900.0), fleet, PLAIN, Ours(Rules(1, 4, 8, down=60.0)))
    assert float(found.ready[:600].min()) == 4
    assert found.ready[-1] == 1


def test_crowds_slow() -> None:
    """A request that begins among others takes longer."""
    slow = Service(0.0, 0.0, 1.0, 0.5, "")
    found = simulate(some([1.0, 1.0]), Fleet(slots=2), slow, Fixed({}))
    assert found.latency.tolist() == [1.0, 1.5]
    assert slow.seconds(10.0, 1.0, 2) == 1.5


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    """Each gives a rate for each second, from its seed, with about the mean that was asked for over a long time."""
    rates = SHAPES[shape](3.0, 10 * 86400.0, 7)
    assert len(rates) == 10 * 86400
    assert float(rates.min()) >= 0.0
    assert 0.8 * 3.0 <= float(rates.mean()) <= 1.35 * 3.0
    assert np.array_equal(rates, SHAPES[shape](3.0, 10 * 86400.0, 7))


def test_a_trace_speeds_up() -> None:
    """Twice as fast is half as long; a part of it is its beginning."""
    from mainspring.facts.traces import parse

    trace = parse(["arrival,prompt,output", "0,10,5", "10,20,6", "30,30,7"], "t.csv")
    fast = of_trace(trace, 2.0)
    assert fast.at.tolist() == [0.0, 5.0, 15.0]
    assert "2 times" in fast.says
    assert of_trace(trace, 1.0, 20.0).output.tolist() == [5.0, 6.0]
