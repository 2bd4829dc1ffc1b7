"""Charts over the seconds of the chat demo: points, bars by version, and a numbered line for each event.

Who calls it: `chat_page.py`. What it must never do: take text into SVG without escaping it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mainspring.cli.svg import ticks

WIDTH, HEIGHT = 1100, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 30, 28
COLOURS = ("var(--a)", "var(--b)", "var(--good)", "var(--c)")
NONE = "var(--bad)"  # of a request that reached no version
CLOSE = 17  # pixels between two numbers of events, at least

Report = Mapping[str, Any]


def names(report: Report) -> list[str]:
    """Versions that answered, in order."""
    return sorted({a["version"] for a in report["answers"] if a["version"]}, key=lambda n: (len(n), n))


def colour(name: str, order: Sequence[str]) -> str:
    """Of a version: the same in each chart."""
    return COLOURS[order.index(name) % len(COLOURS)] if name in order else NONE


def first_text(report: Report) -> str:
    """Seconds to the first text, a point for each request; a failed one is a cross at its foot or height."""
    answers, order = report["answers"], names(report)
    times = [a["ttft"] for a in answers if a["ttft"] is not None]
    if not answers:
        return _figure("Time to the first text: nothing was asked", [])
    marks, end = ticks(0.0, max([*times, 0.1])), _end(report)
    top = marks[-1]
    body = [_grid(marks, top, " s"), _axis(end), _events(report, end)]
    for a in answers:
        x, y = _x(a["due"], end), _y(a["ttft"] or 0.0, top)
        told = f"request {a['number']} at {a['due']:.1f} s"
        if a["error"]:
            said = escape(f"{told}: {a['error']}")
            body.append(
                f'<path d="M{x - 5:.1f},{y - 5:.1f}l10,10m0,-10l-10,10" fill="none"'
                f' style="stroke:{NONE};stroke-width:2.5"><title>{said}</title></path>'
            )
        elif a["ttft"] is not None:
            said = escape(f"{told}: {a['ttft']:.2f} s, version {a['version']}")
            fill = colour(a["version"], order)
            body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{fill}"><title>{said}</title></circle>')
    failed = sum(bool(a["error"]) for a in answers)
    slow = f", at most {max(times):.2f} s" if times else ""
    return _figure(f"Seconds to the first text of {len(times)} answers{slow}; {failed} requests failed", body)


def by_version(report: Report, width: float) -> str:
    """Requests of each few seconds, by the version that answered."""
    shares, order = report["shares"], names(report)
    if not shares:
        return _figure("Requests by version: nothing was asked", [])
    marks, end = ticks(0.0, max(sum(s["by_version"].values()) for s in shares)), _end(report)
    body = [_grid(marks, marks[-1], ""), _axis(end)]
    for share in shares:
        below = 0
        for name in [*order, ""]:
            count = share["by_version"].get(name, 0)
            if not count:
                continue
            x, w = _x(share["at"], end), _x(share["at"] + width, end) - _x(share["at"], end)
            y, foot = _y(below + count, marks[-1]), _y(below, marks[-1])
            who = f"version {name}" if name else "no version"
            said = escape(f"{share['at']:.0f} s: {count} by {who}")
            body.append(
                f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{max(1.0, w - 2):.1f}" height="{foot - y:.1f}"'
                f' style="fill:{colour(name, order)}"><title>{said}</title></rect>'
            )
            below += count
    body.append(_events(report, end))
    total = {n: sum(s["by_version"].get(n, 0) for s in shares) for n in order}
    return _figure("Requests by version: " + ", ".join(f"version {n} {c}" for n, c in total.items()), body)


def _end(report: Report) -> float:
    last = [m["at"] for m in report["marks"]] + [a["due"] for a in report["answers"]]
    return 1.01 * float(max([*last, 1.0]))


def _x(at: float, end: float) -> float:
    return LEFT + min(at, end) / end * (WIDTH - LEFT - RIGHT)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - min(1.0, value / (top or 1.0)) * (HEIGHT - TOP - BOTTOM)


def _grid(marks: Sequence[float], top: float, unit: str) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_y(m, top):.1f}" y2="{_y(m, top):.1f}"/>'
        f'<text class="axis" x="{LEFT - 7}" y="{_y(m, top) + 4:.1f}" text-anchor="end">{m:g}{unit}</text>'
        for m in marks
    )


def _axis(end: float) -> str:
    return "".join(
        f'<text class="axis" x="{_x(m, end):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{m:g} s</text>'
        for m in ticks(0.0, end, 9)
        if m <= end
    )


def _events(report: Report, end: float) -> str:
    """A line for each event, with its number at the top."""
    out = []
    lines = [_x(mark["at"], end) for mark in report["marks"]]
    for number, (mark, x, at) in enumerate(zip(report["marks"], lines, apart(lines), strict=True), start=1):
        said = escape(f"{number}: {mark['what']} ({mark['at']:.1f} s)")
        out.append(
            f'<g><title>{said}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{HEIGHT - BOTTOM}"'
            f' style="stroke:var(--soft);stroke-dasharray:2 3"/>'
            f'<text class="axis" x="{at:.1f}" y="{TOP - 13}" text-anchor="middle">{number}</text></g>'
        )
    return "".join(out)


def apart(lines: Sequence[float]) -> list[float]:
    """Where the numbers of ascending lines stand: over them, moved as far as they'd lie on each other or outside."""
    out: list[float] = []
    for x in lines:
        out.append(max(x, out[-1] + CLOSE) if out else x)
    most = float(WIDTH - RIGHT)
    for i in reversed(range(len(out))):
        out[i] = min(out[i], most)
        most = out[i] - CLOSE
    return out


def _figure(told: str, body: Sequence[str]) -> str:
    label = escape(told, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'
