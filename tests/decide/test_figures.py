"""The figures of both arms that people see."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.arms import EDGES, Arms, Counts, Slice
from mainspring.decide.figures import NAMES, figures, quantile, together


def test_both_arms_are_added_up_over_slices() -> None:
    """Counts of all slices and strata, times of both, and the mirrored apart."""
    one = Slice(0, 0, Counts(10, 1, ((3, 4), (5, 5))), Counts(90, 2, ((3, 80),)))
    two = Slice(1, 2, Counts(5, 0, ((5, 5),), ((9, 1),)), Counts(50, 1, ((4, 50),)))
    told = figures(Arms((one, two), mirrored=Counts(7, 3)))
    assert (told["requests"], told["errors"]) == (15.0, 1.0)
    assert (told["control_requests"], told["control_errors"]) == (140.0, 3.0)
    assert (told["mirrored"], told["mirrored_errors"]) == (7.0, 3.0)
    assert (told["p50"], told["p95"], told["first_p95"]) == (EDGES[5], EDGES[5], EDGES[9])
    assert (told["control_p50"], told["control_p95"], told["control_first_p95"]) == (EDGES[3], EDGES[4], None)
    assert tuple(told) == NAMES


def test_what_is_not_known_is_not_zero() -> None:
    """No evidence at all: nothing is known; no answer yet: no count is missing, and there are no times."""
    assert set(figures(None).values()) == {None}
    nothing = figures(Arms())
    assert (nothing["requests"], nothing["p95"]) == (0.0, None)


def test_a_rollout_that_only_mirrors_has_the_times_that_nobody_saw() -> None:
    """The control's slices are there, the candidate's answers are mirrored."""
    beside = Slice(0, 0, Counts(), Counts(9, 0, ((2, 9),)))
    assert figures(Arms((beside,), mirrored=Counts(9, 0, ((7, 9),))))["p95"] == EDGES[7]


@given(st.lists(st.integers(0, len(EDGES)), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_a_quantile_is_an_answers_own_bucket(buckets: list[int], share: float) -> None:
    """So many answers are at or below it, and it is the smallest such; the order does not matter."""
    times = together([((bucket, 1),) for bucket in buckets])
    found = quantile(times, share)
    assert found is not None
    within = sum(EDGES[min(b, len(EDGES) - 1)] <= found for b in buckets)
    assert within >= share * len(buckets) - 1e-6
    assert found == quantile(together([((bucket, 1),) for bucket in reversed(buckets)]), share)
    assert found in {EDGES[min(b, len(EDGES) - 1)] for b in buckets}
