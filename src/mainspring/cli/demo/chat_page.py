"""The chat demo's report as one HTML file that works offline.

Who calls it: `mainspring demo chat`. What it must never do: show a figure that `report.json` does not have, or put
text into the page without escaping it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mainspring.cli.demo import chat_charts, chat_report, chat_scaled
from mainspring.cli.demo.chat_numbers import count, dollars, percent, seconds
from mainspring.cli.demo.chat_report import BIN
from mainspring.cli.frame import document, section, tiles

Report = Mapping[str, Any]
_STATE = {"promoted": "good", "refused": "bad", "given up": "bad"}


def page(report: Report) -> str:
    """Draw the report."""
    parts = [
        _head(report),
        section("What the users saw", _saw(report)),
        section("Who asked, and what it cost", _tenants(report)),
        section("How many replicas there were, and why", _scalings(report)),
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
    held = ", ".join(f"of {t['tenant']}" for t in report["tenants"] if t["refused"]) or "none"
    shown = [
        ("Requests", f"{report['requests']:,}", f"{report['rate']:g} a second of the shop's users, and the students'"),
        ("Refused (429)", f"{report['refused']:,}", held),
        ("Failed", str(report["failed"]), failed),
        ("Ended once", f"{report['terminal_events'].get('1', 0):,}", ends),
        ("First text, median", seconds(report["ttft_p50"]), f"95 of 100 within {seconds(report['ttft_p95'])}"),
        ("From zero", *_from_zero(report)),
        ("Prompt cached", percent(report["cached_share"]), f"of {report['prompt_tokens']:,} tokens"),
        ("Versions", str(len(outcomes)), f"{outcomes.count('promoted')} promoted, {outcomes.count('refused')} refused"),
        ("Cost", dollars(report["bill"]["dollars"]), "idle time and the making of versions included"),
    ]
    return (
        "<header><h1>Chat: what the users saw while it changed</h1><p>A small language model behind one gateway, with"
        " as many replicas as the load asks for. The first request finds none. A class of students asks many times what"
        " it may and is held back; a second replica comes; one is killed. Settings that do better are rolled out by"
        " canary; settings that give a secret away are refused. Then nobody asks, until somebody does."
        f" The whole took {report['seconds']:.0f} s.</p></header>{tiles(shown)}"
    )


def _from_zero(report: Report) -> tuple[str, str]:
    """The longest wait for a first text while no replica was there, and how long they took to load."""
    waited = [p["ttft_p50"] for p in report["phases"] if p["phase"].startswith("from zero") and p["ttft_p50"]]
    loaded = [one["loaded"] for one in report["scalings"] if one["from"] == 0 and one["loaded"] is not None]
    what = f"{len(waited)} first texts, with {seconds(max(loaded))} to load" if loaded else "nobody saw it load"
    return seconds(max(waited, default=None)), what


def _saw(report: Report) -> str:
    order = chat_charts.names(report)
    keys = "".join(_key(chat_charts.colour(n, order), f"version {n}") for n in order)
    bars = keys + (_key(chat_charts.HELD_BACK, "refused (429)") if report["refused"] else "")
    if any("" in share["by_version"] for share in report["shares"]):
        bars += _key(chat_charts.NONE, "no version")
    points = keys + "".join(
        _key(chat_charts.COLOURS[0], f"of {t['tenant']}", "&#9679;" if i == 0 else "&#9675;")
        for i, t in enumerate(report["tenants"])
    )
    points += _key(chat_charts.HELD_BACK, "refused (429)", "|") if report["refused"] else ""
    points += _key(chat_charts.NONE, "failed", "&#10005;")
    changes = _key("var(--good)", "more are asked for", "&#9650;") + _key("var(--b)", "fewer are", "&#9660;")
    inside = _key("var(--b)", "held at the gateway") + _key("var(--a)", "with replicas")
    told = " ".join(f"{line[:1].upper()}{line[1:]}." for line in chat_report.said(report))
    return (
        f"<p>{escape(told)}</p>"
        + _chart("Seconds from when a request was due to its first text", chat_charts.first_text(report), points)
        + _chart(
            f"Requests in each {BIN:.0f} s, by the version that answered", chat_charts.by_version(report, BIN), bars
        )
        + _chart("Replicas that answer, of all versions together", chat_charts.replicas(report), changes)
        + _chart("Requests inside", chat_charts.inside(report), inside)
        + _events(report)
        + _phases(report)
    )


def _key(colour: str, text: str, sign: str = "&#9632;") -> str:
    return (
        f"<span style='margin-right:14px;white-space:nowrap'><span style='color:{colour}'>{sign}</span>"
        f" {escape(text)}</span> "
    )


def _tenants(report: Report) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(t['tenant'])}</th>"
        + _td("requests", count(t["requests"]))
        + _td("answered", count(t["answered"]))
        + _td("refused (429)", count(t["refused"]))
        + _td("failed", count(t["failed"]))
        + _td("first text, median", seconds(t["ttft_p50"]))
        + _td("95 of 100", seconds(t["ttft_p95"]))
        + _td("tokens, as users saw", count(t["prompt"] + t["output"]))
        + _td("tokens, metered", count(_tokens(t["metered"])))
        + _td("why refused", ", ".join(f"{n} x {code}" for code, n in t["refusals"].items()) or "-", "words")
        + "</tr>"
        for t in report["tenants"]
    )
    names = ("tenant", "requests", "answered", "refused (429)", "failed", "first text, median", "95 of 100",
             "tokens, as users saw", "tokens, metered", "why refused")  # fmt: skip
    return _notes(report) + _table("By tenant", names, rows) + _bill(report)


def _tokens(metered: Mapping[str, Any] | None) -> int | None:
    return None if metered is None else metered["prompt"] + metered["output"]


def _notes(report: Report) -> str:
    notes = []
    for t in report["tenants"]:
        if t["retry_after"]:
            least, most = f"{t['retry_after']['least']:g}", f"{t['retry_after']['most']:g}"
            when = f"{least} s" if least == most else f"{least} to {most} s"
            notes.append(f"`Retry-After` told {t['tenant']} to come back in {when}.")
    broken = [t for t in report["tenants"] if t["metered"] and t["metered"]["estimated"]]
    if broken:
        whose = ", ".join(f"{t['metered']['estimated']} of {t['tenant']}" for t in broken)
        notes.append(f"Answers that broke off, and so said no usage: {whose}. What was sent of them is metered.")
    return f"<p>{escape(' '.join(notes))}</p>" if notes else ""


def _bill(report: Report) -> str:
    given = report["bill"]
    if not given["rows"]:
        return "<p>Nothing is known of the cost.</p>"
    rows = "".join(
        f"<tr><th scope='row'>{escape(row['what'])}</th>"
        + _td("requests", count(row["requests"]))
        + _td("tokens", count(row["tokens"]))
        + _td("core seconds", f"{row['seconds']:,.1f}")
        + _td("dollars", dollars(row["dollars"]))
        + "</tr>"
        for row in given["rows"]
    )
    total = "".join(_td(name, "") for name in ("requests", "tokens", "core seconds"))
    rows += f"<tr class='total'><th scope='row'>sum</th>{total}{_td('dollars', dollars(given['dollars']))}</tr>"
    node = ""
    if given["node"]:
        node = f" The machine had cost {dollars(given['node'][0])} just before, and {dollars(given['node'][1])} after."
    table = _table("What the machine's time went into", ("what", "requests", "tokens", "core seconds", "dollars"), rows)
    return f"{table}<p>{escape('The parts add up to what the machine costs.' + node)}</p>"


def _scalings(report: Report) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{_at(one['at'])}</th>"
        + _td("from, to", f"{one['from']} → {one['to']}")
        + _td("why", str(one["why"]), "words")
        + _td("answered after", seconds(one["loaded"]))
        + "</tr>"
        for one in report["scalings"]
    )
    zeros = [one for one in report["scalings"] if one["from"] == 0]
    said = " ".join(f"{chat_scaled.told(one)}." for one in zeros)
    head = f"<p>{escape('From zero: ' + said)}</p>" if zeros else ""
    return head + _table("The loop's own events", ("at", "from, to", "why", "answered after"), rows)


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
        + _td("tenant", p["tenant"], "words")
        + _td("from", f"{p['at']:.0f} s")
        + _td("requests", f"{p['requests']:,}")
        + _td("refused", str(p["refused"]))
        + _td("failed", str(p["failed"]))
        + _td("first text, median", seconds(p["ttft_p50"]))
        + _td("95 of 100", seconds(p["ttft_p95"]))
        + _td("prompt cached", percent(p["cached_share"]))
        + _td("answered by", ", ".join(f"version {n}: {c}" for n, c in p["by_version"].items()), "words")
        + "</tr>"
        for p in report["phases"]
    )
    names = ("phase", "tenant", "from", "requests", "refused", "failed", "first text, median", "95 of 100",
             "prompt cached", "answered by")  # fmt: skip
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
    words = {"what", "outcome", "why it was made", "gates", "answered by", "why refused", "why", "tenant", names[0]}
    head = "".join(f"<th scope='col' class='{'words' if n in words else ''}'>{escape(n)}</th>" for n in names)
    return (
        f"<table style='margin-bottom:24px'><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _td(name: str, value: str, style: str = "", *, raw: bool = False) -> str:
    shown = value if raw else escape(value)
    return f"<td data-name='{escape(name, quote=True)}' class='{style}'>{shown}</td>"
