"""A failed request is sent on only where that can neither answer twice, nor kill another replica, nor make a flood."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.retry import DIED, FEW, LATE, REFUSED, RUNNING, STALE, UNKNOWN, again

CRASHES = [1, 2, 134, 139, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL]
OUTSIDE = [0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP]
failures = st.sampled_from([REFUSED, STALE, DIED, LATE])
statuses = st.sampled_from([*CRASHES, *OUTSIDE, UNKNOWN, RUNNING])
few = st.integers(0, 1000)


def one(failure: int, status: int = UNKNOWN, *, tries: int = 1, alone: bool = True) -> bool:
    """The first failure of a request, with all of the budget left."""
    return again(failure, 0, tries, 0, 100, 2_000, alone, status)


@given(failures, st.integers(1, 10**6), few, few, few, st.booleans(), statuses)
def test_never_after_the_first_byte(
    failure: int, sent: int, tries: int, retried: int, requests: int, alone: bool, status: int
) -> None:
    """Whatever failed: a client that has a byte of an answer gets no other answer."""
    assert not again(failure, sent, tries, retried, requests, 10_000, alone, status)


@given(few, few, few, st.booleans(), statuses)
def test_what_is_late_is_not_sent_again(tries: int, retried: int, requests: int, alone: bool, status: int) -> None:
    """It may still be worked on: a second copy would double the load just when there is too much."""
    assert not again(LATE, 0, tries, retried, requests, 10_000, alone, status)


@given(few, few, few, st.booleans(), statuses)
def test_a_refusal_is_always_sent_on(tries: int, retried: int, requests: int, alone: bool, status: int) -> None:
    """Nothing was sent, so nothing can be done twice; the budget is for work."""
    assert again(REFUSED, 0, tries, retried, requests, 0, alone, status)


@pytest.mark.parametrize("status", CRASHES)
def test_what_may_have_killed_a_replica_meets_no_other(status: int) -> None:
    """After a crash none of the requests that were there is tried again, alone or not."""
    assert not any(one(failure, status, alone=alone) for failure in (STALE, DIED) for alone in (True, False))


@pytest.mark.parametrize("status", [*OUTSIDE, RUNNING])
def test_ended_from_outside_is_tried_once_more(status: int) -> None:
    """Killed or told to end, or still running: it is not the request's doing, so it is tried on one other replica."""
    assert one(DIED, status)
    assert one(STALE, status)
    assert not one(DIED, status, tries=2)


def test_an_unknown_end_depends_on_the_company() -> None:
    """Nobody knows why it died: a request that was alone there is suspect, one of several is tried once more."""
    assert not one(DIED, alone=True)
    assert one(DIED, alone=False)
    assert one(STALE, alone=True)  # an idle connection that was closed is no sign of a death


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_budget(requests: int, share: int) -> None:
    """As many retries as the share allows, or a few, whichever is more; then no more."""
    retried = 0
    while retried < 20_000 and again(DIED, 0, 1, retried, requests, share, False, RUNNING):
        retried += 1
    assert retried == max(FEW, -(-requests * share // 10_000))
