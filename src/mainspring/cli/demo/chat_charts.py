"""Charts over the seconds of the chat demo: first text, answers by version, replicas, and requests inside.

Who calls it: `chat_page.py`. What it must never do: take text into SVG without escaping it, or draw what nobody knows
as nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mainspring.cli.demo.chat_frame import Frame
from mainspring.cli.demo.chat_report import REFUSED

COLOURS = ("var(--a)", "var(--b)", "var(--good)", "var(--ink)")
NONE = "var(--bad)"  # of a request that reached no version
HELD_BACK = "var(--c)"  # of one that a limit refused
LOW = 150  # pixels of a chart of few values
GAP = 3.0  # seconds between two looks, beyond which nothing is known of the time between

Report = Mapping[str, Any]


def names(report: Report) -> list[str]:
    """Versions that answered, in order."""
    return sorted({a["version"] for a in report["answers"] if a["version"]}, key=lambda n: (len(n), n))


def colour(name: str, order: Sequence[str]) -> str:
    """Of a version, of those that were refused, or of those that reached none: the same in each chart."""
    if name == REFUSED:
        return HELD_BACK
    return COLOURS[order.index(name) % len(COLOURS)] if name in order else NONE


def first_text(report: Report) -> str:
    """Seconds to the first text: a point for each request, a ring for tenants after the first; a cross is a failure."""
    answers, order = report["answers"], names(report)
    times = [a["ttft"] for a in answers if a["ttft"] is not None]
    frame = Frame.of(report, max([*times, 0.1]), " s")
    if not answers:
        return frame.draw("Time to the first text: nothing was asked", [])
    first = answers[0]["tenant"]
    body = [_point(frame, a, colour(a["version"], order), ring=a["tenant"] != first) for a in answers]
    failed, refused = report["failed"], report["refused"]
    slow = f", at most {max(times):.2f} s" if times else ""
    told = f"Seconds to the first text of {len(times)} answers{slow}; {failed} requests failed, {refused} were refused"
    return frame.draw(told, body)


def _point(frame: Frame, a: Mapping[str, Any], fill: str, *, ring: bool) -> str:
    x, y = frame.x(a["due"]), frame.y(a["ttft"] or 0.0)
    told = f"request {a['number']} of {a['tenant']} at {a['due']:.1f} s"
    if a["refused"]:
        said = escape(f"{told}: {a['error']}")
        return (
            f'<path d="M{x:.1f},{y - 3:.1f}v6" style="stroke:{HELD_BACK};stroke-width:1.5"><title>{said}</title></path>'
        )
    if a["error"]:
        said = escape(f"{told}: {a['error']}")
        return (
            f'<path d="M{x - 5:.1f},{y - 5:.1f}l10,10m0,-10l-10,10" fill="none"'
            f' style="stroke:{NONE};stroke-width:2.5"><title>{said}</title></path>'
        )
    if a["ttft"] is None:
        return ""
    said = escape(f"{told}: {a['ttft']:.2f} s, version {a['version']}")
    look = f"fill:var(--card);stroke:{fill};stroke-width:1.5" if ring else f"fill:{fill}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="{look}"><title>{said}</title></circle>'


def by_version(report: Report, width: float) -> str:
    """Requests of each few seconds, by the version that answered."""
    shares, order = report["shares"], names(report)
    frame = Frame.of(report, max((sum(s["by_version"].values()) for s in shares), default=1.0))
    if not shares:
        return frame.draw("Requests by version: nothing was asked", [])
    body = []
    for share in shares:
        below = 0
        for name in [*order, "", REFUSED]:
            count = share["by_version"].get(name, 0)
            if count:
                body.append(_bar(frame, share["at"], width, (below, below + count), name, colour(name, order)))
                below += count
    total = {n: sum(s["by_version"].get(n, 0) for s in shares) for n in order}
    return frame.draw("Requests by version: " + ", ".join(f"version {n} {c}" for n, c in total.items()), body)


def _bar(frame: Frame, at: float, width: float, span: tuple[int, int], name: str, fill: str) -> str:
    x, w = frame.x(at), frame.x(at + width) - frame.x(at)
    y, foot = frame.y(span[1]), frame.y(span[0])
    who = "refused (429)" if name == REFUSED else f"by version {name}" if name else "by no version"
    said = escape(f"{at:.0f} s: {span[1] - span[0]} {who}")
    return (
        f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{max(1.0, w - 2):.1f}" height="{foot - y:.1f}"'
        f' style="fill:{fill}"><title>{said}</title></rect>'
    )


def replicas(report: Report) -> str:
    """Replicas that answer, of all versions together; each change of their number with its reason."""
    seen = report["seen"]
    most = max((one["replicas"] for one in seen), default=0)
    frame = Frame.of(report, float(max(most, 1)), height=LOW, wanted=min(max(most, 1), 4) + 1)
    body = [_steps(frame, part, "replicas", "var(--a)") for part in _parts(seen, "replicas")]
    for change in report["scalings"]:
        said = escape(f"{change['at']:.1f} s: {change['from']} → {change['to']}: {change['why']}")
        up = change["to"] > change["from"]
        x, y = frame.x(change["at"]), frame.y(0.0)
        body.append(
            f'<path d="M{x - 5:.1f},{y:.1f}l5,{-9 if up else 9}l5,{9 if up else -9}z"'
            f' style="fill:var(--{"good" if up else "b"})"><title>{said}</title></path>'
        )
    return frame.draw(f"Replicas that answer, at most {most}; {len(report['scalings'])} changes asked for", body)


def inside(report: Report) -> str:
    """Requests with replicas, and on top of them those that are held at the gateway."""
    seen = [one for one in report["seen"] if one["waiting"] is not None]
    totals = [{**one, "inside": one["waiting"] + one["running"]} for one in seen]
    most = max((one["inside"] for one in totals), default=0)
    frame = Frame.of(report, float(max(most, 1)), height=LOW, wanted=4)
    body = [_steps(frame, part, "inside", "var(--b)", area=True) for part in _parts(totals, "inside")]
    body += [_steps(frame, part, "running", "var(--a)", area=True) for part in _parts(totals, "running")]
    waited = max((one["waiting"] for one in totals), default=0)
    return frame.draw(f"Requests inside, at most {most}, of which at most {waited} waited", body)


def _parts(seen: Sequence[Mapping[str, Any]], key: str) -> list[list[Mapping[str, Any]]]:
    """Stretches of looks without a gap in which nobody said anything."""
    out: list[list[Mapping[str, Any]]] = []
    known = [one for one in seen if one[key] is not None]
    for one in known:
        if not out or one["at"] - out[-1][-1]["at"] > GAP:
            out.append([])
        out[-1].append(one)
    return out


def _steps(frame: Frame, seen: Sequence[Mapping[str, Any]], key: str, paint: str, *, area: bool = False) -> str:
    """Values that hold until the next look: a line, or what lies under it."""
    points = [(frame.x(seen[0]["at"]), frame.y(seen[0][key]))]
    for before, one in itertools.pairwise(seen):
        points += [(frame.x(one["at"]), frame.y(before[key])), (frame.x(one["at"]), frame.y(one[key]))]
    if not area:
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        return f'<polyline points="{drawn}" style="stroke:{paint}"/>'
    foot = frame.y(0.0)
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(points[0][0], foot), *points, (points[-1][0], foot)])
    return f'<polygon points="{drawn}" style="fill:{paint}"/>'
