"""What tests of real model servers share: one state folder a class, and a record of what was seen.

What can't be had on this machine is counted, and named at the end with the command that brings it. Each runtime's
results are written to `build/compatibility/NAME.json`, which `docs/compatibility.md` is made of.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.runtimes.machine import ABSENT, RESULTS, SEEN, installed, note

from mainspring.runtimes.descriptor import Runtime


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Remember how a test of a runtime ended: its class (or module) says which by `RUNTIME`."""
    outcome = yield
    report = outcome.get_result()
    name = getattr(getattr(item, "cls", None), "RUNTIME", "") or getattr(getattr(item, "module", None), "RUNTIME", "")
    if not name or (report.when != "call" and report.passed):
        return
    tests = SEEN.setdefault(name, {"tests": {}})["tests"]
    what = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
    ends = tests.setdefault(what, {})
    ends[report.outcome] = ends.get(report.outcome, 0) + 1


def pytest_sessionfinish() -> None:
    """Write down what was seen of each runtime, beside what earlier runs saw of the same package."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    for name, seen in SEEN.items():
        if not seen["tests"] and name not in ABSENT:
            continue  # it only helped with another's tests
        note(name, title=seen.get("title", ""))
        path = RESULTS / f"{name}.json"
        before = _before(path)
        told = seen
        if name in ABSENT:
            told = {"tests": {}, **seen, "absent": ABSENT[name]}
        elif before.get("package") == seen.get("package") and "absent" not in before:
            told = before | seen | {"tests": before.get("tests", {}) | seen["tests"]}
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(told | {"runtime": name, "date": today}, indent=1, sort_keys=True))
        fresh.replace(path)


def _before(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which runtimes were not there."""
    if ABSENT:
        terminalreporter.section(f"{len(ABSENT)} runtime(s) skipped: not on this machine")
        for name, why in sorted(ABSENT.items()):
            terminalreporter.write_line(f"{name}: {why}")


@pytest.fixture(scope="class")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder for the tests of a class; its path is short, as some servers make sockets below it."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture(scope="session")
def need() -> Callable[[str], Runtime]:
    """`installed`, for tests that take what they need as a fixture."""
    return installed
