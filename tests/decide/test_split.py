"""The split check: right splits are hardly ever called off, wrong ones soon are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.split import CERTAINTY, TOLERANCE, split


@given(st.integers(1, 60), st.floats(0.02, 0.98), st.floats(-1.0, 1.0))
def test_a_share_within_the_tolerance_is_no_evidence(n: int, share: float, off: float) -> None:
    """Exactly: for each true share within the tolerance the expectation is at most 1."""
    true = share + off * TOLERANCE * min(share, 1 - share)
    chances = [math.comb(n, k) * true**k * (1 - true) ** (n - k) for k in range(n + 1)]
    assert math.fsum(p * split(((share, k, n - k),)).evidence for k, p in enumerate(chances)) <= 1 + 1e-9


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_right_splits_are_left_alone_at_every_look(seed: int, share: float) -> None:
    """With a share that changes once, 1 % of runs at most are ever called off."""
    rng = np.random.default_rng(seed)
    off = 0
    for _ in range(400):
        first = np.cumsum(rng.binomial(200, share, 20))
        later = np.cumsum(rng.binomial(200, 0.9, 10))
        looks = [((share, int(k), 200 * (i + 1) - int(k)),) for i, k in enumerate(first)]
        looks += [(*looks[19], (0.9, int(k), 200 * (i + 1) - int(k))) for i, k in enumerate(later)]
        off += any(split(pieces).off for pieces in looks)
    assert off / 400 <= CERTAINTY + 3 * math.sqrt(CERTAINTY / 400)


@pytest.mark.parametrize(("share", "got", "requests"), [(0.05, 0.1, 1_000), (0.5, 0.45, 4_000), (0.05, 0.045, 60_000)])
def test_wrong_splits_are_seen(share: float, got: float, requests: int) -> None:
    """Twice the share within 1,000 requests; a tenth less of a half, or of a twentieth, within more; and which way."""
    own = round(got * requests)
    found = split(((share, own, requests - own),))
    assert found.off
    assert found.more == (got > share)
    assert found.got == pytest.approx(got)
    assert found.wanted == pytest.approx(share)


def test_a_fiftieth_off_is_near_enough() -> None:
    """Whatever the traffic, requests that try again on the other arm hold no rollout up."""
    assert not split(((0.05, 509_000, 9_491_000),)).off
    assert split(((0.05, 530_000, 9_470_000),)).off


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 10**7), st.integers(0, 10**7)), max_size=4))
def test_any_pieces_give_a_number(pieces: list[tuple[float, int, int]]) -> None:
    """No counts are nan or infinite; the order of pieces does not matter; none at all are within."""
    found = split(tuple(pieces))
    assert 0.0 <= found.evidence < math.inf
    again = split(tuple(reversed(pieces)))
    assert again.evidence == pytest.approx(found.evidence, rel=1e-6)
    assert split(()).evidence == 1.0
    assert not split(((0.0, 0, 50), (1.0, 90, 0))).off
