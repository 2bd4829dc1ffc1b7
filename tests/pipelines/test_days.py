"""CPU seconds of runs by real day, for the bill."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.pipelines.seen import by_day, training_days
from mainspring.pipelines.steps import Progress

DAY = 86400.0
NOON = 20_000 * DAY + DAY / 2


def write(folder: Path, name: str, value: Any, at: float = NOON) -> None:
    """A file of a run."""
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    os.utime(folder / name, (at, at))


def test_a_step_over_midnight_is_spread(tmp_path: Path) -> None:
    """Its seconds lie evenly over the time that it took; the state file says so, and is read back."""
    job = SimpleNamespace(spec=SimpleNamespace(run="late-1", pipeline="late", attempt=1), folder=tmp_path)
    progress = Progress(job, {})  # type: ignore[arg-type]
    progress.spend(30.0, NOON, NOON + 10)
    progress.spend(400.0, NOON, NOON + DAY)
    from mainspring.loop.snapshot import StepSeen

    progress.note(StepSeen("train", "succeeded"))
    assert progress.spent == 430.0
    assert training_days(tmp_path) == {20_000: pytest.approx(230.0), 20_001: pytest.approx(200.0)}
    assert by_day(json.loads((tmp_path / "state.json").read_text())) == progress.days


def test_the_later_sum_counts(tmp_path: Path) -> None:
    """State and result are both sums since the beginning; a later attempt's state may be ahead of an old result."""
    write(tmp_path, "result.json", {"state": "failed", "attempt": 1, "seconds": 5.0, "days": {"20000": 5.0}})
    write(tmp_path, "state.json", {"attempt": 2, "seconds": 7.0, "days": {"20000": 5.0, "20001": 2.0}})
    assert training_days(tmp_path) == {20_000: 5.0, 20_001: 2.0}


def test_a_run_of_an_older_version_is_of_the_day_it_was_written(tmp_path: Path) -> None:
    """There only the sum is known."""
    write(tmp_path, "result.json", {"state": "succeeded", "attempt": 1, "seconds": 12.0}, NOON + 3 * DAY)
    write(tmp_path, "state.json", {"attempt": 1, "seconds": 11.0}, NOON)
    assert training_days(tmp_path) == {20_003: 12.0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"days": 1}',
        '{"days": {"x": 1}}',
        '{"days": {"1": "a"}}',
        '{"days": {"1": NaN, "2": -1, "3": 1e999}}',
    ],
)
def test_what_cannot_be_read_costs_nothing(tmp_path: Path, text: str) -> None:
    """A damaged file, or numbers that are none, never raise."""
    write(tmp_path, "state.json", text)
    assert training_days(tmp_path) == {}
    assert training_days(tmp_path / "none") == {}
