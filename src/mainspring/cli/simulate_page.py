"""A simulation as one HTML file that works offline: figures, plots one below the other on one axis of time, reasons.

What this is: rendering, pure. Who calls it: `simulate.py`. What it must never do: put text into the page without
escaping it, or smooth a peak away: each point is the most, or the percentile, of its stretch of time.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise

import numpy as np

from mainspring.cli import svg
from mainspring.cli.frame import chart, document, section, table
from mainspring.cli.simulate import clock, facts
from mainspring.cli.simulate_asked import Asked
from mainspring.worlds.twin.arrivals import Floats
from mainspring.worlds.twin.queueing import Outcome

POINTS = 240
MOST_CHANGES = 500


def page(asked: Asked, outcome: Outcome) -> str:
    """The whole page."""
    head = f"<header><h1>{escape(asked.name)}: {escape(asked.arrivals.says)}</h1></header>"
    rests = "".join(f"<li>{escape(one)}</li>" for one in asked.rests_on)
    figures = table(["figure", "value"], [list(one) for one in facts(asked, outcome)])
    changes = [[clock(one.at), str(one.want), one.why] for one in outcome.changes[:MOST_CHANGES]]
    parts = [
        head, section("What happened", figures), section("Over time", _plots(asked, outcome)),
        section("What it rests on", f"<ul>{rests}</ul>"),
        section("Why", table(["time", "replicas", "reason"], changes)),
    ]  # fmt: skip
    return document(f"Mainspring simulate: {asked.name}", parts)


def _plots(asked: Asked, outcome: Outcome) -> str:
    """Rate, replicas, what waits, and latency, by the same stretches of time."""
    count = min(POINTS, len(outcome.want))
    edges = np.linspace(0, len(outcome.want), count + 1).astype(int)
    labels = [clock(float(edge)).removesuffix(":00") for edge in edges[:-1]]

    def most(values: Floats) -> list[float | None]:
        return [float(values[a:b].max()) for a, b in pairwise(edges)]

    rate = [float(outcome.rate[a:b].mean()) for a, b in pairwise(edges)]
    place = np.searchsorted(edges[1:-1], asked.arrivals.at, side="right")
    served = np.isfinite(outcome.latency)
    order = np.argsort(place[served], kind="stable")
    groups = np.split(outcome.latency[served][order], np.searchsorted(place[served][order], np.arange(1, count)))
    several = {
        "Requests that come, 1/s": [svg.Line("rate", rate, "a", points=False)],
        "Replicas": [
            svg.Line("ready", most(outcome.ready), "a", points=False),
            svg.Line("wanted", most(outcome.want), "b", points=False),
        ],
        "Requests waiting, at most": [svg.Line("waiting", most(outcome.waiting), "a", points=False)],
        "Latency, s": [
            svg.Line("median", _of(groups, 0.5), "a", points=False),
            svg.Line("p95", _of(groups, 0.95), "b", points=False),
        ],
    }
    every = max(1, count // 6)
    drawn = "".join(
        chart(title, svg.lines(title, labels, parts, every=every, zero=True), _keys(parts))
        for title, parts in several.items()
    )
    return f'<div class="charts time">{drawn}</div>'


def _of(groups: list[Floats], share: float) -> list[float | None]:
    return [float(np.quantile(one, share)) if len(one) else None for one in groups]


def _keys(parts: list[svg.Line]) -> str:
    return "".join(f'<span class="key {part.style}">{escape(part.name)}</span>' for part in parts)
