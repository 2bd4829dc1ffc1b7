"""What the chat demo's charts share: one axis of seconds, a numbered line for each event, a shade for each act.

Who calls it: `chat_charts.py`. What it must never do: take text into SVG without escaping it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mainspring.cli.svg import ticks

WIDTH, HEIGHT = 1100, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 30, 28
CLOSE = 17  # pixels between two numbers of events, at least

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """The place of a chart: seconds from 0 to `end`, values from 0 to the last of `marks`."""

    report: Report
    marks: Sequence[float]  # of the upright axis
    end: float
    unit: str = ""
    height: int = HEIGHT

    @classmethod
    def of(cls, report: Report, highest: float, unit: str = "", height: int = HEIGHT, wanted: int = 5) -> Frame:
        """A frame that holds all of the report, and values up to `highest`."""
        last = [m["at"] for m in report["marks"]] + [a["due"] for a in report["answers"]]
        return cls(report, ticks(0.0, highest, wanted), 1.01 * float(max([*last, 1.0])), unit, height)

    def x(self, at: float) -> float:
        """Pixels from the left."""
        return LEFT + min(max(at, 0.0), self.end) / self.end * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return self.height - BOTTOM - min(1.0, value / (self.marks[-1] or 1.0)) * (self.height - TOP - BOTTOM)

    def draw(self, told: str, body: Sequence[str]) -> str:
        """The whole chart; `told` says in words what `body` shows."""
        label = escape(told, quote=True)
        inside = "".join([*self._acts(), *self._grid(), *self._axis(), *body, *self._events()])
        return f'<svg viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{label}">{inside}</svg>'

    def _acts(self) -> list[str]:
        """Every second act is shaded, so that one can be told from the next; each says its name."""
        begins = [mark for mark in self.report["marks"] if mark["phase"]]
        edges = [*(mark["at"] for mark in begins), self.end]
        out = []
        for i, mark in enumerate(begins):
            x, w = self.x(edges[i]), self.x(edges[i + 1]) - self.x(edges[i])
            shade = 0.07 if i % 2 == 0 else 0.0
            out.append(
                f'<rect class="act" x="{x:.1f}" y="{TOP - 8}" width="{max(0.0, w):.1f}"'
                f' height="{self.height - BOTTOM - TOP + 8}" style="fill:var(--soft);fill-opacity:{shade}">'
                f"<title>{escape(mark['phase'])}</title></rect>"
            )
        return out

    def _grid(self) -> list[str]:
        return [
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(m):.1f}" y2="{self.y(m):.1f}"/>'
            f'<text class="axis" x="{LEFT - 7}" y="{self.y(m) + 4:.1f}" text-anchor="end">{m:g}{self.unit}</text>'
            for m in self.marks
        ]

    def _axis(self) -> list[str]:
        return [
            f'<text class="axis" x="{self.x(m):.1f}" y="{self.height - 8}" text-anchor="middle">{m:g} s</text>'
            for m in ticks(0.0, self.end, 9)
            if m <= self.end
        ]

    def _events(self) -> list[str]:
        """A line for each event, with its number at the top."""
        out = []
        marks = self.report["marks"]
        lines = [self.x(mark["at"]) for mark in marks]
        for number, (mark, x, at) in enumerate(zip(marks, lines, apart(lines), strict=True), start=1):
            said = escape(f"{number}: {mark['what']} ({mark['at']:.1f} s)")
            out.append(
                f'<g><title>{said}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{self.height - BOTTOM}"'
                f' style="stroke:var(--soft);stroke-dasharray:2 3"/>'
                f'<text class="axis" x="{at:.1f}" y="{TOP - 13}" text-anchor="middle">{number}</text></g>'
            )
        return out


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
