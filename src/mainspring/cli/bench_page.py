"""A result of `mainspring bench` as one HTML file that works offline: tiles, charts, tables.

What this is: rendering, pure. Who calls it: `bench.py`. What it must never do: show a figure that the result does not
have, or put text into the page without escaping it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from mainspring.bench.arrivals import Floats
from mainspring.bench.quantiles import SHARES, Quantiles, ranks
from mainspring.bench.samples import DONE
from mainspring.bench.summary import Result
from mainspring.cli import bench_table, svg
from mainspring.cli.frame import chart, document, section, table, tiles

CURVE = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
BINS = 40
NAMES = {
    "latency": "latency, from when it was due",
    "ttft": "first piece, from when it was due",
    " sent": "the same, from when it was sent",
    "gap": "between two pieces",
    "tpot": "each further token of a request",
    "gateway": "inside the gateway, as it says",
}


def page(result: Result) -> str:
    """The whole page."""
    heading = bench_table.heading(result)
    warning = f"<p><strong>{escape(bench_table.limited(result))}.</strong></p>" if result.limited_by_generator else ""
    head = f"<header><h1>{escape(heading[0])}</h1><p>{escape('. '.join(heading[1:]))}.</p>{warning}</header>"
    charts = f'<div class="charts">{_over_time(result)}{_curves(result)}</div>'
    parts = [head, tiles(_numbers(result)), section("Latency", charts + _times(result))]
    if result.goodput is not None:
        rows = [[kept.limit, kept.verdict, f"{kept.share:.1%} ({kept.low:.1%} to {kept.high:.1%})"]
                for kept in result.goodput.limits]  # fmt: skip
        said = f"<p>{escape(bench_table.goodput(result.goodput))}</p>"
        parts.append(section("Objective", said + table(["limit", "verdict", "requests that kept it"], rows)))
    if result.errors:
        rows = [[kind, f"{count:,}", result.said.get(kind, "")] for kind, count in result.errors.items()]
        parts.append(section("Errors", table(["kind", "requests", "the first said"], rows)))
    lines = [*bench_table.tokens(result), *bench_table.generator(result), *bench_table.notes(result)]
    parts.append(section("What else", table(["fact"], [[line] for line in lines])))
    return document(f"Mainspring bench: {heading[0]}", parts)


def _numbers(result: Result) -> list[tuple[str, str, str]]:
    found = [("Answered", f"{result.answered_per_second:.4g}/s", f"{result.answered:,} of {result.sent:,}")]
    for name, times in (("Latency", result.latency), ("First token", result.ttft)):
        if times is not None and times.p50.value is not None:
            unit, scale = bench_table.unit(times)
            p95 = bench_table.point(times.p95, scale)
            found.append((f"{name}, p50", f"{bench_table.number(times.p50.value, scale)} {unit}", f"p95 {p95} {unit}"))
    if result.tokens is not None and result.tokens.output:
        note = f"{result.tokens.prompt_per_second:.4g}/s in"
        found.append(("Tokens out", f"{result.tokens.output_per_second:.4g}/s", note))
    if result.goodput is not None:
        note = f"{result.goodput.share:.1%} kept all limits: {result.goodput.verdict}"
        found.append(("Goodput", f"{result.goodput.per_second:.4g}/s", note))
    failed = ", ".join(result.errors) or "none"
    found.append(("Failed", f"{result.failed:,}", failed))
    return found


def _columns(result: Result) -> tuple[Floats, Floats, Floats, Floats]:
    """When each answered request was due; its latency, its time once sent, its first piece (nan: none). Seconds."""
    seen = result.samples
    well = seen.kind == DONE
    due = seen.due[well]
    return due, seen.end[well] - due, (seen.end - seen.sent)[well], seen.first[well] - due


def _over_time(result: Result) -> str:
    """Latency by when requests were due: the median, the largest, and the median once sent."""
    due, latency, service, _ = _columns(result)
    title = "Latency over time, ms"
    if not len(due):
        return chart(title, svg.empty(title))
    edges = np.linspace(0.0, float(result.samples.due.max()) + 1e-9, BINS + 1)
    place = np.clip(np.searchsorted(edges, due, side="right") - 1, 0, BINS - 1)
    groups = [place == number for number in range(BINS)]
    middle, most, alone = ([_of(times, group, share) for group in groups]
                           for times, share in ((latency, 0.5), (latency, 1.0), (service, 0.5)))  # fmt: skip
    labels = [f"{edge:.3g}s" for edge in edges[:-1]]
    parts = [
        svg.Line("median", middle, "a", points=False),
        svg.Line("largest", most, "b", points=False),
        svg.Line("median once sent", alone, "c", points=False),
    ]
    return chart(title, svg.lines(title, labels, parts, log=True, every=8), _keys(parts))


def _of(times: Floats, group: np.ndarray, share: float) -> float | None:
    return float(np.quantile(times[group], share)) * 1e3 if group.any() else None


def _curves(result: Result) -> str:
    """Percentiles as curves, as far as the samples carry them."""
    _, latency, service, first = _columns(result)
    parts = [svg.Line("latency", _curve(latency), "a"), svg.Line("once sent", _curve(service), "c", points=False)]
    first = first[np.isfinite(first)]
    if len(first):
        parts.insert(1, svg.Line("first token", _curve(first), "b"))
    labels = [f"p{share * 100:g}" for share in CURVE]
    title = "Percentiles of what was answered, ms"
    return chart(title, svg.lines(title, labels, parts, log=True, every=2), _keys(parts))


def _curve(times: Floats) -> list[float | None]:
    carried = [ranks(len(times), share) is not None for share in CURVE]
    return [float(np.quantile(times, share)) * 1e3 if is_known else None
            for share, is_known in zip(CURVE, carried, strict=True)]  # fmt: skip


def _keys(parts: Sequence[svg.Line]) -> str:
    """Which line is which."""
    return "".join(f'<span class="key {part.style}">{escape(part.name)}</span>' for part in parts)


def _times(result: Result) -> str:
    rows = []
    for name, times in bench_table.rows(result):
        unit, scale = bench_table.unit(times)
        points = [bench_table.point(getattr(times, f"p{share * 100:.0f}"), scale) for share in SHARES]
        rows.append([f"{NAMES.get(name, name)}, {unit}", f"{times.samples:,}", *points, _most(times, scale)])
    return table(["time", "samples", "p50", "p95", "p99", "largest"], rows)


def _most(times: Quantiles, scale: float) -> str:
    return bench_table.number(times.largest, scale) + (" or more" if times.timed_out else "")
