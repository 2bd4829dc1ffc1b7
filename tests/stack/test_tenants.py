"""Tenants, limits and schedules in the stack file: what is read, and what is told of a slip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import StackError
from mainspring.stack.hours import clock, days
from mainspring.stack.load import parse
from mainspring.stack.notes import notes
from mainspring.stack.tenants import allowances

FILE = """\
mainspring: 1
stack: chat
compute:
  laptop: {machine: this, price: $0.10/h}
orchestration: {where: laptop}
serving:
  chat:
    model: assistant@champion
    runtime: llamacpp
    auth: token
    replicas: 0..2
    scale: {queue: 2, down: 1m, schedule: [{on: mon-fri, from: 08:00, until: 18:00, least: 1}]}
    tenants:
      acme: {tokens: [20k/min, 2M/day], requests: 60/min, at_once: 4, budget: $300/month, share: 2, priority: high}
      small: {requests: 10/s}
pipelines:
  assistant: {produces: assistant, weights: a.gguf}
"""


def told(old: str, new: str) -> list[str]:
    """The problems of a changed file, each as `line: path: message`."""
    assert old in FILE
    with pytest.raises(StackError) as caught:
        parse(FILE.replace(old, new).encode(), "mainspring.yaml")
    return [f"{one.line}: {one.path}: {one.message}" for one in caught.value.problems]


def test_read() -> None:
    """A file with all of it is read as it is meant."""
    endpoint = parse(FILE.encode(), "a").serving["chat"]
    acme = endpoint.tenants["acme"]
    assert [(one.count, one.per) for one in acme.tokens] == [(20_000, 60.0), (2_000_000, 86_400.0)]
    assert endpoint.scale is not None
    [period] = endpoint.scale.schedule
    assert (period.on, period.from_, period.until, period.least) == ((0, 1, 2, 3, 4), 28_800.0, 64_800.0, 1)
    assert not list(notes(parse(FILE.encode(), "a")))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("requests: 60/min", "requests: 0/min", "lets nothing in"),
        ("requests: 60/min", "requests: 60", "60/min"),
        ("requests: 60/min", "requests: 1.5/min", "whole number"),
        ("requests: 60/min", "requests: 60/week", "per `s`, `min`, `h`, `day` or `month`"),
        ("[20k/min, 2M/day]", "[20k/min, 2M/min]", "over the same period"),
        ("[20k/min, 2M/day]", "[]", "limits nothing"),
        ("$300/month", "$300/day", "$300/month"),
        ("$300/month", "$0/month", "lets nothing in"),
        ("at_once: 4", "at_once: 0", "at least 1"),
        ("share: 2", "share: 0", "0.01"),
        ("priority: high", "priority: urgent", "urgent"),
        ("auth: token", "auth: none", "auth: token"),
        ("at_once: 4", "context: 4k tokens", "more than the endpoint's `context`"),
        ("least: 1", "least: 3", "more than `replicas: 0..2` allows"),
        ("from: 08:00", "from: 8 o'clock", "08:00"),
        ("on: mon-fri", "on: weekdays", "mon-fri"),
        ("runtime: llamacpp", "runtime: onnx", "of language models"),
    ],
)
def test_slips(old: str, new: str, says: str) -> None:
    """Each slip is told with its line and what to write."""
    found = told(old, new)
    assert any(says in one for one in found), found
    assert all(one.split(":")[0].isdigit() for one in found)


def test_a_budget_without_a_price_is_told() -> None:
    """Nothing is ever charged on a machine that is free: that is a note, not silence."""
    found = {note.path for note in notes(parse(FILE.replace(", price: $0.10/h", "").encode(), "a"))}
    assert "serving.chat.tenants.acme.budget" in found


@given(
    st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none(), st.lists(st.text(max_size=9), max_size=3))
)
def test_any_value_is_read_or_told(value: object) -> None:
    """Whatever stands there: limits, days and hours, or a sentence; never another error."""
    for read in (allowances, days, clock):
        try:
            assert read(value) is not None
        except ValueError as error:
            assert len(str(error)) > 10


@given(st.integers(0, 23), st.integers(0, 59))
def test_times_of_day(hour: int, minute: int) -> None:
    """Every time of day is read as its seconds."""
    assert clock(f"{hour:02d}:{minute:02d}") == hour * 3600 + minute * 60


def test_days_around_the_week() -> None:
    """A span may go over Sunday."""
    assert days("fri-mon") == (0, 4, 5, 6)
    assert days("every day") == tuple(range(7))
    assert days("Sat, Sun") == (5, 6)
