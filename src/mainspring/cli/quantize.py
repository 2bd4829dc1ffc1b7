"""`mainspring quantize`: a registered version's weights in fewer bits, judged like any other candidate.

What this is: asks the controller for the run, follows it, and shows what changed. Who calls it: `cli/main.py`.
What it must never do: convert or judge anything itself.
"""

from __future__ import annotations

import functools
import math
import re

import click

from mainspring.cli.client import Client, ask
from mainspring.cli.following import Row, hold_to, verdict_of
from mainspring.cli.output import Options, emit, pass_options, state, talk
from mainspring.errors import MainspringError

_ROWS = (
    ("size", "size"),
    ("memory", "memory"),
    ("p95 of one request", "p95"),
    ("rows/s", "throughput"),
    ("Brier", "brier"),
    ("AUC", "auc"),
)


@click.command()
@click.argument("model")
@click.option("--to", required=True, metavar="PRECISION", help="ONNX: fp16, int8. GGUF: f16, bf16, q8_0, q5_1 … q4_0.")
@click.option("--version", metavar="N", help="The version to convert.  [default: the champion]")
@click.option("--detach", is_flag=True, help="Do not wait for the run and its verdict.")
@pass_options
def quantize(options: Options, model: str, to: str, version: str | None, *, detach: bool) -> None:
    """Convert a version of MODEL (or of a pipeline's model) to PRECISION: a new version, which goes through the gates.

    The gates compare it with the champion on the same rows; it must also be smaller or faster. What passes is rolled
    out as any new version. Exit status 3 when it was refused.
    """
    client = Client(options.state)
    name, _, number = model.partition("@")
    args = {"to": to.lower(), **({"version": version or number} if version or number else {})}
    message = ask(client, "quantize", name, args)
    talk(message)
    found = re.search(r"run (\S+-\d+)", message)
    if detach or found is None:
        return
    ident = found.group(1)
    try:
        _show(options, client, ident, verdict_of(client, ident, functools.partial(_progress, ident)))
    except KeyboardInterrupt:
        talk(f"detached; it goes on: `mainspring runs show {ident}`")


def _progress(ident: str, row: Row | None) -> str:
    if row is None or not row["steps"]:
        return f"{ident}: starts"
    if row["state"] != "running":
        return f"{ident}: {row['state']}"
    return f"{ident}: {row['steps_done']} of {row['steps']} steps done{', now ' + row['step'] if row['step'] else ''}"


def _show(options: Options, client: Client, ident: str, verdict: Row) -> None:
    """Say what changed, and what the gates said. Raises `ObjectiveNotMet`."""
    run = client.get(f"/v1/runs/{ident}")
    gate = run["gate"] or {}
    before, after = _column(gate, "other", "champion"), _column(gate, "own", "candidate")
    if options.output == "table":
        head = f"@{verdict['version']} {gate.get('converted', '')}"
        old = f"@{gate.get('champion', '')} champion"
        titles = {"p95": "p95 of one answer", "throughput": "tokens/s"} if gate.get("evals") else {}
        rows = [
            {
                "what": titles.get(key, title),
                old: _told(key, before.get(key)),
                head: _told(key, after.get(key)),
                "change": change,
            }
            for title, key in _ROWS
            if (change := _change(before.get(key), after.get(key)))
        ]
        rows += _evals(gate, old, head)
        emit(rows, "table", ["what", old, head, "change"])
        for line in _notes(client, ident):
            click.echo(line)
        for item in verdict["items"]:
            click.echo(f"{state('ok' if item['passed'] else 'bad', item['name'])}: {item['message']}")
    else:
        told = {"run": ident, "model": verdict["model"], "version": verdict["version"], "passed": verdict["passed"]}
        emit({**told, "to": gate.get("converted", ""), "champion": gate.get("champion", ""), "before": before,
              "after": after, "items": verdict["items"], "notes": _notes(client, ident)}, options.output)  # fmt: skip
    hold_to(verdict)
    talk(f"version {verdict['version']} passed; `mainspring status` shows its rollout")


def _column(gate: Row, which: str, who: str) -> dict[str, float | None]:
    """What serving one of the two takes, and how good it is."""
    foot = gate.get(which) or {}
    days, rows = gate.get("days") or [], gate.get("rows") or 0
    losses = [day[who] for day in days]
    brier = math.fsum(losses) / rows if rows and None not in losses else None
    return {
        "size": foot.get("size"),
        "memory": foot.get("memory"),
        "p95": foot.get("latency_p95"),
        "throughput": foot.get("throughput"),
        "brier": brier,
        "auc": gate.get("auc" if who == "candidate" else "champion_auc"),
    }


def _evals(gate: Row, old: str, new: str) -> list[Row]:
    """The mean scores of a language model's evaluations."""
    rows = []
    for one in gate.get("evals") or []:
        means = [sum(scores) / len(scores) if scores else None for scores in (one["champion"], one["candidate"])]
        told = ["" if mean is None else f"{mean:.1%}" for mean in means]
        rows.append({"what": one["name"], old: told[0], new: told[1], "change": _change(*means)})
    return rows


def _told(key: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    if key in ("size", "memory"):
        return f"{value / 1e6:,.2f} MB" if value < 1e8 else f"{value / 1e6:,.0f} MB"
    if key == "p95":
        return f"{value * 1e3:,.3f} ms" if value < 0.1 else f"{value:,.2f} s"
    return f"{value:,.0f}" if key == "throughput" else f"{value:.4f}"


def _change(before: float | None, after: float | None) -> str:
    if before is None and after is None:
        return ""
    if before is None or after is None or not before:
        return "unknown"
    return f"{after / before - 1:+.1%}".replace("-", "−")


def _notes(client: Client, ident: str) -> list[str]:
    """What the conversion itself said."""
    try:
        lines = client.get(f"/v1/logs/{ident}.convert", lines=3)["lines"]
    except MainspringError:
        return []  # it came from the cache
    return [line for line in lines if " become" in line][-1:]
