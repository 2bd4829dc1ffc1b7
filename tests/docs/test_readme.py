"""What the README shows of the plan is what the plan prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = "$ mainspring plan examples/03-case-study"


def test_the_case_study_s_answer_is_the_plan_s(tmp_path: Path) -> None:
    """Every line under the command in the README's first screen is a line of its output, in that order."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = page.split(COMMAND, 1)[1].split("```", 1)[0].strip().splitlines()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run(
        [sys.executable, "-m", "mainspring.cli.main", *COMMAND.split()[2:], "--report", tmp_path / "r.html"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    printed = iter(done.stdout.splitlines())
    for line in shown:
        if line.strip() != "...":
            assert line in printed, f"`{line}` is not printed (any more), or not in this order"
    assert len(shown) >= 10
