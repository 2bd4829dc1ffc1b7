"""Ways are enumerated, ranked, and told apart in words."""

from __future__ import annotations

import time

from mainspring.facts import gpus
from mainspring.forecast.promise import Promise
from mainspring.sizing.question import Capacity, Pool, Survive, Tariff, Way, Written
from mainspring.sizing.rank import Known, rank, why_lost
from mainspring.sizing.ways import Allowed, ways
from tests.sizing import cases

RATES = {("H100", "fp16"): 1.0, ("H100", "fp8"): 1.9, ("A100", "fp16"): 0.55, ("L4", "fp16"): 0.0}


def asked(**rest):
    """Three kinds of card in three regions."""
    pools = [cases.pool("h100", 4.0), cases.pool("a100", 3.0, nodes=None), cases.pool("l4", 0.7)]
    return cases.question(pools, rate=5.79, survive=Survive(1, 1), **rest)


def made(name, tp=1, precision="fp16"):
    """A way on one of them."""
    return Way(name.lower(), name, tp, precision)


def test_cheapest_first_and_losers_say_why():
    """The cheapest way leads; a dearer one tells its price, count and rate; one that can't keep the promise why not."""
    found = rank(
        asked(),
        (made("H100", 4), made("A100", 4), made("H100", 4, "fp8"), made("L4")),
        cases.capacities(RATES),
    )
    costs = [fleet.dollars for fleet in found.fleets]
    assert costs == sorted(costs)
    assert str(found.best.way) == "4 x H100 at FP8"
    assert found.best.proven
    dearer = next(fleet for fleet in found.fleets if str(fleet.way) == "4 x H100 at FP16")
    said = why_lost(dearer, found.best)
    assert said.startswith(f"${dearer.dollars - found.best.dollars:,.0f} a month dearer: {dearer.replicas} replicas")
    assert f"({dearer.devices:.0f} GPUs)" in said
    assert f"{dearer.capacity.rate:.3g}/s" in said
    assert [(str(each.way), each.why) for each in found.refused] == [("1 x L4 at FP16", "p95 is 1.00 s at the least")]


def test_ties_go_to_fewer_gpus_then_to_the_name_whatever_the_order():
    """Ways that cost the same are ordered by devices and name, not by how they were listed."""
    pools = [
        cases.pool("big", 2.0, nodes=None),
        cases.pool("also", 2.0, nodes=None),
        cases.pool("half", 1.0, nodes=None),
    ]

    def capacity(way, demand, promise):
        return Capacity(1.0)

    listed = (Way("half", "HALF", 2), Way("big", "BIG", 1), Way("also", "ALSO", 1))
    question = cases.question(pools, rate=3.0, peak=1.0)
    for order in (listed, listed[::-1]):
        found = rank(question, order, capacity)
        assert [fleet.way.pool for fleet in found.fleets] == ["also", "big", "half"]
    assert why_lost(found.fleets[2], found.best) == "costs the same, with 6 GPUs to 3 GPUs"


def test_the_next_best_are_of_other_kinds_first():
    """Other devices and precisions come before other sizes of the same; all are in order of cost."""
    listed = tuple(made(name, tp, precision) for name, precision in RATES for tp in (1, 2, 4, 8))
    found = rank(asked(), listed, cases.capacities(RATES))
    kinds = {(fleet.way.pool, fleet.way.precision) for fleet in found.fleets}
    few = found.next_best(len(kinds) - 1)
    assert {(fleet.way.pool, fleet.way.precision) for fleet in (found.best, *few)} == kinds
    many = found.next_best(6)
    assert [fleet.dollars for fleet in many] == sorted(fleet.dollars for fleet in many)
    assert len({(fleet.way.pool, fleet.way.precision, fleet.way.gpus) for fleet in (found.best, *many)}) == 7
    assert why_lost(found.best, found.best) == "the cheapest"
    assert why_lost(found.best, many[-1]).endswith("a month cheaper")


def test_too_few_nodes_is_told_with_numbers():
    """A way that would do but for the nodes says what is needed and what they leave."""
    pools = [cases.pool("h100", nodes={"a": 1, "b": 8, "c": 8})]
    found = rank(cases.question(pools, rate=5.79, survive=Survive(0, 1)), (made("H100", 4),), lambda *_: Capacity(3.0))
    assert found.refused[0].why == (
        "2 replicas needed in a at 3/s a replica after the loss of 1 node: 1 node of 8 leave 0"
    )
    none = rank(cases.question([cases.pool(nodes={"a": 8, "b": 8})]), (made("H100", 4),), lambda *_: Capacity(3.0))
    assert none.refused[0].why == "pool h100 has none in c, bought on demand"


def test_availability_turns_a_fleet_away_or_makes_it_larger():
    """A promise of availability is part of the search; one that nothing reaches is refused with what is reached."""
    question = asked(promise=Promise(p95=3.0, availability=0.9999))

    def available(way, sites, total, alone):
        return cases.k_of_n(0.95, [site.replicas for site in sites], total)

    plain = rank(question, (made("H100", 4),), cases.capacities(RATES))
    more = rank(question, (made("H100", 4),), cases.capacities(RATES), available)
    assert more.best.replicas > plain.best.replicas
    assert more.best.availability >= 0.9999
    never = rank(question, (made("H100", 4),), cases.capacities(RATES), lambda *_: 0.99)
    assert never.refused[0].why == "its availability is 99 % at the most, and 99.99 % is promised"


def real(name, price, **rest):
    """A pool of a type from the catalogue."""
    regions = ("a", "b", "c")
    return Pool(name, gpus.find(name), 8, dict.fromkeys(regions), dict.fromkeys(regions, Tariff(price)), **rest)


def test_ways_cover_devices_parallelism_precisions_and_slices():
    """All pools, powers of two within a node, the precisions that a device has, and MIG slices; quality is flagged."""
    pools = [real("H100", 4.0), real("A100-80GB", 3.0), real("T4", 0.5)]
    found = ways(cases.question(pools, precisions=("fp8", "fp4"), caches=("fp8",)))
    assert {way.gpus for way in found if way.pool == "H100" and not way.slice} == {1, 2, 4, 8}
    assert {way.precision for way in found if way.pool == "H100"} == {"fp16", "fp8"}
    assert {way.precision for way in found if way.pool == "T4"} == {"fp16"}
    assert {way.kv for way in found if way.pool == "A100-80GB"} == {"fp16"}
    assert ("1g.10gb", 7) in {(way.slice, way.slots) for way in found if way.pool == "H100"}
    assert all(
        way.accept == (f"quality at {way.precision}",) for way in found if way.precision != "fp16" and way.kv == "fp16"
    )
    assert len(found) == len(set(found))


def test_switched_off_freedoms_keep_to_the_file():
    """With devices held only the file's own remain; with slices freed, slices of them beside."""
    pools = [real("H100", 4.0), real("T4", 0.5)]
    own = Way("H100", "H100-SXM", 2)
    question = cases.question(pools, precisions=("fp8",), written=Written(own, {"a": (1, 2)}))
    held = ways(question, Allowed(devices=False, slices=False, precisions=False))
    assert held == (own,)
    sliced = ways(question, Allowed(devices=False, slices=True, precisions=False))
    assert sliced[0] == own
    assert all(way.slice for way in sliced[1:])
    assert {way.precision for way in ways(question, Allowed(devices=False, slices=False))} == {"fp16", "fp8"}


def test_a_written_way_that_no_one_would_propose_is_still_looked_at():
    """The file's own way is in the list though its precision isn't proposed for its device."""
    own = Way("T4", "T4", 2, "fp8")
    assert ways(cases.question([real("T4", 0.5)], written=Written(own, {"a": (1, 1)})))[0] == own


def test_what_is_skipped_could_not_have_been_among_the_best_of_its_kind():
    """With ceilings on what a replica carries the two best of each pool and precision are those of the full ranking."""
    listed = tuple(made(name, tp, precision) for name, precision in RATES for tp in (1, 2, 4, 8))
    capacity = cases.capacities(RATES)
    question = asked(promise=Promise(p95=8.0))

    def ceiling(way, demand):
        return capacity(way, demand, Promise(p95=1e9)).rate

    full, some = rank(question, listed, capacity), rank(question, listed, capacity, None, ceiling)
    assert some.best == full.best
    assert some.skipped
    for kind in {(fleet.way.pool, fleet.way.precision) for fleet in full.fleets}:
        first, other = (
            [fleet.dollars for fleet in found.fleets if (fleet.way.pool, fleet.way.precision) == kind][:2]
            for found in (full, some)
        )
        assert first == other
    assert len(some.skipped) + len(some.fleets) + len(some.refused) == len(listed)


def test_capacities_are_asked_for_once():
    """However a way is bought, and whatever the rate, a replica carries the same: it is forecast once."""
    asks = []

    def capacity(way, demand, promise):
        asks.append(way)
        return Capacity(2.0)

    known, question = Known(capacity), asked()
    for mix in ("x", "y"):
        way = Way("h100", "H100", 4, mix=cases.Mix(mix, (("on_demand", 1.0),)))
        known(way, question.demand, question.promise)
    assert len(asks) == 1
    known(made("H100", 4), question.demand, Promise(p95=2.0))
    assert len(asks) == 2


def test_two_hundred_ways_in_three_regions_are_quick():
    """200 ways over three regions of unequal price, surviving a region and nodes, take well under a second or two."""
    pools = [cases.pool(f"p{i}", {"a": 1 + i % 7, "b": 1.1 + i % 5, "c": 2.0 + i % 3}, nodes=40) for i in range(50)]
    question = cases.question(pools, rate=40.0, survive=Survive(1, 1), promise=Promise(p95=3.0))
    listed = tuple(Way(pool.name, pool.device.name, tp) for pool in pools for tp in (1, 2, 4, 8))
    began = time.process_time()
    found = rank(question, listed, lambda way, *_: Capacity(1.3 * way.gpus))
    spent = time.process_time() - began
    assert len(found.fleets) + len(found.refused) == 200
    assert found.fleets
    assert all(fleet.proven for fleet in found.fleets)
    assert spent < 2.0
