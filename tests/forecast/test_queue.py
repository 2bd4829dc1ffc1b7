"""Open arrivals: closed forms, laws that must hold, and simulations of an engine that goes step by step."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.forecast.crowd import averaged, crowd, lasting
from mainspring.forecast.curve import curve
from mainspring.forecast.lengths import fixed, lengths, observed, through
from mainspring.forecast.promise import Promise
from mainspring.forecast.queue import _seen, longest_output, most, solve, thinned
from mainspring.forecast.setup import Arrivals, Lengths, Rests, Steady

START, EACH, TOKEN = 0.0145, 0.0001, 0.0001  # s: a step, a sequence in it, a token of prefill in it


class Engine:
    """A stand-in for `steady`: steps of START + EACH x batch + TOKEN x prompt tokens, in a closed loop."""

    def __init__(self, slots: int = 256, spread: float = 0.05, scale: float = 1.0):
        self.slots, self.spread, self.scale, self.calls = slots, spread, scale, 0

    def __call__(self, prompt: float, output: float, concurrency: float) -> Steady:
        self.calls += 1
        batch = min(concurrency, float(self.slots))
        step, work = START + EACH * batch, TOKEN * prompt
        # a request is (output - 1) steps of its own, and in each cycle meets the prompts of the batch, its own included
        tpot = step + max(batch - 1.0, 0.0) * work / max(output - 1.0, 1.0)
        first = START + work
        ttft = first * max(1.0, concurrency / batch)
        rests = (Rests("decode", 1.0, "fitted", "a test"),)
        total = first + (output - 1.0) * tpot
        return Steady(
            ttft * self.scale,
            tpot * self.scale,
            batch,
            batch / total / self.scale,
            "bandwidth",
            self.spread,
            self.spread,
            rests,
        )


def simulated(arrivals: np.ndarray, prompt: int, outputs: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Times to first and to last token of an engine that puts all waiting prompts into its next step."""
    first, last = np.zeros(len(outputs)), np.zeros(len(outputs))
    left: dict[int, int] = {}
    waiting: deque[int] = deque()
    now, come, done = 0.0, 0, 0
    while done < len(outputs):
        while come < len(outputs) and arrivals[come] <= now:
            waiting.append(come)
            come += 1
        if not left and not waiting:
            now = arrivals[come]
            continue
        new = [waiting.popleft() for _ in range(min(len(waiting), slots - len(left)))]
        now += START + EACH * len(left) + TOKEN * prompt * len(new)
        for one in list(left):
            left[one] -= 1
            if not left[one]:
                del left[one]
                last[one] = now
                done += 1
        for one in new:
            first[one] = now
            left[one] = outputs[one] - 1
    return first - arrivals, last - arrivals


def gaps(rng: np.random.Generator, count: int, rate: float, variability: float) -> np.ndarray:
    """Gaps of a renewal process: exponential, or a balanced mix of two exponentials."""
    if variability == 1:
        return rng.exponential(1 / rate, count)
    odds = 0.5 * (1 + math.sqrt((variability - 1) / (variability + 1)))
    fast = rng.random(count) < odds
    return np.where(
        fast, rng.exponential(1 / (2 * odds * rate), count), rng.exponential(1 / (2 * (1 - odds) * rate), count)
    )


def drawn(rng: np.random.Generator, kind: str, count: int) -> np.ndarray:
    """Output lengths, two tokens at least."""
    known = {
        "narrow": lambda: np.exp(math.log(90) + math.log(150 / 90) / 1.645 * rng.normal(size=count)),
        "wide": lambda: np.exp(math.log(60) + 0.76 * rng.normal(size=count)),
        "geometric": lambda: rng.geometric(1 / 100, count),
    }
    return np.maximum(2, np.rint(known[kind]())).astype(int)


def compare(seed, kind, variability, load, slots, count):
    """The forecast, and the simulated times of requests once the engine has settled."""
    rng = np.random.default_rng(seed)
    outputs, sample = drawn(rng, kind, count), drawn(rng, kind, 20_000)
    known = curve(Engine(slots), observed([200.0] * len(sample), sample.tolist()))
    rate = load * float(known.rates[-1])
    _, whole = simulated(np.cumsum(gaps(rng, count, rate, variability)), 200, outputs, slots)
    return rate, solve(known, Arrivals(rate, variability)), whole[1000:]


@pytest.mark.parametrize("kind", ["narrow", "geometric"])
@pytest.mark.parametrize(("variability", "tolerance"), [(1, 0.10), (4, 0.15)])
@pytest.mark.parametrize("slots", [12, 48])
def test_percentiles_agree_with_a_simulation(seed, kind, variability, tolerance, slots):
    """Median and p95 of the whole request are within 10 % (Poisson) or 15 % (bursty) of an engine step by step."""
    rate, seen, whole = compare(seed, kind, variability, 0.6, slots, 10_000)
    assert seen.utilisation == pytest.approx(0.6)
    assert seen.p50.value == pytest.approx(np.quantile(whole, 0.5), rel=tolerance)
    assert seen.p95.value == pytest.approx(np.quantile(whole, 0.95), rel=tolerance)
    assert seen.running + rate * seen.waiting == pytest.approx(rate * whole.mean(), rel=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["narrow", "wide", "geometric"])
@pytest.mark.parametrize(("variability", "tolerance"), [(1, 0.10), (4, 0.15)])
@pytest.mark.parametrize("slots", [12, 48])
def test_percentiles_agree_at_a_high_load(seed, kind, variability, tolerance, slots):
    """The same at 80 % of the largest rate, where only long simulations settle."""
    rate, seen, whole = compare(seed, kind, variability, 0.8, slots, 80_000)
    assert seen.p50.value == pytest.approx(np.quantile(whole, 0.5), rel=tolerance)
    assert seen.p95.value == pytest.approx(np.quantile(whole, 0.95), rel=tolerance)
    assert seen.running + rate * seen.waiting == pytest.approx(rate * whole.mean(), rel=0.10)


def test_first_tokens_agree_with_a_simulation_when_prompts_are_long(seed):
    """p95 of the first token is within 25 % of the simulation when prompts of 1,000 tokens meet each other."""
    rng = np.random.default_rng(seed)
    outputs = drawn(rng, "narrow", 8_000)
    known = curve(Engine(64), observed([1000.0] * len(outputs), outputs.tolist()))
    for load, variability in ((0.5, 1), (0.4, 4)):
        rate = load * known.rates[-1]
        first, _ = simulated(np.cumsum(gaps(rng, len(outputs), rate, variability)), 1000, outputs, 64)
        seen = solve(known, Arrivals(rate, variability))
        assert seen.ttft.value == pytest.approx(np.quantile(first[1000:], 0.95), rel=0.25)


@given(st.integers(1, 40), st.floats(0.05, 0.98))
def test_servers_with_a_constant_rate_are_m_m_k(slots, load):
    """With Ca2 = Cs2 = 1 and rates that grow with n, waiting is Erlang's C and the queue is C rho / (1 - rho)."""
    offered = load * slots
    found = crowd(np.arange(1, slots + 1, dtype=float), offered)
    terms = [offered**n / math.factorial(n) for n in range(slots)]
    last = offered**slots / math.factorial(slots) / (1 - load)
    erlang = last / (sum(terms) + last)
    assert found.waits == pytest.approx(erlang)
    assert found.queue == pytest.approx(erlang * load / (1 - load))
    assert found.running == pytest.approx(offered)
    assert found.arriving.sum() + found.waits == pytest.approx(1)


@given(st.floats(0.3, 0.95), st.floats(0.1, 6.0))
def test_one_server_follows_kingman(load, both):
    """One slot, Poisson or not: it is busy for its load, and the queue tends to Kingman's as the load nears 1."""
    found = crowd(np.ones(1), load, within=both, beyond=both)
    assert found.running == pytest.approx(load, rel=1e-6)
    busy = crowd(np.ones(1), 0.99, within=both, beyond=both)
    assert busy.queue == pytest.approx(0.99 * both / 0.01, rel=0.01 + 0.02 / both)


def test_what_lasts_in_an_infinite_server_lasts_one_service():
    """The number in M/M/inf is correlated over one mean service time."""
    found = crowd(np.arange(1, 200, dtype=float) * 0.25, 10.0)
    assert lasting(found, np.arange(1, 200, dtype=float), 10.0) == pytest.approx(4.0, rel=1e-3)
    kept = averaged(np.array([1e-6, 4.0, 4e4]), 4.0)
    assert kept[0] == pytest.approx(1.0, rel=1e-3)
    assert kept[1] == pytest.approx(math.sqrt(2 * math.exp(-1)))
    assert kept[2] == pytest.approx(math.sqrt(2 / 1e4), rel=1e-3)


OUTPUTS = lengths(fixed(1000), through(90, 150))


@settings(max_examples=30)
@given(st.floats(0.01, 0.97), st.floats(1.01, 1.5), st.floats(0.2, 8.0), st.integers(2, 80), st.floats(20, 400))
def test_more_requests_are_never_faster(load, more, variability, slots, middle):
    """At a higher rate no percentile, first token, token time or wait is shorter."""
    known = curve(Engine(slots), lengths(fixed(300), through(middle, middle * 2)))
    top = float(known.rates[-1])
    less = solve(known, Arrivals(load * top, variability))
    rest = solve(known, Arrivals(min(load * more, 0.99) * top, variability))
    if less.utilisation > rest.utilisation:
        less, rest = rest, less
    for name in ("p50", "p95", "p99", "ttft", "tpot"):
        assert getattr(rest, name).value >= getattr(less, name).value * (1 - 0.005), name
    assert rest.waiting >= less.waiting * (1 - 1e-6)
    assert rest.running >= less.running * (1 - 1e-6)


@settings(max_examples=30)
@given(st.floats(0.05, 0.95), st.integers(2, 100), st.sampled_from([1.0, 2.0, 4.0]))
def test_littles_law_holds_in_the_answer(load, slots, variability):
    """Requests in the replica = rate x mean time in it."""
    known = curve(Engine(slots), OUTPUTS)
    rate = load * float(known.rates[-1])
    seen = _seen(known, Arrivals(rate, variability))
    assert seen.running + rate * seen.waiting == pytest.approx(rate * seen.mean, rel=0.03 * variability)


def test_the_interval_widens_near_the_largest_rate_and_opens_at_it():
    """The relative width grows with load; where the slower replica is overrun there is no upper end."""
    known = curve(Engine(32), OUTPUTS)
    widths = []
    for load in (0.2, 0.6, 0.8):
        seen = solve(known, Arrivals(load * float(known.rates[-1])))
        assert seen.p95.low < seen.p95.value < seen.p95.high
        widths.append((seen.p95.high - seen.p95.low) / seen.p95.value)
    assert widths == sorted(widths)
    assert solve(known, Arrivals(0.95 * float(known.rates[-1]))).p95.high == math.inf


def test_at_the_largest_rate_nothing_is_stable():
    """At or above the largest rate all times are infinite and it says so."""
    known = curve(Engine(32), OUTPUTS)
    seen = solve(known, Arrivals(float(known.rates[-1])))
    assert not seen.stable
    assert seen.utilisation == pytest.approx(1)
    assert seen.p95.value == seen.waiting == math.inf


def test_a_lone_request_takes_its_own_time():
    """At a vanishing rate the percentiles are those of the lengths, at a batch of one."""
    known = curve(Engine(), OUTPUTS)
    seen = solve(known, Arrivals(1e-6))
    assert seen.p95.value == pytest.approx(START + TOKEN * 1000 + (150 - 1) * (START + EACH), rel=0.01)
    assert seen.running < 1e-4
    assert seen.waiting == pytest.approx(0, abs=1e-9)


def test_memory_limits_the_batch():
    """Slots beyond what memory holds are not used, and memory is what binds."""
    known = curve(Engine(14), OUTPUTS, 256)
    assert known.slots == 14
    assert most(known, Promise(p95=60.0)).binds in {"memory", "p95"}
    assert most(known, Promise()).binds == "memory"


@settings(max_examples=12)
@given(st.floats(2.3, 12.0), st.floats(1.05, 2.0), st.sampled_from([1.0, 4.0]))
def test_capacity_meets_the_promise_and_a_little_more_does_not(limit, looser, variability):
    """The rate keeps the limit, 1 % more breaks it, and a looser limit or calmer arrivals never give less."""
    known = curve(Engine(64), OUTPUTS)
    found = most(known, Promise(p95=limit), variability=variability)
    assert found.rate is not None
    assert found.response.p95.value <= limit
    more = found.rate + 0.01 * float(known.rates[-1])
    assert most(known, Promise(p95=limit * looser), variability=variability).rate >= found.rate
    assert most(known, Promise(p95=limit), variability=1.0).rate >= found.rate * 0.99
    if found.binds == "p95":
        assert solve(known, Arrivals(more, variability)).p95.value > limit
    else:
        assert found.rate == pytest.approx(float(known.rates[-1]), rel=2e-3)


def test_an_impossible_promise_says_why_and_what_is_nearest():
    """p95 3 s with outputs of up to 451 tokens: none, and the longest outputs that could meet it."""
    known = curve(Engine(), lengths(fixed(1000), through(129, 451)))
    found = most(known, Promise(p95=3.0))
    assert found.rate is None
    assert found.binds == "p95"
    assert found.longest[1] == pytest.approx(1 + (3 - 0.1145) / (START + EACH), rel=0.01)
    assert 1 < found.longest[16] < found.longest[1]
    assert "at most about 199 output tokens for a lone request" in found.reason
    assert longest_output(known, "p95", 0.05, 1) == 0.0
    short = most(known, Promise(ttft=0.01))
    assert (short.rate, short.binds) == (None, "ttft")


def test_the_tightest_limit_binds():
    """Of several limits the one that is met last binds."""
    known = curve(Engine(64), OUTPUTS)
    assert most(known, Promise(p95=60.0, tpot=0.02)).binds == "tpot"
    assert most(known, Promise(p95=2.5, tpot=1.0)).binds == "p95"


def test_a_replica_of_many_sees_calmer_arrivals():
    """A random share of bursty arrivals is rarer and nearer to Poisson, as thinning a renewal process gives."""
    each = thinned(Arrivals(12.0, 13.0), 4)
    assert (each.rate, each.variability) == (3.0, 4.0)
    rng = np.random.default_rng(1)
    kept = np.cumsum(gaps(rng, 400_000, 12.0, 13.0))[rng.random(400_000) < 0.25]
    assert np.diff(kept).var() / np.diff(kept).mean() ** 2 == pytest.approx(4.0, rel=0.05)


def test_a_curve_asks_the_model_a_few_times_and_solves_for_many_rates():
    """Some thirty calls make a curve, whatever the number of cases."""
    engine = Engine()
    known = curve(engine, lengths(through(300, 2000), through(90, 900)))
    assert engine.calls < 40
    assert np.all(np.diff(known.rates) >= 0)
    assert known.at(20.0)[0].basis == "fitted"


def test_longer_prompts_wait_longer_for_their_first_token():
    """Cases keep their own prompt: with prompts that vary, p95 of the first token is above that of the mean prompt."""
    mixed = curve(Engine(), Lengths((100.0, 1900.0), (100.0, 100.0), (0.5, 0.5)))
    even = curve(Engine(), Lengths((1000.0,), (100.0,), (1.0,)))
    assert solve(mixed, Arrivals(1.0)).ttft.value > solve(even, Arrivals(1.0)).ttft.value * 1.3


def test_the_case_study_is_bound_by_the_length_of_its_outputs():
    """70B at FP16 on 4 H100: p95 3 s holds at some rate for p95 150 tokens, and at none for the conversation trace."""
    from mainspring.facts import gpus, models
    from mainspring.forecast.coefficients import builtin
    from mainspring.forecast.queue import capacity, respond
    from mainspring.forecast.setup import Setup

    setup = Setup(models.find("llama-3.3-70b"), gpus.find("H100"), tp=4)
    short, long = lengths(fixed(1000), through(90, 150)), lengths(fixed(1000), through(129, 451))
    found = capacity(setup, short, builtin(), Promise(p95=3.0))
    assert 0.5 < found.rate < 20
    assert found.response.rests
    seen = respond(setup, Arrivals(found.rate), short, builtin())
    assert seen.stable
    assert seen.p95.value <= 3.0
    none = capacity(setup, long, builtin(), Promise(p95=3.0))
    assert none.rate is None
    assert 120 < none.longest[16] < none.longest[1] < 260
