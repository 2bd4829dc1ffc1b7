"""Users who ask a gateway all the time, whatever happens behind it, and keep what each of them got.

What this is: an open loop of requests at a steady rate, in a thread of its own, so that a test can kill things
meanwhile. Who calls it: tests of rollouts, and whoever has to show that no request was lost.
What it must never do: send a request a second time, or forget one that got no answer.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mainspring.testing import streaming
from mainspring.testing.meanwhile import Meanwhile
from mainspring.testing.serving import Client

TIMEOUT = 120.0  # seconds after which a request is told as lost

_NAMES = itertools.count(1)


@dataclass(slots=True)
class Asked:
    """One request, and what came of it."""

    number: int
    at: float  # POSIX seconds
    id: str  # as the gateway was given it, and writes it down
    user: str = ""
    status: int = 0  # of HTTP; 0: no answer came
    revision: str = ""  # that answered, as the gateway says
    seconds: float = 0.0
    problem: str = ""  # of a stream that broke off, or a connection
    said: bytes = b""  # the beginning of an answer that is no 200
    over: bool = False

    @property
    def lost(self) -> bool:
        """Whether no whole answer came, good or bad."""
        return self.over and (self.status == 0 or bool(self.problem))


@dataclass(slots=True)
class Request:
    """What is sent: the body, and headers beside those that every request has."""

    body: Mapping[str, Any] | bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


class Users(Meanwhile):
    """Users of one endpoint; use it as a context."""

    patience = 2 * TIMEOUT

    def __init__(
        self, address: Callable[[], str], path: str, make: Callable[[int, str], Request], rate: float,
        *, at_once: int = 1, then: Callable[[Asked], Request | None] | None = None, then_path: str = "",
    ) -> None:  # fmt: skip
        """`make` gives request number 0, 1, 2, ... under an id that nobody else has; `rate`: requests a second,
        `at_once` of them together.

        `then`: what a user sends to `then_path` after an answer (feedback), if anything. A path that ends with
        `completions` is asked on a connection of its own, which may be for a stream.
        """
        super().__init__()
        self._name = f"{os.getpid():x}{next(_NAMES):x}"
        self._address, self._path, self._make, self.rate = address, path, make, rate
        self._at_once, self._then, self._then_path = at_once, then, then_path
        self.asked: list[Asked] = []
        self.told = 0  # calls of feedback that were taken
        self._free: list[Client] = []

    def go_on(self) -> None:
        """Ask, and at the end wait for what is on its way."""
        asyncio.run(self._ask_on())

    def since(self, at: float) -> list[Asked]:
        """Requests that are over and were sent at `at` (POSIX seconds) or later."""
        return [one for one in list(self.asked) if one.over and one.at >= at]

    def count(self, since: float = 0.0) -> Counter[tuple[str, int]]:
        """How many came from each revision with each status."""
        return Counter((one.revision, one.status) for one in self.since(since))

    def lost(self, since: float = 0.0) -> list[Asked]:
        """Requests that got no whole answer."""
        return [one for one in self.since(since) if one.lost]

    async def _ask_on(self) -> None:
        begun, number = time.monotonic(), 0
        tasks: set[asyncio.Task[None]] = set()
        while not self.over.is_set():
            together = number - number % self._at_once
            await asyncio.sleep(max(0.0, begun + together / self.rate - time.monotonic()))
            name = f"{self._name}-{number}"
            request = self._make(number, name)
            asked = Asked(number, time.time(), name, request.user)
            self.asked.append(asked)
            task = asyncio.create_task(self._one(asked, request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for client in self._free:
            client.close()

    async def _one(self, asked: Asked, request: Request) -> None:
        headers = {"content-type": "application/json", "x-request-id": asked.id, **request.headers}
        stream = self._path.endswith("completions")
        try:
            async with asyncio.timeout(TIMEOUT):
                await (self._stream if stream else self._plain)(asked, request, headers)
        except (OSError, EOFError, TimeoutError) as error:
            asked.problem = f"{type(error).__name__}: {error}"
        asked.seconds, asked.over = time.time() - asked.at, True
        if self._then is not None and asked.status == 200 and (more := self._then(asked)) is not None:
            reply = await self._posted(self._then_path, more, {"content-type": "application/json", **more.headers})
            self.told += reply == 200

    async def _plain(self, asked: Asked, request: Request, headers: Mapping[str, str]) -> None:
        client = self._free.pop() if self._free else Client(self._address())
        reply = await client.post(self._path, _encoded(request.body), headers)
        self._free.append(client)
        asked.status, asked.revision = reply.status, reply.headers.get("x-mainspring-revision", "")
        asked.said = reply.body[:300] if reply.status != 200 else b""

    async def _stream(self, asked: Asked, request: Request, headers: Mapping[str, str]) -> None:
        told = await streaming.ask(self._address(), request.body, self._path, headers, timeout=TIMEOUT)
        asked.status, asked.revision = told.status, told.headers.get("x-mainspring-revision", "")
        asked.said = told.body[:300] if told.status != 200 else b""
        if told.headers.get("content-type", "").startswith("text/event-stream") and not told.is_done:
            asked.problem = str(told)
        elif not told.is_whole:
            asked.problem = told.problem or "an answer that does not end"

    async def _posted(self, path: str, request: Request, headers: Mapping[str, str]) -> int:
        client = self._free.pop() if self._free else Client(self._address())
        try:
            reply = await client.post(path, _encoded(request.body), headers)
        except (OSError, EOFError):
            return 0
        self._free.append(client)
        return reply.status


def _encoded(body: Mapping[str, Any] | bytes) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()
