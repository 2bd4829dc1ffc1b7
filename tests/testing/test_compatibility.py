"""The page of compatibility says what the results say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mainspring.testing import compatibility

SEEN = {
    "runtime": "triton", "title": "NVIDIA Triton", "version": "triton 2.51.0", "protocol": "triton",
    "date": "2026-11-30",
    "tests": {"metrics move": {"passed": 1}, "a bad body is refused": {"passed": 5, "failed": 1}},
}  # fmt: skip
GONE = {"runtime": "vllm", "date": "2026-11-30", "tests": {}, "absent": "no room: mainspring runtime install vllm"}


def test_a_line_has_version_counts_and_date() -> None:
    """Failures are counted beside what passed."""
    line = next(one for one in compatibility.page([SEEN]).splitlines() if one.startswith("| `triton`"))
    assert line == "| `triton` | NVIDIA Triton | triton 2.51.0 | triton | 6 | 1 | 0 | 2026-11-30 |"


def test_what_was_not_there_is_named_with_its_command() -> None:
    """It is in no table of what ran."""
    told = compatibility.page([GONE, SEEN])
    assert "- `vllm`: no room: mainspring runtime install vllm" in told
    assert "| `vllm`" not in told


def test_without_results_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It fails and says what to run; a page that is there stays."""
    target = tmp_path / "page.md"
    target.write_text("as it was")
    assert compatibility.main([str(tmp_path), str(target)]) == 2
    assert "hint: make test-runtimes" in capsys.readouterr().err
    assert target.read_text() == "as it was"


def test_the_page_is_written(tmp_path: Path) -> None:
    """From one file a runtime."""
    (tmp_path / "triton.json").write_text(json.dumps(SEEN))
    assert compatibility.main([str(tmp_path), str(tmp_path / "page.md")]) == 0
    assert "- a bad body is refused: 1 failed, 5 passed" in (tmp_path / "page.md").read_text()
