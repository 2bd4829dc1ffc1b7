"""Availability: equal to going through every state, monotone, and as the case study's arithmetic has it."""

from __future__ import annotations

import math
import time
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mainspring.decide.availability import (
    ASSUMED,
    available,
    fewest,
    minutes_a_month,
    reached,
    survives,
    up,
    within,
    worst_regions,
)

SHARE = st.floats(0.5, 1.0)
SITES = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=3)


def by_states(sites, need, node, region):
    """The same by going through every state of every node and region."""
    holds, places = [], []
    for place, (count, nodes) in enumerate(sites):
        for i in range(nodes):
            holds.append(count // nodes + (i < count % nodes))
            places.append(place)
    total = 0.0
    for regions in product((0, 1), repeat=len(sites)):
        for nodes in product((0, 1), repeat=len(holds)):
            odds = 1.0
            for one in regions:
                odds *= region if one else 1 - region
            for one in nodes:
                odds *= node if one else 1 - node
            live = sum(h for h, up_, p in zip(holds, nodes, places, strict=True) if up_ and regions[p])
            total += odds * (live >= need)
    return total


@given(SITES, st.integers(0, 8), SHARE, SHARE)
def test_it_is_what_going_through_every_state_gives(sites, need, node, region):
    """Convolution equals enumeration of all nodes and regions."""
    replicas, nodes = zip(*sites, strict=True)
    assert available(replicas, nodes, need, node, region) == pytest.approx(by_states(sites, need, node, region))


@given(SITES, st.integers(1, 8), SHARE, SHARE, st.floats(0.0, 0.3))
def test_better_parts_more_replicas_and_lower_needs_never_hurt(sites, need, node, region, better):
    """Availability does not fall with better nodes or regions, with one more node of replicas, or with a lower need."""
    replicas, nodes = zip(*sites, strict=True)
    base = available(replicas, nodes, need, node, region)
    assert available(replicas, nodes, need, min(1.0, node + better), region) >= base - 1e-12
    assert available(replicas, nodes, need, node, min(1.0, region + better)) >= base - 1e-12
    assert available(replicas, nodes, need - 1, node, region) >= base - 1e-12
    assert available((*replicas, 1), (*nodes, 1), need, node, region) >= base - 1e-12


@given(SITES, st.integers(0, 8), st.integers(0, 2), st.integers(0, 2))
def test_surviving_is_the_worst_case_of_all_losses(sites, need, regions, lost):
    """`survives` equals trying every loss of regions, with the fullest nodes gone in the rest."""
    replicas, nodes = zip(*sites, strict=True)
    worst = None
    for gone in product((0, 1), repeat=len(sites)):
        if sum(gone) != min(regions, len(sites)):
            continue
        left = 0
        for (count, on), is_gone in zip(sites, gone, strict=True):
            held = sorted((count // on + (i < count % on) for i in range(on)), reverse=True)
            left += 0 if is_gone else sum(held[lost:])
        worst = left if worst is None else min(worst, left)
    assert survives(replicas, nodes, need, regions=regions, nodes_per_region=lost) == (worst >= need)


@given(SITES, st.integers(1, 8))
def test_both_losses_at_once_are_harder_than_one_by_one(sites, need):
    """What survives a region and a node of each at once survives either."""
    replicas, nodes = zip(*sites, strict=True)
    if survives(replicas, nodes, need, regions=1, nodes_per_region=1):
        assert survives(replicas, nodes, need, regions=1, nodes_per_region=1, together=False)


@given(SITES, st.integers(1, 8))
def test_the_worst_regions_are_what_breaks_it(sites, need):
    """Losing the named regions leaves too little; no smaller set does."""
    replicas, nodes = zip(*sites, strict=True)
    lost = worst_regions(replicas, need)
    left = sum(count for i, count in enumerate(replicas) if i not in lost)
    assert left < need
    if len(lost) > 1:
        assert survives(replicas, nodes, need, regions=len(lost) - 1)


def test_the_case_study():
    """Three regions of four replicas, six needed: a region may go; nodes of the rest too, if there are four of them."""
    node = up(ASSUMED["node mtbf"].value, ASSUMED["node mttr"].value, cold=0.2)
    share = available([4, 4, 4], [2, 2, 2], 6, node, ASSUMED["region availability"].value)
    assert share > 0.999
    assert survives([4, 4, 4], [2, 2, 2], 6)
    assert not survives([4, 4, 4], [2, 2, 2], 6, nodes_per_region=1)
    assert survives([4, 4, 4], [4, 4, 4], 6, nodes_per_region=1)
    assert available([2, 2, 2], [1, 1, 1], 6, node, 1.0) == pytest.approx(node**3)


def test_99_9_percent_is_43_8_minutes_a_month():
    """The month of 730 hours."""
    assert minutes_a_month(0.999) == pytest.approx(43.8)


def test_repair_and_cold_start_count():
    """A node that fails every 96 hours, is repaired in 3 and loads weights for 1 is up 96 % of the time."""
    assert up(96, 3, 1) == pytest.approx(0.96)
    assert up(0, 1) == 0.0


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), st.floats(0.9, 0.999), st.floats(0.9, 0.999))
def test_the_fewest_are_enough_and_one_fewer_is_not(need, regions, per_node, node, wanted):
    """`fewest` reaches what is wanted; with one replica fewer it does not."""
    count = fewest(need, regions, per_node, node, 0.9999, wanted, most=60)
    assume(count > 0)
    nodes = [-(-count // per_node)] * regions
    assert available([count] * regions, nodes, need, node, 0.9999) >= wanted
    less = count - 1
    nodes = [max(1, -(-less // per_node))] * regions
    assert less * regions < need or available([less] * regions, nodes, need, node, 0.9999) < wanted


def test_every_assumption_says_where_it_comes_from():
    """No number without a source and a basis."""
    assert all(one.source and one.basis in {"read", "memory", "assumed", "user"} for one in ASSUMED.values())


def test_tens_of_thousands_of_nodes_are_exact_and_quick():
    """A region of 50,000 nodes loses what the binomial says, term by term in logarithms; nodes that scatter are no
    slower for being many.
    """
    count, node, spare = 50_000, 0.999, 70
    lost = [
        math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
                 + k * math.log(1 - node) + (count - k) * math.log(node))
        for k in range(spare + 1)
    ]  # fmt: skip
    assert available([count], [count], count - spare, node) == pytest.approx(math.fsum(lost), abs=1e-9)
    began = time.process_time()
    for more in range(20):
        assert 0.99 < available([33_000 + more] * 3, [30_000] * 3, 66_000, 0.95, 0.9999) < 1
    assert time.process_time() - began < 1.0


REAL = (up(ASSUMED["node mtbf"].value, ASSUMED["node mttr"].value, 0.05), ASSUMED["region availability"].value)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(0, 2),
    st.sampled_from((0.999, 0.9999, 0.99999999, 1.0 - (1.0 - 0.9999) ** 2)),
)
def test_more_never_turns_a_promise_that_is_reached_into_one_that_is_not(sites, need, index, target):
    """A replica more, or seven, on nodes of their own where there are any: also where regions allow no more."""
    fleets = [[(count, min(count, limit)) for count, limit in sites]]
    at = index % len(sites)
    count, limit = sites[at]
    fleets += [[*fleets[0][:at], other, *fleets[0][at + 1 :]] for other in (
        (count + 1, min(count + 1, limit)), (count + 7, min(count + 7, limit)),
    )]  # fmt: skip
    found = [reached(available([a for a, _ in fleet], [b for _, b in fleet], need, *REAL), target) for fleet in fleets]
    assert found == sorted(found)


@pytest.mark.parametrize("on", [lambda count: count, lambda count: -(-count // 4), lambda count: min(count, 5)])
def test_what_the_region_allows_is_reached_and_not_lost_again(on):
    """In one region that is up 99.99 % of the time, 99.99 % is reached from some number of replicas on, for good."""
    met = [reached(available([count], [on(count)], 2, *REAL), REAL[1]) for count in range(2, 400, 4)]
    assert met == sorted(met)
    assert (met[0], met[-1]) == (False, True)


def test_what_counts_as_reached():
    """Rounding doesn't decide; a thousandth of the time that may be missing does."""
    assert reached(0.9999, 0.9999)
    assert reached(0.9999 - 1e-15, 0.9999)
    assert not reached(0.9999 - 1e-7, 0.9999)
    assert within(1e-4, 1.0 - 0.9999)
    assert not within(1.001e-4, 1.0 - 0.9999)
