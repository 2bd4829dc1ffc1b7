"""Example 04: twenty endpoints on some $200,000 a month, and what each lever saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole answer as data."""
    page = tmp_path_factory.mktemp("plan") / "report.html"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-m", "mainspring.cli.main", "plan", "examples/04-right-sizing"]
    done = subprocess.run(
        [*command, "-o", "json", "--report", page],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    assert page.read_text(encoding="utf-8").count("<details") >= 20
    return json.loads(done.stdout)


def test_the_bill_is_the_sum_of_what_is_written(told: Any) -> None:
    """Twenty endpoints; their GPUs cost what the total says, some $200,000 a month."""
    endpoints = told["endpoints"]
    assert len(endpoints) == 20
    total = sum(one["written"]["bill"]["devices"] for one in endpoints)
    assert told["written"] == pytest.approx(total)
    assert told["levers"]["base"] == pytest.approx(total)
    assert 190_000 < total < 215_000


def test_each_lever_saves_and_none_costs(told: Any) -> None:
    """Every lever is told alone and on top of those before it; the bill falls to what is left, and never rises."""
    rows = told["levers"]["rows"]
    assert [row["lever"] for row in rows] == ["right-size", "slices", "precision", "spot", "reserved", "follow"]
    left = told["levers"]["base"]
    for row in rows:
        assert row["alone"] >= 0
        assert row["on_top"] >= -0.01
        assert row["total"] == pytest.approx(left - row["on_top"], abs=0.01)
        left = row["total"]
    assert told["enough"] == pytest.approx(rows[2]["total"])
    assert left < 0.25 * told["levers"]["base"]


def test_a_cpu_is_enough_for_some(told: Any) -> None:
    """Trees and small networks go to CPU servers; a 70B model does not."""
    best = {one["endpoint"]: one["best"] for one in told["endpoints"]}
    assert best["fraud"]["device"].startswith("cpu-")
    assert not best["chat"]["device"].startswith("cpu-")
