"""What the chat demo sees of the loop: waits until something is so, and looks every half second, written down.

What this is: questions to the control API. Who calls it: `chat.py` and `chat_acts.py`. What it must never do: change
anything, or take what nobody answered for something that was seen.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mainspring.cli.control_client import Control
from mainspring.cli.demo.chat_numbers import quantile, seconds
from mainspring.cli.demo.chat_scaled import Seen
from mainspring.cli.demo.chat_users import Users
from mainspring.cli.output import talk
from mainspring.errors import MainspringError

PATIENCE = 300.0  # seconds for one thing to happen
LOOK = 0.2  # seconds between two looks
EACH = 0.5  # seconds between two that are written down
SETTLED = 15.0  # seconds within which the bill has all that was answered
TELL = 5.0  # seconds between two lines of progress


def until(what: str, look: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Look until there is something to see, and give that. Raises when it does not come."""
    end = time.monotonic() + patience
    while not (seen := look()):
        if time.monotonic() > end:
            message = f"waited {patience:.0f} s for {what}"
            raise MainspringError("demo-stuck", message, "mainspring demo chat --keep, and look at its logs")
        time.sleep(LOOK)
    return seen


def quiet(control: Control) -> None:
    """Wait until the loop has nothing left to do, and the gateway has taken up what it did."""
    until("everything to be quiet", lambda: control.status()["quiet"])


def first_version(control: Control) -> None:
    """Bring the stack up, and wait until version 1 is the champion; no replica answers yet, since nobody asks."""
    talk("the stack is brought up, and version 1 is made and judged ...")
    began, told = time.monotonic(), ""
    control.ensure_up()

    def ready() -> bool:
        nonlocal told
        status = control.status()
        for one in status["conditions"]:
            if one["status"] == "false" and one["reason"] in ("FirstRunFailed", "CrashLooping"):
                raise MainspringError("no-version", one["message"], "mainspring demo chat --keep, and look at its logs")
        news = "; ".join(f"{w['what']}: {w['why']}" for w in status["waiting"])[:100]
        if news and news != told:
            told = news
            talk(f"  {news}")
        endpoint = status["endpoints"][0]
        there = endpoint["ready"] or endpoint["at_zero"]
        return bool(status["gateway"]["address"]) and endpoint["champion"] and there and status["quiet"]

    until("version 1 to pass", ready)
    talk(f"version 1 has passed after {time.monotonic() - began:.1f} s; replicas: {len(replicas(control))}")


def gate(control: Control, version: str) -> dict[str, Any]:
    """Wait for the gates' verdict on a version."""

    def judged() -> dict[str, Any] | None:
        return next((r["value"] for r in control.records("gate") if r["value"]["version"] == version), None)

    found: dict[str, Any] = until(f"the gates to judge version {version}", judged)
    return found


def rolled(control: Control, version: str) -> str:
    """How the rollout of a version ended; empty while it has not."""
    found = [r["value"]["kind"] for r in control.records("rollout") if r["value"].get("version") == version]
    return next((kind for kind in found if kind in ("promoted", "aborted")), "")


def shares(control: Control) -> dict[str, float]:
    """The revisions that requests go to, and which share of them."""
    revisions = control.status()["endpoints"][0]["revisions"]
    return {one["name"]: one["share"] for one in revisions if one["share"]}


def replicas(control: Control, *states: str) -> list[dict[str, Any]]:
    """Replicas in one of these states (default: those that answer), by name."""
    found = control.status()["processes"]
    there = [p for p in found if p["kind"] == "replica" and p["state"] in (states or ("ready",))]
    return sorted(there, key=lambda p: str(p["name"]))


def retries(address: str) -> int:
    """Requests that the gateway sent once more, as its metrics count them."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return sum(int(n) for n in re.findall(r"^mainspring_retries_total\{[^}]*\} (\d+)$", text, re.MULTILINE))


def look(control: Control, at: float) -> Seen | None:
    """What is there now; None where nobody says."""
    try:
        status = control.client.get("/v1/status", counts="false")
    except MainspringError:
        return None
    ready = sum(p["kind"] == "replica" and p["state"] == "ready" for p in status["processes"])
    load = status["endpoints"][0]["load"] or {}
    return Seen(at, ready, load.get("waiting"), load.get("running"))


def bill(control: Control, settled: int) -> dict[str, Any]:
    """The bill by tenant once so many requests are in it, and what the node had cost before and after it was asked."""

    def asked() -> dict[str, Any]:
        before = control.get("/v1/cost")["dollars"]
        rows = control.get("/v1/cost", by="tenant")
        return {"bill": rows, "node": (before, control.get("/v1/cost")["dollars"])}

    end = time.monotonic() + SETTLED
    while True:
        found = asked()
        if sum(row["requests"] for row in found["bill"]) >= settled or time.monotonic() > end:
            return found
        time.sleep(LOOK)


@contextmanager
def looking(users: Users, control: Control) -> Iterator[list[Seen]]:
    """Write down what is there every half second, and say every few seconds how the users fare; gives what was seen."""
    over, seen = threading.Event(), list[Seen]()

    def watch() -> None:
        told = users.now()
        while not over.wait(EACH):
            found = look(control, users.now())
            if found is not None:
                seen.append(found)
            if users.now() - told >= TELL:
                told = users.now()
                talk(f"{told:6.1f} s  {_fare(users)}{_doing(control)}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _fare(users: Users) -> str:
    answers, now = list(users.answers), users.now()
    late = [a.ttft for a in answers if a.ttft is not None and a.due > now - 2 * TELL]
    middle = seconds(quantile(late, 0.5))
    waits, refused, failed = (
        sum(of(a) for a in answers) for of in (lambda a: a.end is None, lambda a: a.refused, lambda a: a.failed)
    )
    said = f"{len(answers)} requests, {waits} on their way, {failed} failed"
    return f"{said}{f', {refused} refused' if refused else ''}; first text lately {middle}"


def _doing(control: Control) -> str:
    """What the loop waits for, after a semicolon; nothing when it is quiet, or does not say."""
    try:
        waiting = control.client.get("/v1/status", counts="false")["waiting"]
    except MainspringError:
        return ""
    return f"; {waiting[0]['what']}: {waiting[0]['why']}" if waiting else ""
