"""`mainspring runs`: list, show and compare runs, whether the controller is up or not.

What this is: three tables. Who calls it: `cli/main.py`. What it must never do: change a run.
"""

from __future__ import annotations

from typing import Any

import click

from mainspring.cli.client import Client, NotUp
from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.status import length, moment
from mainspring.errors import InputError

Row = dict[str, Any]


@click.group()
def runs() -> None:
    """List, show and compare runs: parameters, metrics, versions of data and code."""


@runs.command("list")
@pass_options
def list_(options: Options) -> None:
    """List all runs, oldest first."""
    found = _all(options)
    if options.output != "table":
        emit(found, options.output)
        return
    if not found:
        talk("no runs yet: `mainspring run PIPELINE`")
        return
    rows = [
        {
            "run": r["id"],
            "state": r["state"] + (f" {r['step']}" if r["step"] else ""),
            "steps": f"{r['steps_done']}/{len(r['steps']) if isinstance(r['steps'], list) else r['steps']}",
            "seconds": round(r["seconds"], 1),
            "version": r["version"],
            "verdict": r["verdict"],
            "cause": r["cause"],
        }
        for r in found
    ]
    emit(rows, "table", ["run", "state", "steps", "seconds", "version", "verdict", "cause"])


@runs.command()
@click.argument("run")
@pass_options
def show(options: Options, run: str) -> None:
    """Show RUN: its steps, metrics, parameters, data, code, and what the gates measured."""
    one = _one(_all(options), run)
    steps = one["steps"]
    try:
        steps = Client(options.state).get(f"/v1/runs/{run}")["steps"]
    except NotUp:
        pass
    if options.output != "table":
        emit({**one, "steps": steps}, options.output)
        return
    head = {"run": run, "state": one["state"], "cause": one["cause"], "rows_from": moment(one["since"]),
            "rows_until": moment(one["until"]), "attempt": one["attempt"]}  # fmt: skip
    head |= {"version": one["version"], "verdict": one["verdict"], "error": one["error"]}
    emit({key: value for key, value in head.items() if value not in ("", None)})
    if isinstance(steps, list) and steps:
        click.echo()
        rows = [{**s, "seconds": round(s["seconds"], 2)} for s in steps]
        emit(rows, "table", [("step", "name"), "state", "attempt", "seconds", "error"])
        for step in steps:
            if step["state"] == "failed":
                click.echo(f"its log: `mainspring logs {run}.{step['name']}`")
    click.echo()
    emit([{"what": key, "value": value} for key, value in _facts(one).items()], "table", ["what", "value"])


@runs.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--all", "every", is_flag=True, help="Also what is the same.")
@pass_options
def compare(options: Options, names: tuple[str, ...], *, every: bool) -> None:
    """Show the runs NAMES side by side: parameters, metrics, data and code; only what differs, unless --all."""
    found = _all(options)
    facts = {name: _facts(_one(found, name)) for name in names}
    keys = list(dict.fromkeys(key for one in facts.values() for key in one))
    rows = [{"what": key, **{name: one.get(key, "") for name, one in facts.items()}} for key in keys]
    if not every and len(names) > 1:
        rows = [row for row in rows if len({str(row[name]) for name in names}) > 1]
        if not rows:
            talk("they do not differ")
            return
    emit(rows, options.output, ["what", *names])


def _facts(one: Row) -> Row:
    """What a run used and gave, by name."""
    return {
        "rows.from": moment(one["since"]),
        "rows.until": moment(one["until"]),
        **{f"param.{key}": value for key, value in sorted(one["params"].items())},
        **{f"data.{key}": _short(value) for key, value in sorted(one["data"].items())},
        **{f"code.{key}": _short(value) for key, value in sorted(one["code"].items())},
        **{f"metric.{key}": value for key, value in sorted(one["metrics"].items())},
        "took": length(one["seconds"]),
        "version": one["version"],
        "verdict": one["verdict"],
    }


def _short(digest: str) -> str:
    """The head of a digest, enough to tell two apart."""
    kind, _, rest = str(digest).rpartition(":")
    return f"{kind}:{rest[:12]}" if kind else rest[:12]


def _one(found: list[Row], name: str) -> Row:
    for run in found:
        if run["id"] == name:
            return run
    known = ", ".join(f"`{r['id']}`" for r in found[-10:]) or "none yet"
    raise InputError("no-such-run", f"there is no run `{name}`; there are: {known}", "mainspring runs list")


def _all(options: Options) -> list[Row]:
    """All runs, from the controller, or else from the files."""
    try:
        found: list[Row] = Client(options.state).get("/v1/runs")
    except NotUp:
        if not (options.state / "mlflow.db").exists():
            raise
    else:
        return found
    from mainspring.cli.output import plain
    from mainspring.pipelines.registry import Registry

    registry = Registry(options.state)
    try:
        return [_row(plain(one)) for one in registry.runs()]
    finally:
        registry.close()


def _row(told: Row) -> Row:
    """A run as the API tells it."""
    seen = told.pop("seen")
    done = sum(s["state"] in ("succeeded", "cached") for s in seen["steps"])
    step = next((s["name"] for s in seen["steps"] if s["state"] == "running"), "")
    return {**seen, **told, "steps_done": done, "step": step}
