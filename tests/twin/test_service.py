"""Times of service from what `mainspring bench` prints, and what is no such thing."""

from __future__ import annotations

from typing import Any

import pytest

from mainspring.errors import InputError
from mainspring.worlds.twin.service import Service, measured


def bench(first: float, token: float, rate: float, service: float) -> dict[str, Any]:
    """The part of a result that is read."""
    return {"answered": 100, "answered_per_second": rate, "tokens": {"prompt": 20_000, "cached": 0},
            "ttft_service": {"p50": {"value": first}}, "tpot": {"p50": {"value": token}},
            "service": {"mean": service}}  # fmt: skip


def test_one_result() -> None:
    """The first piece gives the time of a prompt token; nothing is known of crowds."""
    found = measured([bench(0.4, 0.02, 1.0, 2.0)], ["a.json"])
    assert found.prefill == pytest.approx(0.002)
    assert (found.decode, found.crowd) == (pytest.approx(0.02), 0.0)
    assert found.says.startswith("measured (a.json): 500 prompt tokens/s, 20 ms a token, as at 2 in flight")


def test_a_line_through_several() -> None:
    """Two rates: each further request in flight costs so much a token."""
    found = measured([bench(0.4, 0.020, 1.0, 1.0), bench(0.4, 0.026, 1.5, 2.6666667)], ["a", "b"])
    assert found.crowd == pytest.approx(0.002, rel=1e-3)
    assert found.decode == pytest.approx(0.020, rel=1e-3)


@pytest.mark.parametrize("wrong", [{}, {"tokens": None, "answered": 1}, bench(0.0, 0.1, 1.0, 1.0), [1]])
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
