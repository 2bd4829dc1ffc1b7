"""Copies of requests that nobody saw: counted beside what the control did with the same requests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from mainspring.decide.arms import Counts
from mainspring.facts.records import WrittenRecord
from mainspring.monitoring.arms_rows import MIRROR_LAG
from mainspring.monitoring.predictions import PredictionStore
from tests.monitoring.test_arms import NEW, asked, query, said, taken, time_of
from tests.monitoring.test_predictions import store_of


@pytest.fixture
def store(tmp_path: Path) -> Iterable[PredictionStore]:
    """An empty store."""
    opened = store_of(tmp_path)
    yield opened
    opened.close()


def test_copies_that_nobody_saw(store: PredictionStore) -> None:
    """Copies count from the beginning of mirroring; one that no replica had tells nothing, nor does a young one."""
    taken(
        store,
        [
            said("a", 5.0, NEW, role="mirror", first=0.0),
            said("b", 6.0, NEW, role="mirror", status=0, end="", upstream=0.7),
            said("c", 7.0, NEW, role="mirror", status=0, end="", upstream=0.0),
            said("d", 8.0, NEW, role="mirror", tries=2),
            said("e", 99.0 - MIRROR_LAG, NEW, role="mirror"),
            said("f", 2.0, NEW, role="mirror"),
            said("g", 9.0, NEW, role="mirror", status=400, end=""),
        ],
    )
    found = asked(store, query(since=50.0, mirror_since=5.0, until=99.0))
    assert found.mirrored == Counts(4, 1, ((time_of(0.4), 1),), (), 1)
    assert found.slices == found.mirrored_slices == ()
    assert found.mirrored_whole == 60.0


def test_copies_beside_their_own_requests(store: PredictionStore) -> None:
    """Copies stand beside what the control did with the requests of the same time and region, by the share copied."""
    taken(
        store,
        [
            said("a", 1.0, region="us", status=500, end=""),
            said("b", 2.0, region="us"),
            said("b", 2.0, NEW, role="mirror", first=0.0),
            said("c", 3.0, region="eu", status=500, end=""),  # nothing was copied from there
            said("d", 15.0, region="us"),  # the share changes in its slice
            said("d", 15.0, NEW, role="mirror", status=500, end=""),
            said("e", 25.0, region="eu", asked=9000),
            said("e", 25.0, NEW, role="mirror", status=0, end="", first=0.0),
            said("f", 26.0, "chat-1"),
            said("g", 45.0),  # the canary has begun: nothing is copied any more
        ],
    )
    mirrors = ((0.0, 1.0, "us"), (18.0, 0.25, ""), (40.0, 0.0, ""))
    found = asked(store, query(mirror_since=0.0, mirrors=mirrors, since=40.0))
    first, third = found.mirrored_slices
    answer = ((time_of(0.4), 1),)
    assert (first.at, first.stratum, first.weight) == (0, 0, 0.5)
    assert (first.candidate, first.control) == (Counts(1, 0, answer), Counts(2, 1, answer, ((time_of(0.1), 1),)))
    assert (third.at, third.stratum, third.weight) == (2, 0, 0.2)
    assert (third.candidate, third.control.requests, third.control.errors) == (Counts(1, 1), 1, 0)
    assert found.mirrored.requests == 3
    wide = asked(store, query(mirror_since=0.0, mirrors=((0.0, 1.0, ""),), since=40.0, mirror_width=30.0))
    assert [(one.at, one.candidate.requests, one.control.requests) for one in wide.mirrored_slices] == [
        (0, 3, 5),
        (1, 0, 1),
    ]


def test_copies_count_when_all_of_their_time_have_ended(store: PredictionStore) -> None:
    """A version that lets copies hang does not look quick: what workers say of copies is waited for, or the limit."""
    asking = query(mirror_since=0.0, until=99.0, lag=20.0)
    records = [one for at in range(99) for one in (said(f"r{at}", at), said(f"r{at}", at, NEW, role="mirror"))]
    found = asked(taken(store, records), asking)
    assert (found.whole, found.mirrored_whole) == (70.0, 40.0), "20 s, and 30 s more for a copy"
    found = asked(taken(store, [WrittenRecord("chat", 95.0, copies=61.0)]), asking)
    assert (found.whole, found.mirrored_whole, found.mirrored.requests) == (90.0, 60.0, 60)
    found = asked(taken(store, [WrittenRecord("chat", 96.0)]), asking)
    assert (found.whole, found.mirrored_whole) == (90.0, 60.0), "nothing is said of copies: what was counted stays"
    found = asked(taken(store, [said("late", 15.0, NEW, role="mirror")]), asking)
    assert found.mirrored.requests == 41, "one that was paid after a kill is counted in"


def test_a_copy_that_failed_at_first_has_failed(store: PredictionStore) -> None:
    """As live requests do: an answer of a second try doesn't make the first one good."""
    copy = {"role": "mirror", "first": 0.0}
    taken(store, [said("a", 1.0, NEW, tries=2, failed=NEW, **copy), said("b", 1.0, NEW, tries=2, **copy)])
    assert asked(store, query(mirror_since=0.0)).mirrored == Counts(2, 1)
