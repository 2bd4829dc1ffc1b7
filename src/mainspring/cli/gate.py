"""`mainspring gate`: a version through its gates, and nothing more. For people, and for any CI.

What this is: shows the verdict that there is, or has the gates run and waits for it. Who calls it: `cli/main.py`.
What it must never do: judge, or have a version rolled out: what passes here waits for `mainspring models promote`.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import click

from mainspring.cli.client import Client, NotUp, ask
from mainspring.cli.following import Row, verdict_of
from mainspring.cli.output import Options, emit, pass_options, state, talk
from mainspring.errors import EnvironmentError_, InputError, MainspringError, ObjectiveNotMet

GIVEN_UP = "its rollout was given up"
"""In the note of a version that was refused for that: gates that it passes anew lift it."""
AGAIN = 2.0  # seconds between two times that a busy pipeline is asked
DETACHED = 130
"""The exit status after Ctrl-C, as shells have it: nothing is known of the verdict."""


@click.command()
@click.argument("version", metavar="MODEL@N")
@click.option("--again", is_flag=True, help="Run the gates also when there is a verdict already.")
@click.option("--timeout", default="1h", show_default=True, help="The longest to wait for the verdict.")
@pass_options
def gate(options: Options, version: str, *, again: bool, timeout: str) -> None:
    """Put MODEL@N through its gates, and show what each says with its numbers.

    A verdict that there is already is shown as it is. Nothing is rolled out, whatever comes of it. A version whose
    rollout was given up is refused; when it passes --again, `mainspring models promote` may try it once more. Exit
    status: 0 passed, 3 refused, 2 bad input, 1 there is no verdict.
    """
    client = Client(options.state)
    model, number = split(version)
    until = time.monotonic() + _seconds(timeout)
    try:
        seen = version_of(client, model, number)
    except NotUp:
        told = None if again else _kept(options, model, number)
        if told is None:
            raise
        _show(options, told)
        return
    told = None if again or not seen["verdict"] else _told(client, seen)
    try:
        _show(options, told or _run(client, model, number, until))
    except KeyboardInterrupt:
        talk(f"detached; it goes on: `mainspring gate {model}@{number}` shows the verdict when there is one")
        raise SystemExit(DETACHED) from None


def _show(options: Options, told: Row) -> None:
    """Show a verdict. Raises `ObjectiveNotMet` when the version was refused."""
    model, number = told["model"], told["version"]
    if options.output != "table":
        emit(told, options.output)
    else:
        for item in told["items"]:
            passed = bool(item.get("passed"))
            name = str(item.get("gate") or item.get("name") or "")
            click.echo(f"{state('ok' if passed else 'bad', name)}: {item.get('message', '')}")
    if told["verdict"] != "passed":
        message = f"version {number} of `{model}` was refused: {told['note']}"
        hint = f"mainspring runs show {told['run']}" if told["run"] else f"mainspring models show {model}@{number}"
        if GIVEN_UP in told["note"]:
            hint = f"mainspring gate {model}@{number} --again"
        raise ObjectiveNotMet("refused", message, hint)
    talk(f"version {number} of `{model}` passed")


# --- a verdict that there is -------------------------------------------------------------------------


def _told(client: Client, seen: Row) -> Row:
    """The latest verdict, as the loop recorded it; what the registry says where another one wrote it."""
    records = client.get("/v1/records", kind="gate")
    of = [
        r["value"] for r in records if (r["value"]["model"], r["value"]["version"]) == (seen["model"], seen["number"])
    ]
    of = [value for value in of if _word(value) == seen["verdict"]]
    latest = max(of, key=lambda value: _order(str(value.get("run", ""))), default=None)
    return _row(latest) if latest else _plain(seen, [])


def _row(value: Row) -> Row:
    """A record of the loop's as it is shown."""
    keys = ("model", "version", "run", "passed", "note", "champion", "items")
    return {"verdict": _word(value), **{key: value.get(key, "") for key in keys}}


def _plain(seen: Row, items: list[Any]) -> Row:
    """What the registry alone says of a version."""
    head = {"verdict": seen["verdict"], "model": seen["model"], "version": seen["number"], "run": ""}
    return {**head, "passed": seen["verdict"] == "passed", "note": seen["note"], "champion": "", "items": items}


def _word(value: Row) -> str:
    return "passed" if value["passed"] else "refused"


def _order(run: str) -> int:
    """The number of a run: a later one has a higher."""
    tail = run.rpartition("-")[2]
    return int(tail) if tail.isdecimal() else -1


def _kept(options: Options, model: str, number: str) -> Row | None:
    """The verdict that is kept with the version, when no controller is up; None without one."""
    if not (options.state / "mlflow.db").exists():
        return None
    from mainspring.pipelines.registry import Registry

    registry = Registry(options.state)
    try:
        seen = next((v for v in registry.versions() if (v.model, v.number) == (model, number)), None)
        if seen is None or not seen.verdict:
            return None
        text = registry.numbers(model, number)
    finally:
        registry.close()
    try:
        told = json.loads(text)
    except ValueError:
        told = None  # another client's verdict
    items = told.get("items", []) if isinstance(told, dict) else []
    return _plain({"model": model, "number": number, "verdict": seen.verdict, "note": seen.note}, items)


# --- a verdict that there is to be -------------------------------------------------------------------


def _run(client: Client, model: str, number: str, until: float) -> Row:
    """Have the gates run, and wait for the verdict. Raises `MainspringError` when there will be none."""
    message = _asked(client, model, number, until)
    talk(message)
    found = re.search(r"run (\S+-\d+)", message)
    if found is None:
        raise MainspringError("no-run", f"the controller said `{message}`, and named no run", "mainspring runs list")
    ident = found.group(1)
    shown = _Progress(client, ident, until)
    return _row(verdict_of(client, ident, shown))


def _asked(client: Client, model: str, number: str, until: float) -> str:
    """Ask for the run, again and again while the pipeline is busy: its name is in the answer."""
    shown = ""
    while True:
        try:
            return ask(client, "gate", model, {"version": number})
        except MainspringError as error:
            if error.code != "not-accepted" or not error.message.startswith("not now"):
                raise
            if error.message != shown:
                talk(f"waits: {error.message.removeprefix('not now: ')}")
                shown = error.message
        _in_time(until, f"version {number} of `{model}` was not judged", "mainspring status")
        time.sleep(AGAIN)


class _Progress:
    """How far a run is, as a line; raises when its time is up."""

    def __init__(self, client: Client, ident: str, until: float) -> None:
        self._client, self._ident, self._until = client, ident, until

    def __call__(self, row: Row | None) -> str:
        _in_time(self._until, f"`{self._ident}` has not ended", f"mainspring runs show {self._ident}")
        if row is None or not row["steps"]:
            return f"{self._ident}: starts"
        if row["state"] != "running":
            return f"{self._ident}: {row['state']}"
        step = f", now {row['step']}" if row["step"] else ""
        said = self._said(row["step"]) if row["step"] == "evaluate" else ""  # which takes minutes
        return f"{self._ident}: {row['steps_done']} of {row['steps']} steps done{step}{': ' + said if said else ''}"

    def _said(self, step: str) -> str:
        """What the step said last."""
        try:
            lines = self._client.get(f"/v1/logs/{self._ident}.{step}", lines=1)["lines"]
        except MainspringError:
            return ""  # it has said nothing yet
        return str(lines[-1])[:100] if lines else ""


def _in_time(until: float, what: str, hint: str) -> None:
    if time.monotonic() > until:
        raise EnvironmentError_("gate-timeout", f"{what} within the `--timeout`; it goes on", hint)


def _seconds(text: str) -> float:
    from mainspring.stack.units import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise InputError("bad-timeout", str(error), "mainspring gate --timeout 30m MODEL@N") from error


def split(text: str) -> tuple[str, str]:
    """`MODEL@N` in its parts. Raises `InputError`."""
    model, _, number = text.partition("@")
    if not model or not number.isdigit():
        message = f"`{text}` is not a version: write `MODEL@N`, such as `delay@3`"
        raise InputError("bad-version", message, "mainspring models list")
    return model, number


def version_of(client: Client, model: str, number: str) -> dict[str, Any]:
    """A version as the registry shows it. Raises `InputError` that names those there are."""
    versions = client.get("/v1/versions")
    for seen in versions:
        if seen["model"] == model and seen["number"] == number:
            found: dict[str, Any] = seen
            return found
    known = ", ".join(f"`{v['model']}@{v['number']}`" for v in versions[-10:]) or "none yet"
    message = f"there is no version `{model}@{number}`; there are: {known}"
    raise InputError("no-such-version", message, "mainspring models list")
