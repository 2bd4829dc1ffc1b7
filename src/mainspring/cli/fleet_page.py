"""The answer of sizing as one HTML file that works offline: tiles, charts, tables.

What this is: rendering, pure. Who calls it: `fleet.py`. What it must never do: show a figure that the answer does not
have, or put text into the page without escaping it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mainspring.cli import frame, svg
from mainspring.cli.fleet_table import asks, money, rests, seconds, short, shown, span, verdict, why
from mainspring.cli.frame import chart, document, section, tiles
from mainspring.sizing import words
from mainspring.sizing.answer import Answer
from mainspring.sizing.fleet import Fleets, Load
from mainspring.sizing.sensitivity import Row


def page(stack: str, fleets: Fleets) -> str:
    """The whole page."""
    parts = [_head(stack, fleets)]
    if len(fleets.answers) > 1:
        parts.append(section("The endpoints", _overview(fleets)))
    if fleets.levers is not None:
        parts.append(section("What each lever saves", _levers(fleets)))
    for answer in fleets.answers:
        name = answer.question.demand.endpoint
        body = _endpoint(answer, fleets.loads.get(name, ()))
        if len(fleets.answers) > 1:
            body = f"<details><summary>{escape(verdict(answer))}</summary>{body}</details>"
        parts.append(f"<section><h2>{escape(name)}</h2>{body}</section>")
    return document(f"Mainspring plan: {stack}", parts)


def _overview(fleets: Fleets) -> str:
    rows = []
    for answer in fleets.answers:
        written, best = answer.written, answer.best
        rows.append(
            [
                answer.question.demand.endpoint,
                short(written.judged.replicas, written.judged.written.way) if written else "",
                words.dollars(written.paid.bill.devices) if written else "",
                verdict(answer),
                short(best.fleet.replicas, best.fleet.way) if best else "nothing will do",
                words.dollars(best.fleet.dollars) if best else "",
            ]
        )
    head = ["endpoint", "as written", "$ a month", "verdict", "the cheapest that will do", "$ a month of its parts"]
    checks = [[f"{'✓' if check.met else '✗'} {check.says}"] for check in fleets.shared]
    return frame.table(head, rows, "") + (frame.table(["finding"], checks, "Pools that are shared") if checks else "")


def _head(stack: str, fleets: Fleets) -> str:
    met = sum(answer.met for answer in fleets.answers)
    shown_first = [("Endpoints", f"{len(fleets.answers)}", f"{met} meet their objective as written")]
    if fleets.written is not None:
        shown_first.append(("As written", f"{words.dollars(fleets.written)}", "a month, fixed costs included"))
    if fleets.enough is not None:
        shown_first.append(("Enough", f"{words.dollars(fleets.enough)}", "a month, fixed costs included"))
    return (
        f"<header><h1>{escape(stack)}: what the fleet will do and cost</h1><p>Forecasts, with the interval that each "
        f"admits and what it rests on. Nothing here was run.</p></header>{tiles(shown_first)}"
    )


def _endpoint(answer: Answer, loads: Sequence[Load]) -> str:
    parts = [tiles(_numbers(answer))]
    charts = [_costs(answer), _latency(answer, loads), _changes(answer)]
    parts.append(f'<div class="charts">{"".join(chart for chart in charts if chart)}</div>')
    if answer.written is not None:
        judged = answer.written.judged
        rows = [[("✓ " if check.met else "✗ ") + check.name, check.says] for check in judged.checks]
        parts.append(frame.table(["need", "finding"], rows, "The fleet as written"))
    parts.append(_fleets(answer))
    for audit in answer.audits:
        rows = [[finding.code, finding.says] for finding in audit.findings]
        parts.append(frame.table(["what", "finding"], rows, f"Quoted: {words.dollars(audit.quoted)} a month"))
    if answer.soak is not None:
        says = [[line] for line in answer.soak.says()]
        parts.append(frame.table(["finding"], says, "What the canary can say"))
    parts.append(frame.table(["basis"], [[line] for line in rests(answer)], "What this rests on"))
    return "".join(parts)


def _numbers(answer: Answer) -> list[tuple[str, str, str]]:
    found = []
    if answer.written is not None:
        judged, paid = answer.written.judged, answer.written.paid
        short = "meets its objective" if judged.meets else "misses its objective"
        found.append(("As written", short, f"{verdict(answer)}. {judged.binds.says}"))
        found.append(("A month, as written", words.dollars(paid.bill.total), money(paid.bill)))
        used = f"{words.count(judged.devices, judged.written.way.unit)} bought"
        found.append(("In use", f"{judged.in_use:g}", used))
        if answer.written.peak is not None:
            seen = answer.written.peak
            found.append(("p95 at the peak", seconds(seen.p95.value), f"{span(seen.p95)}, {seen.basis}"))
    if answer.best is not None:
        fleet = answer.best.fleet
        devices = words.count(fleet.devices, fleet.way.unit)
        found.append(("Cheapest that will do", words.dollars(fleet.dollars), f"{devices}: {fleet.way}"))
    elif answer.impossible is not None:
        found.append(("Nothing will do", "", answer.impossible.why))
    return found


def _costs(answer: Answer) -> str:
    labels, values = [], []
    if answer.written is not None:
        labels.append("written")
        values.append(answer.written.paid.bill.devices)
    for audit in answer.audits:
        labels.append("quoted")
        values.append(audit.quoted)
    for number, one in enumerate(shown(answer)[:5], start=1):
        labels.append(f"no. {number}")
        values.append(one.fleet.dollars)
    if not values:
        return ""
    return chart("Dollars a month, devices alone", svg.bars("Dollars a month", labels, values))


def _latency(answer: Answer, loads: Sequence[Load]) -> str:
    if not loads:
        return ""
    labels = [f"{load.rate:.3g}" for load in loads]
    lines = [
        svg.Line("p95", [load.response.p95.value for load in loads], "a"),
        svg.Line("its upper end", [load.response.p95.high for load in loads], "c", points=False),
        svg.Line("p50", [load.response.p50.value for load in loads], "b"),
    ]
    limit = answer.question.promise.p95
    if limit is not None:
        lines.append(svg.Line("promised p95", [limit] * len(loads), "c", points=False))
    title = "Seconds of a whole request, by requests/s at one replica"
    drawn = svg.lines(title, labels, lines, every=max(1, len(labels) // 6))
    keys = "".join(f'<span class="key {line.style}">{escape(line.name)}</span>' for line in lines)
    promised = f" (promised: {words.seconds(limit)})" if limit else ""
    return chart(title + promised, drawn, keys)


def _changes(answer: Answer) -> str:
    """A chart for each factor: the cheapest fleet at each of its settings."""
    charts = []
    for factor in dict.fromkeys(row.factor for row in answer.rows):
        rows = [row for row in answer.rows if row.factor == factor]
        known = [row for row in rows if row.dollars is not None]
        bars = [(row.times or 0.0, _label(row), row.dollars or 0.0) for row in known]
        if answer.best is not None and factor != "precision":
            bars = sorted([*bars, (1.0, "x1", answer.best.fleet.dollars)])
        title = f"If {factor} changes: the cheapest, dollars a month"
        missing = [row.setting for row in rows if row.dollars is None]
        title += f" (nothing will do at {', '.join(missing)})" if missing else ""
        if known:
            labels, values = [label for _, label, _ in bars], [value for *_, value in bars]
            charts.append(chart(title, svg.bars(title, labels, values)))
    return "".join(charts)


def _label(row: Row) -> str:
    return row.setting.split(" ")[0] if row.times is None else f"x{row.times:g}"


def _fleets(answer: Answer) -> str:
    rows = []
    for sized in shown(answer):
        fleet, seen = sized.fleet, sized.peak
        p95 = span(seen.p95) if seen else ""
        cost = words.dollars(fleet.dollars)
        count = f"{fleet.replicas} = {words.count(fleet.devices, fleet.way.unit)}"
        rows.append([str(fleet.way), count, cost, p95, asks(sized), why(answer, sized)])
    head = ["fleet", "replicas", "$ a month", "p95 at the peak", "asks", "why"]
    table = frame.table(head, rows, "What is enough") if rows else ""
    lost = [[str(one.way), one.why] for one in answer.ranking.refused]
    if not lost:
        return table
    rest = frame.table(["way", "why"], lost, f"{len(lost)} ways that will not do")
    return f"{table}<details><summary>{len(lost)} ways that will not do</summary>{rest}</details><br>"


def _levers(fleets: Fleets) -> str:
    assert fleets.levers is not None
    rows = [
        [row.lever, words.dollars(row.alone), words.dollars(row.on_top), words.dollars(row.total)]
        for row in fleets.levers.rows
    ]
    head = ["lever", "saves alone, $ a month", "saves on top of those before", "bill after it"]
    table = frame.table(head, rows, f"Of {words.dollars(fleets.levers.base)} a month")
    labels = ["written", *(row.lever.replace("right-size", "size") for row in fleets.levers.rows)]
    values = [fleets.levers.base, *(row.total for row in fleets.levers.rows)]
    return chart("The bill after each lever", svg.bars("The bill after each lever", labels, values)) + table
