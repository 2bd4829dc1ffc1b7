"""What every store must do, as tests.

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> Iterator[KeptStore]: ...

Who calls it: pytest, through such a subclass. What it must never do: know which store it tests.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import pytest

from mainspring.errors import Conflict
from mainspring.facts.changes import Caller, Change, Outcome, change
from mainspring.loop.memory import Memory, ModelMemory
from mainspring.loop.plan import Answer, Condition, Record, SetRoutes, Waiting
from mainspring.loop.ports import Store
from mainspring.loop.snapshot import Request
from mainspring.store.book import DesiredKept, EventKept, StepKept
from mainspring.testing.builders import (
    EPOCH,
    a_now,
    a_plan,
    a_record,
    a_replica,
    a_request,
    a_step,
    an_event,
    some_routes,
)


class KeptStore(Store, Protocol):
    """A store, and what people ask of it."""

    def ask(self, request: Request) -> None: ...
    def answers(self, request: str) -> Answer | None: ...
    def outcome(self, step: str, text: str) -> None: ...
    def steps(self, limit: int = 100) -> Sequence[StepKept]: ...
    def events(self, since: float = float("-inf"), limit: int = 100) -> Sequence[EventKept]: ...
    def conditions(self) -> Sequence[Condition]: ...
    def waiting(self) -> Sequence[Waiting]: ...
    def records(self, kind: str, since: float = float("-inf")) -> Sequence[Record]: ...
    def note(self, change: Change) -> None: ...
    def end(self, change: str, outcome: Outcome, message: str = "") -> None: ...
    def changes(self, since: float = float("-inf"), limit: int = 100, who: str = "") -> Sequence[Change]: ...
    def desired(self) -> DesiredKept | None: ...
    def set_desired(self, text: str, revision: str, path: str, *, down: bool = False) -> None: ...


MEMORY = Memory(epoch=3, models={"delay": ModelMemory(champion="2", previous="1")}, aborted=("delay/4",))


class StoreConformance:
    """Subclass it, and give a fixture `store`: a fresh one."""

    def test_a_fresh_store_is_empty(self, store: KeptStore) -> None:
        """Revision 0, nothing remembered, nothing asked."""
        assert store.load() == (0, Memory())
        assert store.requests() == ()
        for read in (
            store.steps,
            store.events,
            store.conditions,
            store.waiting,
            store.changes,
            lambda: store.records("drift"),
        ):
            assert len(read()) == 0
        assert store.desired() is None

    def test_a_commit_is_kept(self, store: KeptStore) -> None:
        """Memory, steps, events, conditions, records and waiting are there afterwards."""
        condition = Condition("endpoint/delay", "Ready", "true", "Answers", "all replicas answer")
        waiting = Waiting("run delay-1", "it trains", self_ending=True)
        plan = a_plan(
            MEMORY,
            a_replica(),
            events=(an_event(),),
            conditions=(condition,),
            records=(a_record(psi=0.2),),
            waiting=(waiting,),
        )
        revision = store.commit(0, plan, a_now())
        assert store.load() == (revision, MEMORY)
        assert revision == 1
        step = store.steps()[0]
        assert (step.id, step.action, step.because, step.at) == (
            plan.steps[0].id,
            "StartReplica",
            "a test wants it",
            EPOCH,
        )
        assert store.events()[0].event == an_event()
        assert (store.conditions(), store.waiting()) == ((condition,), (waiting,))
        assert store.records("drift") == (a_record(psi=0.2),)
        assert store.records("gate") == ()

    def test_a_commit_from_another_revision_is_refused_whole(self, store: KeptStore) -> None:
        """A conflict leaves everything as it was."""
        store.commit(0, a_plan(MEMORY), a_now())
        for expected in (0, 2):
            with pytest.raises(Conflict):
                store.commit(expected, a_plan(Memory(epoch=9), a_replica(), events=(an_event(),)), a_now())
        assert store.load() == (1, MEMORY)
        assert (len(store.steps()), len(store.events())) == (0, 0)

    def test_changes_are_noted_once_and_end_once(self, store: KeptStore) -> None:
        """The first word holds, for a change and for its end; an end of what is not there is nothing."""
        store.note(change("a", 5.0, Caller("k3 (anna)", remark="root"), "apply", "f", "d"))
        store.note(change("a", 6.0, Caller("mallory"), "down"))
        assert store.changes() == (Change("a", 5.0, "k3 (anna)", "apply", "f", "d", "root"),)
        store.end("a", "refused", "why")
        store.end("a", "accepted")
        store.end("b", "accepted")
        assert store.changes() == (Change("a", 5.0, "k3 (anna)", "apply", "f", "d", "root", "refused", "why"),)

    def test_changes_are_chosen(self, store: KeptStore) -> None:
        """Newest first by real time, since a moment, of whom, and so many."""
        for number, who in enumerate(["k1 (anna)", "k2 (bert)", "k10 (anna)"]):
            store.note(change(str(number), float(number), Caller(who), "run"))
        assert [one.id for one in store.changes()] == ["2", "1", "0"]
        assert [one.id for one in store.changes(since=1.0)] == ["2", "1"]
        assert [one.id for one in store.changes(who="anna")] == ["2", "0"]
        assert [one.id for one in store.changes(who="%")] == []
        assert [one.id for one in store.changes(limit=1)] == ["2"]

    def test_the_loops_answer_ends_a_change(self, store: KeptStore) -> None:
        """A request is in the change log under its own id, and what the loop answers is how it ended."""
        store.note(change("r1", 1.0, Caller("k1"), "run", "delay"))
        store.ask(a_request("r1"))
        store.ask(a_request("r2"))
        answers = (Answer("r1", accepted=False, message="no"), Answer("r2", accepted=True, message="yes"))
        store.commit(0, a_plan(MEMORY, answers=answers), a_now())
        assert [(one.id, one.outcome, one.message) for one in store.changes()] == [("r1", "refused", "no")]

    def test_a_commit_without_news_keeps_the_revision(self, store: KeptStore) -> None:
        """The time of the last look alone is no news, but is remembered."""
        revision = store.commit(0, a_plan(MEMORY), a_now())
        looked = replace(MEMORY, last=a_now(EPOCH + 1, 0.2, 1.0), watched=1.0)
        assert store.commit(revision, a_plan(looked), a_now(EPOCH + 1, 0.2, 1.0)) == revision
        assert store.load() == (revision, looked)

    def test_a_step_begun_again_is_one_step(self, store: KeptStore) -> None:
        """It is counted; the newest come first, and no more than were asked for."""
        step = a_step(a_replica())
        revision = store.commit(0, replace(a_plan(), steps=(step,)), a_now())
        revision = store.commit(revision, replace(a_plan(), steps=(step,)), a_now(EPOCH + 5))
        store.outcome(step.id, "begun")
        store.outcome("no such step", "begun")
        kept = store.steps()[0]
        assert (kept.times, kept.at, kept.last, kept.outcome) == (2, EPOCH, EPOCH + 5, "begun")
        store.commit(revision, a_plan(Memory(), SetRoutes(some_routes(1)), a_replica(generation=2)), a_now())
        assert [kept.action for kept in store.steps()] == ["StartReplica", "SetRoutes", "StartReplica"]
        assert [kept.action for kept in store.steps(2)] == ["StartReplica", "SetRoutes"]

    def test_events_of_one_key_are_one_event(self, store: KeptStore) -> None:
        """Counted, with the first and last time and the latest message; newest first."""
        plan = a_plan(events=(an_event("a"), an_event("a", message="again"), an_event("b")))
        revision = store.commit(0, plan, a_now())
        store.commit(revision, a_plan(events=(an_event("a", message="third"),)), a_now(EPOCH + 9))
        first, second = store.events()
        assert (first.event.key, first.count, first.first, first.last) == ("a", 3, EPOCH, EPOCH + 9)
        assert first.event.message == "third"
        assert (second.event.key, second.count) == ("b", 1)
        assert [kept.event.key for kept in store.events(since=EPOCH + 1)] == ["a"]
        assert [kept.event.key for kept in store.events(limit=1)] == ["a"]

    def test_a_record_is_kept_once(self, store: KeptStore) -> None:
        """Recording it again changes nothing, not even the revision; values that JSON lacks are kept."""
        plan = a_plan(records=(a_record(at=EPOCH, value=1, nothing=float("inf")), a_record("early", EPOCH - 1)))
        revision = store.commit(0, plan, a_now())
        assert store.commit(revision, a_plan(records=(a_record(at=EPOCH, value=2),)), a_now()) == revision
        assert [record.key for record in store.records("drift")] == ["early", "2013-03-08"]
        assert store.records("drift", since=EPOCH)[0].value == {"value": 1, "nothing": float("inf")}

    def test_conditions_are_those_of_the_last_cycle(self, store: KeptStore) -> None:
        """They are replaced whole."""
        one = Condition("endpoint/delay", "Ready", "false", "Starting", "1 of 2 replicas answer")
        revision = store.commit(0, a_plan(conditions=(one,)), a_now())
        two = replace(one, message="2 of 2 replicas answer")
        revision = store.commit(revision, a_plan(conditions=(two,)), a_now())
        assert store.conditions() == (two,)
        store.commit(revision, a_plan(), a_now())
        assert store.conditions() == ()

    def test_a_request_waits_until_it_is_answered(self, store: KeptStore) -> None:
        """Oldest first; asked twice is once; the first answer stands."""
        requests = [a_request(f"r{n}", args={"n": n}) for n in (2, 1, 3)]
        for request in (*requests, requests[0]):
            store.ask(request)
        assert list(store.requests()) == requests
        assert store.answers("r1") is None
        revision = store.commit(0, a_plan(answers=(Answer("r1", True, "run `delay-4` is asked for"),)), a_now())
        store.commit(revision, a_plan(answers=(Answer("r1", False, "no"),)), a_now())
        assert [request.id for request in store.requests()] == ["r2", "r3"]
        assert store.answers("r1") == Answer("r1", True, "run `delay-4` is asked for")
        store.ask(requests[1])
        assert [request.id for request in store.requests()] == ["r2", "r3"]

    def test_requests_come_from_any_thread(self, store: KeptStore) -> None:
        """Fifty requests of five threads, beside commits, are all there."""

        def ask(first: int) -> None:
            for number in range(first, first + 10):
                store.ask(a_request(f"r{number}"))

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 50, 10)]
        for thread in threads:
            thread.start()
        revision = 0
        for number in range(20):
            revision = store.commit(revision, a_plan(Memory(epoch=number + 1)), a_now())
        for thread in threads:
            thread.join()
        assert {request.id for request in store.requests()} == {f"r{number}" for number in range(50)}
        assert revision == 20

    def test_the_applied_stack_is_kept(self, store: KeptStore) -> None:
        """The latest wins, and whether it was taken down."""
        store.set_desired("mainspring: 1\n", "abc", "/p/mainspring.yaml")
        store.set_desired("mainspring: 1\n", "abc", "/p/mainspring.yaml", down=True)
        assert store.desired() == DesiredKept("mainspring: 1\n", "abc", "/p/mainspring.yaml", True)
