"""One live request to a language model: its answer passed on, whole or in pieces, counted and written down.

Who calls it: the OpenAI door. What it must never do: send a byte after the terminal event, or send that event before
the record of the stream is written (as far as the disk allows).
"""

from __future__ import annotations

import time

import msgspec

from mainspring.gateway import errors, tail
from mainspring.gateway.accounts import Account, Charge
from mainspring.gateway.desk import LEFT, Desk, signed, unit
from mainspring.gateway.exchange import FLOWING, OVER, SENT, Exchange
from mainspring.gateway.log import Begun, Row, row
from mainspring.gateway.metrics import Counts
from mainspring.gateway.outcome import Outcome
from mainspring.gateway.routing import Endpoint, chance
from mainspring.wire.http1 import EVENTS, Request

_LEARN = 8  # where nothing is reserved, so many requests teach no more than one of them
_CHAT = b"POST /v1/chat/"
_STREAM_LINES = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


class Completion(Exchange):
    """A chat completion, a completion or embeddings, for a client that waits."""

    is_live = True
    __slots__ = (
        "account", "at", "charge", "desk", "events", "first", "is_slow", "key", "last_at", "number", "read", "region",
        "request", "shown", "size", "split", "tail",
    )  # fmt: skip

    def __init__(
        self, desk: Desk, request: Request, route: Endpoint, line: tuple[bytes, bytes], shown: bytes, body: bytes
    ) -> None:
        headers = b"%bx-request-id: %b\r\n" % (line[1], shown)
        super().__init__(desk.hub, route, line[0], headers, body, route.timeout)
        self.desk, self.request, self.shown = desk, request, shown
        self.at = time.time()
        self.split = self.region = ""
        self.tail: tail.Stream | None = None
        self.first = self.last_at = 0.0
        self.is_slow = False  # the client does not keep up
        self.account: Account | None = None
        self.charge: Charge | None = None  # what it has taken of limits
        self.key = ""
        self.number = desk.number()
        self.size = 0  # bytes of the prompt
        self.events = 0  # passed on
        self.read = 0.0  # seconds that its replica took to the first event
        self.unbegun = True

    def charged_to(self, account: Account, charge: Charge | None) -> None:
        """Whose request it is, and what of their limits it holds."""
        self.account, self.charge = account, charge
        self.key, self.tenant = account.key.id, account.key.tenant

    def weigh(self) -> float:
        known = self.route.traffic.learned
        return known.work(self.tenant, known.likely_tokens(self.size))

    def begin(self) -> None:
        if self.state not in (SENT, FLOWING):
            return
        self.unbegun = False
        self.desk.log.append(
            row(
                Begun(
                    endpoint=self.endpoint, n=self.number, at=self.at, tenant=self.tenant, key=self.key,
                    revision=self.revision.name if self.revision is not None else "",
                    prompt_tokens=self.route.traffic.learned.likely_tokens(self.size),
                )
            )
        )  # fmt: skip

    def stream(self, hide: bool) -> None:
        """The client wants events; `hide` keeps the usage from it, for which it has not asked."""
        self.streams = True
        self.tail = tail.Stream(hide)

    def chance(self) -> float:
        return chance(self.endpoint, self.split or self.shown.decode("latin-1"), draw=self.route.routes.draw)

    def came(self) -> float:
        return self.at

    def counts(self) -> Counts:
        """Of the revision that it is with, or was last."""
        return self.desk.metrics.of(self.endpoint, self.revision.name if self.revision is not None else "", "live")

    def crashed(self) -> None:
        if self.charge is not None:
            self.charge.settle(0, 0)
        self.request.reply(500, errors.body(500, "the gateway failed; its log says why"))

    # --- an answer that is whole

    def over(self, outcome: Outcome) -> None:
        """Put the answer into words, write it down, then send it."""
        self.route.traffic.inside -= 1
        status, counted, extra = outcome.status, tail.Counted(), b""
        if not outcome.is_answer:
            code = outcome.code
            if status == 503:
                busy = self.revision is not None and not self.revision.is_empty
                code = "overloaded" if busy else "no_replica"
            if status in (429, 503):
                extra = self.route.again()
            outcome.body = errors.body(status, outcome.error, code)
        elif status == 200:
            try:
                said = tail.whole(outcome.body)
                counted.take(said.usage, said.timings)
            except (msgspec.MsgspecError, UnicodeError, RecursionError):
                status, outcome.error = 502, "the replica's answer is not JSON"
                outcome.body = errors.body(502, outcome.error)
        elif status < 400:
            status, outcome.error = 502, f"the replica answered with status {status}"
            outcome.body = errors.body(502, outcome.error)
        else:
            status, outcome.body = errors.normalised(status, outcome.body)
            if outcome.wait or status in (429, 503):
                extra = b"retry-after: %b\r\n" % (outcome.wait or b"1")
        outcome.status = status
        self._write_down(outcome, counted, "", self._reply, (outcome, extra))

    def _reply(self, outcome: Outcome, extra: bytes) -> None:
        request = self.request
        overhead = (time.perf_counter() - request.arrived - outcome.upstream) * 1e6
        if self.account is not None:
            extra += self.account.lines()
        request.reply(outcome.status, outcome.body, signed(self.shown, outcome.header, overhead) + extra)
        if outcome.status == 200:
            self.desk.copies.offer(self)

    # --- an answer in pieces

    def piece(self, data: bytes) -> None:
        """Pass on what of the stream is whole by now."""
        stream = self.tail
        if stream is None or self.state == OVER:
            return
        out = stream.feed(data)
        if out or stream.ended:
            self._pass_on(out, stream)
        self._wind()

    def _wind(self) -> None:
        """The next piece has to come within the idle time, unless it is the client that is waited for."""
        idle = self.route.routes.idle_s
        self.due = min(self.until, time.monotonic() + idle) if idle > 0.0 and not self.is_slow else self.until

    def slow(self, is_slow: bool) -> None:
        self.is_slow = is_slow
        super().slow(is_slow)
        self._wind()

    def _pass_on(self, out: bytes, stream: tail.Stream) -> None:
        now = time.perf_counter()
        if self.state != FLOWING:
            if stream.ended == "error" and not out:
                self._refused(stream)
                return
            self._begin(now)
        else:
            self.counts().of_words().gaps.add(now - self.last_at)
        self.last_at = now
        if out:
            self.events += out.count(b"\n\n")
            self.request.send(out)
        if stream.ended == "done":
            self._end("done", stream.last, 200, "")
        elif stream.ended == "error":
            self._end("cut", stream.last, *errors.answer_of(stream.said)[::2])
        elif stream.ended:
            message = f"the replica sent an event of more than {tail.MAX_EVENT} bytes"
            self._end("cut", errors.event(502, message), 502, message)

    def _begin(self, now: float) -> None:
        self.state = FLOWING
        request, upstream = self.request, self.upstream
        if upstream is not None:
            upstream.health.answered(200, self.probe)
            self.probe = False
        self.prefilled()
        self.first = now - request.arrived
        self.read = now - self.sent_at
        words = self.counts().of_words()
        words.ttft.add(self.first)
        words.open += 1
        revision = self.revision.header if self.revision is not None else b""
        overhead = (self.sent_at - request.arrived + time.perf_counter() - now) * 1e6
        if not self.route.mirrors:
            self.body = request.body = b""  # it is not sent again, and a stream may last
        request.on_slow = self.slow
        limits = self.account.lines() if self.account is not None else b""
        request.begin(200, signed(self.shown, revision, overhead) + limits + _STREAM_LINES, EVENTS)

    def _refused(self, stream: tail.Stream) -> None:
        """An error is the first that comes: it can still be an answer with a status of its own."""
        status, body, _ = errors.answer_of(stream.said)
        if self.link is not None:
            self.link.leave()
        self.answered(status, body, 0.0, b"")

    def ended(self) -> None:
        """The stream has ended; with no terminal event it was cut."""
        stream = self.tail
        if stream is None or self.state == OVER:
            return
        out = stream.finish()
        if out or stream.ended:
            self._pass_on(out, stream)
        if self.state == FLOWING:
            self.cut(502, "the replica ended the stream before its end")
        elif self.state != OVER:
            self.broke_early()

    def broke_early(self) -> None:
        """An event stream without an event."""
        self.release()
        self.tries += 1
        self.fail(502, "the replica's answer was an empty stream")

    def cut(self, status: int, message: str) -> None:
        self._end("late" if status == 504 else "cut", errors.event(status, message), status, message)

    def _end(self, end: str, last: bytes, status: int, error: str) -> None:
        """The one terminal event of a stream."""
        link = self.link
        if link is not None:
            link.leave()
        self.release()
        self.finish()
        self.route.traffic.inside -= 1
        self.route.traffic.served += 1
        self.counts().of_words().open -= 1
        outcome = Outcome(status, b"", self.tries + 1, error)
        self._sign(outcome)
        counted = self.tail.counted if self.tail is not None else tail.Counted()
        self._write_down(outcome, counted, end, self._send_last, (last, end))

    def _send_last(self, last: bytes, end: str) -> None:
        self.request.end(last)
        if end == "done":
            self.desk.copies.offer(self)

    # --- the client leaves

    def gone(self) -> None:
        if self.state == OVER:
            return
        flowing = self.state == FLOWING
        super().gone()
        self.desk.metrics.gone += 1
        self.route.traffic.inside -= 1
        outcome = Outcome(200 if flowing else LEFT, b"", self.tries + 1)
        self._sign(outcome)
        if flowing:
            self.counts().of_words().open -= 1
        counted = self.tail.counted if self.tail is not None else tail.Counted()
        self._write_down(outcome, counted, "gone", None, ())

    # --- what is counted, and written down

    def _complete(self, counted: tail.Counted, end: str) -> bool:
        """Fill in the tokens of an answer that broke off before it said them; whether that was needed.

        The rule: what was passed on is counted, an event for a token; its prompt as such prompts have on average. A
        client that leaves before the first event pays the prompt if it was with a replica; who gets no answer pays
        nothing.
        """
        if end in ("", "done") or counted.prompt or counted.output or not self.sent_at:
            return False
        counted.prompt = self.route.traffic.learned.likely_tokens(self.size)
        roles = 1 if self.line.startswith(_CHAT) else 0  # a chat's first event has no token
        counted.output = max(self.events - roles, 0)
        return True

    def _settle_up(self, counted: tail.Counted, outcome: Outcome, end: str, *, learn: bool) -> tuple[float, float]:
        """Give back what was reserved and not used; returns the seconds of prefill and of decoding."""
        traffic, routes = self.route.traffic, self.route.routes
        prefill, decode = counted.prefill, counted.decode
        if not prefill and not decode and (outcome.status == 200 or end):  # who gets no answer pays nothing
            prefill = min(self.read, outcome.upstream)
            decode = outcome.upstream - prefill
        if routes.slot_cores:
            outcome.compute = (prefill + decode) * routes.slot_cores
        traffic.lately.ended += 1
        traffic.lately.seconds += outcome.upstream
        if (
            learn
            and outcome.status == 200
            and counted.prompt
            and (self.charge is not None or self.number % _LEARN == 1)
        ):
            read = (prefill, decode) if self.read or counted.prefill else (0.0, 0.0)
            traffic.learned.note(self.tenant, self.size, counted.prompt, counted.cached, counted.output, *read)
        if self.turned:
            self.hub.correct(self, 1.0 + self.work_of(counted))
        if self.charge is not None:
            rate = self.account.rate if self.account is not None else 0.0
            self.charge.settle(counted.prompt + counted.output, int((prefill + decode) * rate))
        if self.tenant and self.account is not None:
            of = self.account.counts
            of.requests += 1
            of.prompt += counted.prompt
            of.output += counted.output
            of.cached += counted.cached
        return prefill, decode

    def work_of(self, counted: tail.Counted) -> float:
        """What it took, in tokens of an answer."""
        return self.route.traffic.learned.unread() * (counted.prompt - counted.cached) + counted.output

    def _write_down(
        self, outcome: Outcome, counted: tail.Counted, end: str, then: object, arguments: tuple[object, ...]
    ) -> None:
        request, estimated = self.request, self._complete(counted, end)
        asked = self.route.traffic.learned.likely_tokens(self.size) if len(self.route.revisions) > 1 else 0
        prefill, decode = self._settle_up(counted, outcome, end, learn=not estimated)
        seconds = time.perf_counter() - request.arrived
        record = Row(
            endpoint=self.endpoint, id=self.shown.decode(), at=self.at, revision=outcome.revision,
            version=outcome.version, role="live", status=outcome.status, seconds=seconds, upstream=outcome.upstream,
            compute=outcome.compute, tries=outcome.tries, first=self.first, prompt_tokens=counted.prompt,
            output_tokens=counted.output, cached_tokens=counted.cached, drafted=counted.drafted,
            accepted=counted.accepted, end=end, error=outcome.error, n=self.number, tenant=self.tenant, key=self.key,
            prefill=prefill, decode=decode, estimated=estimated, replica=self.replica, region=self.region,
            unit=unit(self.endpoint, self.split), failed=self.failed, asked=asked,
        )  # fmt: skip
        if then is None:
            self.desk.log.append(row(record))
        else:
            self.desk.log.append(row(record), lambda _: then(*arguments))  # type: ignore[operator]
        counts = self.desk.metrics.of(self.endpoint, outcome.revision, "live")
        counts.add(outcome.status, seconds, outcome.compute)
        words = counts.words or counts.of_words()
        words.prompt += counted.prompt
        words.output += counted.output
        words.cached += counted.cached
        if counted.drafted:
            words.drafted += counted.drafted
            words.accepted += counted.accepted
        if end:
            words.ends[end] += 1
