"""The chat demo's report as one HTML file that works offline.

Who calls it: `mainspring demo chat`. What it must never do: show a figure that `report.json` does not have, or put
text into the page without escaping it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mainspring.cli.demo import chat_charts, chat_report
from mainspring.cli.demo.chat_report import BIN, percent, seconds
from mainspring.cli.frame import document, section, tiles

Report = Mapping[str, Any]
_STATE = {"promoted": "good", "refused": "bad", "given up": "bad"}


def page(report: Report) -> str:
    """Draw the report."""
    parts = [
        _head(report),
        section("What the users saw", _saw(report)),
        section("Versions, and the verdict of each gate", _versions(report)),
        section("What is shorter here than in the example", _shortened(report)),
    ]
    return document("Mainspring: chat", parts)


def _head(report: Report) -> str:
    failed = ", ".join(f"{n} x {code}" for code, n in report["errors"].items()) or "none"
    outcomes = [v["outcome"] for v in report["versions"]]
    ends = (
        "exactly one terminal event each" if report["one_terminal_event_each"] else "not each with one terminal event"
    )
    shown = [
        ("Requests", f"{report['requests']:,}", f"{report['rate']:g} a second, whatever happened"),
        ("Failed", str(report["failed"]), failed),
        ("Ended once", f"{report['terminal_events'].get('1', 0):,}", ends),
        ("First text, median", seconds(report["ttft_p50"]), f"95 of 100 within {seconds(report['ttft_p95'])}"),
        ("Prompt cached", percent(report["cached_share"]), f"of {report['prompt_tokens']:,} tokens"),
        ("Versions", str(len(outcomes)), f"{outcomes.count('promoted')} promoted, {outcomes.count('refused')} refused"),
    ]
    return (
        "<header><h1>Chat: what the users saw while it changed</h1><p>A small language model on two replicas behind one"
        " gateway. Settings that do better are rolled out by canary; settings that give a secret away are refused; a"
        f" replica is killed. The whole took {report['seconds']:.0f} s.</p></header>{tiles(shown)}"
    )


def _saw(report: Report) -> str:
    order = chat_charts.names(report)
    keys = "".join(
        f"<span style='margin-right:14px'><span style='color:{chat_charts.colour(n, order)}'>&#9632;</span>"
        f" version {escape(n)}</span>"
        for n in order
    )
    failed = "<span style='color:var(--bad)'>&#10005;</span> failed"
    if any("" in share["by_version"] for share in report["shares"]):
        keys += "<span style='margin-right:14px'><span style='color:var(--bad)'>&#9632;</span> no version</span>"
    told = " ".join(f"{line[:1].upper()}{line[1:]}." for line in chat_report.said(report))
    return (
        f"<p>{escape(told)}</p>"
        + _chart("Seconds from when a request was due to its first text", chat_charts.first_text(report), keys + failed)
        + _chart(
            f"Requests in each {BIN:.0f} s, by the version that answered", chat_charts.by_version(report, BIN), keys
        )
        + _events(report)
        + _phases(report)
    )


def _events(report: Report) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{number}</th>{_td('at', _at(m['at']))}{_td('what', m['what'], 'words')}</tr>"
        for number, m in enumerate(report["marks"], start=1)
    )
    table = _table("The numbers in the charts", ("", "at", "what"), rows)
    return f"<div style='max-width:720px'>{table}</div>"


def _at(value: float) -> str:
    return f"{value:.1f} s"


def _phases(report: Report) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(p['phase'])}</th>"
        + _td("from", f"{p['at']:.0f} s")
        + _td("requests", f"{p['requests']:,}")
        + _td("failed", str(p["failed"]))
        + _td("first text, median", seconds(p["ttft_p50"]))
        + _td("95 of 100", seconds(p["ttft_p95"]))
        + _td("prompt cached", percent(p["cached_share"]))
        + _td("answered by", ", ".join(f"version {n}: {c}" for n, c in p["by_version"].items()), "words")
        + "</tr>"
        for p in report["phases"]
    )
    names = ("phase", "from", "requests", "failed", "first text, median", "95 of 100", "prompt cached", "answered by")
    return _table("By phase", names, rows)


def _versions(report: Report) -> str:
    rows = []
    for v in report["versions"]:
        gates = "".join(
            f"<li class='{'good' if g['passed'] else 'bad'}'>{escape(str(g['message']))}</li>" for g in v["gates"]
        )
        outcome = f"<b class='pill {_STATE.get(v['outcome'], 'quiet')}'>{escape(v['outcome'])}</b>"
        rows.append(
            f"<tr><th scope='row'>{escape(v['version'])}</th>"
            + _td("outcome", outcome, "words", raw=True)
            + _td("why it was made", str(v["cause"]), "words")
            + "".join(_td(name, _score(v["evals"].get(name))) for name in _evals(report))
            + _td("answers", f"{v['answers']:,}")
            + _td("gates", f"<ul>{gates}</ul>", "words wide", raw=True)
            + "</tr>"
        )
    names = ("version", "outcome", "why it was made", *_evals(report), "answers", "gates")
    return _table("Every version that was judged", names, "".join(rows))


def _evals(report: Report) -> list[str]:
    return list(dict.fromkeys(name for v in report["versions"] for name in v["evals"]))


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _shortened(report: Report) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in report["shortened"])
    return f"<ul>{items}</ul>" if items else "<p>Nothing.</p>"


def _chart(title: str, drawn: str, key: str) -> str:
    return (
        f"<figure style='margin-bottom:16px'><figcaption>{escape(title)}</figcaption>{drawn}"
        f"<p class='keys'>{key}</p></figure>"
    )


def _table(caption: str, names: Sequence[str], rows: str) -> str:
    words = {"what", "outcome", "why it was made", "gates", "answered by", names[0]}
    head = "".join(f"<th scope='col' class='{'words' if n in words else ''}'>{escape(n)}</th>" for n in names)
    return (
        f"<table style='margin-bottom:24px'><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _td(name: str, value: str, style: str = "", *, raw: bool = False) -> str:
    shown = value if raw else escape(value)
    return f"<td data-name='{escape(name, quote=True)}' class='{style}'>{shown}</td>"
