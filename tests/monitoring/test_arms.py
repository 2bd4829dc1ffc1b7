"""What both arms of a rollout did: counted by hand, in any order, after failures and repeats, in old databases."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.arms import AMOUNTS, EDGES, Arms, Counts, Units
from mainspring.facts.records import PredictionRecord, TruthRecord, WrittenRecord
from mainspring.loop.readings import ArmsQuery, PairsQuery, TrafficQuery, Unknown
from mainspring.monitoring.arms_rows import rounded
from mainspring.monitoring.predictions import PredictionStore
from mainspring.monitoring.tables import SCHEMA
from tests.monitoring.test_predictions import prediction, store_of, truth, write

NEW, OLD, FRESH = "chat-3", "chat-2", "chat-2.fresh"


def said(id_: str, at: float, revision: str = OLD, **over: object) -> PredictionRecord:
    """An answer of a language model, but for what is said."""
    told: dict[str, object] = {
        "endpoint": "chat", "version": revision[5], "role": "live", "status": 200, "seconds": 0.5, "upstream": 0.4,
        "compute": 0.3, "tries": 1, "end": "done", "first": 0.1, "asked": 100, "prompt_tokens": 90, "output_tokens": 40,
    }  # fmt: skip
    return PredictionRecord(id=id_, at=at, revision=revision, **(told | over))  # type: ignore[arg-type]


def rated(id_: str, at: float, **fields: float) -> TruthRecord:
    """Feedback on an answer."""
    return TruthRecord("chat", id_, at, fields)


def query(**over: object) -> ArmsQuery:
    """Slices of 10 s from 0 to 100, which end with the last second."""
    told: dict[str, object] = {"until": 100.0, "width": 10.0, "stage_since": 0.0, "lag": 0.0}
    return ArmsQuery("chat", NEW, (OLD, FRESH), **({"fresh": "", "since": 0.0} | told | over))  # type: ignore[arg-type]


def time_of(seconds: float) -> int:
    """The bucket of a time."""
    return bisect_left(EDGES, seconds)


@pytest.fixture
def store(tmp_path: Path) -> Iterable[PredictionStore]:
    """An empty store."""
    opened = store_of(tmp_path)
    yield opened
    opened.close()


def taken(store: PredictionStore, records: Iterable[object], name: str = "gateway-0-0a-0.jsonl") -> PredictionStore:
    """The store after it has taken in these records."""
    write(store._segments, records, name)
    store.ingest()
    return store


def asked(store: PredictionStore, asking: ArmsQuery) -> Arms:
    """The answer, which has to be there."""
    found = store.samples([asking])[asking]
    assert isinstance(found, Arms), found
    return found


def test_slices_by_hand(store: PredictionStore) -> None:
    """Requests and errors of both arms by slice and stratum; times of undisturbed whole answers, of fresh replicas."""
    taken(
        store,
        [
            said("a", 0.0, NEW, upstream=0.2, first=0.05),
            said("b", 9.9, NEW, status=502, end="cut"),
            said("c", 1.0),  # an old replica of the control: its time is not compared
            said("d", 2.0, FRESH, upstream=0.3),
            said("e", 3.0, FRESH, tries=2, replica="chat-2.fresh-0"),  # disturbed, and nobody's fault
            said("f", 4.0, FRESH, end="gone", upstream=9.0),  # it left: it had waited at least so long
            said("n", 4.0, FRESH, end="gone", status=499, first=0.0, upstream=7.0),
            said("o", 4.0, FRESH, end="gone", status=499, first=0.0, upstream=0.0),  # it waited for a replica
            said("g", 5.0, FRESH, asked=3000),
            said("h", 6.0, FRESH, status=400, end=""),  # its own fault, says the replica
            said("p", 6.0, FRESH, status=429, end="", upstream=0.0),  # the gateway's word, whatever the version
            said("i", 10.0, OLD, status=0, end=""),
            said("j", 35.0, NEW),  # after a slice without any
            said("k", 5.0, "chat-1"),  # of neither arm
            said("l", 5.0, NEW, role="mirror"),
            said("m", 95.0, NEW),  # its slice is not over at 99
        ],
    )
    found = asked(store, query(fresh=FRESH, until=99.0))
    assert [(one.at, one.stratum) for one in found.slices] == [(0, 0), (0, 3), (1, 0), (3, 0)]
    first, longer, second, last = found.slices
    assert first.candidate == Counts(2, 1, ((time_of(0.2), 1),), ((time_of(0.05), 1),))
    waited = ((0, 1), (time_of(7.0), 1), (time_of(9.0), 1))
    assert first.control == Counts(8, 0, ((time_of(0.3), 1),), ((time_of(0.1), 1),), 1, 3, waited)
    assert longer.control == Counts(1, 0, ((time_of(0.4), 1),), ((time_of(0.1), 1),))
    assert (second.candidate, second.control) == (Counts(), Counts(1, 1))
    assert (last.candidate.requests, last.control.requests) == (1, 0)
    assert found.whole == 90.0
    assert asked(store, query(until=100.0)).slices[-1].at == 9


def test_sums_shares_and_users_by_hand(store: PredictionStore) -> None:
    """Sums are of the stage; each share has its requests; a user counts once; where shares change, none is told."""
    taken(
        store,
        [
            said("a", 5.0, NEW, unit="u1"),
            said("b", 25.0, NEW, unit="u1", output_tokens=80),
            said("c", 26.0, NEW, unit="u2", status=500, end=""),
            said("d", 27.0, NEW, unit="u2", status=500, end=""),
            said("e", 28.0, OLD, unit="u3", end="gone", output_tokens=1),
            said("f", 29.0, OLD, compute=0.0),
            said("g", 45.0, OLD, unit="u4"),
            said("h", 55.0, OLD, unit="u4"),
        ],
    )
    shares = ((0.0, 0.05), (20.0, 0.3), (43.0, 0.0), (50.0, 0.3))
    found = asked(store, query(stage_since=20.0, shares=shares, sticky=True, skip=((24.0, 26.0),)))
    assert found.candidate.tokens == ((bisect_left(AMOUNTS, 80), 1),)
    assert found.control.tokens == ((bisect_left(AMOUNTS, 40), 2),), "one left, and one asked twice"
    assert found.control.compute == ((bisect_left(AMOUNTS, 0.3), 1),)
    assert found.routed == ((0.05, 1, 0), (0.3, 3, 3))
    assert (found.candidate_units, found.control_units) == (Units(2, 1), Units(3, 0, 0, 1))
    assert {one.at: one.weight for one in found.slices} == {0: 0.05, 2: 0.3, 4: 0.0, 5: 0.3}
    assert found.slices[1].candidate == Counts(3, 2), "a replica was warming up: its times do not count"
    assert asked(store, query()).candidate_units is None


def test_a_try_that_failed_counts_whoever_answered(store: PredictionStore) -> None:
    """A version with many replicas fails no less often than one with a single replica that ends as often."""
    taken(
        store,
        [
            said("a", 1.0, OLD, tries=2, failed=OLD, replica="chat-2-1"),  # another of its replicas answered
            said("b", 2.0, OLD, tries=2),  # an older gateway does not say who failed it
            said("c", 3.0, OLD, tries=2, replica="chat-2-1"),  # an idle connection was closed: no failure
            said("d", 4.0, NEW, tries=2, failed=NEW, status=422, end="", replica="chat-3-0"),
            said("e", 5.0, NEW, tries=2, failed=NEW, status=499, end="gone", replica="chat-3-0"),
        ],
    )
    (found,) = asked(store, query()).slices
    assert found.control == Counts(3, 2)
    assert found.candidate == Counts(2, 2)
    counts = store.counts("chat")
    assert (counts.requests, counts.errors) == (5, 0), "their clients got answers"


def test_who_leaves_a_version_that_hangs_is_no_answer(store: PredictionStore) -> None:
    """Nothing of it is taken for an answer, an error or a time: not a stream that stalls, nor one that never began."""
    hung = [said(f"r{i}", i, NEW, status=499, end="gone", upstream=2.0, first=0.0) for i in range(5)]
    stalled = [said(f"s{i}", i, NEW, end="gone", upstream=2.0) for i in range(5)]
    found = asked(taken(store, [*hung, *stalled]), query())
    (seen,) = found.slices
    assert seen.candidate == Counts(10, 0, left=10, waited=((time_of(2.0), 10),))
    assert found.candidate.tokens == found.candidate.compute == ()


def test_a_user_has_one_time_and_one_mean(store: PredictionStore) -> None:
    """Of each user the first time of the stage, whichever arm, and the mean of their answers; in a stage anew."""
    u1, u2, u3 = ({"unit": f"u{i}", "first": 0.0} for i in (1, 2, 3))
    taken(
        store,
        [
            said("a", 1.0, NEW, upstream=0.2, output_tokens=100, **u1),
            said("b", 2.0, NEW, upstream=5.0, output_tokens=300, **u1),
            said("c", 13.0, OLD, upstream=7.0, **u1),
            said("d", 14.0, OLD, status=499, end="gone", upstream=3.0, **u2),
            said("e", 15.0, OLD, upstream=0.3, **u2),
            said("f", 16.0, OLD, status=400, end="", **u3),
            said("g", 31.0, NEW, upstream=0.6, **u1),
            said("h", 1.0, OLD, upstream=0.1, unit="u4", first=0.0, status=500, end=""),
            rated("a", 20.0, score=1.0), rated("b", 20.0, score=0.5), rated("c", 20.0, score=0.0),
        ],
    )  # fmt: skip
    asking = query(sticky=True, score="score", until=30.0)
    found = asked(store, asking)
    first, second = found.slices
    assert first.candidate == Counts(2, 0, ((time_of(0.2), 1),))
    assert (second.control.times, second.control.waited) == ((), ((time_of(3.0), 1),))
    assert found.candidate.tokens == ((bisect_left(AMOUNTS, 200), 1),)
    assert (found.candidate.scores, found.control.scores) == (((0.75, 1),), ((0.0, 1),))
    assert found.untold == 0
    assert (found.candidate_units, found.control_units) == (Units(1), Units(4, 1, 1, 1))
    later = asked(store, replace(asking, stage_since=30.0, until=40.0))
    assert [one.candidate.times for one in later.slices] == [(), (), ((time_of(0.6), 1),)]
    assert not any(one.control.times or one.control.waited for one in later.slices)
    assert later.candidate_units == Units(1), "users are those of the whole query"
    anew = store_of(store._segments.parent)
    assert asked(anew, replace(asking, stage_since=30.0, until=40.0)) == later
    anew.close()


def test_feedback_by_hand(store: PredictionStore) -> None:
    """Ratings of the stage's answers, by value; the last word counts; who says nothing is counted too."""
    taken(store, [said(i, 15.0, NEW) for i in "abc"] + [said(i, 15.0) for i in "def"] + [said("g", 5.0, NEW)])
    given_ = [rated("a", 20.0, score=1.0), rated("b", 20.0, score=0.2505, other=1, by=3.5), rated("d", 30.0, score=0.0)]
    taken(store, [*given_, rated("d", 31.0, score=1.0), rated("g", 20.0, score=0.0), rated("nobody", 20.0, score=1)])
    found = asked(store, query(stage_since=10.0, score="score", metric="other"))
    assert (found.candidate.scores, found.control.scores) == (((0.251, 1), (1.0, 1)), ((1.0, 1),))
    assert (found.candidate.metric, found.control.metric) == (((1.0, 1),), ())
    assert found.untold == 2, "of three answers one has the metric"
    assert asked(store, query(stage_since=10.0, score="score")).untold == 1
    assert asked(store, query(stage_since=10.0)).untold == 0
    assert asked(store, query(metric="by")).candidate.metric == (), "it is not from 0 to 1"
    taken(store, [rated("c", 40.0, score=0.5)])
    assert asked(store, query(stage_since=10.0, score="score")).candidate.scores[1] == (0.5, 1)


def test_an_outcome_is_feedback_too(store: PredictionStore) -> None:
    """An A/B test may be about the very outcome that quality is judged by."""
    store.name_truths({"chat": "kept"})
    taken(store, [said("a", 5.0, NEW), rated("a", 9.0, kept=1.0, stars=0.75)])
    found = asked(store, query(score="stars", metric="kept"))
    assert (found.candidate.scores, found.candidate.metric) == (((0.75, 1),), ((1.0, 1),))
    assert store.outputs("chat", ["a"])["a"].truth == 1.0


def test_who_failed_a_request_is_told_by_it(store: PredictionStore) -> None:
    """A request that the candidate failed and the control answered is the candidate's error, and nobody's answer."""
    taken(store, [said("a", 5.0, OLD, tries=2, failed=NEW, region="eu", unit="u1"), said("b", 6.0, OLD)])
    found = asked(store, query(sticky=True))
    assert (found.slices[0].candidate, found.slices[0].control.requests) == (Counts(1, 1), 1)
    assert (found.candidate_units, found.control_units) == (Units(1, 1), Units(1, 0))
    assert asked(store, query(region="eu")).slices[0].candidate.errors == 1
    counts = store.counts("chat")
    assert (counts.requests, counts.errors, counts.repeats) == (2, 0, 0), "its client got an answer"
    assert store.samples([old := TrafficQuery("chat", NEW, "live", 0.0, 10.0)])[old].errors == 1  # type: ignore[union-attr]


def test_a_second_try_changes_nothing(store: PredictionStore) -> None:
    """A request counts by what became of it first: asked again it is neither forgiven nor counted twice."""
    taken(store, [said("a", 5.0, NEW, status=500, end=""), said("b", 5.0, NEW), said("c", 5.0), said("d", 5.0)])
    before = asked(store, query(until=50.0))
    again = [said("a", 25.0, NEW), said("b", 25.0, NEW, status=500, end=""), said("c", 25.0, NEW)]
    after = asked(taken(store, again), query(until=50.0))
    assert after == before
    assert after.slices[0].candidate == Counts(2, 1, ((time_of(0.4), 1),), ((time_of(0.1), 1),))
    # The other revision's failure of an id that was answered before stays evidence.
    failed = asked(taken(store, [said("d", 26.0, NEW, status=500, end="")]), query(until=50.0))
    assert (failed.slices[-1].at, failed.slices[-1].candidate) == (2, Counts(1, 1))


def test_a_region_is_looked_at_alone(store: PredictionStore) -> None:
    """Only requests from the region that the canary is in."""
    taken(store, [said("a", 5.0, NEW, region="eu"), said("b", 5.0, region="eu"), said("c", 5.0, region="us")])
    assert [(s.candidate.requests, s.control.requests) for s in asked(store, query(region="eu")).slices] == [(1, 1)]


def test_nothing_is_unknown(store: PredictionStore) -> None:
    """No requests are not zero errors."""
    assert isinstance(store.samples([query()])[query()], Unknown)


def slices_at(store: PredictionStore, until: float, alive: Iterable[str] | None, lag: float = 60.0) -> int:
    """Until which slice of 10 s requests are counted, of one a second since 0."""
    store.ingest(None if alive is None else set(alive))
    asking = query(until=until, lag=lag)
    found = store.samples([asking])[asking]
    return found.slices[-1].at + 1 if isinstance(found, Arms) else 0


def test_a_slice_counts_when_all_of_it_has_ended(store: PredictionStore) -> None:
    """What workers say has ended counts at once; of those that say nothing, after the endpoint's time limit."""
    both = {"gateway-0", "gateway-1"}
    taken(store, [said(f"r{at}", float(at)) for at in range(100)])
    assert slices_at(store, 99.0, both) == 3, "60 s ago"
    taken(store, [WrittenRecord("chat", 82.0), WrittenRecord("chat", 81.0), WrittenRecord("other", 99.0)])
    assert slices_at(store, 99.0, both) == 3, "the other worker has not said anything"
    assert slices_at(store, 99.0, None) == 8, "nobody knows of another worker"
    taken(store, [WrittenRecord("chat", 71.0)], "gateway-1-0a-0.jsonl")
    assert slices_at(store, 99.0, both) == 8, "what was counted stays so"
    fresh = store_of(store._segments.parent)
    assert slices_at(fresh, 99.0, both) == 7
    assert slices_at(fresh, 99.0, {"gateway-0"}) == 8, "a worker that has ended is not waited for"
    taken(store, [WrittenRecord("chat", 95.0)], "gateway-1-0b-0.jsonl")
    assert slices_at(fresh, 99.0, {"gateway-1"}) == 9, "its next boot"
    assert slices_at(fresh, 300.0, both) == 10
    fresh.close()


def test_old_databases_are_brought_along(tmp_path: Path) -> None:
    """Rows of the first schema stay, count as far as they tell, and meet new ones; a newer schema is refused."""
    store = taken(store_of(tmp_path), [said("a", 5.0, NEW), said("b", 5.0, NEW, status=500, end=""), said("c", 6.0)])
    store.close()
    db = sqlite3.connect(tmp_path / "predictions.db")
    for column in ("came", "fate", "first", "asked", "output", "whole", "replica", "region", "unit"):
        db.execute(f"ALTER TABLE predictions DROP COLUMN {column}")
    db.executescript("DROP TABLE feedback; DROP TABLE written; PRAGMA user_version = 1;")
    db.close()
    store = store_of(tmp_path)
    taken(store, [said("a", 15.0, NEW), said("b", 15.0, NEW), said("d", 15.0, NEW), rated("d", 16.0, score=1)])
    found = asked(store, query(score="score"))
    assert found.slices[0].candidate == Counts(2, 1, ((time_of(0.4), 1),), ())
    assert found.slices[1].candidate == Counts(1, 0, ((time_of(0.4), 1),), ((time_of(0.1), 1),))
    assert found.candidate.tokens == ((bisect_left(AMOUNTS, 40), 1),)
    assert found.candidate.scores == ((1.0, 1),)
    assert store.counts("chat").requests == 4
    store.close()
    db = sqlite3.connect(tmp_path / "predictions.db")
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    with pytest.raises(Exception, match=f"schema is `{SCHEMA + 1}`"):
        store_of(tmp_path)


def test_differences_of_pairs(store: PredictionStore) -> None:
    """The loss of candidate less control of each row, to a thousandth."""
    rows = [("a", 0.5, 0.75, 1), ("b", 0.5, 0.75, 1), ("c", 0.1, 0.1, 0), ("d", 0.25, 0.5, 0)]
    for id_, live, unseen, outcome in rows:
        mirror = prediction(id_, 1.0, "delay-2", role="mirror", score=unseen)
        taken(store, [prediction(id_, 1.0, score=live), mirror, truth(id_, outcome)])
    asking = PairsQuery("delay", "delay-2", "delay-1", 0.0, 10.0)
    found = store.samples([asking])[asking]
    assert found.differences == ((-0.188, 2), (0.0, 1), (0.188, 1))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "to"), [(0.0005, 0.001), (-0.0005, -0.001), (0.0004999, 0.0), (-1.0, -1.0), (0.0, 0.0), (0.9996, 1.0)]
)
def test_rounding_is_away_from_zero(value: float, to: float) -> None:
    """A half goes away from zero, on both sides."""
    assert rounded(value) == to


def steps(store: PredictionStore, asking: ArmsQuery) -> int:
    """What the database does for an answer, in hundreds of its own instructions."""
    counted = [0]

    def count() -> int:
        counted[0] += 1
        return 0

    store._db.set_progress_handler(count, 100)
    asked(store, asking)
    store._db.set_progress_handler(None, 0)
    return counted[0]


def test_a_look_costs_what_is_new(store: PredictionStore) -> None:
    """The second look reads the new slice only; a look between slices reads next to nothing."""
    taken(store, [said(f"r{i}", i / 100, NEW if i % 20 else OLD) for i in range(8000)])
    first = steps(store, query(until=80.0))
    taken(store, [said(f"s{i}", 80 + i / 100, NEW if i % 20 else OLD) for i in range(1000)])
    assert steps(store, query(until=90.0)) < 0.2 * first
    assert steps(store, query(until=95.0)) <= 1


# --- any order of arrival

IDS = st.sampled_from([f"r{i}" for i in range(12)])
LIVES = st.builds(
    lambda id_, at, revision, status, over: said(id_, at, revision, status=status, **over),
    IDS,
    st.integers(0, 79).map(float),
    st.sampled_from([NEW, OLD, FRESH, "chat-9"]),
    st.sampled_from([200, 200, 200, 500, 0, 400, 499]),
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["live", "live", "mirror"]),
            "tries": st.sampled_from([1, 1, 2]),
            "end": st.sampled_from(["done", "gone", ""]),
            "asked": st.sampled_from([0, 100, 5000]),
            "output_tokens": st.sampled_from([0, 7, 300]),
            "upstream": st.sampled_from([0.0, 0.1, 3.0]),
            "failed": st.sampled_from(["", "", "", NEW, OLD]),
            "replica": st.sampled_from(["", "chat-0"]),
            "region": st.sampled_from(["", "eu"]),
            "unit": st.sampled_from(["", "u1", "u2"]),
        }
    ),
)
RATINGS = st.builds(
    lambda id_, at, value: rated(id_, at, score=value),
    IDS, st.integers(0, 99).map(float), st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
WORDS = st.builds(
    lambda at, copies: WrittenRecord("chat", at, copies),
    st.integers(50, 99).map(float), st.sampled_from([0.0, 20.0, 45.0]),
)  # fmt: skip
RECORDS = st.lists(LIVES | RATINGS | WORDS, min_size=1, max_size=40)


@given(
    RECORDS, st.randoms(use_true_random=False), st.lists(st.integers(1, 100), max_size=5), st.booleans(), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_counted_on_is_counted_anew(
    records: list[PredictionRecord | TruthRecord | WrittenRecord],
    shuffle: random.Random,
    looks: list[int],
    regional: bool,
    sticky: bool,
) -> None:
    """Whatever the order in which records come, and whenever it was looked, the last answer is that of a new store."""
    over = {"region": "eu"} if regional else {}
    asking = query(mirror_since=0.0, score="score", sticky=sticky, stage_since=20.0, mirror_width=15.0, **over)
    asking = replace(asking, mirrors=((0.0, 0.5, ""), (22.0, 1.0, "eu"), (50.0, 0.0, "")))
    asking = replace(asking, shares=((0.0, 0.1), (33.0, 0.0), (40.0, 0.5)), skip=((12.0, 27.0),), fresh=FRESH)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        counting, anew = store_of(Path(one)), store_of(Path(other))
        write(anew._segments, records)
        anew.ingest()
        shuffled = list(records)
        shuffle.shuffle(shuffled)
        for until in looks:
            part, shuffled = shuffled[: len(shuffled) // 2], shuffled[len(shuffled) // 2 :]
            taken(counting, part)
            counting.samples([replace(asking, until=float(until))])
        taken(counting, shuffled)
        assert counting.samples([asking])[asking] == anew.samples([asking])[asking]
        counting.close()
        anew.close()
