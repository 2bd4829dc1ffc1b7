"""A rollout as one HTML file that works offline: what was done when, evidence against its thresholds, how it ended.

What this is: rendering, pure. Who calls it: `rollout_report.py`. What it must never do: put text into the page without
escaping it, or draw what no record has: a gap stays a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from mainspring.cli import svg
from mainspring.cli.frame import chart, document, section, table, tiles
from mainspring.cli.rollout_report import arm_rows, check_rows, heading, share, stage_rows
from mainspring.cli.rollout_tree import count, number, share_of
from mainspring.cli.status import length, moment

Json = Mapping[str, Any]
POINTS = 161
"""Points of time on an axis, so that each quarter is one."""
HOLDS = "split"
"""The check that holds a rollout up and gives none up."""
DIFFERENCES = {"ab": "The metric", "score": "Feedback", "pairs": "Loss on paired rows"}
LOW, HIGH = 0.01, 1e6
"""What is drawn of e-values: what lies beyond is drawn at the edge."""


def page(told: Json) -> str:
    """The whole page."""
    title = f"{told['endpoint']}: {heading(told)}"
    when = f"{moment(told['began'])} to {moment(told['at'])} UTC"
    head = f"<header><h1>{escape(title)}</h1><p>{escape(when)}. {escape(told['message'])}</p></header>"
    parts = [head, tiles(_numbers(told))]
    if told["risks"]:
        parts.append(section("Risk that was taken", _list(told["risks"])))
    parts.append(section("What was done when", _timeline(told) + _stages(told)))
    if told["last"]:
        parts.append(section("Both versions", _charts(_arms(told)) + _table(arm_rows(told))))
    if told["checks"]:
        said = (
            "<p>An e-value is what a bet on a fault would have made of 1. A version within its bounds reaches the "
            "threshold with a chance of 1 in the threshold at most, however often one looks: there it is given up. "
            "A certificate is the same the other way round: at what is wanted the promise is certain.</p>"
        )
        parts.append(section("Evidence", said + _charts(_evidence(told)) + _table(check_rows(told))))
    if told["gates"]:
        rows = [["✓" if g["passed"] else "✗", g["name"], g["message"]] for g in told["gates"]]
        parts.append(section("Gates before it", table(["", "gate", "finding"], rows)))
    if told["soak"]:
        parts.append(section("What it could find out", _list(told["soak"])))
    if told["notes"]:
        parts.append(
            section("Besides", table(["time", "what"], [[moment(n["at"]), n["message"]] for n in told["notes"]]))
        )
    return document(f"Mainspring rollout: {title}", parts)


def _numbers(told: Json) -> list[tuple[str, str, str]]:
    last = told["last"] or {}
    found = [("Verdict", str(told["verdict"]), f"after {length(told['at'] - told['began'])}")]
    if last:
        found.append(
            ("Requests, new version", count(last["requests"]), f"{count(last['control_requests'])} of the old")
        )
        old = share(last["control_errors"], last["control_requests"])
        found.append(("Errors, new version", share(last["errors"], last["requests"]), f"old: {old}"))
    checks = [one for one in told["checks"] if one["name"] != HOLDS and one["threshold"]]
    nearest = max(checks, key=lambda one: share_of(one["evidence"] or 0.0, one["threshold"]), default=None)
    if nearest is not None:
        note = f"{nearest['name']}: given up at {number(nearest['threshold'])}"
        found.append(("Most evidence", number(nearest["evidence"]), note))
    return found


def _list(several: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in several) + "</ul>"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows of words under the names of their keys."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    return table(head, [[row.get(key, "") for key in head] for row in rows])


def _charts(drawn: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(drawn)}</div>'


def _stages(told: Json) -> str:
    rows = stage_rows(told)
    return _table([row | {"found": one["message"]} for row, one in zip(rows, told["stages"], strict=True)])


def _timeline(told: Json) -> str:
    """Stages and waves side by side as long as they lasted, and the new version's share."""
    if not told["stages"]:
        return ""
    since, until = told["began"], max(told["at"], told["began"] + 1.0)
    spans = [(f"{s['kind']}{f' {w}' if (w := s['wave']) else ''}", s["began"], s["ended"]) for s in told["stages"]]
    marks = [(since + (until - since) * part, _after((until - since) * part)) for part in (0.0, 0.25, 0.5, 0.75)]
    strip = svg.strip("Stages", spans, marks, (since, until), says=lambda name, lasted: f"{name}, {length(lasted)}")
    drawn = [f'<figure class="strip"><figcaption>Stages and waves</figcaption>{strip}</figure>']
    axis = _Axis(told)
    shares = svg.Line("share", axis.over(lambda p: _times(p["share"], 100.0)), "a", points=False)
    chart_ = axis.chart("Share of requests that the new version got, %", [shares], zero=True)
    return "".join(drawn) + f'<div class="charts time">{chart_}</div>'


def _arms(told: Json) -> list[str]:
    """Errors and times of both versions as they came."""
    axis = _Axis(told)

    def alike(point: Json) -> float | None:
        """Errors of as many requests of the old version."""
        mine, old, bad = point["requests"], point["control_requests"], point["control_errors"]
        return None if None in (mine, old, bad) or not old else bad * mine / old

    drawn = [
        axis.chart(
            "Errors so far",
            [
                svg.Line("new version", axis.over(lambda p: p["errors"]), "a", points=False),
                svg.Line("as many requests of the old one", axis.over(alike), "b", points=False),
            ],
            zero=True,
        ),
        axis.chart(
            "Requests so far",
            [
                svg.Line("new version", axis.over(lambda p: p["requests"]), "a", points=False),
                svg.Line("mirrored to it", axis.over(lambda p: p["mirrored"]), "c", points=False),
            ],
            zero=True,
        ),
    ]
    for key, title in (("p50", "Half of the answers within, ms"), ("p95", "95 of 100 answers within, ms"),
                       ("first_p95", "95 of 100 first tokens within, ms")):  # fmt: skip
        lines = [
            svg.Line(name, axis.over(lambda p, of=f"{old}{key}": _times(p[of], 1e3)), style, points=False)  # type: ignore[misc]
            for name, old, style in (("new version", "", "a"), ("old version", "control_", "b"))
        ]
        if any(value is not None for line in lines for value in line.values):
            drawn.append(axis.chart(title, lines))
    return drawn


def _evidence(told: Json) -> list[str]:
    """Each check's e-value against its threshold, its certificate, and what the mean or the promise may be."""
    axis, drawn = _Axis(told), []
    for check in told["checks"]:
        name, numbers = str(check["name"]), check["numbers"]
        if "low" in numbers and "high" in numbers:
            drawn.append(_interval(axis, name))
        if check["threshold"]:
            word = "where it holds up" if name == HOLDS else "where it gives up"
            drawn.append(_against(axis, name, "evidence", "threshold", f"{name}: e-value, and {word}"))
        if check["wanted"]:
            drawn.append(_against(axis, name, "certainty", "wanted", f"{name}: how certain the promise is"))
        if "upper" in numbers and "promised" in numbers:
            drawn.append(_promise(axis, name))
    return drawn


def _against(axis: _Axis, name: str, key: str, goal: str, title: str) -> str:
    lines = [
        svg.Line(key, axis.over(lambda p: _bounded(_of(p, name, key))), "a", points=False),
        svg.Line(goal, axis.over(lambda p: _bounded(_of(p, name, goal) or None)), "b", points=False),
    ]
    return axis.chart(title, lines, log=True)


def _interval(axis: _Axis, name: str) -> str:
    """The interval of a difference of means: it holds at all looks together."""
    lines = [
        svg.Line("difference", axis.over(_number(name, "difference")), "a", points=False),
        svg.Line("at least", axis.over(_number(name, "low")), "c", points=False),
        svg.Line("at most", axis.over(_number(name, "high")), "c", points=False),
        svg.Line("no difference", axis.over(lambda _: 0.0), "b", points=False),
    ]
    return axis.chart(f"{DIFFERENCES.get(name, name)}, new less old", lines)


def _promise(axis: _Axis, name: str) -> str:
    """What it may be at most, as sure as was asked for, beside what is promised."""
    by, unit = (100.0, "%") if name == "errors" else (1e3, "ms")
    lines = [
        svg.Line("at most", axis.over(_number(name, "upper", by)), "a", points=False),
        svg.Line("promised", axis.over(_number(name, "promised", by)), "b", points=False),
    ]
    return axis.chart(f"{name}: what it may be, {unit}", lines, log=True)


def _number(name: str, key: str, by: float = 0.0) -> Callable[[Json], float | None]:
    """Reads a check's number; with a factor, of something that is never below 0: that stands for "not known"."""

    def read(point: Json) -> float | None:
        value = (point["checks"].get(name) or {}).get("numbers", {}).get(key)
        if value is None or not by:
            return None if value is None else float(value)
        return value * by if value >= 0 else None

    return read


def _of(point: Json, name: str, key: str) -> float | None:
    value = (point["checks"].get(name) or {}).get(key)
    return None if value is None else float(value)


def _bounded(value: float | None) -> float | None:
    return None if value is None else min(HIGH, max(LOW, value))


def _times(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


def _after(seconds: float) -> str:
    """A time since the beginning, on an axis."""
    return f"+{length(round(seconds))}" if seconds else "0"


class _Axis:
    """Even steps of time from the beginning to the last record; at each the last look before it."""

    def __init__(self, told: Json) -> None:
        self._points: Sequence[Json] = told["series"]
        since, until = float(told["began"]), max(float(told["at"]), float(told["began"]) + 1.0)
        self._at = [since + (until - since) * i / (POINTS - 1) for i in range(POINTS)]
        self._labels = [_after(at - since) for at in self._at]

    def over(self, value: Callable[[Json], float | None]) -> list[float | None]:
        """What was known at each step; None before the first look."""
        found: list[float | None] = []
        place, known = 0, None
        for at in self._at:
            while place < len(self._points) and self._points[place]["at"] <= at + 1e-6:
                known, place = value(self._points[place]), place + 1
            found.append(known)
        return found

    def chart(self, title: str, lines: Sequence[svg.Line], *, log: bool = False, zero: bool = False) -> str:
        """A chart over the axis, with keys of what is what."""
        keys = "".join(f'<span class="key {one.style}">{escape(one.name)}</span>' for one in lines)
        drawn = svg.lines(title, self._labels, lines, log=log, every=POINTS // 4, zero=zero)
        return chart(title, drawn, keys)
