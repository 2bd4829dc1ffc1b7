"""What the loop did and how well it answered, as one value: `report.json`, and the table that ends the demo.

What this is: pure arithmetic on live answers, the frozen first version's scores of the same rows, and the loop's
own records. Who calls it: `mainspring demo flights`; the page (`page.py`) is drawn from the same value.
What it must never do: leave out what does not flatter, or compare on other rows than those both answered.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.decide.gate import paired_difference
from mainspring.loop.plan import Record
from mainspring.loop.snapshot import DayLoss

Floats = npt.NDArray[np.float64]
DAY = 86400.0
CONFIDENCE = 0.95  # of the two-sided intervals


@dataclass(frozen=True, slots=True)
class CostLine:
    """One thing that was paid for."""

    what: str
    seconds: float  # of compute
    dollars: float


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a report is made of. Rows are live answers, each request once, in any order."""

    time: Floats  # event time, POSIX seconds
    score: Floats
    truth: Floats  # 0, 1, or NaN while it is unknown
    version: Sequence[str]
    frozen: Floats  # the first version's scores of the same rows
    records: Sequence[Record] = ()  # of the loop: run, gate, rollout, drift, quality
    costs: Sequence[CostLine] = ()
    requests: int = 0  # sent, repeats not counted
    errors: int = 0
    retries: int = 0
    seconds: float = 0.0  # of the whole demo
    p50: float | None = None  # seconds, as the client saw it
    p95: float | None = None
    title: str = "flights"


def frozen_scores(artefact: Path, code_root: Path, columns: Mapping[str, Any]) -> Floats:
    """Score rows with a packaged version, as its replica would; `columns` are the raw fields of the manifest."""
    from mainspring.artefacts.score import Scorer  # ONNX Runtime: loaded only when something is scored

    return Scorer(artefact, code_root).score(columns)


def auc(truth: Floats, score: Floats) -> float | None:
    """Exact area under the ROC curve, by ranks, ties counting half; None when one class is missing."""
    positives = int((truth > 0.5).sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return None
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    rank = (last - (count - 1) / 2)[place]
    return float((rank[truth > 0.5].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def brier(truth: Floats, score: Floats) -> float | None:
    """Mean squared error of the probability; None without rows."""
    return float(np.mean((score - truth) ** 2)) if len(truth) else None


def build(given: ReportInput) -> dict[str, Any]:
    """Make the report: JSON values only, NaN nowhere."""
    versions = _versions(given)
    judged = [v for v in versions if v["cause"] != "first version"]
    dollars = math.fsum(line.dollars for line in given.costs)
    answers = len(given.score)
    months = [_part(given, rows) | {"month": month} for month, rows in _months(given.time)]
    return _part(given, np.arange(answers)) | {
        "title": given.title,
        "requests": given.requests,
        "answers": answers,
        "errors": given.errors,
        "retries": given.retries,
        "retrainings": sum(r.kind == "run" and not r.value.get("first") for r in given.records),
        "failed_runs": sum(r.kind == "run-failed" for r in given.records),
        "promoted": sum(v["outcome"] == "promoted" for v in judged),
        "refused": sum(v["outcome"] == "refused" for v in judged),
        "given_up": sum(v["outcome"] == "given up" for v in judged),
        "cost_usd": round(dollars, 6),
        "cost_per_1000_predictions_usd": round(1000 * dollars / answers, 8) if answers else None,
        "costs": [{"what": c.what, "seconds": round(c.seconds, 2), "usd": round(c.dollars, 6)} for c in given.costs],
        "seconds": round(given.seconds, 1),
        "p50_seconds": given.p50,
        "p95_seconds": given.p95,
        "months": months,
        "versions": versions,
        "drift": _drift(given.records),
        "quality": _quality(given.records),
        "not_helped": [m["month"] for m in months if m["verdict"] != "better"],
    }


def write(report: Mapping[str, Any], page: str, out: Path) -> tuple[Path, Path]:
    """Write `report.json` and `report.html`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n"
    return _write(out / "report.json", text), _write(out / "report.html", page)


def _write(path: Path, text: str) -> Path:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


def _part(given: ReportInput, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Live and frozen on the same rows, and the difference with an interval (whole days resampled)."""
    rows = rows[np.argsort(given.time[rows], kind="stable")]
    told = rows[~np.isnan(given.truth[rows])]
    truth, live, frozen = given.truth[told], given.score[told], given.frozen[told]
    mean, low, high = _difference(given.time[told], truth, live, frozen)
    same = bool(len(told)) and bool(np.all(np.abs(live - frozen) < 1e-6))
    rate = float(truth.mean()) if len(told) else None
    return {
        "requests": len(rows),
        "rows": len(told),
        "rate": rate,
        "base_brier": rate * (1 - rate) if rate is not None else None,
        "live": {"auc": auc(truth, live), "brier": brier(truth, live)},
        "frozen": {"auc": auc(truth, frozen), "brier": brier(truth, frozen)},
        "brier_difference": {"mean": mean, "low": low, "high": high},
        "verdict": _verdict(low, high, same),
    }


def _verdict(low: float | None, high: float | None, same: bool) -> str:
    if low is None or high is None:
        return "unknown"
    if same:
        return "same model"
    return "better" if high < 0 else "worse" if low > 0 else "no clear difference"


def _difference(
    time: Floats, truth: Floats, live: Floats, frozen: Floats
) -> tuple[float | None, float | None, float | None]:
    """Mean Brier difference, live - frozen, with a two-sided interval."""
    if not len(time):
        return None, None, None
    days = (time // DAY).astype(np.int64)
    days -= days.min()
    count, own, other = (np.bincount(days, weights) for weights in (None, (live - truth) ** 2, (frozen - truth) ** 2))
    losses = tuple(DayLoss(i, int(n), float(own[i]), float(other[i])) for i, n in enumerate(count) if n)
    found = paired_difference(losses, (1 + CONFIDENCE) / 2, 2013)
    mean, low, high = (float(v) if math.isfinite(v) else None for v in found)
    return mean, low, high


def _months(time: Floats) -> list[tuple[str, npt.NDArray[np.int64]]]:
    if not len(time):
        return []
    month = time.astype("datetime64[s]").astype("datetime64[M]")
    return [(str(m), np.flatnonzero(month == m)) for m in np.unique(month)]


def _versions(given: ReportInput) -> list[dict[str, Any]]:
    """Each version that was judged: why it was made, what its gates said, and what became of it."""
    ends = {(r.value.get("version"), r.value.get("kind")): r for r in given.records if r.kind == "rollout"}
    version = np.asarray(given.version)
    out = []
    for record in sorted((r for r in given.records if r.kind == "gate"), key=lambda r: _number(r.value["version"])):
        name, value = str(record.value["version"]), record.value
        promoted = ends.get((name, "promoted")) or ends.get((name, "first"))
        aborted = ends.get((name, "aborted"))
        mine = given.time[version == name] if len(version) else np.empty(0)
        out.append(
            {
                "version": name,
                "run": value.get("run", ""),
                "cause": "first version" if not value.get("champion") else value.get("cause", ""),
                "data_until": _iso(record.at),
                "compared_with": value.get("champion", ""),
                "outcome": _outcome(bool(value.get("passed")), promoted, aborted),
                "verdict": value.get("note", ""),
                "gates": [{k: i.get(k) for k in ("name", "passed", "message")} for i in value.get("items", [])],
                "rollout": aborted.value.get("message", "") if aborted else "",
                "champion_from": _iso(promoted.at) if promoted else None,
                "answers": len(mine),
                "first_answer": _iso(float(mine.min())) if len(mine) else None,
                "last_answer": _iso(float(mine.max())) if len(mine) else None,
            }
        )
    return out


def _outcome(passed: bool, promoted: Record | None, aborted: Record | None) -> str:
    if promoted:
        return "promoted"
    if aborted:
        return "given up"
    return "under way" if passed else "refused"


def _number(version: Any) -> tuple[int, str]:
    text = str(version)
    return (int(text), "") if text.isdigit() else (0, text)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _drift(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One entry a watch and feature, with its looks in order; unknown ones are None."""
    series: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sorted((r for r in records if r.kind == "drift"), key=lambda r: r.at):
        for feature in record.value.get("features", []):
            key = (str(record.value.get("watch", "")), str(feature["feature"]))
            entry = series.setdefault(key, {"watch": key[0], "feature": key[1] or "score", "looks": []})
            look = {k: feature.get(k) for k in ("value", "threshold", "fired")}
            entry["looks"].append({"at": _iso(record.at)[:10], "version": record.value.get("version", "")} | look)
    return list(series.values())


def _quality(records: Sequence[Record]) -> list[dict[str, Any]]:
    looks = sorted((r for r in records if r.kind == "quality" and "value" in r.value), key=lambda r: r.at)
    return [
        {"at": _iso(r.at)[:10], "watch": r.value.get("watch", "")} | {k: r.value.get(k) for k in ("value", "fired")}
        for r in looks
    ]


def summary(report: Mapping[str, Any]) -> str:
    """The report in 80 columns, for a terminal without colour."""
    lines = ["MONTH     REQUESTS   LATE   AUC live frozen   BRIER live frozen  RETRAINING"]
    lines += [_month_line(m) for m in [*report["months"], {**report, "month": "all"}]]
    per = report["cost_per_1000_predictions_usd"]
    given_up = f", {report['given_up']} given up" if report["given_up"] else ""
    outcomes = f"{report['promoted']} promoted, {report['refused']} refused{given_up}"
    lines += [
        "",
        f"requests   {report['requests']:,}, {report['errors']} failed, {report['retries']:,} sent again",
        f"versions   {report['retrainings']} retrainings: {outcomes}",
        f"cost       ${report['cost_usd']:.4f}" + (f", ${per:.6f} per 1000 predictions" if per is not None else ""),
        f"time       {report['seconds']:.0f} s" + _latency(report["p95_seconds"]),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _month_line(m: Mapping[str, Any]) -> str:
    return (
        f"{m['month']:<8} {m['requests']:>9,} {_share(m['rate']):>6}"
        f"   {_four(m['live']['auc'], 3):>8} {_four(m['frozen']['auc'], 3):>6}"
        f"   {_four(m['live']['brier'], 4):>10} {_four(m['frozen']['brier'], 4):>6}  {_WORDS[m['verdict']]}"
    )


_WORDS = {
    "better": "helped",
    "worse": "made it worse",
    "no clear difference": "not clear",
    "same model": "none yet",
    "unknown": "unknown",
}


def _latency(p95: float | None) -> str:
    return f", 95 of 100 answers within {p95 * 1e3:.1f} ms" if p95 is not None else ""


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _four(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
