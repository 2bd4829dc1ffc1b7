"""Mirror copies: requests that a version under trial answers too, unseen by users.

What this is: debts. A live record that `owes` a revision is a debt until a mirror record of that
request is logged; debts of earlier boots are found in the segment files and paid at the start, so that
a kill -9 loses no pair. Who calls it: the gateway's server.
What it must never do: delay or fail a live request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mainspring.decide import retry
from mainspring.facts.records import PredictionRecord
from mainspring.gateway import wire
from mainspring.gateway.exchange import DYING, OVER, Exchange
from mainspring.gateway.hub import Hub
from mainspring.gateway.log import Log, Position
from mainspring.gateway.outcome import Outcome
from mainspring.wire.process import write_whole

log = logging.getLogger(__name__)

IN_FLIGHT = 256
WAITING = 20_000  # copies; more are given up, since memory is for live traffic
TRIES = 5
SECONDS = 30.0

Key = tuple[str, str, str]  # endpoint, id, revision
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Copy:
    """One request that a revision still has to answer."""

    endpoint: str
    id: str
    revision: str
    at: float
    inputs: msgspec.Raw

    @property
    def key(self) -> Key:
        return (self.endpoint, self.id, self.revision)


@dataclass(slots=True)
class _Debt:
    number: int
    place: Position
    at: float


LINE = b"POST /v2/models/-/infer HTTP/1.1\r\n"


class Errand(Exchange):
    """A request that no client waits for; its outcome is awaited.

    It is sent once, but where an idle connection was closed, which tells nothing: trying again is the sender's.
    """

    __slots__ = ("outcome",)

    outcome: asyncio.Future[Outcome]

    def over(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def judge(self, failure: int, message: str, alone: bool, status: int) -> None:  # noqa: ARG002 - as the base has it
        if self.state == DYING and self.tries == 1 and not retry.tells(failure, status):
            self.hub.metrics.retry("stale")
            self.dispatch()
        elif self.state != OVER:
            self.fail(502, message)

    @staticmethod
    async def run(
        hub: Hub, endpoint: str, revision: str, line: bytes, headers: bytes, body: bytes, timeout: float
    ) -> Outcome:
        """Send a request to a revision and wait for its outcome."""
        route = hub.table.endpoints.get(endpoint)
        if route is None:
            return Outcome(404, b"", error=f"what should answer for `{endpoint}` is not there any more")
        one = Errand(hub, route, line, headers, body, timeout, revision)
        one.outcome = asyncio.get_running_loop().create_future()
        one.start()
        try:
            return await one.outcome
        finally:
            one.gone()


class Mirror:
    """Sends copies, and knows which are still owed."""

    def __init__(self, hub: Hub, records: Log, settled: Settled) -> None:
        self._hub, self._table, self._metrics = hub, hub.table, hub.metrics
        self._log, self._settled = records, settled
        self._owed: dict[Key, _Debt] = {}  # in the order in which they were made
        self._waiting: deque[Copy] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._number = 0
        self._recovered = False

    def came(self, endpoint: str) -> float:
        """When the oldest request came whose copy is not logged yet; infinity where there is none.

        Endlessly long ago while the debts of earlier boots are not known.
        """
        if not self._recovered:
            return -math.inf
        return min((debt.at for key, debt in self._owed.items() if key[0] == endpoint), default=math.inf)

    @property
    def owed(self) -> int:
        """Copies that are not logged yet."""
        return len(self._owed)

    def owe(self, copy: Copy, place: Position) -> None:
        """Note a debt: its live record is at or after `place`."""
        self._number += 1
        self._owed.setdefault(copy.key, _Debt(self._number, place, copy.at))

    def pay(self, copy: Copy) -> None:
        """Send the copy, now or when others are done; gives it up when too many wait."""
        if len(self._running) < IN_FLIGHT and not self._waiting:
            self._start(copy)
        elif len(self._waiting) < WAITING:
            self._waiting.append(copy)
        else:
            self._record(copy, Outcome(0, b"", error=f"more than {WAITING} copies were waiting"), 0.0)

    def _start(self, copy: Copy) -> None:
        task = asyncio.ensure_future(self._send(copy))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a mirror copy was not sent", exc_info=task.exception())
        if self._waiting and len(self._running) < IN_FLIGHT:
            self._start(self._waiting.popleft())

    async def _send(self, copy: Copy) -> None:
        started = time.perf_counter()
        headers = b"x-request-id: " + wire.header_safe(copy.id) + b"\r\n"
        body = _encode({"id": copy.id, "inputs": copy.inputs})
        outcome, deaths, failed = Outcome(0, b""), 0, ""
        for attempt in range(TRIES):
            left = SECONDS - (time.perf_counter() - started)
            if left <= 0:
                break
            outcome = await Errand.run(self._hub, copy.endpoint, copy.revision, LINE, headers, body, left)
            outcome.tries = attempt + 1
            deaths += outcome.status == 502
            if not outcome.is_answer and outcome.upstream > 0.0 and outcome.status in (502, 504):
                failed = copy.revision  # the first try counts, as it does of a live request
            if outcome.is_answer or outcome.status == 404 or deaths == 2:
                break
            await asyncio.sleep(0.02 * 2**attempt)
        if not outcome.is_answer:
            outcome.status = 0
        self._record(copy, outcome, time.perf_counter() - started, failed)

    def _record(self, copy: Copy, outcome: Outcome, seconds: float, failed: str = "") -> None:
        outputs = None
        if outcome.status == 200:
            try:
                outputs = wire.one_line(wire.answered(outcome.body).outputs)
            except msgspec.MsgspecError as error:
                outcome.status, outcome.error = 0, f"the answer is not of the protocol: {error}"
        record = PredictionRecord(
            endpoint=copy.endpoint, id=copy.id, at=copy.at, revision=copy.revision, version=outcome.version,
            role="mirror", status=outcome.status, seconds=seconds, upstream=outcome.upstream,
            compute=outcome.compute, tries=outcome.tries, inputs=None, outputs=outputs, failed=failed,
            error=outcome.error,
        )  # fmt: skip
        self._metrics.of(copy.endpoint, copy.revision, "mirror").add(outcome.status, seconds, outcome.compute)
        # Lost on a full disk, the debt is still paid: the copy is not sent for ever.
        self._log.append(_encode(record), lambda _: self._settle(copy.key))

    def _settle(self, key: Key) -> None:
        self._owed.pop(key, None)

    async def quiet(self, seconds: float) -> bool:
        """Wait until the debts of now are paid and logged; False when that takes more than `seconds`."""
        last, until = self._number, time.monotonic() + seconds
        while self._log.pending or self._oldest() <= last:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(0.005)
        return True

    def _oldest(self) -> int:
        return next((debt.number for debt in self._owed.values()), self._number + 1)

    async def keep(self, every: float = 1.0) -> None:
        """Note how far the files are settled, for the next boot; for as long as it runs."""
        while True:
            await asyncio.sleep(every)
            self.note()

    def note(self) -> None:
        """Write down where the oldest debt lies."""
        oldest = next(iter(self._owed.values()), None)
        self._settled.save(oldest.place if oldest is not None else self._log.position)

    async def recover(self) -> int:
        """Pay the debts of earlier boots; returns how many there are. Waits for the first route table."""
        copies = await asyncio.to_thread(self._settled.debts)
        for copy, place in copies:
            self.owe(copy, place)
        self._recovered = True
        while copies and self._table.epoch is None:
            await asyncio.sleep(0.02)
        for copy, _ in copies:
            while len(self._waiting) >= WAITING // 2:
                await asyncio.sleep(0.05)
            self.pay(copy)
        return len(copies)


class Settled:
    """How far a worker's segment files hold no open debt, in `<worker>.settled` beside them."""

    def __init__(self, folder: Path, worker: str, boot: str) -> None:
        self._folder = folder
        self._path = folder / f"{worker}.settled"
        self._own = re.compile(rf"{re.escape(worker)}-([0-9a-f]+)-(\d+)\.jsonl")
        self._boot = boot
        self._saved: dict[str, int] | None = None

    def _segments(self) -> list[str]:
        """This worker's segment files, oldest first."""
        found = [m for m in map(self._own.fullmatch, (p.name for p in self._folder.glob("*.jsonl"))) if m]
        return [m[0] for m in sorted(found, key=lambda m: (m[1], int(m[2])))]

    def save(self, oldest: Position) -> None:
        """All before `oldest` is settled."""
        name, offset = oldest
        if not name:
            return
        try:
            segments = self._segments()
            before = segments[: segments.index(name)] if name in segments else []
            done = {s: (self._folder / s).stat().st_size for s in before}
            done[name] = offset
            if done != self._saved:
                write_whole(self._path, json.dumps(done, sort_keys=True).encode())
                self._saved = done
        except OSError as error:  # the next boot reads more than it need
            log.debug("`%s` cannot be written: %s", self._path, error)

    def debts(self) -> list[tuple[Copy, Position]]:
        """The copies that earlier boots still owe, oldest first, with the place of each."""
        done = self._load()
        owed: dict[Key, tuple[Copy, Position]] = {}
        paid: set[Key] = set()
        for name in self._segments():
            if f"-{self._boot}-" not in name:
                self._scan(name, done.get(name, 0), owed, paid)
        return [debt for key, debt in owed.items() if key not in paid]

    def _load(self) -> dict[str, int]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except (OSError, msgspec.MsgspecError):
            return {}

    def _scan(self, name: str, offset: int, owed: dict[Key, tuple[Copy, Position]], paid: set[Key]) -> None:
        try:
            with (self._folder / name).open("rb") as lines:
                lines.seek(offset)
                for line in lines:
                    place, offset = (name, offset), offset + len(line)
                    record = _relevant(line)
                    if record is None:
                        continue
                    if record.role == "mirror":
                        paid.add((record.endpoint, record.id, record.revision))
                    elif record.owes and bytes(record.inputs) != b"null":
                        copy = Copy(record.endpoint, record.id, record.owes, record.at, record.inputs)
                        owed.setdefault(copy.key, (copy, place))
        except OSError as error:
            log.warning("the records in `%s` cannot be read: %s", name, error)


class _Line(msgspec.Struct):
    """What recovery reads of a record."""

    endpoint: str
    id: str
    at: float
    revision: str
    role: str
    owes: str = ""
    inputs: msgspec.Raw = msgspec.Raw(b"null")


_line: Callable[[bytes], _Line] = msgspec.json.Decoder(_Line).decode


_OWES_NOTHING = b'"owes":"","error":"","k":"p"}\n'


def _relevant(line: bytes) -> _Line | None:
    """A record that makes or pays a debt; None for others, and for torn lines."""
    if not line.endswith(b"\n") or (line.endswith(_OWES_NOTHING) and b'"role":"mirror"' not in line):
        return None
    try:
        return _line(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
