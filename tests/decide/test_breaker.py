"""A replica that fails is left alone for a while, and one worse than the rest is put out: never most of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import breaker


def after(outcomes: str) -> int:
    """Failures in a row after a string of outcomes: `x` failed, `.` didn't."""
    failures = 0
    for one in outcomes:
        failures = breaker.counted(failures, one == "x", probe=False)
    return failures


def test_failures_in_a_row_open_it() -> None:
    """The fifth failure in a row opens it; a success before that starts the count again."""
    assert breaker.usable(after("xxxx"), 0.0, 0.0, probing=False)
    assert not breaker.usable(after("xxxxx"), 0.0, 0.0, probing=False)
    assert breaker.usable(after("xxxx.xxxx"), 0.0, 0.0, probing=False)


def test_half_of_many_opens_it() -> None:
    """Half of at least twenty requests in the window opens it, failures in a row or not; of fewer it does not."""
    assert breaker.counted(0, failed=True, probe=False, errors=10, requests=20) == breaker.LIMIT
    assert breaker.counted(0, failed=True, probe=False, errors=9, requests=19) == 1
    assert breaker.counted(0, failed=True, probe=False, errors=9, requests=20) == 1


def test_one_probe_then_twice_the_wait() -> None:
    """After the cool-down one request is let through; failing it doubles that, up to a minute; working ends it."""
    failures, since, waits = breaker.LIMIT, 100.0, []
    for _ in range(8):
        at = breaker.until(failures, since)
        waits.append(at - since)
        assert not breaker.usable(failures, since, at - 0.001, probing=False)
        assert breaker.usable(failures, since, at, probing=False)
        assert not breaker.usable(failures, since, at, probing=True)
        failures, since = breaker.counted(failures, failed=True, probe=True), at
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert breaker.counted(failures, failed=False, probe=True) == 0


@given(st.integers(5, 99), st.booleans(), st.integers(0, 50))
def test_what_was_under_way_says_nothing_new(failures: int, failed: bool, errors: int) -> None:
    """While it is open, the end of a request that isn't the probe changes nothing: a burst is one event."""
    assert breaker.counted(failures, failed, probe=False, errors=errors, requests=50) == failures


@given(st.integers(0, 10**9), st.floats(0, 1e9))
def test_nobody_is_kept_away_for_ever(failures: int, since: float) -> None:
    """A minute after the last failure a request may be sent, however many there were."""
    assert breaker.usable(failures, since, since + breaker.LONGEST, probing=False)


def ejected(errors: list[int], requests: list[int], out: list[int] | None = None) -> int:
    """`eject` with nothing ejected unless said."""
    return breaker.eject(errors, requests, out or [0] * len(errors))


def test_the_one_that_is_far_above_goes() -> None:
    """One replica with many errors among good ones is ejected; with two, the worse one."""
    assert ejected([0, 30, 1], [100, 100, 100]) == 1
    assert ejected([0, 15], [50, 50]) == 1
    assert ejected([50, 90, 0, 0], [100, 100, 100, 100]) == 1
    assert ejected([90, 50, 0, 0], [100, 100, 100, 100]) == 0
    assert ejected([80, 80, 0, 0, 0], [100, 100, 100, 100, 100]) == 0


def test_what_is_common_to_all_ejects_nobody() -> None:
    """Errors that all have are not a replica's fault, and few requests or small differences say nothing."""
    assert ejected([50, 55, 45], [100, 100, 100]) == -1
    assert ejected([0, 5], [100, 10]) == -1  # too few
    assert ejected([0, 9, 0], [100, 100, 100]) == -1  # below the margin
    assert ejected([5, 9], [20, 20]) == -1  # could be chance
    assert ejected([100], [100]) == -1
    assert ejected([], []) == -1


fleets = st.lists(
    st.integers(0, 200).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked), st.booleans())),
    max_size=9,
)


@given(fleets)
def test_never_more_than_half(fleet: list[tuple[int, int, bool]]) -> None:
    """Ejecting again and again ends with at most half of the replicas out, and never names one that is out."""
    errors, requests = [one[0] for one in fleet], [one[1] for one in fleet]
    out = [0] * len(fleet)
    for _ in range(len(fleet) + 1):
        at = breaker.eject(errors, requests, out)
        if at < 0:
            break
        assert out[at] == 0
        out[at] = 1
    assert 2 * sum(out) <= len(fleet)


@given(fleets)
def test_the_ejected_is_worse_than_the_rest(fleet: list[tuple[int, int, bool]]) -> None:
    """Whoever goes has asked enough, and a share of errors above that of all the others together."""
    errors, requests, out = ([int(one[at]) for one in fleet] for at in range(3))
    at = breaker.eject(errors, requests, out)
    if at >= 0:
        rest = [i for i in range(len(fleet)) if i != at and not out[i]]
        others = sum(errors[i] for i in rest) / sum(requests[i] for i in rest)
        assert requests[at] >= breaker.VOLUME
        assert errors[at] / requests[at] >= others + breaker.MARGIN - 1e-12


def test_an_ejection_ends() -> None:
    """After 30 s the first time, 60 s the second, and never more than 300 s."""
    assert not breaker.returned(0.0, 29.9, 1)
    assert breaker.returned(0.0, 30.0, 1)
    assert not breaker.returned(0.0, 59.0, 2)
    assert breaker.returned(0.0, 300.0, 99)
