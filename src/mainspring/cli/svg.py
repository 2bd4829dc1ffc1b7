"""Small charts as SVG text: no script, no reference to anything outside, colours by CSS class.

Who calls it: the report's page. What it must never do: take text into SVG without escaping it.

Classes that the page styles: `axis`, `grid`, `a` (the first line), `b` (the second), `c` (a quiet third), `fired`,
`bar`, `good`, `bad`, `quiet`, `live`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 236
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 14, 30

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart; None leaves a gap."""

    name: str
    values: Values
    style: str  # CSS class
    marks: Sequence[bool] = ()  # points to be shown as fired
    points: bool = True


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, upwards."""

    low: float
    high: float
    log: bool = False

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high, value = (math.log10(max(v, 1e-9)) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / ((high - low) or 1.0)
        return round(HEIGHT - BOTTOM - min(1.0, max(0.0, share)) * (HEIGHT - TOP - BOTTOM), 1)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    raw = (high - low) / max(1, wanted - 1) or 1.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from at most `low` to at least `high`."""
    first, last = math.floor(math.log10(max(low, 1e-9))), math.ceil(math.log10(max(high, 1e-9)))
    return [10.0**i for i in range(first, max(last, first + 1) + 1)]


def lines(
    title: str, labels: Sequence[str], parts: Sequence[Line], *, log: bool = False, every: int = 1, zero: bool = False
) -> str:
    """Lines over equal steps with a label each; `every` shows only each n-th label. `zero`: the axis begins at 0."""
    known = [v for part in parts for v in part.values if v is not None and math.isfinite(v)]
    if not known:
        return empty(title)
    low, high = (min(0.0, *known), max(1.0, *known)) if zero else (min(known), max(known))
    marks = log_ticks(low, high) if log else ticks(low, high, 3 if zero and high <= 2 else 5)
    scale = Scale(marks[0], marks[-1], log)
    body = [_grid(marks, scale), _labels(labels, every)]
    body += [_line(part, labels, scale) for part in parts]
    return _figure(_told(title, labels, parts), body)


def bars(title: str, labels: Sequence[str], values: Sequence[float], *, style: str = "bar") -> str:
    """Bars from nought."""
    if not values:
        return empty(title)
    marks = ticks(0.0, max([*values, 1.0]))
    scale = Scale(0.0, marks[-1])
    body = [_grid(marks, scale), _labels(labels, 1)]
    width = _step(len(labels)) * 0.64
    for i, value in enumerate(values):
        top = scale.y(value)
        body.append(
            f'<rect class="{style}" x="{_x(i, len(labels)) - width / 2:.1f}" y="{top}" width="{width:.1f}"'
            f' height="{scale.y(0) - top:.1f}" rx="2"><title>{escape(labels[i])}: {value:,.0f}</title></rect>'
        )
    return _figure(f"{title}: " + ", ".join(f"{n} {v:,.0f}" for n, v in zip(labels, values, strict=True)), body)


def intervals(title: str, labels: Sequence[str], points: tuple[Values, Values, Values], styles: Sequence[str]) -> str:
    """A point and its interval (`points`: values, lower ends, upper ends) for each label, and a line at nought."""
    values, low, high = points
    known = [v for part in points for v in part if v is not None and math.isfinite(v)]
    if not known:
        return empty(title)
    marks = ticks(min([0.0, *known]), max([0.0, *known]))
    scale = Scale(marks[0], marks[-1])
    body = [_grid(marks, scale), _labels(labels, 1)]
    body.append(f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(0)}" y2="{scale.y(0)}"/>')
    told = []
    for i, label in enumerate(labels):
        value, bottom, top = values[i], low[i], high[i]
        if value is None or bottom is None or top is None:
            continue
        x = f"{_x(i, len(labels)):.1f}"
        told.append(f"{label} {value:+.4f} ({bottom:+.4f} to {top:+.4f})")
        body.append(
            f'<g class="{styles[i]}"><title>{escape(told[-1])}</title>'
            f'<line class="reach" x1="{x}" x2="{x}" y1="{scale.y(bottom)}" y2="{scale.y(top)}"/>'
            f'<circle cx="{x}" cy="{scale.y(value)}" r="4.5"/></g>'
        )
    return _figure(f"{title}: " + ", ".join(told), body)


def strip(
    title: str,
    spans: Sequence[tuple[str, float, float]],
    marks: Sequence[tuple[float, str]],
    ends: tuple[float, float],
    says: Callable[[str, float], str] = lambda name, lasted: f"version {name}, {lasted:.0f} days",
) -> str:
    """Named spans of time side by side, with marks of the time under them; `says` puts a name and a length in words."""
    scale = (WIDTH - 2) / (ends[1] - ends[0])
    body, told = [], []
    for i, (name, since, until) in enumerate(spans):
        x, width = 1 + (since - ends[0]) * scale, (until - since) * scale
        said = escape(says(name, until - since))
        told.append(said)
        odd = " odd" if i % 2 else ""
        box = f'<rect class="live{odd}" x="{x:.1f}" y="2" width="{width:.1f}" height="24"/>'
        body.append(f"<g><title>{said}</title>{box}")
        if width > 9 * len(name):
            at = x + width / 2
            body.append(f'<text class="name" x="{at:.1f}" y="18" text-anchor="middle">{escape(name)}</text>')
        body.append("</g>")
    body += [
        f'<text class="axis" x="{1 + (at - ends[0]) * scale:.1f}" y="41">{escape(label)}</text>' for at, label in marks
    ]
    return _figure(f"{title}: {', '.join(told)}", body, height=46)


def empty(title: str) -> str:
    """A chart with nothing to show says so."""
    text = f'<text class="axis" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">nothing is known yet</text>'
    return _figure(f"{title}: nothing is known yet", [text])


def _figure(told: str, body: Sequence[str], height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(told, quote=True)}">'
        + "".join(body)
        + "</svg>"
    )


def _told(title: str, labels: Sequence[str], parts: Sequence[Line]) -> str:
    """A chart in words, for those who cannot see it: each line's ends and extremes."""
    said = []
    for part in parts:
        known = [(v, labels[i]) for i, v in enumerate(part.values) if v is not None]
        if known:
            (low, at_low), (high, at_high) = min(known), max(known)
            said.append(f"{part.name} from {low:.3g} ({at_low}) to {high:.3g} ({at_high}), last {known[-1][0]:.3g}")
    return f"{title}: " + "; ".join(said)


def _step(count: int) -> float:
    return (WIDTH - LEFT - RIGHT) / max(1, count)


def _x(i: int, count: int) -> float:
    return LEFT + (i + 0.5) * _step(count)


def _grid(marks: Sequence[float], scale: Scale) -> str:
    out = []
    for mark in marks:
        y = scale.y(mark)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        out.append(f'<text class="axis" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_short(mark)}</text>')
    return "".join(out)


def _short(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _labels(labels: Sequence[str], every: int) -> str:
    return "".join(
        f'<text class="axis" x="{_x(i, len(labels)):.1f}" y="{HEIGHT - 9}" text-anchor="middle">{escape(label)}</text>'
        for i, label in enumerate(labels)
        if i % every == 0
    )


def _line(part: Line, labels: Sequence[str], scale: Scale) -> str:
    runs: list[list[str]] = [[]]
    dots = []
    for i, value in enumerate(part.values):
        if value is None or not math.isfinite(value):
            runs.append([])
            continue
        x, y = round(_x(i, len(part.values)), 1), scale.y(value)
        runs[-1].append(f"{x},{y}")
        fired = bool(part.marks) and part.marks[i]
        if part.points or fired:
            style, radius = ("fired", 4.5) if fired else (part.style, 3)
            said = escape(f"{part.name}, {labels[i]}: {value:.4g}{' (fired)' if fired else ''}")
            dots.append(f'<circle class="{style}" cx="{x}" cy="{y}" r="{radius}"><title>{said}</title></circle>')
    paths = "".join(f'<polyline class="{part.style}" points="{" ".join(run)}"/>' for run in runs if len(run) > 1)
    return paths + "".join(dots)
