"""The twin's rollouts: requests along the routes that were in force, the same ones whenever it is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.arms import Arms
from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable
from mainspring.loop.plan import SetRoutes
from mainspring.loop.readings import ArmsQuery, Unknown
from mainspring.testing.builders import a_step
from mainspring.worlds.twin.beliefs import Beliefs, Conduct
from mainspring.worlds.twin.source import TwinSource
from mainspring.worlds.twin.world import TwinWorld

NEW, OLD, FRESH = "chat-3", "chat-2", "chat-2.fresh"
HOUR = 3600.0


def world(**beliefs: Any) -> TwinWorld:
    """An hour without a candidate, two with one of 5 % beside a fresh control, one with 10 %; copies all the time."""
    made = TwinWorld(beliefs=Beliefs(requests_per_day=24_000, **beliefs), seed=7)
    for epoch, (share, hours) in enumerate(((0, 1.0), (500, 2.0), (1000, 1.0)), 1):
        rows = [(OLD, 10_000 - 2 * share), (FRESH, share), (NEW, share)]
        revisions = tuple(RevisionRoute(name, name[5:], weight, ("127.0.0.1:1",)) for name, weight in rows)
        routes = EndpointRoutes(revisions, mirror=NEW, mirror_share=2_000)
        made.begin(a_step(SetRoutes(RouteTable(epoch, {"chat": routes}))))
        made.advance(hours * HOUR)
    return made


QUERY = ArmsQuery(
    "chat", NEW, (OLD, FRESH), FRESH, HOUR, 4 * HOUR, 60.0, 3 * HOUR, 0.0, ((HOUR, 0.05), (3 * HOUR, 0.1))
)


def asked(made: TwinWorld, query: ArmsQuery = QUERY) -> Arms:
    """The answer, which has to be there."""
    found = TwinSource(made).samples([query])[query]
    assert isinstance(found, Arms), found
    return found


def test_requests_follow_the_routes() -> None:
    """1,000 requests an hour are divided as the routes were; a stage's sums and the copies are its own."""
    found = asked(world())
    assert sum(one.candidate.requests for one in found.slices) == 200
    assert sum(one.control.requests for one in found.slices) == pytest.approx(2800, abs=2)
    assert found.routed == ((0.05, 100, pytest.approx(1900, abs=2)), (0.1, 100, pytest.approx(900, abs=2)))
    assert found.mirrored.requests == 800
    assert sum(n for _, n in found.candidate.compute) == 100
    assert sum(n for one in found.slices for _, n in one.control.times) == 200, "of the fresh replicas only"
    assert {one.weight for one in found.slices} == {0.05, 0.1}
    assert max(one.at for one in found.slices) == 179


def test_a_version_behaves_as_it_is_believed_to() -> None:
    """Errors, long prompts, ratings and lengths are the version's own, by revision, label or number."""
    bad = Conduct(error_rate=0.5, refuse_rate=0.4, slower=(1.0, 10.0), tokens=3.0, score=0.1)
    for name in ("3", "chat-3"):
        made = world(prompts=(0.5, 0.5), output_tokens=50.0, feedback=0.5, first=0.2, conduct={name: bad})
        found = asked(made, replace(QUERY, score="score", sticky=True, stage_since=HOUR))
        assert 70 < sum(one.candidate.errors for one in found.slices) < 130
        assert 20 < sum(one.candidate.refused for one in found.slices) < 65
        assert not any(one.control.errors + one.control.refused for one in found.slices)
        short, long = (
            max(b for one in found.slices if one.stratum == stratum for b, _ in one.candidate.times)
            for stratum in (0, 1)
        )
        assert long > short + 16
        assert any(one.candidate.firsts for one in found.slices)
        likes, control = (sum(v * n for v, n in arm.scores) for arm in (found.candidate, found.control))
        assert likes < control
        assert found.candidate_units is not None
        assert found.candidate_units.failing <= found.candidate_units.seen == 20


def test_who_leaves_is_counted_apart_and_a_user_once() -> None:
    """As the store does: who left has no time of an answer; of each user one time a stage, and one mean."""
    made = world(output_tokens=50.0, feedback=1.0, conduct={"3": Conduct(leave_rate=0.5)})
    found = asked(made, replace(QUERY, stage_since=HOUR))
    requests, left = (sum(getattr(one.candidate, of) for one in found.slices) for of in ("requests", "left"))
    times, waited = (
        sum(n for one in found.slices for _, n in getattr(one.candidate, of)) for of in ("times", "waited")
    )
    assert requests == times + left
    assert left == waited
    assert 60 < left < 140
    assert found.mirrored.left == sum(n for _, n in found.mirrored.waited)
    assert not any(one.control.left for one in found.slices)
    found = asked(made, replace(QUERY, stage_since=HOUR, sticky=True, score="score"))
    measured = sum(n for one in found.slices for _, n in (*one.candidate.times, *one.candidate.waited))
    assert measured == sum(n for _, n in found.candidate.tokens) == sum(n for _, n in found.candidate.scores) == 20
    assert found.candidate_units is not None
    assert (found.candidate_units.seen, found.candidate_units.left > 15) == (20, True)
    later = asked(made, replace(QUERY, sticky=True))
    assert not any(one.candidate.times for one in later.slices if one.at < 120), "only of the present stage"
    assert (found.whole, found.mirrored_whole) == (3 * HOUR, 4 * HOUR)


@given(st.integers(61, 240), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_what_was_seen_stays(minutes: int, seed: int) -> None:
    """A later look shows the earlier slices unchanged, and each request in one slice."""
    made = world(error_rate=0.2, prompts=(0.7, 0.3))
    made.seed = seed
    early, late = asked(made, replace(QUERY, until=minutes * 60.0)), asked(made)
    assert late.slices[: len(early.slices)] == early.slices
    assert [(one.at, one.stratum) for one in late.slices] == sorted({(one.at, one.stratum) for one in late.slices})
    for one in late.slices:
        for arm in (one.candidate, one.control):
            assert 0 <= arm.errors <= arm.requests
            assert sum(n for _, n in arm.times) <= arm.requests - arm.errors - arm.refused


def test_warm_up_and_regions() -> None:
    """Times of a warm-up are left out; of three regions with one canary, its requests are a third."""
    warm = asked(world(), replace(QUERY, skip=((0.0, 2 * HOUR),)))
    assert min(one.at for one in warm.slices if one.candidate.times) >= 60
    made = world()
    (_, _, table) = made.routed[-1]
    routes = table.endpoints["chat"]
    rows = tuple(replace(r, weight={OLD: 10_000}.get(r.name, 0), regional={"eu": r.weight}) for r in routes.revisions)
    near = {name: (name,) for name in ("us", "eu", "ap")}
    made.begin(a_step(SetRoutes(RouteTable(9, {"chat": replace(routes, revisions=rows)}, near=near))))
    made.advance(3 * HOUR)
    found = asked(made, replace(QUERY, since=4 * HOUR, until=7 * HOUR, region="eu", mirror_since=None))
    assert sum(one.candidate.requests for one in found.slices) == 100
    assert sum(one.control.requests for one in found.slices) == pytest.approx(900, abs=2)


def test_no_requests_are_unknown() -> None:
    """Before the first request there is nothing to judge."""
    made = world()
    made.beliefs = Beliefs(requests_per_day=0)
    assert isinstance(TwinSource(made).samples([QUERY])[QUERY], Unknown)
