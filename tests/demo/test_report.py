"""The report, from made-up rows and records."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mainspring.cli import svg
from mainspring.cli.demo import page, report
from mainspring.loop.plan import Record

DAY = 86400.0
MARCH = 1362096000.0


def _given(rows: int = 4000) -> report.ReportInput:
    """Three months: the first version answers March, a better one April, a worse one May."""
    random = np.random.default_rng(5)
    time = np.sort(MARCH + random.random(rows) * 92 * DAY)
    truth = (random.random(rows) < 0.3).astype(float)
    frozen = np.clip(0.3 + 0.05 * (truth - 0.3) + random.normal(0, 0.05, rows), 0, 1)
    day = (time - MARCH) / DAY
    good = np.clip(0.3 + 0.4 * (truth - 0.3) + random.normal(0, 0.05, rows), 0, 1)
    score = np.where(day < 31, frozen, np.where(day < 61, good, 1 - good))
    version = np.where(day < 31, "1", np.where(day < 61, "3", "4"))
    return report.ReportInput(
        time, score, truth, version.tolist(), frozen, _records(), [report.CostLine("answers", 10.0, 0.02)],
        requests=rows, errors=0, retries=2, seconds=12.0, p50=0.001, p95=0.004,
    )  # fmt: skip


def _records() -> list[Record]:
    out = []
    for number, passed in (("1", True), ("2", False), ("3", True), ("4", True), ("5", True)):
        at = MARCH + (int(number) - 1) * 10 * DAY
        first = number == "1"
        items = [{"name": "brier", "passed": passed, "message": f"Brier <b>of {number}</b>", "numbers": {}}]
        value: dict[str, Any] = {"version": number, "run": f"delay-{number}", "cause": "worse at 2013", "items": items}
        value |= {"passed": passed, "note": "said so", "champion": "" if first else "1"}
        out.append(Record("run", f"delay-{number}", at, {"first": first}))
        out.append(Record("gate", f"delay/{number}", at, value))
        kind = {"1": "first", "3": "promoted", "4": "promoted", "5": "aborted"}.get(number)
        if kind:
            out.append(Record("rollout", number, at + 4 * DAY, {"version": number, "kind": kind, "message": "why"}))
    looks = [{"feature": "temp", "value": 9.0, "threshold": 5.0, "fired": True}]
    looks.append({"feature": "", "value": None, "threshold": None, "fired": False})
    out.append(Record("drift", "1", MARCH + 7 * DAY, {"watch": "weather", "version": "1", "features": looks}))
    out.append(Record("drift", "2", MARCH + 14 * DAY, {"watch": "weather", "unknown": "nobody"}))
    out.append(Record("quality", "1", MARCH + 7 * DAY, {"watch": "worse", "value": None, "fired": False}))
    return out


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=2, max_size=60))
def test_auc_is_exact(pairs: list[tuple[float, bool]]) -> None:
    """By ranks with ties, AUC is scikit-learn's; with one class missing it is unknown."""
    score = np.array([s for s, _ in pairs])
    truth = np.array([float(t) for _, t in pairs])
    if len(set(truth.tolist())) < 2:
        assert report.auc(truth, score) is None
    else:
        assert report.auc(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=1e-12)


def test_each_month_has_its_verdict() -> None:
    """The same model is called so; a better one and a worse one are told apart, and those that did not help listed."""
    built = report.build(_given())
    assert [m["verdict"] for m in built["months"]] == ["same model", "better", "worse"]
    assert built["not_helped"] == ["2013-03", "2013-05"]
    assert [m["month"] for m in built["months"]] == ["2013-03", "2013-04", "2013-05"]


def test_versions_are_counted_by_what_became_of_them() -> None:
    """The first version is no retraining; promoted, refused and given up are counted apart."""
    built = report.build(_given())
    assert (built["retrainings"], built["promoted"], built["refused"], built["given_up"]) == (4, 2, 1, 1)
    assert [v["outcome"] for v in built["versions"]] == ["promoted", "refused", "promoted", "promoted", "given up"]
    assert sum(v["answers"] for v in built["versions"]) == 4000


def test_cost_is_told_per_thousand_predictions() -> None:
    """Two cents for 4,000 answers are half a cent for 1,000."""
    built = report.build(_given())
    assert (built["cost_usd"], built["cost_per_1000_predictions_usd"]) == (0.02, 0.005)


def test_unknown_truths_are_left_out_of_both_sides() -> None:
    """Rows without an outcome count as requests and take no part in quality."""
    given_ = _given()
    truth = given_.truth.copy()
    truth[::2] = np.nan
    built = report.build(replace(given_, truth=truth))
    assert (built["answers"], built["rows"]) == (4000, 2000)


def test_order_of_rows_does_not_matter() -> None:
    """Answers in any order give the same report."""
    given_ = _given()
    order = np.random.default_rng(1).permutation(len(given_.time))
    version = np.array(given_.version)[order].tolist()
    parts = {name: getattr(given_, name)[order] for name in ("time", "score", "truth", "frozen")}
    mixed = report.build(replace(given_, version=version, **parts))
    assert json.dumps(mixed, sort_keys=True)[:200] == json.dumps(report.build(given_), sort_keys=True)[:200]
    assert mixed["live"] == pytest.approx(report.build(given_)["live"])


def test_an_empty_run_still_makes_a_report(tmp_path: Path) -> None:
    """Nothing answered: unknown everywhere, and no exception."""
    nothing = np.empty(0)
    built = report.build(report.ReportInput(nothing, nothing, nothing, [], nothing))
    files = report.write(built, page.page(built), tmp_path)
    assert json.loads(files[0].read_text())["live"] == {"auc": None, "brier": None}
    assert "unknown" in report.summary(built)


def test_the_summary_fits_80_columns() -> None:
    """No line of the ending table is longer than 80 characters."""
    assert max(map(len, report.summary(report.build(_given())).splitlines())) <= 80


def test_the_files_are_whole_and_stand_alone(tmp_path: Path) -> None:
    """The page is well-formed, refers to nothing outside, escapes text, labels its pictures; no rest is left behind."""
    built = report.build(_given())
    report.write(built, page.page(built), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    html = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=|https?://|url\(|@import|<script", html)
    assert "<b>of 2</b>" not in html
    assert "&lt;b&gt;of 2" in html
    assert html.count("<svg") == html.count('role="img"') == html.count("aria-label=") >= 7
    assert "clearly worse in May" in html
    checker = _Balanced()
    checker.feed(html)
    assert checker.open == []
    assert checker.wrong == []


class _Balanced(HTMLParser):
    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_span_what_they_are_for(low: float, size: float) -> None:
    """Axis marks are few, grow, and hold both ends."""
    marks = svg.ticks(low, low + size)
    assert 2 <= len(marks) <= 12
    assert marks == sorted(marks)
    assert marks[0] <= low + 1e-6 * size + 1e-9 * abs(low)
    assert marks[-1] >= low + size - 1e-6 * size - 1e-9 * abs(low)
