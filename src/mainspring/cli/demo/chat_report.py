"""What the users of the chat demo saw, and what the loop did meanwhile, as one value: `report.json`.

What this is: arithmetic on what was written down; pure. Who calls it: `chat.py`; the page (`chat_page.py`) is drawn
from the same value. What it must never do: leave a request or a failure out, or make a figure of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mainspring.cli.demo import chat_scaled, chat_tenants
from mainspring.cli.demo.chat_numbers import count, dollars, percent, quantile, seconds
from mainspring.cli.demo.chat_scaled import Seen
from mainspring.cli.demo.chat_users import Answer
from mainspring.loop.labels import label_of, version_number

WIDTH = 80  # columns of the summary
BIN = 5.0  # seconds of one bar
REFUSED = "refused"  # beside versions: requests that a limit kept out


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
    rate: float = 0.0  # of the shop's users
    wall: float = 0.0  # when the users began, POSIX seconds
    seen: Sequence[Seen] = ()
    events: Sequence[Mapping[str, Any]] = ()  # the loop's
    bill: Sequence[Mapping[str, Any]] = ()  # rows of `/v1/cost`, by tenant
    node: tuple[float, float] | None = None  # what the node had cost, just before and just after those


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
        "tenants": chat_tenants.tenants(answers, given.bill),
        "bill": chat_tenants.bill(given.bill, given.node),
        "scalings": chat_scaled.changes(given.events, given.wall),
        "seen": [asdict(one) for one in given.seen],
        "phases": _phases(answers, given.marks),
        "shares": _shares(answers),
        "versions": [_version(gate, given.rollouts, answers) for gate in sorted(given.gates, key=_number)],
        "shortened": list(given.shortened),
        "answers": [
            asdict(a) | {"ttft": a.ttft, "refused": a.refused, "failed": a.failed, "version": version(a.revision)}
            for a in answers
        ],
    }


def version(revision: str) -> str:
    """The version of a revision's name: `chat-2` is of version 2, and so are `chat-2.3` and `chat-2.fresh`."""
    return version_number(label_of(revision))


def _counts(answers: Sequence[Answer]) -> dict[str, Any]:
    times = [a.ttft for a in answers if a.ttft is not None]
    prompt, cached = sum(a.prompt for a in answers), sum(a.cached for a in answers)
    return {
        "requests": len(answers),
        "failed": sum(a.failed for a in answers),
        "refused": sum(a.refused for a in answers),
        "ttft_p50": quantile(times, 0.5),
        "ttft_p95": quantile(times, 0.95),
        "prompt_tokens": prompt,
        "output_tokens": sum(a.output for a in answers),
        "cached_share": cached / prompt if prompt else None,
    }


def _errors(answers: Sequence[Answer]) -> dict[str, int]:
    codes = sorted({a.error for a in answers if a.failed})
    return {code: sum(a.failed and a.error == code for a in answers) for code in codes}


def _phases(answers: Sequence[Answer], marks: Sequence[Mark]) -> list[dict[str, Any]]:
    begins = [mark for mark in marks if mark.phase]
    edges = [-math.inf, *(mark.at for mark in begins[1:]), math.inf]  # the first has what was due before its mark
    tenants = dict.fromkeys(a.tenant for a in answers)
    out = []
    for i, mark in enumerate(begins):
        meanwhile = [a for a in answers if edges[i] <= a.due < edges[i + 1]]
        for tenant in tenants:
            mine = [a for a in meanwhile if a.tenant == tenant]
            if not mine:
                continue
            by = {name: sum(version(a.revision) == name for a in mine) for name in _versions(mine)}
            out.append({"phase": mark.phase, "at": mark.at, "tenant": tenant, **_counts(mine), "by_version": by})
    return out


def _versions(answers: Sequence[Answer]) -> list[str]:
    return sorted({version(a.revision) for a in answers if a.revision})


def _shares(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Of each few seconds, how many requests each version answered, were refused, or (under "") reached none."""
    if not answers:
        return []
    out = []
    for i in range(int(max(a.due for a in answers) // BIN) + 1):
        mine = [a for a in answers if i * BIN <= a.due < (i + 1) * BIN]
        whose = [REFUSED if a.refused else version(a.revision) for a in mine]
        out.append({"at": i * BIN, "by_version": {name: whose.count(name) for name in sorted(set(whose))}})
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
    lines = [f"{'PHASE':<24} {'TENANT':<10} ASKED   429 FAILED  TTFT P50    P95 CACHED"]
    lines += [
        f"{p['phase']:<24} {p['tenant']:<10} {p['requests']:>5} {p['refused']:>5} {p['failed']:>6}"
        f" {seconds(p['ttft_p50']):>9} {seconds(p['ttft_p95']):>6} {percent(p['cached_share']):>6}"
        for p in [*report["phases"], {**report, "phase": "all", "tenant": ""}]
    ]
    lines.append("")
    for v in report["versions"]:
        scores = ", ".join(f"{name} {score:.2f}" for name, score in v["evals"].items())
        lines.append(f"version {v['version']}  {v['outcome']}: {scores}; {v['answers']} answers")
    lines += ["", *_scaled(report), "", *_billed(report), "", *said(report)]
    return "\n".join(line.rstrip() for line in [*lines, f"the whole took {report['seconds']:.0f} s"])


def _scaled(report: Mapping[str, Any]) -> list[str]:
    lines = [f"{one['at']:6.1f} s  {chat_scaled.told(one)}" for one in report["scalings"]]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines]


def _billed(report: Mapping[str, Any]) -> list[str]:
    rows = report["bill"]["rows"]
    if not rows:
        return ["nothing is known of the cost"]
    lines = [f"{'COST':<30} REQUESTS  TOKENS  CORE SECONDS    DOLLARS"]
    lines += [
        f"{row['what']:<30} {count(row['requests']):>8} {count(row['tokens']):>7} {row['seconds']:>13.1f}"
        f" {dollars(row['dollars']):>10}"
        for row in rows
    ]
    return [*lines, f"{'sum':<61} {dollars(report['bill']['dollars']):>10}"]


def said(report: Mapping[str, Any]) -> list[str]:
    """What became of the requests, in sentences."""
    total, wrong = report["requests"], report["requests"] - report["terminal_events"].get("1", 0)
    out = [f"{total} requests, each with exactly one terminal event" if not wrong else
           f"{wrong} of {total} requests had none or more than one terminal event"]  # fmt: skip
    codes = ", ".join(f"{n} x {code}" for code, n in report["errors"].items())
    out.append(f"{report['failed']} failed" + (f" ({codes})" if codes else "") +
               f", {report['retries']} sent once more by the gateway")  # fmt: skip
    out += [_held_back(one) for one in report["tenants"] if one["refused"]]
    if report["back_at"] is not None and report["killed_at"] is not None:
        out.append(f"the killed replica answered again after {report['back_at'] - report['killed_at']:.1f} s")
    return out


def _held_back(tenant: Mapping[str, Any]) -> str:
    told = tenant["retry_after"]
    again = f", {told['told']} of them with `Retry-After`" if told else ""
    return (
        f"`{tenant['tenant']}` asked {tenant['requests']} times: {tenant['answered']} answers,"
        f" {tenant['refused']} x 429{again}"
    )
