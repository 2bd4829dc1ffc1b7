"""A gateway with fake language servers behind it, for fault tests: made, routed to, asked, and looked into.

Who calls it: tests. What it must never do: be shared by tests that kill the gateway.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.testing.serving import Process, Site, call
from mainspring.testing.streaming import Told, ask, ask_now, chat


@dataclass
class Stage:
    """One gateway; each test brings its own fakes, so that nothing is known against them."""

    site: Site
    gateway: Process
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def address(self) -> str:
        """The gateway's."""
        return self.gateway.address

    def fakes(self, count: int, *options: str) -> list[Process]:
        """Start some fakes."""
        found = [self.site.language(f"chat-1-{next(self._numbers)}", *options) for _ in range(count)]
        for fake in found:
            fake.wait_ready()
        return found

    def route(self, replicas: Sequence[str | Process], **more: Any) -> None:
        """Send `chat` there; returns when the gateway has it. `more`: fields of the endpoint or of the table."""
        fields: dict[str, Any] = {
            "kind": "language",
            "timeout_s": 20.0,
            "first_s": 5.0,
            "idle_s": 5.0,
            "connect_s": 1.0,
        }
        self.site.route([("chat-1", 10_000, replicas)], "chat", wait=[self.gateway.name], **(fields | more))

    def ask(self, prompt: str, id: str = "", *, stream: bool = True, **more: Any) -> Told:
        """One request, by hand."""
        return ask_now(self.address, chat(prompt, stream=stream), headers=_id(id), **more)

    async def asking(self, prompt: str, id: str = "", *, stream: bool = True, **more: Any) -> Told:
        """The same, beside others."""
        return await ask(self.address, chat(prompt, stream=stream), headers=_id(id), **more)

    def record(self, id: str) -> dict[str, Any]:
        """The one record of a request; raises `AssertionError` where there are none or several."""
        [found] = [record for record in self.site.records() if record["id"] == id]
        return found

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric of the gateway over all series that have these labels (`reason="died"`)."""
        text = call(self.address, "GET", "/metrics").body.decode()
        lines = [line for line in text.splitlines() if line.partition(" ")[0].partition("{")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in labels))


def _id(id: str) -> dict[str, str]:
    return {"x-request-id": id} if id else {}


def stats(fake: Process | str) -> dict[str, Any]:
    """What a fake says of itself."""
    answer: dict[str, Any] = call(fake.address if isinstance(fake, Process) else fake, "GET", "/stats").json()
    return answer


def knobs(fake: Process, body: bytes) -> None:
    """Turn a fake's knobs."""
    assert call(fake.address, "POST", "/knobs", body).status == 200


def busy(fakes: Sequence[Process], seconds: float = 5.0) -> Process:
    """The first of these fakes that works on a request; waits for it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for fake in fakes:
            if fake.popen.poll() is None and stats(fake)["running"]:
                return fake
        time.sleep(0.005)
    raise TimeoutError("no fake got a request")


def within(seconds: float, holds: Callable[[], bool]) -> float:
    """Seconds until something held; raises `AssertionError` when it did not within `seconds`."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:g} s")
        time.sleep(0.01)
    return time.monotonic() - started


def memory(process: Process) -> int:
    """Bytes that a process has in memory now."""
    lines = Path(f"/proc/{process.popen.pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
