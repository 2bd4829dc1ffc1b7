"""Times of service from what `mainspring bench` prints, and what is no such thing."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.errors import InputError
from mainspring.worlds.twin.service import Service, measured


def bench(first: float, mean: float, rate: float) -> dict[str, Any]:
    """The part of a result that is read: prompts of 200 tokens, answers of 80."""
    return {"answered": 100, "answered_per_second": rate, "tokens": {"prompt": 20_000, "cached": 0, "output": 8_000},
            "ttft_service": {"p50": {"value": first}}, "service": {"mean": mean}}  # fmt: skip


def test_one_result() -> None:
    """The first piece gives the time of a prompt token; nothing is known of crowds."""
    found = measured([bench(0.4, 2.0, 1.0)], ["a.json"])
    assert found.prefill == pytest.approx(0.002)
    assert (found.decode, found.crowd) == (pytest.approx(0.02), 0.0)
    assert found.says.startswith("measured (a.json): 500 prompt tokens/s, 20 ms a token, as at 2 in flight")


def test_a_full_replica_serves_what_the_measured_one_did() -> None:
    """Whatever the medians are, the times at both levels add up to the means that were measured."""
    found = measured([bench(0.8, 1.7, 0.6), bench(2.0, 5.3, 0.75)], ["alone", "full"])
    assert found.seconds(200, 80, 1) == pytest.approx(1.7, rel=0.02)
    assert found.seconds(200, 80, 4) == pytest.approx(5.3, rel=0.02)


@pytest.mark.parametrize("wrong", [{}, {"tokens": None, "answered": 1}, bench(0.0, 1.0, 1.0), [1]])
def test_no_bench(wrong: Any) -> None:
    """What holds no times of tokens is an error that names the file and the command."""
    with pytest.raises(InputError, match=r"`x\.json`") as caught:
        measured([wrong], ["x.json"])
    assert caught.value.hint


def test_assumptions_say_so() -> None:
    """The default is labelled."""
    assert Service().says.startswith("assumed")
    with pytest.raises(InputError):
        measured([], [])
