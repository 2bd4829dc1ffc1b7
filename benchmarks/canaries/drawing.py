"""A plot of how many rollouts were given up by when, one line a rule: an SVG file that stands by itself.

Who calls it: `benchmarks/canary.py --svg FILE`. What it must never do: refer to anything outside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np

from canaries.traffic import Floats
from mainspring.cli.svg import HEIGHT, LEFT, WIDTH, Line, lines

COLOURS = ("#0b6e4f", "#b3541e", "#8a8a8a", "#3c5aa6", "#a13d63", "#6b4c9a")
ROW = 15


def over_time(title: str, minutes: Mapping[str, Floats], until: int = 120, step: int = 2) -> str:
    """The share of runs that were given up by each minute; minutes of NaN: never."""
    at = np.arange(0, until + 1, step)
    parts = [
        Line(name, [float(np.mean(np.nan_to_num(found, nan=np.inf) <= t) * 100) for t in at], f"r{i}", points=False)
        for i, (name, found) in enumerate(minutes.items())
    ]
    drawn = lines(title, [f"{t}" for t in at], parts, every=10, zero=True)
    style = ".grid{stroke:#ddd}.axis{font:11px sans-serif;fill:#555}polyline{fill:none;stroke-width:1.8}"
    style += "".join(f".r{i}{{stroke:{colour}}}" for i, colour in enumerate(COLOURS))
    legend = []
    for i, name in enumerate(minutes):
        y = HEIGHT + 14 + i * ROW
        legend.append(f'<polyline class="r{i}" points="{LEFT},{y - 4} {LEFT + 22},{y - 4}"/>')
        legend.append(f'<text class="axis" x="{LEFT + 28}" y="{y}">{escape(name)}</text>')
    size = HEIGHT + 14 + ROW * len(minutes)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {size}"'
    drawn = drawn.replace(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}"', head, 1)
    return drawn.replace(">", f'><style>{style}</style><rect width="{WIDTH}" height="{size}" fill="#fff"/>', 1).replace(
        "</svg>", "".join(legend) + "</svg>\n"
    )
