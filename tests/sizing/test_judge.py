"""The fleet as written is judged by the rules of the search."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mainspring.forecast.promise import Promise
from mainspring.sizing.judge import judge
from mainspring.sizing.question import Capacity, Survive, Way, Written
from mainspring.sizing.rank import Fleet, size
from tests.sizing import brute, cases

OWN = Way("h100", "H100", 4)


def written(most, nodes=8, **rest):
    """Twelve replicas or so on eight nodes in each of three regions."""
    fleet = Written(OWN, dict.fromkeys("abc", (3, most)), dict.fromkeys("abc", nodes))
    return cases.question([cases.pool()], rate=5.79, survive=Survive(1, 1), written=fleet, **rest)


def names(judged, *, met):
    """Checks that are met, or not."""
    return [check.name for check in judged.checks if check.met is met]


def test_a_fleet_that_will_do_tells_what_is_nearest_to_binding():
    """Every need is met, the loss of a region uses the most of it; devices in use are told from those bought."""
    judged = judge(written(4), Capacity(3.0, binds="p95"))
    assert judged.meets
    assert judged.replicas == 12
    assert (judged.in_use, judged.devices) == (48, 192)
    assert judged.binds.name == "region-loss"
    assert judged.binds.used == 6 / 8
    assert judged.binds.says == "without its largest region 8 replicas are left; the peak needs 6"


def test_each_need_fails_by_itself():
    """Too few for the peak, for a region's share, after a node, after a region: each is found, with the number."""
    one = judge(written(1), Capacity(3.0))
    assert names(one, met=False) == ["peak", "region", "node-loss", "region-loss"]
    assert not one.meets
    two = judge(written(2), Capacity(3.0))  # six carry the peak, two a region its share
    assert names(two, met=False) == ["node-loss", "region-loss"]
    three = judge(written(3), Capacity(3.0))
    assert three.meets
    packed = judge(written(3, nodes=1), Capacity(3.0))
    assert "nodes" in names(packed, met=False)


def test_a_promise_that_no_rate_keeps_is_the_whole_verdict():
    """Where a lone request breaks the promise nothing else can be told."""
    judged = judge(written(4), Capacity(0.0, reason="p95 8 s of a lone request is over the limit of 3 s"))
    assert names(judged, met=False) == ["promise"]
    assert judged.binds.says.startswith("p95 8 s")


def test_availability_is_judged_in_the_time_that_it_may_be_down():
    """99.95 % where 99.9 % is promised uses half of what may be down; 99.8 % fails."""
    question = written(4, promise=Promise(p95=3.0, availability=0.999))
    good = judge(question, Capacity(3.0), lambda *_: 0.9995)
    check = next(each for each in good.checks if each.name == "availability")
    assert check.met
    assert abs(check.used - 0.5) < 1e-9
    assert names(judge(question, Capacity(3.0), lambda *_: 0.998), met=False) == ["availability"]


def test_replicas_where_they_may_not_run_are_told():
    """A replica in a region that residency forbids fails the fleet."""
    fleet = Written(OWN, {"a": (1, 4), "b": (1, 4), "d": (1, 2)}, {})
    question = cases.question([cases.pool()], regions=("a", "b"), rate=1.0, written=fleet)
    judged = judge(question, Capacity(3.0))
    assert names(judged, met=False) == ["allowed"]
    assert judged.checks[1].says == "a: 8 nodes of 8 hold 16 replicas, 4 are written"


@given(st.integers(0, 10**6))
def test_the_search_and_the_judge_agree(seed):
    """What the search finds passes the judge; with one replica fewer anywhere the judge says what brute force says."""
    asked, way, rate = cases.small(random.Random(seed))
    asked = replace(asked, limits=cases.Limits(0, None))
    found = size(asked, way, Capacity(rate), None)
    if not isinstance(found, Fleet):
        return
    there = {site.region: (0, site.replicas) for site in found.sites}
    nodes = {site.region: site.nodes for site in found.sites}
    assert judge(replace(asked, written=Written(way, there, nodes)), Capacity(rate)).meets
    for region, (_, count) in there.items():
        if count:
            fewer = {name: each[1] - (name == region) for name, each in there.items()}
            judged = judge(
                replace(asked, written=Written(way, {n: (0, c) for n, c in fewer.items()}, nodes)), Capacity(rate)
            )
            spread = {name: min(nodes[name], fewer[name]) for name in fewer}
            assert judged.meets == brute.survives(asked, way, rate, fewer, spread)
