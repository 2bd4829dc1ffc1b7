"""Both stores pass the conformance suite, and behave alike whatever comes in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mainspring.errors import Conflict
from mainspring.facts.changes import Caller, change
from mainspring.loop.memory import Memory, ModelMemory, ProcessMemory
from mainspring.loop.plan import Answer, Condition, Plan, Waiting
from mainspring.store.memory import MemoryStore
from mainspring.store.sqlite import SqliteStore
from mainspring.testing.builders import EPOCH, a_now, a_plan, a_record, a_replica, a_request, an_event
from mainspring.testing.store_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    """In memory."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        """A fresh one."""
        return MemoryStore()


class TestSqliteStore(StoreConformance):
    """In a file."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        """A fresh one."""
        store = SqliteStore(tmp_path / "state.db")
        yield store
        store.close()


class ReopenedStore(SqliteStore):
    """A store that is closed and opened again after every commit."""

    def commit(self, expected: int, plan: Plan, now: Any) -> int:
        """Commit, then open anew."""
        with self._guard:
            revision = super().commit(expected, plan, now)
            self.close()
            self._open()
            return revision


class TestReopenedStore(StoreConformance):
    """In a file that is closed and opened between commits."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        """A fresh one."""
        store = ReopenedStore(tmp_path / "state.db")
        yield store
        store.close()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
few = st.sampled_from(["a", "b", "c"])
floats = st.floats(allow_nan=False)
memories = st.builds(
    Memory,
    epoch=st.integers(0, 3),
    watched=st.floats(0, 1e6),
    last=st.none() | st.builds(a_now, st.floats(0, 2e9)),
    models=st.dictionaries(few, st.builds(ModelMemory, texts, texts), max_size=2),
    processes=st.dictionaries(few, st.builds(ProcessMemory, st.integers(0, 9), st.just((1.5,))), max_size=2),
    aborted=st.lists(texts, max_size=2).map(tuple),
)
plans = st.builds(
    lambda memory, numbers, **parts: a_plan(memory, *(a_replica(generation=n) for n in numbers), **parts),
    memories,
    st.lists(st.integers(1, 4), max_size=2),
    events=st.lists(st.builds(an_event, few, message=texts, level=few), max_size=3).map(tuple),
    records=st.lists(st.builds(a_record, few, floats, value=floats), max_size=2).map(tuple),
    conditions=st.lists(st.builds(Condition, few, few, few, few, texts), max_size=2).map(tuple),
    waiting=st.lists(st.builds(Waiting, few, texts, st.booleans()), max_size=2).map(tuple),
    answers=st.lists(st.builds(Answer, few, st.booleans(), texts), max_size=1).map(tuple),
)


class Alike(RuleBasedStateMachine):
    """A store in a file and one in memory, told the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model = MemoryStore()
        self.store = SqliteStore(self.folder / "state.db")
        self.mono = 0.0

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(plan=plans, passed=st.sampled_from([0.1, 2.0]), off=st.sampled_from([0, 0, 0, 1, -1]))
    def commit(self, plan: Plan, passed: float, off: int) -> None:
        """Commit, perhaps from a wrong revision."""
        self.mono += passed
        now = a_now(EPOCH + self.mono, self.mono)
        outcomes: list[int | str] = []
        for store in (self.model, self.store):
            try:
                outcomes.append(store.commit(store.load()[0] + off, plan, now))
            except Conflict as error:
                outcomes.append(error.code)
        assert outcomes[0] == outcomes[1]

    @rule(id_=few, args=st.dictionaries(few, st.integers() | texts | st.booleans(), max_size=2))
    def ask(self, id_: str, args: dict[str, Any]) -> None:
        """Ask for something."""
        for store in (self.model, self.store):
            store.ask(a_request(id_, args=args))

    @rule(text=texts, down=st.booleans())
    def apply(self, text: str, down: bool) -> None:
        """Apply a stack."""
        for store in (self.model, self.store):
            store.set_desired(text, "r", "/p", down=down)

    @rule(number=st.integers(0, 3), text=texts)
    def outcome(self, number: int, text: str) -> None:
        """Say what became of a step."""
        steps = self.model.steps()
        if steps:
            for store in (self.model, self.store):
                store.outcome(steps[number % len(steps)].id, text)

    @rule(id_=few, at=st.sampled_from([1.0, 2.0]), who=few, outcome=st.sampled_from(["accepted", "failed"]))
    def change(self, id_: str, at: float, who: str, outcome: Any) -> None:
        """Note a change, and perhaps how it or another ended."""
        for store in (self.model, self.store):
            store.note(change(id_, at, Caller(who), "run"))
            store.end(who, outcome, "so")

    @rule()
    def reopen(self) -> None:
        """Close the file and open it again."""
        self.store.close()
        self.store = SqliteStore(self.folder / "state.db")

    @invariant()
    def alike(self) -> None:
        """Everything that can be read is the same."""
        for read in (
            lambda s: s.load(),
            lambda s: s.requests(),
            lambda s: s.steps(),
            lambda s: s.events(),
            lambda s: s.conditions(),
            lambda s: s.waiting(),
            lambda s: s.records("drift"),
            lambda s: s.desired(),
            lambda s: {one.id: one for one in s.changes()},
            lambda s: [one.id for one in s.changes(since=2.0, who="a")],
            lambda s: [s.answers(key) for key in ("a", "b", "c")],
        ):
            assert read(self.model) == read(self.store)


Alike.TestCase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAlike = Alike.TestCase


def test_history_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The oldest steps, events and answers are dropped, in memory and in the file alike."""
    for name in ("KEEP_STEPS", "KEEP_EVENTS", "KEEP_ANSWERS"):
        monkeypatch.setattr(f"mainspring.store.book.{name}", 20)
    store = SqliteStore(tmp_path / "state.db")
    revision = 0
    for number in range(60):
        store.ask(a_request(f"r{number}"))
        plan = a_plan(
            Memory(),
            a_replica(generation=number),
            events=(an_event(f"e{number}"),),
            answers=(Answer(f"r{number}", True, ""),),
        )
        revision = store.commit(revision, plan, a_now(EPOCH + number, float(number)))
    kept = (store.steps(99), store.events(limit=99), store.answers("r59"), store.answers("r0"), store.requests())
    assert 20 <= len(kept[0]) <= 22
    assert 20 <= len(kept[1]) <= 22
    assert kept[1][0].event.key == "e59"
    assert kept[2] is not None
    assert kept[3] is None
    store.close()
    again = SqliteStore(tmp_path / "state.db")
    assert kept == (
        again.steps(99),
        again.events(limit=99),
        again.answers("r59"),
        again.answers("r0"),
        again.requests(),
    )
    again.close()


def test_no_news_costs_no_writing(tmp_path: Path) -> None:
    """Within a second, commits without news leave the file alone; after it, one write brings it up to date."""
    store = SqliteStore(tmp_path / "state.db")
    log = tmp_path / "state.db-wal"
    revision = store.commit(0, a_plan(Memory(epoch=1), events=(an_event(),)), a_now(EPOCH, 0.0))
    size = log.stat().st_size
    for number in range(1, 10):
        now = a_now(EPOCH + number, number / 10, float(number))
        plan = a_plan(Memory(epoch=1, last=now, watched=now.watched), events=(an_event(),))
        assert store.commit(revision, plan, now) == revision
    assert log.stat().st_size == size
    now = a_now(EPOCH + 10, 1.1, 10.0)
    store.commit(revision, a_plan(replace(Memory(epoch=1), last=now, watched=10.0), events=(an_event(),)), now)
    assert log.stat().st_size > size
    other = SqliteStore(tmp_path / "state.db")  # what a crash would leave
    assert other.load()[1].watched == 10.0
    assert other.events()[0].count == 11
    other.close()
    store.close()
