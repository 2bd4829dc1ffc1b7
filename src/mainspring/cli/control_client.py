"""`Control`: a controller that is brought up when needed, moved through event time, and asked.

What this is: what a replay needs of the control API, in few methods. Who calls it: `mainspring demo`, tests, scripts
of users. What it must never do: reach past the API into the state folder's databases.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mainspring.cli import starting
from mainspring.cli.client import Client, NotUp
from mainspring.errors import Conflict, EnvironmentError_, MainspringError
from mainspring.worlds.local.folder import holder

SILENCE = 300.0  # seconds without progress after which a replay gives up
CALL = 20.0  # seconds that one call waits
STARTS = 20  # tries to have a controller up, when each is killed at once


class Control:
    """One stack's controller. Methods raise `MainspringError`."""

    def __init__(self, stack: Path, clock_start: float | None = None) -> None:
        """`stack`: the stack file. `clock_start`: event time (POSIX seconds) at which a replay begins; None: live."""
        self.stack = stack.absolute()
        self.state = self.stack.parent / ".mainspring"
        self.clock_start = clock_start
        self.client = Client(self.state, own=True)

    def ensure_up(self) -> None:
        """Start the controller when none answers. One that is up keeps the stack that it has.

        One that is killed while it starts is started again; one that somebody else starts just now is waited for.
        """
        for left in reversed(range(STARTS)):
            try:
                self.client.get("/v1/stack")
                return
            except NotUp:
                pass
            try:
                starting.start(self.stack, clock=self.clock_start)
                return
            except EnvironmentError_ as error:
                if not left or (error.code != "controller-killed" and not holder(self.state)):
                    raise
                time.sleep(0.25)

    def get(self, path: str, **query: Any) -> Any:
        """Ask for something; a controller that dies is started again, and asked again."""
        for left in reversed(range(STARTS)):
            try:
                return self.client.get(path, **query)
            except EnvironmentError_ as error:
                starts = isinstance(error, NotUp) or error.code in ("no-look-yet", "controller-ends")
                if not left or not starts:
                    raise
            self.ensure_up()
            time.sleep(0.1)
        raise AssertionError("unreachable")

    def apply(self) -> bool:
        """Apply the stack file as it is now; whether that changed anything."""
        text = self.stack.read_text(encoding="utf-8")
        return bool(self.client.put("/v1/stack", text)["changed"])

    def clock(self) -> float:
        """Event time, POSIX seconds."""
        return float(self.status()["clock"]["now"])

    def advance(self, to: float) -> None:
        """Move a replay's clock to `to`, and wait until everything is quiet at that time.

        A controller that dies is started again. Raises when nothing moves for 300 s.
        """
        told, heard = "", time.monotonic()
        while True:
            try:
                answer = self._move(to)
                if answer["quiet"]:
                    return
                news = f"{answer['clock']} {answer['waiting']}"
            except EnvironmentError_ as error:
                news = error.message
                if isinstance(error, NotUp):
                    self.ensure_up()
                time.sleep(0.2)
            if news != told:
                told, heard = news, time.monotonic()
            if time.monotonic() - heard > SILENCE:
                message = f"nothing moved for {SILENCE:.0f} s: {told}"
                raise MainspringError("replay-stuck", message, "mainspring status")

    def _move(self, to: float) -> dict[str, Any]:
        """One try; a clock that is further already (a replay that was killed goes on) is only waited for."""
        answer: dict[str, Any]
        try:
            answer = self.client.post("/v1/clock", {"to": to, "timeout": CALL}, 2 * CALL + 20.0)
        except Conflict as error:
            if error.code != "clock-backwards":
                raise
            answer = self.client.get(f"/v1/wait?timeout={CALL:g}", CALL + 20.0)
        return answer

    def gateway(self, patience: float = 120.0) -> str:
        """The address of a gateway that is ready, as `127.0.0.1:8080`; waits for it."""
        until = time.monotonic() + patience
        while True:
            try:
                address = str(self.status()["gateway"]["address"])
                if address:
                    return address
            except NotUp:
                self.ensure_up()
            except EnvironmentError_:
                if time.monotonic() > until:
                    raise
            if time.monotonic() > until:
                message = f"no gateway was ready in {patience:.0f} s"
                raise EnvironmentError_("gateway-away", message, "mainspring status")
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """The loop at a glance, without the bill and the counts of predictions."""
        answer: dict[str, Any] = self.get("/v1/status", counts="false")
        return answer

    def records(self, kind: str) -> list[dict[str, Any]]:
        """What was judged, oldest first: `drift`, `quality`, `gate`, `rollout`, `run`."""
        answer: list[dict[str, Any]] = self.get("/v1/records", kind=kind)
        return answer

    def events(self, limit: int = 1000) -> list[dict[str, Any]]:
        """What happened, newest first."""
        answer: list[dict[str, Any]] = self.get("/v1/events", limit=limit)
        return answer

    def is_up(self) -> bool:
        """Whether a controller, or anything that one started, runs."""
        return bool(holder(self.state)) or starting.leftover(self.state)

    def down(self, patience: float = 60.0) -> None:
        """Stop everything, and wait until the controller has ended. Nothing to do when none is up.

        What a killed controller left running is stopped as well: by one that is started for it.
        """
        starting.stop(self.state, patience)
        for _ in range(STARTS):
            if not starting.leftover(self.state):
                return
            self.ensure_up()
            starting.stop(self.state, patience)
