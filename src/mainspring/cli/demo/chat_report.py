"""What the users of the chat demo saw, and what the loop did meanwhile, as one value: `report.json`.

What this is: arithmetic on what was written down; pure. Who calls it: `chat.py`; the page (`chat_page.py`) is drawn
from the same value. What it must never do: leave a request or a failure out, or make a figure of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mainspring.cli.demo.chat_users import Answer

BIN = 5.0  # seconds of one bar


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened, and what begins with it."""

    at: float  # seconds since the users began
    what: str  # a sentence
    phase: str = ""  # of the users' time, from here to the next that has one


@dataclass(frozen=True, slots=True)
class Given:
    """All that a report is made of."""

    answers: Sequence[Answer]
    marks: Sequence[Mark]
    gates: Sequence[Mapping[str, Any]]  # values of the loop's own records `gate`
    rollouts: Sequence[Mapping[str, Any]]  # of `rollout`
    retries: int  # requests that the gateway sent once more
    killed_at: float | None
    back_at: float | None
    seconds: float  # of the whole demo
    shortened: Sequence[str] = ()  # what the demo's copy of the stack file has otherwise
    rate: float = 0.0


def build(given: Given) -> dict[str, Any]:
    """The report."""
    answers = sorted(given.answers, key=lambda a: a.due)
    return {
        "title": "chat",
        "seconds": given.seconds,
        "rate": given.rate,
        **_counts(answers),
        "one_terminal_event_each": all(a.ends == 1 for a in answers),
        "terminal_events": {str(n): sum(a.ends == n for a in answers) for n in sorted({a.ends for a in answers})},
        "retries": given.retries,
        "errors": _errors(answers),
        "killed_at": given.killed_at,
        "back_at": given.back_at,
        "marks": [asdict(mark) for mark in given.marks],
        "phases": _phases(answers, given.marks),
        "shares": _shares(answers),
        "versions": [_version(gate, given.rollouts, answers) for gate in sorted(given.gates, key=_number)],
        "shortened": list(given.shortened),
        "answers": [asdict(a) | {"ttft": a.ttft, "version": version(a.revision)} for a in answers],
    }


def version(revision: str) -> str:
    """The version of a revision's name: `chat-2` is of version 2."""
    return revision.rpartition("-")[2]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all are at most; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))] if ordered else None


def _counts(answers: Sequence[Answer]) -> dict[str, Any]:
    times = [a.ttft for a in answers if a.ttft is not None]
    prompt, cached = sum(a.prompt for a in answers), sum(a.cached for a in answers)
    return {
        "requests": len(answers),
        "failed": sum(bool(a.error) for a in answers),
        "ttft_p50": quantile(times, 0.5),
        "ttft_p95": quantile(times, 0.95),
        "prompt_tokens": prompt,
        "output_tokens": sum(a.output for a in answers),
        "cached_share": cached / prompt if prompt else None,
    }


def _errors(answers: Sequence[Answer]) -> dict[str, int]:
    codes = sorted({a.error for a in answers if a.error})
    return {code: sum(a.error == code for a in answers) for code in codes}


def _phases(answers: Sequence[Answer], marks: Sequence[Mark]) -> list[dict[str, Any]]:
    begins = [mark for mark in marks if mark.phase]
    edges = [-math.inf, *(mark.at for mark in begins[1:]), math.inf]  # the first has what was due before its mark
    out = []
    for i, mark in enumerate(begins):
        mine = [a for a in answers if edges[i] <= a.due < edges[i + 1]]
        by = {name: sum(version(a.revision) == name for a in mine) for name in _versions(mine)}
        out.append({"phase": mark.phase, "at": mark.at, **_counts(mine), "by_version": by})
    return out


def _versions(answers: Sequence[Answer]) -> list[str]:
    return sorted({version(a.revision) for a in answers if a.revision})


def _shares(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Of each few seconds, how many requests each version answered; `` is of those that reached none."""
    if not answers:
        return []
    out = []
    for i in range(int(max(a.due for a in answers) // BIN) + 1):
        mine = [a for a in answers if i * BIN <= a.due < (i + 1) * BIN]
        names = sorted({version(a.revision) for a in mine})
        out.append({"at": i * BIN, "by_version": {n: sum(version(a.revision) == n for a in mine) for n in names}})
    return out


def _number(gate: Mapping[str, Any]) -> int:
    return int(gate["version"])


def _version(
    gate: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]], answers: Sequence[Answer]
) -> dict[str, Any]:
    name = str(gate["version"])
    kinds = {str(r["kind"]) for r in rollouts if str(r.get("version")) == name}
    evals = {
        str(item["name"]).removeprefix("evals."): item["numbers"]["candidate"]
        for item in gate["items"]
        if str(item["name"]).startswith("evals.") and "candidate" in item.get("numbers", {})
    }
    said = [{key: item[key] for key in ("name", "passed", "message")} for item in gate["items"]]
    outcome = "promoted" if kinds & {"first", "promoted"} else "given up" if "aborted" in kinds else ""
    return {
        "version": name,
        "run": gate.get("run", ""),
        "cause": gate.get("cause", ""),
        "outcome": outcome or ("under way" if gate["passed"] else "refused"),
        "evals": evals,
        "gates": said,
        "answers": sum(version(a.revision) == name for a in answers),
    }


def summary(report: Mapping[str, Any]) -> str:
    """The report in 80 columns."""
    lines = [f"{'PHASE':<34} REQUESTS  FAILED  TTFT P50    P95  CACHED"]
    lines += [
        f"{p['phase']:<34} {p['requests']:>8} {p['failed']:>7} {seconds(p['ttft_p50']):>9}"
        f" {seconds(p['ttft_p95']):>6} {percent(p['cached_share']):>7}"
        for p in [*report["phases"], {**report, "phase": "all"}]
    ]
    lines.append("")
    for v in report["versions"]:
        scores = ", ".join(f"{name} {score:.2f}" for name, score in v["evals"].items())
        lines.append(f"version {v['version']}  {v['outcome']}: {scores}; {v['answers']} answers")
    lines += ["", *said(report), f"the whole took {report['seconds']:.0f} s"]
    return "\n".join(line.rstrip() for line in lines)


def said(report: Mapping[str, Any]) -> list[str]:
    """What became of the requests, in sentences."""
    count, wrong = report["requests"], report["requests"] - report["terminal_events"].get("1", 0)
    out = [f"{count} requests, each with exactly one terminal event" if not wrong else
           f"{wrong} of {count} requests had none or more than one terminal event"]  # fmt: skip
    codes = ", ".join(f"{n} x {code}" for code, n in report["errors"].items())
    out.append(f"{report['failed']} failed" + (f" ({codes})" if codes else "") +
               f", {report['retries']} sent once more by the gateway")  # fmt: skip
    if report["back_at"] is not None and report["killed_at"] is not None:
        out.append(f"the killed replica answered again after {report['back_at'] - report['killed_at']:.1f} s")
    return out


def seconds(value: float | None) -> str:
    """Seconds as they are shown."""
    return "-" if value is None else f"{value:.2f}s"


def percent(value: float | None) -> str:
    """A share as it is shown."""
    return "-" if value is None else f"{value:.0%}"
