"""What each lever saves, alone and on top of the others; and what sharing devices saves."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mainspring.facts import gpus
from mainspring.forecast.promise import Promise
from mainspring.sizing.levers import LEVERS, choose, levers, written
from mainspring.sizing.question import HOURS, Capacity, Demand, Limits, Pool, Question, Survive, Tariff, Way, Written
from mainspring.sizing.rank import Fleet, size
from mainspring.sizing.together import packed_dollars, together
from tests.sizing import cases

PRICES = {"H100": Tariff(4.0, 2.6, 1.2), "L4": Tariff(0.8, 0.52, 0.24)}
DAY = (0.5,) * 12 + (1.0,) * 6 + (2.0,) * 6
POOLS = tuple(Pool(name, gpus.find(name), 8, {"a": None}, {"a": price}) for name, price in PRICES.items())


def endpoint(name, rate, replicas, tp=1, **rest):
    """An endpoint on whole H100s, written with so many replicas."""
    own = Way("H100", "H100-SXM", tp)
    return Question(
        Demand(name, rate, 2.0, curve=DAY), Promise(p95=1.0), cases.MODEL, POOLS, ("a",), Survive(), Limits(),
        precisions=("fp8",), shared=True, written=Written(own, {"a": (1, replicas)}), **rest,
    )  # fmt: skip


def capacity(way, demand, promise):
    """Ten a second on an H100, by its slice or GPUs; an L4 a third of it; FP8 twice as much."""
    each = {"H100-SXM": 10.0, "L4": 3.0}[way.device] * (2.0 if way.precision == "fp8" else 1.0)
    return Capacity(each * way.gpus / way.slots * (0.8 if way.slice else 1.0))


QUESTIONS = (endpoint("chat", 20.0, 8), endpoint("rank", 0.4, 2), endpoint("tag", 0.3, 1), endpoint("see", 0.2, 1))


def test_the_base_is_what_the_file_pays():
    """Twelve H100 at the file's price, whatever they are used for."""
    assert levers(QUESTIONS, capacity).base == pytest.approx(12 * 4.0 * HOURS)
    assert written(QUESTIONS[0]).dollars == pytest.approx(8 * 4.0 * HOURS)


def test_savings_on_top_add_up_and_each_state_is_no_dearer():
    """Totals fall lever by lever, and the savings on top add up to what all save together."""
    found = levers(QUESTIONS, capacity, spot=0.5)
    assert [row.lever for row in found.rows] == list(LEVERS)
    totals = [found.base, *(row.total for row in found.rows)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(totals))
    assert sum(row.on_top for row in found.rows) == pytest.approx(found.saved)
    assert found.rows[-1].total == pytest.approx(sum(each.dollars for each in found.final))
    assert found.rows[0].alone == pytest.approx(found.rows[0].on_top)
    assert all(row.alone >= 0 for row in found.rows)
    assert all(row.alone > 0 for row in found.rows)


def test_one_lever_moves_one_thing():
    """Each by itself: FP8 halves the needed GPUs and keeps the reserve; reserved takes 35 %."""
    chat, base = QUESTIONS[0], 8 * 4.0 * HOURS

    def alone(lever, spot=0.5):
        return choose(chat, frozenset({lever}), capacity, None, spot).dollars

    assert alone("right-size") == pytest.approx(14 * 0.8 * HOURS)  # 40/s: fourteen L4, or four H100
    assert alone("precision") == pytest.approx(base / 2)
    assert alone("reserved") == pytest.approx(base * 0.65)
    assert base * 0.3 < alone("spot") < base
    assert alone("spot", 0.0) == pytest.approx(base)
    assert alone("slices") == pytest.approx(base)  # a whole GPU is cheaper than seven slices of it at 80 %
    assert alone("follow") < base * 0.75
    tag = choose(QUESTIONS[2], frozenset({"slices"}), capacity)
    assert tag.fleet.way.slice == "1g.10gb"
    assert tag.dollars == pytest.approx(4.0 * HOURS / 7)


def test_a_file_that_does_not_meet_its_needs_is_right_sized_upwards():
    """An endpoint with too little keeps its cost under other levers, and gets dearer when it is sized right."""
    short = endpoint("chat", 20.0, 2)
    assert choose(short, frozenset({"right-size"}), capacity).dollars > written(short).dollars
    assert choose(short, frozenset({"reserved"}), capacity).dollars < written(short).dollars
    broken = choose(short, frozenset({"reserved"}), lambda *_: Capacity(0.0))
    assert broken.dollars == written(short).dollars
    assert broken.fleet is None


def test_slices_of_several_endpoints_share_whole_gpus():
    """Three small models take a GPU each by themselves and one together; that is what is paid."""
    way = Way("H100", "H100-SXM", slice="1g.10gb", slots=7)
    small = [(each, size(each, way, Capacity(2.0), None)) for each in QUESTIONS[1:]]
    assert all(isinstance(fleet, Fleet) for _, fleet in small)
    found = together(small)
    assert [(one.devices, one.alone, one.exact) for one in found.shared] == [(1, 3, True)]
    assert found.dollars == pytest.approx(4.0 * HOURS)
    assert found.saved == pytest.approx(2 * 4.0 * HOURS)
    assert sum(one.parts for one in found.shared) == pytest.approx(3 / 7)
    assert len(found.shared[0].geometries[0].slices) >= 3


def test_whole_gpus_and_slices_do_not_mix_on_one():
    """A gang beside slices pays for its own GPUs; whole nodes are billed whole."""
    gang = (QUESTIONS[0], size(QUESTIONS[0], Way("H100", "H100-SXM", 2), Capacity(20.0), None))
    sliced = (QUESTIONS[1], size(QUESTIONS[1], Way("H100", "H100-SXM", slice="1g.10gb", slots=7), Capacity(2.0), None))
    found = together([gang, sliced])
    assert found.shared[0].devices == 2 * 2 + 1
    nodes = tuple(replace(pool, billed="node") for pool in POOLS)
    whole = [(replace(question, pools=nodes), fleet) for question, fleet in (gang, sliced)]
    assert together(whole).shared[0].devices == 8


def test_levers_with_packing_pay_for_whole_gpus():
    """With slices packed the total is that of whole GPUs, and never below the sum of the parts."""
    parts = levers(QUESTIONS, capacity)
    whole = levers(QUESTIONS, capacity, packed=packed_dollars)
    for part, row in zip(parts.rows, whole.rows, strict=True):
        assert row.total >= part.total - 1e-6
    assert whole.base == parts.base


def test_one_lever_more_is_never_dearer_when_packed():
    """Two endpoints share a GPU as slices: a precision that moves one of them to a GPU of its own isn't taken."""
    gpu = ("A100-80GB-SXM", "T4")
    prices = zip(gpu, (3.0, 0.5), (8, 1), strict=True)
    pools = tuple(Pool(name, gpus.find(name), size, {"a": None}, {"a": Tariff(each)}) for name, each, size in prices)

    def carries(way, demand, promise):
        cut = way.device == gpu[0] and (not way.slice or way.slice.startswith("3g"))
        moves = demand.endpoint == "two" and way.device == "T4" and way.precision == "int8"
        return Capacity(10.0) if cut or moves else Capacity(0.0, reason="no")

    def made(name, lower=()):
        there = Written(Way(gpu[0], gpu[0]), {"a": (1, 1)})
        return Question(Demand(name, 1.0, 1.0), Promise(p95=3.0), cases.MODEL, pools, ("a",), precisions=lower,
                        accepted=lower, written=there, shared=True)  # fmt: skip

    found = levers([made("one"), made("two", ("int8",))], carries, packed=packed_dollars)
    totals = [found.base, *(row.total for row in found.rows)]
    assert totals == sorted(totals, reverse=True)
    assert all(row.alone >= 0 and row.meets for row in found.rows)
    assert totals[2] == pytest.approx(3.0 * HOURS)  # both on one GPU


def test_what_does_not_meet_its_needs_is_told():
    """With an endpoint for which nothing will do no row meets all needs; one with too little does once sized right."""
    short = endpoint("chat", 20.0, 2)
    assert [row.meets for row in levers([short, QUESTIONS[1]], capacity).rows] == [True] * len(LEVERS)

    def hopeless(way, demand, promise):
        return Capacity(0.0) if demand.endpoint == "rank" else capacity(way, demand, promise)

    assert not any(row.meets for row in levers(QUESTIONS, hopeless).rows)
