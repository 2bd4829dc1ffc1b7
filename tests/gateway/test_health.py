"""What the gateway believes of replicas: when one is left alone, for how long, and that not all of them are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import breaker
from mainspring.gateway.health import Health, eject


def test_the_breaker() -> None:
    """After failures in a row it opens; one probe goes through when it has cooled; an answer to that closes it."""
    one = Health()
    for i in range(breaker.LIMIT):
        assert one.usable(float(i))
        one.failed(float(i), probe=False)
    assert one.is_open
    at = float(breaker.LIMIT - 1)
    assert not one.usable(at + breaker.FIRST / 2)
    assert one.usable(at + breaker.FIRST)
    probe = one.sent()
    assert probe
    assert not one.usable(at + breaker.FIRST), "one probe at a time"
    one.answered(200, probe=probe)
    assert one.is_good
    assert not one.is_open


def test_a_probe_whose_client_leaves() -> None:
    """Such a probe tells nothing, and the next request is one."""
    one = Health()
    for _ in range(breaker.LIMIT):
        one.failed(0.0, probe=False)
    probe = one.sent()
    one.left(probe)
    assert one.is_open
    assert one.usable(breaker.FIRST)
    assert one.sent()


def test_answers_of_500_do_not_open_it() -> None:
    """A model that fails for what it is asked still answers: the breaker stays closed."""
    one = Health()
    for _ in range(50):
        one.answered(500, probe=False)
    assert not one.is_open
    assert one.usable(0.0)


def test_the_worst_is_put_aside_for_a_while() -> None:
    """A replica that fails much more than the others is ejected, and comes back."""
    good, bad = Health(), Health()
    for one, status in ((good, 200), (bad, 500)):
        for _ in range(100):
            one.answered(status, probe=False)
    eject([good, bad], 1.0)
    assert good.usable(1.0)
    assert not bad.usable(1.0)
    assert bad.usable(1.0 + 31.0)


@given(st.lists(st.lists(st.sampled_from([200, 500, 503]), max_size=80), min_size=1, max_size=6))
def test_never_more_than_half(answers: list[list[int]]) -> None:
    """Whatever they answer, at least half of the replicas stay."""
    replicas = [Health() for _ in answers]
    for one, statuses in zip(replicas, answers, strict=True):
        for status in statuses:
            one.answered(status, probe=False)
    for second in range(5):
        eject(replicas, float(second))
    assert 2 * sum(not one.usable(5.0) for one in replicas) <= len(replicas)
