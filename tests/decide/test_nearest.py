"""The nearest region with a free replica answers; the nearest with any replica when all are full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.nearest import region


def test_examples() -> None:
    """Home first; over when it is full; home again when all are; away when its replicas are gone."""
    near = [1, 0, 2]
    assert region(near, [1, 1, 1], [4, 4, 4]) == 1
    assert region(near, [1, 1, 1], [4, 0, 4]) == 0
    assert region(near, [1, 1, 1], [0, 0, 0]) == 1
    assert region(near, [0, 0, 2], [0, 0, 0]) == 2
    assert region(near, [0, 0, 0], [9, 9, 9]) == -1
    assert region([], [1], [1]) == -1
    assert region([7, -1, 0], [1], [1]) == 0  # a table that names regions which are not there


@given(
    st.integers(0, 6).flatmap(
        lambda n: st.tuples(
            st.permutations(range(n)),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
            st.lists(st.integers(-1, 2), min_size=n, max_size=n),
        )
    )
)
def test_nobody_nearer_could(fleet: tuple[list[int], list[int], list[int]]) -> None:
    """Every region nearer than the one that answers has no replica, or none free while the one that answers has."""
    order, ready, free = fleet
    at = region(order, ready, free)
    if at < 0:
        assert not any(ready)
        return
    assert ready[at] > 0
    for nearer in order[: order.index(at)]:
        assert ready[nearer] == 0 or (free[nearer] <= 0 and free[at] > 0)
    if free[at] <= 0:
        assert all(free[i] <= 0 or ready[i] == 0 for i in order)
