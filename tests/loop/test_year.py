"""The whole loop in virtual time: what it does in a year, in seconds, from a printed seed."""

from __future__ import annotations

import itertools

import pytest

from mainspring.loop.plan import Plan
from mainspring.testing.virtual import VirtualLoop
from tests.loop.stacks import MARCH, flights


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_months_retrain_and_promote(seed: int) -> None:
    """In ten months of a turning season the loop retrains, judges each candidate, and promotes some."""
    print(f"seed {seed}")
    loop = VirtualLoop(flights(), MARCH, seed=seed).run(days=300)
    story = loop.story()
    ended = [kind for _, kind in story["rollouts"]]
    assert ended.count("promoted") >= 3
    assert len(story["versions"]) == len(story["runs"]) == len(story["gates"])
    assert all(verdict in ("passed", "refused") for _, _, _, verdict, _ in story["versions"])
    assert story["aliases"]["delay"]["champion"] == story["routes"]["delay"][0][0]
    assert len(story["looks"]) == 42


def test_same_seed_same_year() -> None:
    """The same seed gives the same year, twice."""
    assert VirtualLoop(flights(), MARCH, seed=7).run(days=120).story() == (
        VirtualLoop(flights(), MARCH, seed=7).run(days=120).story()
    )


def test_quiet_plan_is_a_fixed_point() -> None:
    """When all is quiet, deciding again decides nothing."""
    loop = VirtualLoop(flights(), MARCH).run(days=30)
    plans: list[Plan] = []
    loop.each = lambda _, plan: plans.append(plan)
    loop.run(days=0)
    assert plans[-1].quiet
    assert not plans[-1].steps


def test_weights_always_sum_to_all_and_a_replica_is_there() -> None:
    """After the first version is up, at every moment the weights sum to 10,000 and the champion has a replica."""
    up = []

    def check(loop: VirtualLoop, plan: Plan) -> None:
        table = loop.world.routes
        if table is None or not table.endpoints["delay"].revisions:
            return
        revisions = table.endpoints["delay"].revisions
        assert sum(r.weight for r in revisions) == 10_000
        if revisions[0].replicas:
            up.append(1)
        assert not up or revisions[0].replicas

    VirtualLoop(flights(), MARCH, each=check).run(days=60)
    assert up


def test_at_most_two_runs_in_a_month_and_a_cooldown() -> None:
    """No month-long stretch holds more than two triggered runs, and none starts within seven days of the last."""
    loop = VirtualLoop(flights(), MARCH, seed=3).run(days=300)
    starts = sorted(r.at for r in loop.store.records("run") if not r.value["first"])
    assert len(starts) > 4
    assert all(b - a >= 7 * 86400 for a, b in itertools.pairwise(starts))
    assert all(c - a > 2629746 for a, c in zip(starts, starts[2:], strict=False))
