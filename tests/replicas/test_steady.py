"""What counts as an engine's queue: what was there all along."""

from __future__ import annotations

from mainspring.replicas.kept.gauges import Gauges
from mainspring.replicas.kept.steady import LOOKS, steady


def looks(*waiting: float | None, running: float | None = 2.0) -> list[Gauges]:
    """One look a value."""
    return [Gauges(waiting=one, running=running) for one in waiting]


def test_a_queue_that_was_there_at_every_look() -> None:
    """The least that waited, and the most that was worked on."""
    assert steady(looks(6.0, 5.0, 7.0, 6.0, 5.0)) == {"held": 5.0, "most": 2.0}


def test_one_look_without_a_queue_is_none() -> None:
    """What came between two passes of the engine is no queue."""
    assert steady(looks(6.0, 0.0, 7.0, 6.0, 5.0))["held"] == 0.0


def test_older_looks_do_not_count() -> None:
    """Only the last ones."""
    assert steady(looks(0.0, *[3.0] * LOOKS))["held"] == 3.0


def test_too_few_looks_and_engines_that_do_not_say() -> None:
    """Nothing is said, which is not zero."""
    assert steady(looks(*[3.0] * (LOOKS - 1))) == {}
    assert steady(looks(*[None] * LOOKS)) == {}
    assert steady(looks(*[3.0] * LOOKS, running=None)) == {}
    assert steady([]) == {}
