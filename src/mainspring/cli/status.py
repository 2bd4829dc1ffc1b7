"""`mainspring status`: the loop at a glance, in 80 columns.

What this is: one call and a page of text. Who calls it: `cli/main.py`; `up` shows the same page while it watches.
What it must never do: import anything heavy: it answers within 600 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import click

from mainspring.cli.client import Client
from mainspring.cli.output import WIDTH, Column, Options, cell, emit, pass_options, state, table

Json = Mapping[str, Any]


@click.command()
@pass_options
def status(options: Options) -> None:
    """Show the loop at a glance: what answers, what is tried, made, watched, spent and waited for."""
    told = Client(options.state).get("/v1/status")
    if options.output != "table":
        emit(told, options.output)
        return
    click.echo(page(told, color=options.color))


def page(told: Json, *, color: bool = False, events: int = 5) -> str:
    """A status as text."""
    parts = [_head(told), _endpoints(told, color), _spoken(told), _pipelines(told, color), _watches(told, color)]
    parts.append(_cost(told))
    glyph = state("waiting", " ", color=color).rstrip()
    waiting = [_wrapped(f"  {glyph} {w['what']}: {w['why']}") for w in told["waiting"]]
    parts.append("\n".join(["WAITING", *waiting]) if waiting else "")
    bad = [_wrapped(f"  {state('bad', c['about'], color=color)}: {c['message']}") for c in _failing(told)]
    parts.append("\n".join(["TROUBLE", *bad]) if bad else "")
    happened = [_cut(f"  {moment(e['last'])}  {e['message']}{times(e)}") for e in told["events"][:events]]
    parts.append("\n".join(["EVENTS", *happened]) if happened else "")
    return "\n\n".join(part for part in parts if part)


def moment(at: float | None) -> str:
    """Event time, in UTC."""
    if at is None:
        return "<none>"
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M")


def length(seconds: float | None) -> str:
    """Seconds as a person says them: `3d 4h`, `20m`, `5s`."""
    if seconds is None:
        return "<none>"
    for unit, size, below, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            rest = int(seconds % size // small)
            return f"{int(seconds // size)}{unit}" + (f" {rest}{below}" if rest else "")
    return f"{seconds:.0f}s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.0f}ms"


def times(event: Json) -> str:
    """How often something was said that a person should know of."""
    again = event["count"] > 1 and event["level"] != "info"  # what goes well is said anew in each cycle
    return f" (x{event['count']})" if again else ""


def _cut(line: str, width: int = WIDTH) -> str:
    text = " ".join(line.split("\n"))
    plain = len(click.unstyle(text))
    return text if plain <= width else f"{text[: width - 1 + len(text) - plain]}…"


def _wrapped(line: str, width: int = WIDTH) -> str:
    """A line that ends with what to do next, which must not be cut off."""
    lines, words = [""], line.strip().split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and len(click.unstyle(longer)) > width - 4:
            lines.append(word)
        else:
            lines[-1] = longer
    return "  " + "\n    ".join(lines)


def _failing(told: Json) -> Iterator[Json]:
    for condition in told["conditions"]:
        if condition["status"] == "false" and not condition["about"].startswith(("drift/", "quality/")):
            yield condition


def _head(told: Json) -> str:
    clock = told["clock"]
    when = f"replay at {moment(clock['now'])} UTC" if clock["kind"] == "replay" else f"{moment(clock['now'])} UTC"
    mood = "going down" if told["down"] else "quiet" if told["quiet"] else "at work"
    address = told["gateway"]["address"]
    gateway = f"http://{address}" if address else "<none yet>"
    first = f"{told['stack']['name']} · control: {told['control']} · {when} · {mood}"
    return f"{_cut(first)}\ngateway {gateway}"


def _endpoints(told: Json, color: bool) -> str:
    rows = []
    for endpoint in told["endpoints"]:
        well = endpoint["ready"] or endpoint["at_zero"]
        says = "ready" if endpoint["ready"] else "at zero" if endpoint["at_zero"] else "not ready"
        row = {"endpoint": endpoint["name"], "state": state("ok" if well else "waiting", says)}
        row |= {"version": "<none>", "traffic": "<none>", "replicas": "<none>", "stage": " "}
        for number, revision in enumerate(endpoint["revisions"]):
            mine = {"version": revision["label"], "traffic": _traffic(revision)}
            mine["replicas"] = f"{len(revision['replicas'])}/{_wanted(endpoint, revision['name'])}"
            mine["stage"] = _stage(endpoint["rollout"], revision["label"])
            rows.append(row | mine if number == 0 else {**dict.fromkeys(row, " "), **mine})
        if not endpoint["revisions"]:
            rows.append(row)
    if not rows:
        return ""
    del color  # a table is cut by columns, so it stays plain
    shown = table(rows, ["endpoint", "state", "version", "traffic", "replicas", ("rollout", "stage")])
    return "\n".join([shown, *_loads(told)])


def _traffic(revision: Json) -> str:
    """The share of a revision: of copies, of one region's requests, or of all."""
    if revision["mirror"]:
        return f"mirror {revision['mirror']:.0%}"
    own = {region: share for region, share in revision["regional"].items() if share != revision["share"]}
    apart = ", ".join(f"{region} {share:.0%}" for region, share in own.items())
    return f"{revision['share']:.0%}" + (f" ({apart})" if apart else "")


def _wanted(endpoint: Json, revision: str) -> int:
    """Replicas that a revision is to have; while one is rolled out, the two share them out."""
    arms = endpoint["rollout"]["arms"] if endpoint["rollout"] else ()
    wanted: int = next((arm["wanted"] for arm in arms if arm["name"] == revision), endpoint["replicas_wanted"])
    return wanted


def _loads(told: Json) -> Iterator[str]:
    """Of endpoints whose replicas follow the load: what the load is, and why there are so many."""
    why = {c["about"]: c["message"] for c in told["conditions"] if c["type"] == "Scales"}
    for endpoint in told["endpoints"]:
        said = why.get(f"endpoint/{endpoint['name']}")
        if said is not None:
            yield _cut(f"  {endpoint['name']} scales in {endpoint['replicas_range']}: {said}")


def _spoken(told: Json) -> str:
    """What language models said since the beginning: shares and times, a line for each version."""
    rows = []
    for one in told["spoken"]:
        name = one["revision"] if one["role"] == "live" else f"{one['revision']} (mirror)"
        row = {"spoken": name, "answers": one["answers"], "tokens in": one["prompt"], "out": one["output"]}
        row["cached"] = f"{one['cached'] / one['prompt']:.0%}" if one["prompt"] else " "
        row["guessed"] = f"{one['accepted'] / one['drafted']:.0%}" if one["drafted"] else " "
        edges = [one["first_p50"], one["first_p95"]]
        row["first token"] = " / ".join(f"<{length(edge)}" for edge in edges) if edges[0] is not None else " "
        row["cut"] = one["cut"]
        rows.append(row)
    first: Column = ("first token p50/p95", "first token")
    columns: list[Column] = ["spoken", "answers", "tokens in", "out", "cached", "guessed", first, "cut"]
    return table(rows, columns) if rows else ""


def _stage(rollout: Json | None, version: str) -> str:
    if rollout is None or rollout["candidate"] != version:
        return " "
    if rollout["paused"]:
        return f"{rollout['stage']}, paused"
    if not rollout["ready"]:
        return f"{rollout['stage']}, gets ready"
    return f"{rollout['stage']} {length(rollout['elapsed'])} of {length(rollout['seconds'])}"


def _pipelines(told: Json, color: bool) -> str:
    del color
    rows = []
    for pipeline in told["pipelines"]:
        last = pipeline["last"]
        if pipeline["running"]:
            step = f" ({last['step']}, {last['steps_done']}/{last['steps']})" if last and last["step"] else ""
            what, why = state("progressing", f"{pipeline['running']}{step}"), pipeline["cause"]
        elif last:
            kind = "ok" if last["state"] == "succeeded" else "bad"
            what, why = state(kind, f"{last['id']} {last['state']}"), last["error"]
        else:
            what, why = state("waiting", "no run yet"), ""
        model = next((m for m in told["models"] if m["name"] == pipeline["produces"]), None)
        versions = f"{model['versions']} ({model['refused']} refused)" if model else "0"
        rows.append({"pipeline": pipeline["name"], "run": what, "versions": versions, "cause": cell(why or " ")})
    return table(rows, ["pipeline", "run", "versions", "cause"]) if rows else ""


def _watches(told: Json, color: bool) -> str:
    del color
    rows = []
    for watch in told["watches"]:
        if watch.get("unknown"):
            what, why = state("unknown", "unknown"), watch["unknown"]
        else:
            fired = bool(watch.get("fired"))
            what, why = state("bad" if fired else "ok", "fired" if fired else "steady"), watch.get("message", "")
        rows.append({"watch": f"{watch['watch']}", "state": what, "looked": moment(watch["at"]), "message": why})
    return table(rows, ["watch", "state", "looked", ("found", "message")]) if rows else ""


def _cost(told: Json) -> str:
    spend = told["spend"]
    dollars = spend.get("dollars")
    if dollars is None:
        return ""
    line = f"COST  ${dollars:.4f}"
    if spend.get("budget"):
        line += f" of a budget of ${spend['budget']:g}"
    if spend.get("per_thousand") is not None:
        line += f" · ${spend['per_thousand']:.5f} per 1000 predictions"
    requests = sum(e.get("requests", 0) for e in told["predictions"].values())
    errors = sum(e.get("errors", 0) for e in told["predictions"].values())
    tail = f"{requests} requests, {errors} errors"
    return f"{line} · {tail}" if len(line) + len(tail) + 3 <= WIDTH else f"{line}\n      {tail}"
