"""The chat demo as a user runs it, all real: two tenants, replicas from zero and back, gates, canary, `kill -9`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mainspring.cli.control_client import Control
from mainspring.cli.demo.chat_acts import NOISY, SHOP
from mainspring.cli.starting import leftover
from mainspring.testing.faults import kill, same_mainspring

pytestmark = pytest.mark.engine

PATIENCE = 900.0  # seconds; a quiet machine of two cores takes a third of it
PIECES = 2  # tokens by which what was sent of a stream that broke off may differ from what its user read

Report = dict[str, Any]


def test_the_chat_demo_does_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From zero, one tenant held back, a second replica, a kill, a canary, a refusal, to zero and from it again."""
    place = tmp_path / "chat"
    argv = [sys.executable, "-m", "mainspring.cli.main", "demo", "chat", "--folder", str(place)]
    env = {k: v for k, v in same_mainspring().items() if k != "PYTHONDONTWRITEBYTECODE"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
            check=False,
        )  # fmt: skip
    finally:
        _clear(place)
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((place / "report.json").read_text(encoding="utf-8"))
    with capsys.disabled():
        print(f"\nthe chat demo: {took:.0f} s, {report['requests']} requests, {report['failed']} failed")
    _versions_are_told_apart(report)
    _one_tenant_is_held_back(report)
    _replicas_follow_the_load(report)
    _all_is_metered(report)
    assert report["one_terminal_event_each"], report["terminal_events"]
    assert not _failed_away_from_the_kill(report), "a request failed that the kill had nothing to do with"
    assert report["back_at"] > report["killed_at"]
    assert (place / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "ms_" not in (place / "report.json").read_text(encoding="utf-8") + done.stdout + done.stderr
    assert not leftover(place / ".mainspring"), "something runs on"


def _versions_are_told_apart(report: Report) -> None:
    assert [v["outcome"] for v in report["versions"]] == ["promoted", "promoted", "refused"]
    assert [g["name"] for g in report["versions"][2]["gates"] if not g["passed"]] == ["evals.safety"]
    by_phase = {phase["phase"]: phase["by_version"] for phase in report["phases"] if phase["tenant"] == SHOP}
    assert {"1", "2"} <= set(by_phase["canary of version 2"])
    assert set(by_phase["version 3 is judged"]) == {"2"}, "a refused version saw a user"


def _one_tenant_is_held_back(report: Report) -> None:
    """The noisy one is told so, each time with when to come back; nobody else is refused, or fails for it."""
    shop, noisy = _tenant(report, SHOP), _tenant(report, NOISY)
    assert noisy["refused"] > noisy["answered"] > 0
    assert noisy["retry_after"]["told"] == noisy["refused"]
    assert shop["refused"] == 0
    flood = next(p for p in report["phases"] if p["phase"] == "the students flood" and p["tenant"] == SHOP)
    assert flood["requests"] > 0
    assert not [
        a for a in report["answers"] if a["tenant"] == SHOP and a["error"] and a["end"] < report["killed_at"]
    ], "the shop's users failed before anything was killed"


def _replicas_follow_the_load(report: Report) -> None:
    """From zero by the first request, 1 → 2 by load, to zero when nobody asks, and up by the next; each says why."""
    changes = [(one["from"], one["to"]) for one in report["scalings"]]
    assert changes[0] == (0, 1)
    assert (1, 2) in changes
    assert changes[-2][1] == 0
    assert changes[-1][0] == 0  # to 1; on a slow machine what was asked a minute ago may still count for a second
    assert [before for before, _ in changes].count(0) == 2, "it went to zero while users asked"
    assert all(one["why"] for one in report["scalings"])
    for phase in ("from zero", "from zero again"):
        (found,) = [p for p in report["phases"] if p["phase"] == phase]
        assert (found["requests"], found["failed"]) == (1, 0)
    assert max(one["replicas"] for one in report["seen"]) >= 2


def _all_is_metered(report: Report) -> None:
    """Each tenant's tokens are those that its users' own answers said; what broke off is counted by what was sent."""
    for tenant in report["tenants"]:
        mine = [a for a in report["answers"] if a["tenant"] == tenant["tenant"]]
        broken = [a for a in mine if a["error"] and a["pieces"]]
        metered = tenant["metered"]
        assert metered["orphans"] == 0
        assert metered["requests"] == sum(bool(a["revision"]) for a in mine)
        sent = sum(a["pieces"] for a in broken)
        assert abs(metered["output"] - tenant["output"] - sent) <= PIECES * len(broken)
        longest = max(a["prompt"] for a in mine)
        assert 0 <= metered["prompt"] - tenant["prompt"] <= 2 * longest * len([a for a in mine if a["failed"]])
    bill, shown = report["bill"], 1e-6 * len(report["bill"]["rows"])
    assert {row["what"] for row in bill["rows"]} >= {SHOP, NOISY, "idle"}
    assert bill["dollars"] == pytest.approx(sum(row["dollars"] for row in bill["rows"]), abs=1e-12)
    assert bill["node"][0] - shown <= bill["dollars"] <= bill["node"][1] + shown, "the lines are not the machine's bill"


def _tenant(report: Report, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in report["tenants"] if one["tenant"] == name)
    return found


def _failed_away_from_the_kill(report: Report) -> list[dict[str, Any]]:
    """Failed requests that were over before the kill, or began after the killed replica was back."""
    return [
        a for a in report["answers"]
        if a["failed"] and not (a["end"] >= report["killed_at"] and a["due"] <= report["back_at"])
    ]  # fmt: skip


def _clear(place: Path) -> None:
    """Leave no process behind, however the test ended."""
    control = Control(place / "mainspring.yaml")
    if (place / ".mainspring").is_dir() and control.is_up():
        control.down()
    for entry in os.listdir("/proc"):
        try:
            ours = entry.isdigit() and str(place).encode() in Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        if ours and int(entry) != os.getpid():
            kill(int(entry))
