"""`mainspring plan` of a fleet: the answer, as table, data and page; bad input is told where it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CASE = (EXAMPLES / "03-case-study" / "mainspring.yaml").read_text(encoding="utf-8")


def plan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command line, as a person types it in a folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    return subprocess.run(
        [sys.executable, "-m", "mainspring.cli.main", "plan", *arguments],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def case(folder: Path, text: str = CASE) -> Path:
    """A folder with the case study, or a change of it."""
    (folder / "mainspring.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The case study's answer as data."""
    done = plan(case(tmp_path_factory.mktemp("case")), "-o", "json")
    whole = json.loads(done.stdout)
    found = {**whole, **whole["endpoints"][0]}
    assert done.returncode == (0 if found["met"] else 3), done.stderr
    return found


def test_the_case_study(tmp_path: Path) -> None:
    """The table fits 80 columns, says what binds and what is enough, and leaves a page."""
    done = plan(tmp_path, str(case(tmp_path)))
    assert done.returncode in (0, 3), done.stderr
    assert ("does NOT meet" in done.stdout) == (done.returncode == 3)
    assert max(map(len, done.stdout.splitlines())) <= 80
    for words in ("AS WRITTEN:", "what binds:", "WHAT IS ENOUGH", "QUOTED", "WHAT THE CANARY CAN SAY"):
        assert words in done.stdout
    page = (tmp_path / ".mainspring" / "plan" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") >= 5
    assert "<script" not in page
    assert "http" not in page.replace("https://", "http").split("<body>")[0]


def test_the_case_study_in_figures(told: Any) -> None:
    """What 192 H100 cost, what the quote is, what the canary sees: worked out from the file."""
    written = told["written"]
    assert written["devices"] == 192
    assert written["in_use"] == 48
    assert written["bill"]["devices"] == pytest.approx(560_640)
    assert written["bill"]["total"] == pytest.approx(613_640)
    findings = {one["code"]: one for one in told["audit"][0]["findings"]}
    assert findings["reserved"]["value"] == pytest.approx(364_416)
    assert findings["explains"]["value"] == 96
    assert told["soak"]["requests"] == 694
    assert told["levers"]["rows"][0]["on_top"] > 400_000  # most of the 192 are idle
    assert (told["budget"], told["over_budget"]) == (pytest.approx(333_000), True)
    assert (
        1.0 < written["at_peak"]["p95"]["low"] < written["at_peak"]["p95"]["value"] < written["at_peak"]["p95"]["high"]
    )


def test_what_is_enough_is_enough(told: Any) -> None:
    """Each fleet that is proposed keeps the promise at the peak; the cheapest as asked lowers no quality."""
    best = told["best"]
    assert best["accept"] == []
    assert best["dollars"] <= min(one["dollars"] for one in told["next_best"])
    for one in [best, *told["options"], *told["next_best"]]:
        assert one["at_peak"]["p95"]["value"] <= 3.0
        assert one["availability"] >= 0.999
        assert one["proven"]


def test_a_fleet_that_is_too_small(tmp_path: Path) -> None:
    """One replica a region does not survive the loss of one: told with the numbers, and the exit status is 3."""
    done = plan(case(tmp_path, CASE.replace("4 per region   ", "1 per region   ")))
    assert done.returncode == 3
    assert "AS WRITTEN: does NOT meet its objective" in done.stdout
    assert "does not meet the objective of `chat`" in done.stderr
    assert "0 replicas left without 1 node" in " ".join(done.stdout.split())


def test_an_impossible_objective_says_what_is_possible(tmp_path: Path) -> None:
    """451 tokens within 3 s at FP16: nothing will do on these GPUs, and the longest output that would is told."""
    text = CASE.replace("output: {p50: 90, p95: 150}", "output: {p50: 129, p95: 451}")
    done = plan(case(tmp_path, text))
    assert done.returncode == 3
    said = " ".join(done.stdout.split())
    assert "NOTHING WILL DO AS ASKED" in said
    assert re.search(
        r"p95 3 s allows at most about \d+ output tokens at batch 1 or \d+ output tokens at batch 16 on", said
    )


def test_a_model_that_fits_nowhere(tmp_path: Path) -> None:
    """A refusal carries the number."""
    text = CASE.replace("shape: llama-3.1-70b", "shape: deepseek-v3").replace("4 x h100 ", "2 x h100 ")
    done = plan(case(tmp_path, text))
    assert done.returncode == 3
    assert "GB of weights on 2 x 80 GB" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("8 x H100-80GB", "8 x H10O", "did you mean"),
        ("shape: llama-3.1-70b", "shape: lama-3.1-70b", "llama-3.1-70b"),
        ("peak: 3x", "peak: 3x, trace: gone.csv", "gone.csv"),
        ("4 x h100 ", "1 x 9g.90gb of h100 ", "gpus"),
    ],
)
def test_bad_input(tmp_path: Path, old: str, new: str, words: str) -> None:
    """Told with file, line and the next command; exit status 2, no traceback."""
    done = plan(case(tmp_path, CASE.replace(old, new)))
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "mainspring.yaml:" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_that_can_not_be_written(tmp_path: Path) -> None:
    """The plan is shown all the same, and it is told."""
    done = plan(case(tmp_path), "--report", "/proc/nowhere/report.html")
    assert done.returncode in (0, 3)
    assert "WHAT IS ENOUGH" in done.stdout
    assert "the report was not written" in done.stderr


def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    """`--endpoint` of a name without traffic says which have some."""
    done = plan(case(tmp_path), "--endpoint", "nobody")
    assert done.returncode == 2
    assert "`chat`" in done.stderr
