"""The search finds the cheapest fleet, and proves it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.sizing.needs import left_after, needs, replicas_for, shares_after
from mainspring.sizing.question import Limits, Survive, Way
from mainspring.sizing.search import Unmet, cheapest
from tests.sizing import brute, cases

UPTO = 11
ROUNDED = 9  # thousandths of a dollar: the search takes each price of a month to one


def solved(asked, way, rate, available=None, target=0.0):
    """The found fleet's cost in thousandths of a dollar and devices; None when it was refused."""
    found = cheapest(needs(asked, way, rate), available, target)
    if isinstance(found, Unmet):
        return None, found
    devices = round(sum(option.thousandths for option in found.chosen) / 1000, 6)
    return (sum(option.millis for option in found.chosen), devices), found


def small_enough(asked, way, rate):
    """Whether brute force sees every fleet that could be best, and is done soon."""
    wanted, lost = needs(asked, way, rate), asked.survive.nodes_per_region
    nodes = min((count for count in asked.pools[0].nodes.values() if count is not None), default=99)
    spread = nodes / (nodes - lost) if nodes > lost else 1.0
    most = max(max(place.alone, place.after, wanted.total) for place in wanted.places)
    here = asked.pools[0]
    full = here.per_node * way.slots if way.slice else here.per_node // way.gpus
    more = lost * full if here.billed == "node" else lost
    return max(most * spread + 2 * lost, most + more) <= UPTO


def test_sizing_equals_brute_force_on_300_small_random_instances():
    """The search and the trial of every fleet agree on cost and devices, or both find none."""
    rng = random.Random(3)
    tried = refused = 0
    while tried < 300:
        asked, way, rate = cases.small(rng)
        if not small_enough(asked, way, rate):
            continue
        tried += 1
        expected = brute.best(asked, way, rate, upto=UPTO)
        got, found = solved(asked, way, rate)
        if expected is None:
            refused += 1
            assert got is None, (asked, way, rate, found)
            continue
        assert got is not None, (asked, way, rate, expected, found)
        assert abs(got[0] - expected[0][0]) <= ROUNDED, (asked, way, rate, expected, found)
        assert abs(got[1] - expected[0][1]) < 0.01, (asked, way, rate, expected, found)
        assert found.proven
    assert 20 < refused < 150


def test_availability_is_met_at_the_least_cost():
    """With an availability to reach the search still equals the trial of every fleet."""
    rng = random.Random(5)
    tried = raised = 0
    while tried < 60:
        asked, way, rate = cases.small(rng)
        if asked.pools[0].billed == "node" or way.slice or not small_enough(asked, way, rate):
            continue
        tried += 1
        total, target, each = needs(asked, way, rate).total, rng.choice([0.99, 0.999, 0.9999]), rng.choice([0.95, 0.99])

        def reached(combo, total=total, each=each):
            return cases.k_of_n(each, [option[0] for option in combo], total)

        def available(chosen, total=total, each=each):
            return cases.k_of_n(each, [option.replicas for option in chosen], total)

        expected = brute.best(asked, way, rate, lambda combo, least=target: reached(combo) >= least, UPTO)
        got, found = solved(asked, way, rate, available, target)
        assert (got is None) == (expected is None), (asked, way, rate, expected, found)
        if got is not None:
            assert abs(got[0] - expected[0][0]) <= ROUNDED, (asked, way, rate, expected, found)
            raised += got != solved(asked, way, rate)[0]
    assert raised > 5


def instance():
    """Random questions with an answer in most cases, as strategies."""
    return st.integers(0, 10**6).map(lambda seed: cases.small(random.Random(seed)))


@given(instance(), st.floats(1.0, 3.0))
def test_more_traffic_is_never_cheaper(case, more):
    """Growing the rate never lowers the cost, and never makes an impossible fleet possible."""
    asked, way, rate = case
    before, _ = solved(asked, way, rate)
    after, _ = solved(replace(asked, demand=replace(asked.demand, rate=asked.demand.rate * more)), way, rate)
    assert after is None or (before is not None and after[0] >= before[0])


@given(instance(), st.floats(0.2, 1.0))
def test_a_replica_that_carries_less_is_never_cheaper(case, less):
    """A tighter objective lowers what a replica carries; the fleet then costs no less."""
    asked, way, rate = case
    before, _ = solved(asked, way, rate)
    after, _ = solved(asked, way, rate * less)
    assert after is None or (before is not None and after[0] >= before[0])


@given(instance(), st.sampled_from(["a", "b", "c"]), st.floats(1.0, 4.0))
def test_a_dearer_price_is_never_cheaper(case, region, factor):
    """Raising the price of one region never lowers the cost, nor changes whether there is an answer."""
    asked, way, rate = case
    here = asked.pools[0]
    tariffs = {name: tariff.times(factor) if name == region else tariff for name, tariff in here.tariffs.items()}
    before, _ = solved(asked, way, rate)
    after, _ = solved(replace(asked, pools=(replace(here, tariffs=tariffs),)), way, rate)
    assert (after is None) == (before is None)
    assert after is None or after[0] >= before[0]


@given(instance())
def test_what_is_found_meets_every_need(case):
    """The found fleet passes the checks of the trial, which share no code with the search."""
    asked, way, rate = case
    wanted = needs(asked, way, rate)
    found = cheapest(wanted)
    if not isinstance(found, Unmet):
        names = [place.region for place in wanted.places]
        replicas = dict(zip(names, (option.replicas for option in found.chosen), strict=True))
        nodes = dict(zip(names, (option.nodes for option in found.chosen), strict=True))
        assert brute.survives(asked, way, rate, replicas, nodes)
        assert cheapest(wanted) == found


def test_large_counts_and_unequal_prices_are_proven_too():
    """Hundreds of replicas over regions of different price are still found at the least cost, with proof."""
    pools = [cases.pool(price={"a": 1.0, "b": 1.5, "c": 6.0}, per_node=8, nodes=None)]
    asked = cases.question(pools, rate=100.0, peak=3.0, shares={"a": 8, "b": 1, "c": 1}, survive=Survive(1, 1))
    got, found = solved(asked, Way("h100", "H100"), 1.0)
    assert found.proven
    # any two regions must hold 300; a alone must hold 240 after a node's loss; c is the dearest
    least = min(
        (a * 1.0 + b * 1.5 + c * 6.0, a, b, c)
        for a in range(241, 320)
        for b in range(31, 320)
        for c in [max(31, 300 - a, 300 - b)]
        if a + b >= 300
    )
    assert got[0] == round(least[0] * 730 * 1000)


def test_a_lost_region_by_shares_and_by_capacity():
    """Spread by shares the worst loss sets each region's need; by capacity any two of three regions carry the whole."""
    pools = [cases.pool(nodes=None)]
    even = cases.question(pools, rate=5.79, peak=3.0, survive=Survive(1, 1, together=True))
    got, found = solved(even, Way("h100", "H100", 4), 3.0)
    assert [option.replicas for option in found.chosen] == [
        4,
        4,
        4,
    ]  # six carry 17.37/s: three a region, one spare
    assert got[1] == 48
    apart = replace(even, survive=Survive(1, 1))
    assert [o.replicas for o in solved(apart, Way("h100", "H100", 4), 3.0)[1].chosen] == [3, 3, 3]
    skewed = replace(even, demand=replace(even.demand, shares={"a": 8, "b": 1, "c": 1}, spread="share"))
    assert [o.replicas for o in solved(skewed, Way("h100", "H100", 4), 3.0)[1].chosen] == [7, 4, 4]
    assert shares_after({"a": 0.8, "b": 0.1, "c": 0.1}, 1) == pytest.approx({"a": 0.8 / 0.9, "b": 0.5, "c": 0.5})


def test_whole_nodes_are_filled_and_counted():
    """Where whole nodes are billed the fleet is in whole nodes, full as far as the user's limit allows."""
    pools = [cases.pool(nodes=None, billed="node")]
    asked = cases.question(pools, rate=5.79, peak=3.0, survive=Survive(1, 1))
    got, found = solved(asked, Way("h100", "H100", 4), 3.0)
    assert [(option.replicas, option.nodes) for option in found.chosen] == [(4, 2)] * 3
    assert got == (6 * 8 * 4 * 730 * 1000, 48)


def test_refusals_say_which_need_and_how_much():
    """Too few regions, nodes or replicas are told apart, with what is needed and what there is."""
    one = cases.question([cases.pool()], regions=("a",), survive=Survive(1, 0))
    assert solved(one, Way("h100", "H100"), 1.0)[1] == Unmet("regions", "", 2, 1)
    few = cases.question([cases.pool(nodes={"a": 1, "b": None, "c": None})], rate=20.0)
    assert solved(few, Way("h100", "H100", 4), 2.0)[1] == Unmet("nodes", "a", 10, 2)
    capped = cases.question([cases.pool()], rate=6.0, limits=Limits(0, 4), survive=Survive(1, 0))
    assert solved(capped, Way("h100", "H100"), 2.0)[1] == Unmet("loss", "", 9, 8)


def test_rounding_is_no_load():
    """A load that is a whole number of replicas up to rounding needs no more; losing nodes takes the fullest."""
    assert replicas_for(0.1 + 0.2, 0.1) == 3
    assert replicas_for(3.001, 1.0) == 4
    assert [left_after(5, 3, lost) for lost in (0, 1, 2, 3)] == [5, 3, 1, 0]
