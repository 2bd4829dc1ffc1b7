"""The report as one HTML file that works offline: no script, no reference to anything outside, light and dark.

Who calls it: `mainspring demo flights`. What it must never do: show a figure that `report.json` does not have, or
put text into the page without escaping it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from mainspring.cli import svg
from mainspring.cli.frame import document, section, tiles

Report = Mapping[str, Any]
_OUTCOMES = {"promoted": "good", "refused": "bad", "given up": "bad", "under way": "quiet"}
_VERDICTS = {
    "better": "clearly better than the frozen model",
    "worse": "clearly worse than the frozen model",
    "no clear difference": "no clear difference",
    "same model": "the frozen model itself was live",
    "unknown": "unknown: no outcomes",
}


def page(report: Report) -> str:
    """Draw the report."""
    parts = [
        _head(report),
        section("Did retraining help?", _helped(report)),
        section("Drift, against each feature's own calibrated threshold", _drift(report)),
        section("Versions, and the verdict of each gate", _versions(report)),
        section("Requests and cost", _requests(report)),
    ]
    return document(f"Mainspring: {report['title']}", parts)


def _head(report: Report) -> str:
    live, frozen = report["live"], report["frozen"]
    months = report["months"]
    span = f"{_month(months[0]['month'])} to {_month(months[-1]['month'])}" if months else "no requests yet"
    per = f"{_dollars(report['cost_per_1000_predictions_usd'])} per 1000 predictions"
    shown = [
        ("Requests", f"{report['requests']:,}", f"{report['errors']:,} failed, {report['retries']:,} sent again"),
        ("AUC, live", _number(live["auc"], 4), f"frozen model {_number(frozen['auc'], 4)}"),
        ("Brier, live (lower is better)", _number(live["brier"], 4), f"frozen model {_number(frozen['brier'], 4)}"),
        ("Retrainings", str(report["retrainings"]), _counts(report)),
        ("Cost", _dollars(report["cost_usd"]), per),
        ("Time", f"{report['seconds']:,.0f} s", _latency(report)),
    ]
    return (
        f"<header><h1>{escape(str(report['title']).capitalize())}: what the loop did</h1>"
        f"<p>{escape(span)}, in event time. The live model was whichever version the loop had chosen; the frozen"
        " model is the first version, scored on the same requests."
        f"</p></header>{tiles(shown)}"
    )


def _counts(report: Report) -> str:
    given_up = f", {report['given_up']} given up in rollout" if report["given_up"] else ""
    failed = f", {report['failed_runs']} failed" if report["failed_runs"] else ""
    return f"{report['promoted']} promoted, {report['refused']} refused{given_up}{failed}"


def _latency(report: Report) -> str:
    p95 = report["p95_seconds"]
    return "latency unknown" if p95 is None else f"95 of 100 answers within {p95 * 1e3:.1f} ms"


def _helped(report: Report) -> str:
    months = report["months"]
    labels = [_month(m["month"])[:3] for m in months]
    base = svg.Line("always saying the month's own rate", [m["base_brier"] for m in months], "c", points=False)
    brier = [base, *_both(months, "brier")]
    gap = [m["brier_difference"] for m in months]
    styles = {"better": "good", "worse": "bad"}
    drawn = svg.intervals(
        "Brier, live minus frozen, by month",
        labels,
        ([g["mean"] for g in gap], [g["low"] for g in gap], [g["high"] for g in gap]),
        [styles.get(m["verdict"], "quiet") for m in months],
    )
    return (
        f"<p>{escape(_plainly(report))}</p><div class='charts'>"
        + _chart("AUC by month (higher is better)", svg.lines("AUC by month", labels, _both(months, "auc")), _TWO)
        + _chart("Brier by month (lower is better)", svg.lines("Brier by month", labels, brier), _THREE)
        + _chart("Brier, live minus frozen (under nought: it helped)", drawn, _GAP)
        + _quality(report)
        + "</div>"
        + _months(months)
    )


def _quality(report: Report) -> str:
    """Brier skill at each look, as the quality watches saw it."""
    out = []
    for watch in dict.fromkeys(look["watch"] for look in report["quality"]):
        looks = [look for look in report["quality"] if look["watch"] == watch]
        labels = [_day(look["at"]) for look in looks]
        line = svg.Line("Brier skill", [k["value"] for k in looks], "a", [bool(k["fired"]) for k in looks])
        drawn = svg.lines("Brier skill at each look", labels, [line], every=max(1, len(labels) // 5))
        key = "<span class='key a'>1 minus Brier / Brier of the own rate</span><span class='key fired'>fired</span>"
        out.append(_chart(f"Quality watch `{watch}`: skill of the live answers", drawn, key))
    return "".join(out)


def _both(months: Sequence[Report], metric: str) -> list[svg.Line]:
    return [
        svg.Line(name, [m[name][metric] for m in months], style) for name, style in (("live", "a"), ("frozen", "b"))
    ]


_TWO = "<span class='key a'>live</span><span class='key b'>frozen</span>"
_THREE = _TWO + "<span class='key c'>always saying the month's own rate</span>"
_GAP = (
    "<span class='key good'>clearly better</span><span class='key bad'>clearly worse</span>"
    "<span class='key quiet'>not clear</span> 95 % intervals, whole days resampled"
)


def _plainly(report: Report) -> str:
    """The answer in words, with what did not work first-class."""
    by: dict[str, list[str]] = {}
    for month in report["months"]:
        by.setdefault(month["verdict"], []).append(_month(month["month"]))
    said = []
    if by.get("better"):
        said.append(f"Yes, clearly, in {_and(by['better'])}.")
    else:
        said.append("In no month clearly.")
    if by.get("worse"):
        said.append(f"It made things clearly worse in {_and(by['worse'])}.")
    if by.get("no clear difference"):
        said.append(f"It did not clearly help in {_and(by['no clear difference'])}.")
    if by.get("same model"):
        said.append(f"In {_and(by['same model'])} the first version was still the live one.")
    lost = [_month(m["month"]) for m in report["months"] if (m["brier_difference"]["mean"] or 0) > 1e-6]
    if lost:
        said.append(f"By the mean alone, Brier was worse than the frozen model's in {_and(lost)}.")
    return " ".join(said)


def _months(months: Sequence[Report]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(_month(m['month']))}</th>"
        + _td("requests", f"{m['requests']:,}")
        + _td("late", _percent(m["rate"]))
        + _td("AUC live", _number(m["live"]["auc"], 3))
        + _td("AUC frozen", _number(m["frozen"]["auc"], 3))
        + _td("Brier live", _number(m["live"]["brier"], 4))
        + _td("Brier frozen", _number(m["frozen"]["brier"], 4))
        + _td("live is", _VERDICTS[m["verdict"]], "words")
        + "</tr>"
        for m in months
    )
    names = ("month", "requests", "late", "AUC live", "AUC frozen", "Brier live", "Brier frozen", "live is")
    return _table("The figures by month", names, rows)


def _drift(report: Report) -> str:
    if not report["drift"]:
        return "<p>Nothing was looked at yet.</p>"
    out = []
    for series in report["drift"]:
        looks = series["looks"]
        labels = [_day(look["at"]) for look in looks]
        marks = [bool(look["fired"]) for look in looks]
        value = svg.Line("drift (PSI)", [_seen(look["value"]) for look in looks], "a", marks)
        bound = svg.Line("threshold", [look["threshold"] for look in looks], "b", points=False)
        every = max(1, len(labels) // 5)
        drawn = svg.lines(f"Drift of {series['feature']}", labels, [bound, value], log=True, every=every)
        fired = sum(marks)
        key = "<span class='key a'>PSI</span><span class='key b'>threshold</span><span class='key fired'>fired</span>"
        out.append(_chart(f"{series['feature']}: fired in {fired} of {len(looks)} looks", drawn, key))
    note = (
        "A threshold comes from windows inside the live version's own training rows, and moves when another version"
        " becomes the champion. The usual rule (PSI over 0.25) would have fired at "
        f"{_usual(report)}. The scale is logarithmic."
    )
    return f"<p>{escape(note)}</p><div class='charts'>{''.join(out)}</div>"


def _seen(value: float | None) -> float | None:
    return None if value is None else max(value, 1e-3)


def _usual(report: Report) -> str:
    looks = [look for series in report["drift"] if series["feature"] != "score" for look in series["looks"]]
    values = [look["value"] for look in looks if look["value"] is not None]
    return f"{sum(v > 0.25 for v in values)} of {len(values)} looks at these features"


def _versions(report: Report) -> str:
    rows = []
    for v in report["versions"]:
        state = _OUTCOMES.get(v["outcome"], "quiet")
        gates = "".join(
            f"<li class='{'good' if g['passed'] else 'bad'}'>{escape(str(g['message']))}</li>" for g in v["gates"]
        )
        if v["rollout"]:
            gates += f"<li class='bad'>{escape(v['rollout'])}</li>"
        rows.append(
            f"<tr><th scope='row'>{escape(v['version'])}</th>"
            + _td("outcome", f"<b class='pill {state}'>{escape(v['outcome'])}</b>", "words", raw=True)
            + _td("why it was made", v["cause"], "words")
            + _td("rows until", v["data_until"][:10], "day")
            + _td("champion from", (v["champion_from"] or "never")[:10], "day")
            + _td("answers", f"{v['answers']:,}")
            + _td("gates", f"<ul>{gates}</ul>" if gates else escape(str(v["verdict"])), "words wide", raw=True)
            + "</tr>"
        )
    names = ("version", "outcome", "why it was made", "rows until", "champion from", "answers", "gates")
    return _strip(report) + _table("Every version that was judged", names, "".join(rows))


def _strip(report: Report) -> str:
    """Which version was the champion when, as a strip of time."""
    champions = sorted((v["champion_from"][:10], v["version"]) for v in report["versions"] if v["champion_from"])
    months = report["months"]
    if not champions or not months:
        return ""
    begin = date.fromisoformat(f"{months[0]['month']}-01").toordinal()
    end = date.fromisoformat(f"{months[-1]['month']}-01").toordinal() + 31
    starts = [max(begin, date.fromisoformat(day).toordinal()) for day, _ in champions]
    spans = [(v, s, e) for (_, v), s, e in zip(champions, starts, [*starts[1:], end], strict=True) if e > s]
    marks = [(date.fromisoformat(f"{m['month']}-01").toordinal(), _month(m["month"])[:3]) for m in months]
    drawn = svg.strip("The champion", spans, marks, (begin, end))
    return f"<figure class='strip'><figcaption>The champion, by version</figcaption>{drawn}</figure>"


def _requests(report: Report) -> str:
    months = report["months"]
    labels = [_month(m["month"])[:3] for m in months]
    drawn = svg.bars("Requests by month", labels, [float(m["requests"]) for m in months])
    rows = "".join(
        f"<tr><th scope='row'>{escape(c['what'])}</th>"
        + _td("compute", f"{c['seconds']:,.1f} s")
        + _td("cost", _dollars(c["usd"]))
        + "</tr>"
        for c in report["costs"]
    )
    total = _td("compute", "") + _td("cost", _dollars(report["cost_usd"]))
    rows += f"<tr class='total'><th scope='row'>all</th>{total}</tr>"
    chart = _chart("Requests by month", drawn, "")
    return f"<div class='charts'>{chart}<div>{_table('What it cost', ('what', 'compute', 'cost'), rows)}</div></div>"


def _chart(title: str, drawn: str, key: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}<p class='keys'>{key}</p></figure>"


def _table(caption: str, names: Sequence[str], rows: str) -> str:
    words = {"live is", "outcome", "why it was made", "gates", names[0]}
    head = "".join(f"<th scope='col' class='{'words' if n in words else ''}'>{escape(n)}</th>" for n in names)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _td(name: str, value: str, style: str = "", *, raw: bool = False) -> str:
    return f"<td data-name='{escape(name, quote=True)}' class='{style}'>{value if raw else escape(value)}</td>"


def _number(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _dollars(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}" if value >= 0.001 else f"${value:.2g}" if value else "$0"


def _month(text: str) -> str:
    return date.fromisoformat(f"{text}-01").strftime("%B") if len(text) == 7 else text


def _day(text: str) -> str:
    moment = date.fromisoformat(text)
    return f"{moment.day} {moment:%b}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
