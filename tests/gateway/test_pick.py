"""Per-request choices: shares are what the weights say, and the same request gets the same choice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide import pick

weights = st.lists(st.integers(0, 10_000), min_size=1, max_size=6)


@given(st.integers(0, 2**64 - 1))
def test_unit_is_in_the_interval(digest: int) -> None:
    """Any 64 bits become a number in [0, 1)."""
    assert 0.0 <= pick.unit(digest) < 1.0


@given(weights, st.floats(0, 1, exclude_max=True))
def test_only_what_has_weight_is_chosen(parts: list[int], u: float) -> None:
    """A revision of weight 0 is never chosen; without any weight there is no choice."""
    chosen = pick.revision(u, np.array(parts, dtype=np.int64))
    assert chosen == -1 if sum(parts) == 0 else parts[chosen] > 0


@given(weights.filter(lambda w: sum(w) > 0))
def test_shares_are_the_weights(parts: list[int]) -> None:
    """Over evenly spread requests each revision gets its share, to within one request."""
    n = 500
    array = np.array(parts, dtype=np.int64)
    counts = np.bincount([pick.revision((i + 0.5) / n, array) for i in range(n)], minlength=len(parts))
    assert np.all(np.abs(counts - n * array / array.sum()) <= 1.0)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_growing_canary_keeps_its_requests(share: int, u: float) -> None:
    """A request that falls on the canary at some share still does at a larger one."""
    small = pick.revision(u, np.array([share, 10_000 - share]))
    larger = min(share + 500, 10_000)
    if small == 0 and share > 0:
        assert pick.revision(u, np.array([larger, 10_000 - larger])) == 0


@given(st.integers(0, 3_333), st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.booleans())
def test_whoever_has_the_candidate_keeps_it(share: int, later: int, u: float, fresh: bool) -> None:
    """The old version, a fresh control of it, the candidate: in this order a share that grows only gains users.

    Also when the control goes, as it does at a share that leaves it no room.
    """
    control = share if fresh else 0
    before = np.array([10_000 - share - control, control, share])
    grown = max(share, later)
    beside = grown if fresh and 3 * grown <= 10_000 else 0
    after = np.array([10_000 - grown - beside, beside, grown])
    if pick.revision(u, before) == 2:
        assert pick.revision(u, after) == 2


def test_mirror_share() -> None:
    """None at 0, all at 10,000, and the share between."""
    us = [(i + 0.5) / 1000 for i in range(1000)]
    assert [sum(pick.mirrored(u, share) for u in us) for share in (0, 2500, 10_000)] == [0, 250, 1000]


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 20))
def test_least_outstanding(outstanding: list[int], start: int) -> None:
    """The replica with the fewest requests is chosen, ties from `start` on."""
    chosen = pick.replica(np.array(outstanding, dtype=np.int64), start)
    if not outstanding:
        assert chosen == -1
        return
    n = len(outstanding)
    best = min(range(n), key=lambda i: (outstanding[i], (i - start) % n))
    assert chosen == best
