"""`mainspring up`: bring the stack up, and keep it so.

What this is: check, show, ask, start (or apply), watch. Who calls it: `cli/main.py`. What it must never do: apply a
file that a person did not agree to, or take anything down when its terminal closes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from mainspring.cli import starting
from mainspring.cli.client import Client, NotUp
from mainspring.cli.output import Options, pass_options, talk
from mainspring.cli.plan import plan_rows, show
from mainspring.cli.runtime import made
from mainspring.cli.status import page
from mainspring.errors import EnvironmentError_, InputError, MainspringError, StackError
from mainspring.replicas import environment
from mainspring.runtimes.catalog import runtimes
from mainspring.stack.load import check, parse
from mainspring.stack.model import Stack
from mainspring.stack.notes import notes
from mainspring.stack.resolve import revision
from mainspring.stack.runnable import runnable

LOOK = 0.3  # seconds between two looks while watching
DETACHED = "detached; it goes on: `mainspring status`, `mainspring down`"


@click.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("-d", "--detach", is_flag=True, help="Do not watch.")
@click.option("--timeout", type=float, default=1800.0, show_default=True, help="Seconds to watch at most.")
@pass_options
def up(options: Options, *, yes: bool, detach: bool, timeout: float) -> None:
    """Bring the stack up, or apply what changed in its file; then watch until it is ready.

    Ctrl-C only detaches: everything goes on.
    """
    stack = check(options.file).stack
    runnable(stack)
    for note in notes(stack):
        talk(f"note: {note}")
    client = Client(options.state)
    try:
        applied = client.get("/v1/stack")
    except NotUp:
        _start(options, stack, yes=yes)
    else:
        _apply(options, client, stack, applied, yes=yes)
    if detach:
        talk(DETACHED)
        return
    try:
        _watch(client, timeout, live=sys.stdout.isatty() and options.output == "table", color=options.color)
    except KeyboardInterrupt:
        talk(f"\n{DETACHED}")


def _start(options: Options, stack: Stack, *, yes: bool) -> None:
    state = options.state
    starting.writable(state)
    if stack.serving and not _own_gateway(state):
        starting.port_free(stack.orchestration.gateway.port)
    agreed = starting.digest(options.file.resolve())
    show(plan_rows(stack), stack)
    _agree("bring this up?", yes=yes)
    if starting.digest(options.file.resolve()) != agreed:
        message = f"`{options.file}` changed in the meantime; nothing was done"
        raise InputError("stack-changed", message, "mainspring up")
    _servers(stack)
    pid = starting.start(options.file.resolve())
    talk(f"the controller is up (process {pid})")


def _apply(options: Options, client: Client, stack: Stack, applied: dict[str, Any], *, yes: bool) -> None:
    if applied["revision"] == revision(stack):
        talk(f"already up with `{options.file}` as it is")
        return
    talk(f"already up; `{options.file}` has changed:")
    text = options.file.read_text(encoding="utf-8")
    rows = plan_rows(stack, _known(applied))
    show(rows, stack)
    _agree("apply this?", yes=yes)
    _servers(stack)
    client.put("/v1/stack", text, expected=applied["revision"])
    talk("applied")
    if stack.orchestration.control == "act" and any(r.change == "~" and r.what.startswith("rollout/") for r in rows):
        talk("the replicas' new settings are rolled out: `mainspring rollout status -w`")


def _servers(stack: Stack) -> None:
    """Install what the model servers of the file need, while somebody looks on; what is there is left as it is."""
    for name in sorted({endpoint.runtime for endpoint in stack.serving.values()}):
        found = runtimes()[name]
        lacks = environment.missing(found)
        if lacks:
            told = ", ".join(f"`{one.name}`" for one in lacks)
            raise EnvironmentError_(
                "runtime-needs", f"{found.title} needs {told}, not on this machine", lacks[0].install
            )
        if found.environment and environment.find(found) is None:
            talk(f"installing {found.title} for `runtime: {name}`; once for all stacks of this user")
            made(found)


def _known(applied: dict[str, Any]) -> Stack | None:
    try:
        return parse(applied["text"].encode(), applied["path"])
    except StackError:  # an older Mainspring's file: all of it is shown
        return None


def _agree(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody-to-ask", "there is nobody to ask: the input is no terminal", "mainspring up --yes")
    click.confirm(question, default=True, abort=True, err=True)


def _own_gateway(state: Path) -> bool:
    """Whether a gateway of this folder lives on from before: then it is its own port that is in use."""
    for file in (state / "processes").glob("gateway-*/address.json"):
        try:
            pid = int(json.loads(file.read_bytes())["pid"])
            if b"mainspring.gateway" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return False


def _watch(client: Client, timeout: float, *, live: bool, color: bool) -> None:
    """Show the loop until all endpoints answer, or nothing happens any more."""
    shown, until = "", time.monotonic() + timeout
    while True:
        try:
            told = client.get("/v1/status")
        except NotUp:
            message = "the controller has ended"
            raise EnvironmentError_("controller-ended", message, "mainspring logs controller") from None
        ready = bool(told["gateway"]["address"]) and all(e["ready"] for e in told["endpoints"])
        if live:
            click.clear()
            click.echo(page(told, color=color))
        else:
            shown = _say_new(told, shown)
        if ready or told["quiet"]:
            break
        _give_up_on(told)
        if time.monotonic() > until:
            raise EnvironmentError_("not-ready", f"the stack is not ready after {timeout:.0f} s", "mainspring status")
        time.sleep(LOOK)
    if not live:
        click.echo(page(told, color=color))
    if ready:
        address = told["gateway"]["address"]
        talk(f"ready: {_door(address, told['endpoints'][0])}")
    else:
        _not_ready(told)
    if told["rollouts"]:
        talk("a rollout is under way: `mainspring rollout status -w`")
    talk("see `mainspring status`; stop with `mainspring down`")


def _door(address: str, endpoint: dict[str, Any]) -> str:
    """Where requests to an endpoint go."""
    name = endpoint["name"]
    if endpoint["kind"] == "language":
        return f"http://{address}/v1 (OpenAI's API, model `{name}`)"
    return f"http://{address}/v2/models/{name}/infer"


def _say_new(told: dict[str, Any], shown: str) -> str:
    text = "; ".join(f"{w['what']}: {w['why']}" for w in told["waiting"] if w["self_ending"])[:300]
    if text and text != shown:
        talk(text)
    return text or shown


def _give_up_on(told: dict[str, Any]) -> None:
    for condition in told["conditions"]:
        if condition["status"] == "false" and condition["reason"] == "CrashLooping":
            name = condition["about"]
            raise MainspringError("crash-looping", condition["message"], f"mainspring logs {name}")


def _not_ready(told: dict[str, Any]) -> None:
    failed = [c for c in told["conditions"] if c["status"] == "false" and c["reason"] == "FirstRunFailed"]
    if failed:
        raise MainspringError("not-ready", failed[0]["message"], "mainspring events")
    for waiting in told["waiting"]:
        talk(f"waits for {waiting['what']}: {waiting['why']}")
