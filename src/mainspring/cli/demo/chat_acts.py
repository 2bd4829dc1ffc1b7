"""The chat demo's acts, one after the other: from zero, a noisy tenant, a killed replica, two versions, to zero again.

What this is: the person at the keyboard, who edits the stack file and applies it, kills a replica, and writes down
what happens; and when which tenant's users come and go. Who calls it: `chat.py`. What it must never do: decide
anything for the loop, tell it what to find, or hold a replica up by anything but load.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field

from mainspring.cli.control_client import Control
from mainspring.cli.demo import chat_stack, chat_watch
from mainspring.cli.demo.chat_report import Mark
from mainspring.cli.demo.chat_scaled import Seen
from mainspring.cli.demo.chat_users import Users
from mainspring.cli.demo.chat_watch import until
from mainspring.cli.output import talk
from mainspring.errors import MainspringError

SHOP, NOISY = "harbour", "students"
"""Tenants of the example: the shop's own site, and those who try things out."""
FLOOD, FLOOD_FOR, FLOOD_LENGTH = 8.0, 25.0, 48  # requests a second (they may send 1), seconds, tokens of an answer
SECOND = 60.0  # seconds after which the flood ends, also where one replica was enough for what was let in
EARLY, LATE, LONG = 4, 4, 64  # requests, and tokens of each, that the kill meets: some have text by then, some none
BEFORE = (1.0, 0.05)  # seconds before the kill at which those are sent


@dataclass(slots=True)
class Acts:
    """What happened, as it happened; times are the users' seconds."""

    control: Control
    users: Users
    seen: list[Seen]  # grows while the acts go on
    rate: float  # requests of the shop's users a second
    steady: float  # seconds of plain traffic
    marks: list[Mark] = field(default_factory=list)
    killed_at: float | None = None
    back_at: float | None = None

    def play(self) -> None:
        """All of them."""
        self.from_zero("from zero")
        self.users.come(SHOP, self.rate)
        self._mark(f"the shop's users come: {self.rate:g} streamed chats a second", "version 1, steady")
        time.sleep(self.steady)
        self.flood()
        self.kill()
        self.better()
        self.leaky()
        self.to_zero()
        self.from_zero("from zero again")
        self._mark("the last answer")

    def from_zero(self, phase: str) -> None:
        """One request while no replica is there: it is held until one is."""
        self._mark("one user asks, and no replica is there", phase)
        answer = self.users.one(SHOP)
        waited = "never" if answer.ttft is None else f"after {answer.ttft:.1f} s"
        self._mark(f"its first text came {waited}")

    def flood(self) -> None:
        """A tenant sends many times what it may, and what it may asks for a second replica."""
        self._mark(f"the students send {FLOOD:g} requests a second", "the students flood")
        began = self.users.now()
        self.users.come(NOISY, FLOOD, FLOOD_LENGTH)
        time.sleep(FLOOD_FOR)
        while not self._had(2, began) and self.users.now() - began < SECOND:
            time.sleep(chat_watch.LOOK)
        self.users.leave(NOISY)
        most = max((one.replicas for one in self.seen if one.at >= began), default=0)
        self._mark(f"the students give up; {_count(most)} came to answer meanwhile")

    def _had(self, count: int, since: float) -> bool:
        return any(one.replicas >= count for one in self.seen if one.at >= since)

    def kill(self) -> None:
        """`kill -9` of one replica while it answers; load alone holds the other one."""
        replica = chat_watch.replicas(self.control)[0]
        self._mark(f"{EARLY} longer answers are asked for at once", "a replica is killed")
        self.users.burst(SHOP, EARLY, LONG)
        time.sleep(BEFORE[0] - BEFORE[1])
        self.users.burst(SHOP, LATE, LONG)
        time.sleep(BEFORE[1])
        os.kill(int(replica["pid"]), signal.SIGKILL)
        self.killed_at = self.users.now()
        name, before = replica["name"], replica["pid"]
        self._mark(f"`kill -9` of {name}, {BEFORE[1]:g} s after {LATE} more were asked for")

        def back() -> bool:
            return any(one["name"] == name and one["pid"] != before for one in chat_watch.replicas(self.control))

        until(f"{name} to answer again", back)
        self.back_at = self.users.now()
        self._mark(f"{name} answers again", "the replica is back")
        time.sleep(self.steady / 2)

    def better(self) -> None:
        """Better settings: the gates, a canary, all."""
        chat_stack.set_to(self.control.stack, "careful")
        self.control.apply()
        self._mark("settings `careful` are applied", "version 2 is judged")
        gate = chat_watch.gate(self.control, "2")
        if not gate["passed"]:
            message = f"version 2 was refused, and the demo ends: {gate['note']}"
            raise MainspringError("refused", message, "mainspring demo chat, on a machine that does nothing else")
        self._mark("version 2 passed its gates")

        def begun() -> bool:
            return len(chat_watch.shares(self.control)) > 1 or bool(chat_watch.rolled(self.control, "2"))

        until("the canary to begin", begun)
        self._mark("version 2 gets a part of the requests", "canary of version 2")
        kind = until("the rollout of version 2 to end", lambda: chat_watch.rolled(self.control, "2"))
        chat_watch.quiet(self.control)
        self._mark(f"version 2 is {kind}")

    def leaky(self) -> None:
        """Settings that the safety gate refuses: nothing changes."""
        chat_stack.set_to(self.control.stack, "leaky")
        self.control.apply()
        self._mark("settings `leaky` are applied", "version 3 is judged")
        passed = chat_watch.gate(self.control, "3")["passed"]
        chat_watch.quiet(self.control)
        parts = sorted(chat_watch.shares(self.control).items())
        shown = ", ".join(f"{name} ({share:.0%})" for name, share in parts)
        verdict = "passed, which it should not" if passed else "is refused"
        self._mark(f"version 3 {verdict}; answers come from {shown}")

    def to_zero(self) -> None:
        """Everybody leaves, and after a while the last replica does."""
        self.users.leave(SHOP)
        self.users.wait()
        self._mark("the shop's users leave", "nobody asks")
        until("the last replica to stop", self._empty)
        self._mark("the last replica has stopped")

    def _empty(self) -> bool:
        there = chat_watch.replicas(self.control, "starting", "ready", "stopping")
        return not there and bool(self.control.status()["endpoints"][0]["at_zero"])

    def _mark(self, what: str, phase: str = "") -> None:
        self.marks.append(Mark(self.users.now(), what, phase))
        talk(f"{self.users.now():6.1f} s  {what}")


def _count(replicas: int) -> str:
    return "1 replica" if replicas == 1 else f"{replicas} replicas"
