"""The life of one request: routed, sent, held while nobody can take it, sent again once where that is safe, ended.

What this is: a small object driven by callbacks of the client's connection, the replica's, and one clock for all; it
has no task, future or timer of its own. Who calls it: the doors (live requests) and the mirror (copies), which say by
their subclasses what is done with the outcome.
What it must never do: end twice, or leave a request without an end.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from mainspring.decide import retry
from mainspring.decide.affinity import EACH
from mainspring.gateway.connection import GARBAGE, Link
from mainspring.gateway.outcome import Outcome
from mainspring.gateway.routing import Asked, Endpoint, Revision
from mainspring.gateway.upstream import Upstream
from mainspring.wire.dialects import Call, Garbage, NotAsked, Speech
from mainspring.wire.request import error_body

if TYPE_CHECKING:
    from mainspring.gateway.hub import Hub

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that a request waits for a replica of its own revision, while another revision has one. Not in a replay."""

# Where an exchange is.
NEW, HELD, SENT, FLOWING, DYING, OVER = range(6)


class Exchange:
    """One request on its way. Subclasses say what is done when it is over."""

    is_live = False  # a client waits for it, and it counts in its endpoint's queue
    __slots__ = (
        "asked", "avoid", "body", "call", "due", "endpoint", "failed", "fixed", "headers", "hub", "line", "link",
        "lone", "orphan", "prefill", "probe", "replica", "revision", "route", "sent_at", "since", "speech", "state",
        "streams", "tenant", "tries", "turned", "unbegun", "until", "upstream", "upstream_s", "work",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, route: Endpoint, line: bytes, headers: bytes, body: bytes, timeout: float, fixed: str = ""
    ) -> None:
        self.hub = hub
        self.endpoint = route.name
        self.route = route
        self.line, self.headers, self.body = line, headers, body
        self.fixed = fixed  # the revision that has to answer; "" for the one that it falls on
        self.asked: Asked | None = None
        self.speech: Speech | None = None  # what its replica is asked in; None: as the request stands
        self.call: Call | None = None  # the request in those words
        self.streams = False
        self.state = NEW
        self.since = time.monotonic()
        self.until = self.due = self.since + timeout
        self.tenant = ""  # whose it is
        self.work = 1.0  # what it may take, for whose turn it is
        self.lone = 0.0  # since when there has been no replica at all for it
        self.unbegun = False  # it is to be written down while it is on its way, and is not yet
        self.turned = False  # it waited, and its turn came
        self.link: Link | None = None
        self.revision: Revision | None = None
        self.upstream: Upstream | None = None
        self.replica = ""  # the process that has it, or had it last
        self.failed = ""  # the revision whose replica failed it first; it may be the one that has it now
        self.avoid: Upstream | None = None  # the replica that failed it
        self.orphan = False  # that replica did not answer it: another revision may take it at once
        self.probe = False
        self.prefill = 0  # blocks of work that its replica has to do before the first token
        self.tries = 0
        self.sent_at = 0.0
        self.upstream_s = 0.0

    # --- what subclasses say

    def chance(self) -> float:
        """The number in [0, 1) that the revision is chosen by."""
        return 0.0

    def called(self) -> str:
        """The id that an answer is to carry where the body names none; "" where it does not matter."""
        return ""

    def came(self) -> float:
        """The event time of a live request; of others infinity, since nobody waits for their end."""
        return math.inf

    def over(self, outcome: Outcome) -> None:
        """An answer, or an error before any of it was passed on. Called once, unless the stream has begun."""

    def crashed(self) -> None:
        """The gateway itself failed while it dealt with the outcome."""

    def begun(self) -> None:
        """The head of the answer is there: of one that is whole, the first byte has come in time."""
        if not self.streams:
            self.due = self.until

    def piece(self, data: bytes) -> None:
        """A piece of an event stream."""

    def ended(self) -> None:
        """The event stream has ended as HTTP has it."""

    def cut(self, status: int, message: str) -> None:
        """An event stream that was being passed on has failed: 502, or 504 when it was too slow."""

    # --- on its way

    def start(self) -> None:
        """Send it to a replica, or hold it."""
        self.hub.active.add(self)
        self.dispatch()

    def dispatch(self, *, woken: bool = False) -> None:
        """Find a replica and send it there; hold it where there is none."""
        route = self.hub.table.endpoints.get(self.endpoint)
        if route is not None:
            self.route = route
            revision = route.revisions.get(self.fixed) if self.fixed else route.only or self._falls_on(route)
        if route is None or (revision is None and self.fixed):
            self.fail(404, f"what should answer for `{self.endpoint}` is not there any more", "model_not_found")
            return
        if revision is not None and not self.fixed and (self.orphan or self._waited()):
            revision = self._instead(route, revision)
        self.revision = revision
        if revision is None or (not woken and self.hub.waits(self)):
            self._hold(woken)
            return
        upstream = revision.replica(self.asked, self.hub.table.orders, self.avoid)
        if upstream is None:
            self._hold(woken)
            return
        if revision.speech is not self.speech and not self._put(revision.speech):
            return
        self.state = SENT
        self.upstream = upstream
        self.replica = upstream.name
        upstream.outstanding += 1
        self.prefill = self.asked.missing if self.asked is not None else 0
        upstream.work += EACH + self.prefill
        self.probe = not upstream.health.is_good and upstream.health.sent()
        first = route.routes.first_s
        # The first byte of a language model's whole answer comes when all of it is made: only `timeout_s` holds then.
        if first > 0.0 and (self.streams or not route.is_language):
            self.due = min(self.until, time.monotonic() + route.routes.connect_s + first)
        self.sent_at = time.perf_counter()
        if self.call is None:
            upstream.send(self, self.line, self.headers, self.body, fresh=self.tries > 0)
        else:
            upstream.send(self, self.call.line, self.call.headers, self.call.body, fresh=self.tries > 0)

    def _put(self, speech: Speech | None) -> bool:
        """Put the request into what its replica speaks; False: that can't be done, and it is over."""
        self.speech = self.call = None
        if speech is not None:
            try:
                call = speech.ask(self.body, self.called())
            except NotAsked as error:
                self.refuse(error.status, error.message)
                return False
            call.headers = call.headers + self.hub.upstream_key + self.headers if call.line else self.headers
            call.line = call.line or self.line
            self.speech, self.call = speech, call
        return True

    @property
    def origin(self) -> int:
        """The number of the region that it came from; -1 where regions are not told apart."""
        return self.asked.region if self.asked is not None else -1

    def _falls_on(self, route: Endpoint) -> Revision | None:
        return route.choose(self.chance(), self.origin)

    def _instead(self, route: Endpoint, revision: Revision) -> Revision:
        """Who takes it, other than `revision` where need be. One that took it over keeps it while it has a replica."""
        kept = route.revisions.get(self.revision.name) if self.orphan and self.revision is not None else None
        if kept is not None and kept.name != self.failed and not kept.is_empty:
            return kept
        return route.instead(revision, self.avoid, self.origin)

    def _waited(self) -> bool:
        """Whether it has waited so long that another revision may take it, should its own have no replica.

        That is nobody's failure: a canary has one replica where the old version has many, and would look worse for it.
        """
        return self.state == HELD and time.monotonic() - self.since >= PATIENCE and self.hub.table.clock == "wall"

    def _hold(self, woken: bool) -> None:
        hold, revision = self.route.routes.hold_s, self.revision
        self.state, self.due = HELD, self.until
        if hold > 0.0 and (revision is None or revision.is_empty):
            self.lone = self.lone or time.monotonic()  # from now on nobody is there, however long it waited before
            self.due = min(self.until, self.lone + hold)
        else:
            self.lone = 0.0
        self.hub.hold(self, first=woken)

    def begin(self) -> None:
        """Write down that it is on its way, if it is with a replica; asked while `unbegun`."""

    def weigh(self) -> float:
        """What it may take, for whose turn it is, when it has to wait."""
        return 1.0

    def standing(self) -> tuple[float, int]:
        """Share and priority of its tenant."""
        return self.route.standing(self.tenant)

    def prefilled(self) -> None:
        """The first token is there: what is left is to decode."""
        upstream = self.upstream
        if upstream is not None and self.prefill:
            upstream.work -= self.prefill
            self.prefill = 0

    def release(self) -> None:
        """It is not with its replica any more."""
        upstream, self.upstream = self.upstream, None
        self.link = None
        if upstream is not None:
            upstream.outstanding -= 1
            upstream.work -= EACH + self.prefill
            self.upstream_s = time.perf_counter() - self.sent_at
            self.hub.freed(self)

    def finish(self) -> None:
        """It is over: nothing comes after this."""
        if self.state == HELD:
            self.hub.let_go(self)
        self.state = OVER
        self.hub.active.discard(self)

    def fail(self, status: int, message: str, code: str = "") -> None:
        """Over, without an answer."""
        self.finish()
        outcome = Outcome(status, b"", max(self.tries, 1), message)
        outcome.code = code
        self._sign(outcome)
        self._settle(outcome)

    def refuse(self, status: int, message: str) -> None:
        """Over, because of what the request says: that is an answer, as a replica's own refusal is."""
        self.finish()
        outcome = Outcome(status, error_body(message), max(self.tries, 1), message if status >= 500 else "")
        outcome.is_answer = True
        self._sign(outcome)
        self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        try:
            self.over(outcome)
        except Exception:  # a fault of ours costs one request, not the gateway, and no client waits for ever
            log.exception("a request failed inside the gateway")
            self.crashed()

    def _sign(self, outcome: Outcome) -> None:
        outcome.upstream = self.upstream_s
        revision = self.revision
        if revision is not None:
            outcome.revision, outcome.version, outcome.header = revision.name, revision.version, revision.header

    # --- what the replica's connection says

    def answered(self, status: int, body: bytes, compute: float, wait: bytes) -> None:
        """The whole answer is there."""
        upstream, speech, call = self.upstream, self.speech, self.call
        if speech is not None and call is not None:
            try:
                status, body = speech.answer(call, status, body)
            except Garbage as error:
                self.broke(GARBAGE, str(error))
                return
        if upstream is not None:
            upstream.health.answered(status, self.probe)
        self.release()
        self.finish()
        self.route.traffic.served += 1
        outcome = Outcome(status, body, self.tries + 1, "" if status < 500 else body[:500].decode(errors="replace"))
        if speech is not None and status == 200 and not compute:  # a foreign server does not say what it used
            compute = self.upstream_s * self.route.routes.slot_cores
        outcome.compute, outcome.wait, outcome.is_answer = compute, wait, True
        self._sign(outcome)
        self._settle(outcome)

    def broke(self, failure: int, message: str) -> None:
        """The replica has failed: refused, closed a connection that was idle, or died."""
        upstream = self.upstream
        if upstream is None or self.state == OVER:
            return
        now = time.monotonic()
        upstream.health.failed(now, self.probe)
        flowing, alone = self.state == FLOWING, upstream.crowd() <= 1
        self.release()
        if flowing:
            self.cut(502, message)
            return
        if failure == retry.REFUSED:
            self.hub.metrics.retry("refused")
            self.dispatch()
            return
        self.tries += 1
        self.avoid = upstream
        self.state, self.due = DYING, self.until
        if failure == GARBAGE:  # whoever sends that is still there
            self.judge(retry.DIED, message, alone, retry.RUNNING)
        else:
            self.hub.post_mortem(self, upstream, failure, message, alone)

    def judge(self, failure: int, message: str, alone: bool, status: int) -> None:
        """It is known, as far as can be, how the replica ended: send the request again, or say that it failed."""
        if self.state != DYING:
            return
        traffic = self.route.traffic
        retried, requests = traffic.retries()
        share = self.route.routes.retry_share
        died = retry.tells(failure, status)
        if died and self.revision is not None:
            self.failed = self.failed or self.revision.name
        if retry.again(failure, 0, self.tries, retried, requests, share, alone, status):
            traffic.retried += 1
            self.orphan = died and self.hub.table.clock == "wall"
            self.hub.metrics.retry("stale" if failure == retry.STALE else "died")
            self.dispatch()
            return
        name = self.revision.name if self.revision is not None else self.endpoint
        ended = "1 replica" if self.tries == 1 else f"{self.tries} replicas"
        self.fail(502, f"{ended} of `{name}` ended while they had this request: {message}")

    # --- what the clock and the client say

    def late(self, now: float) -> None:
        """A deadline has passed."""
        if self.state == HELD:
            self.fail(503, self._why())
            return
        upstream, link = self.upstream, self.link
        if link is not None:
            link.abort()
        if upstream is not None:
            upstream.health.failed(now, self.probe)
        flowing = self.state == FLOWING
        self.release()
        name = self.revision.name if self.revision is not None else self.endpoint
        whole = now >= self.until
        if flowing:
            self.cut(504, f"the replica of `{name}` sent no more in time" if not whole else "the request took too long")
        else:
            self.tries += 1
            seconds = self.route.timeout if whole else self.route.routes.first_s
            self.fail(504, f"the replica of `{name}` did not answer within {seconds:g} s")

    def _why(self) -> str:
        revision, seconds = self.revision, time.monotonic() - self.since
        if revision is None:
            return f"no version of `{self.endpoint}` takes traffic; waited {seconds:.3g} s"
        if revision.is_empty:
            return f"no replica of `{revision.name}` is ready; waited {seconds:.3g} s"
        if any(upstream.usable(time.monotonic()) for upstream in revision.upstreams):
            return f"the replicas of `{revision.name}` are busy; waited {seconds:.3g} s"
        return f"the replicas of `{revision.name}` refuse connections; waited {seconds:.3g} s"

    def stop(self) -> None:
        """The gateway ends, and cannot wait for this any longer."""
        link = self.link
        if link is not None:
            link.abort()
        flowing = self.state == FLOWING
        self.release()
        if flowing:
            self.cut(503, "the gateway was stopped")
        else:
            self.fail(503, "the gateway was stopped")

    def gone(self) -> None:
        """The client has left: the replica is told so at once, by the end of its connection."""
        if self.state == OVER:
            return
        upstream, link = self.upstream, self.link
        if link is not None:
            link.abort()
        if upstream is not None:
            upstream.health.left(self.probe)
        self.release()
        self.finish()

    def slow(self, is_slow: bool) -> None:
        """The client does not keep up (True), or does again."""
        if self.link is not None:
            if is_slow:
                self.link.pause()
            else:
                self.link.resume()
