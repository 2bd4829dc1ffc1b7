"""Queues are bounded, and who is sent away hears when to come back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.admit import admit, retry_after


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(-1, 50))
def test_never_more_than_the_queue(inside: int, queue: int, free: int) -> None:
    """A request is let in exactly while there is room; what is sent away is told whose turn it is to act."""
    answer = admit(inside, queue, free)
    assert (answer == 0) == (inside < queue)
    if answer:
        assert answer == (503 if free < 0 else 429)


def test_examples() -> None:
    """Held while a replica is being started; 429 when all are busy; 503 when there are none."""
    assert admit(0, 512, -1) == 0
    assert admit(512, 512, 0) == 429
    assert admit(512, 512, 3) == 429
    assert admit(512, 512, -1) == 503


def test_retry_after_examples() -> None:
    """The time that those who wait take, in whole seconds, at least one and at most a minute."""
    assert retry_after(10, 4.0) == 3
    assert retry_after(0, 4.0) == 1
    assert retry_after(10, 0.0) == 1
    assert retry_after(10_000, 1.0) == 60
    assert retry_after(1, 1e-300) == 60


@given(st.integers(-5, 10**6), st.floats())
def test_retry_after_is_a_sane_header(waiting: int, rate: float) -> None:
    """Whatever the rate looks like, the answer is a whole number of seconds from 1 to 60."""
    seconds = retry_after(waiting, rate)
    assert isinstance(seconds, int)
    assert 1 <= seconds <= 60
