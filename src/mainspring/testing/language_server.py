"""The fake language server's connections, slots and streams.

What this is: a server of OpenAI's API whose costs are known: nothing is computed, all that takes time is a timer.
Who calls it: `language` (the process). What it must never do: cost so much itself that a benchmark measures it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import httptools
import msgspec

from mainspring.testing import language_faults as faults
from mainspring.testing.language_answers import Answers, BadBody, Plan, error
from mainspring.testing.language_job import Job, head, too_long

KINDS = {b"/v1/chat/completions": "chat", b"/v1/completions": "completion"}
_COUNTED = ("requests", "done", "streams", "cancelled", "refused", "prompt_tokens", "cached_tokens", "output_tokens")
_REMEMBERED = 512  # bodies whose plan is kept
_SMALL = 16 * 1024  # bytes; larger bodies are read each time


@dataclass
class Options:
    """What the fake costs and how it fails; `POST /knobs` sets any of them while it runs."""

    model: str = "chat"
    tokens: int = 16  # of an answer, unless fewer are asked for
    first_ms: float = 0.0  # from having a slot to the first token
    gap_ms: float = 0.0  # between tokens
    prompt_us_per_token: float = 0.0  # for each prompt token that is not in the prefix cache
    slots: int = 1_000_000  # requests worked on at once; the others wait in their order
    cache_blocks: int = 4_096  # of 16 tokens; 0: no prefix cache
    context: int = 0  # tokens that a prompt may have; 0: any number
    speculate: float = 0.0  # share of the guessed tokens that are right
    key: str = ""  # asked for as a bearer token
    fault: str = ""  # of each request, `NAME[=VALUE]`


class Fake:
    """What all connections share."""

    def __init__(self, options: Options, answers: Answers) -> None:
        self.options, self.answers = options, answers
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.queue: deque[Job] = deque()
        self.running = 0
        self.closing = False
        self.counts = dict.fromkeys(
            ("requests", "done", "streams", "cancelled", "refused", "prompt_tokens", "cached_tokens", "output_tokens"),
            0,
        )
        self.bodies = 0
        self.accepted = 0
        self.last: dict[str, Any] = {}
        self._plans: dict[str, dict[bytes, Plan]] = {"chat": {}, "completion": {}}
        self.settle()

    def settle(self) -> None:
        """Take over options that were changed."""
        options = self.options
        self.fault, self.fault_value = faults.parse(options.fault)
        self.told = {self.fault: self.fault_value} if self.fault else {}
        self.key = b"Bearer " + options.key.encode() if options.key else b""
        self.is_quick = not (options.first_ms or options.gap_ms or options.prompt_us_per_token or self.fault)

    def __call__(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self)

    # --- generating

    def plan(self, kind: str, body: bytes) -> Plan:
        """What a body asks for; raises `BadBody`."""
        plans = self._plans[kind]
        plan = plans.get(body)
        if plan is None:
            plan = self.answers.plan(kind, body)
            if len(body) <= _SMALL:
                if len(plans) >= _REMEMBERED:
                    plans.clear()
                plans[body] = plan
        return plan

    def generate(self, connection: Connection, kind: str, body: bytes) -> None:
        """Answer now, or when there is a slot and the time has come."""
        self.bodies += 1
        try:
            plan = self.plan(kind, body)
        except BadBody as problem:
            self.counts["refused"] += 1
            connection.reply(400, error(400, str(problem)))
            return
        if self.options.context and plan.prompt_tokens > self.options.context:
            self.counts["refused"] += 1
            connection.reply(400, too_long(plan.prompt_tokens, self.options.context))
            return
        if self.is_quick and not plan.told and not plan.stream and self.running < self.options.slots:
            self.counts["done"] += 1
            connection.write_whole(self.whole(plan))
            return
        job = Job(self, connection, plan)
        connection.job = job
        if self.running < self.options.slots:
            self.running += 1
            job.start()
        else:
            self.queue.append(job)

    def whole(self, plan: Plan) -> bytes:
        """A whole answer with its head."""
        cached = self.answers.cached(plan) if plan.blocks else 0
        self.count(plan, cached, plan.tokens)
        ready = plan.unary.get(cached)
        if ready is None:
            body = self.answers.body(plan, cached)
            ready = plan.unary[cached] = head(200, len(body)) + body
        return ready

    def count(self, plan: Plan, cached: int, tokens: int) -> None:
        """Add up tokens."""
        counts = self.counts
        counts["prompt_tokens"] += plan.prompt_tokens
        counts["cached_tokens"] += cached
        counts["output_tokens"] += tokens

    def release(self) -> None:
        """A slot is free: the next in the queue has it."""
        if self.queue:
            self.queue.popleft().start()
        else:
            self.running -= 1

    # --- looking

    def stats(self) -> dict[str, Any]:
        """What tests ask for."""
        jobs = [c.job for c in self.connections if c.job is not None]
        return self.counts | {
            "pid": os.getpid(),
            "bodies": self.bodies,
            "running": self.running,
            "waiting": len(self.queue),
            "open_streams": sum(job.plan.stream for job in jobs),
            "connections": len(self.connections),
            "accepted": self.accepted,
            "blocks": len(self.answers.cache),
        }

    def metrics(self) -> bytes:
        """Under vLLM's names."""
        label = f'{{model_name="{self.options.model}",engine="0"}}'
        rows = {
            "num_requests_running": self.running,
            "num_requests_waiting": len(self.queue),
            "prompt_tokens_total": self.counts["prompt_tokens"],
            "generation_tokens_total": self.counts["output_tokens"],
            "prefix_cache_queries_total": self.counts["prompt_tokens"],
            "prefix_cache_hits_total": self.counts["cached_tokens"],
        }
        return "".join(f"vllm:{name}{label} {value}\n" for name, value in rows.items()).encode()

    def turn(self, body: bytes) -> dict[str, Any] | None:
        """Set knobs; None when that is not understood."""
        try:
            wanted = msgspec.json.decode(body, type=dict[str, Any])
            fresh = msgspec.convert({**vars(self.options), **wanted}, Options)
            faults.parse(fresh.fault)
        except (ValueError, TypeError):
            return None
        if not set(wanted) <= set(vars(self.options)):
            return None
        vars(self.options).update(vars(fresh))
        self.answers.tokens, self.answers.speculate = fresh.tokens, fresh.speculate
        self.answers.cache.limit = fresh.cache_blocks
        self._plans = {"chat": {}, "completion": {}}
        self.settle()
        return vars(self.options)

    async def drain(self, seconds: float) -> None:
        """Let answers end, then close."""
        self.closing = True
        for connection in list(self.connections):
            if connection.job is None and connection.transport is not None:
                connection.transport.close()
        until = self.loop.time() + seconds
        while self.connections and self.loop.time() < until:
            await asyncio.sleep(0.01)


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake
        self.transport: asyncio.Transport | None = None
        self.job: Job | None = None
        self.is_slow = False
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]] = deque()
        self._url = self._body = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.fake.connections.add(self)
        self.fake.accepted += 1
        if self.fake.fault == "reset-on-accept":
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.fake.connections.discard(self)
        self.transport = None
        if self.job is not None:
            self.job.cancel()

    def data_received(self, data: bytes) -> None:
        if self.fake.fault == "silent":
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            self._is_last = True
            self.reply(400, error(400, f"not HTTP: {problem}"))

    def pause_writing(self) -> None:
        self.is_slow = True

    def resume_writing(self) -> None:
        self.is_slow = False
        if self.job is not None:
            self.job.go_on()

    # --- the parser's side

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", [], b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self._is_last = True
        if self.job is None and not self._waiting:
            self._handle(self._parser.get_method(), self._url, self._headers, self._body)
        else:
            self._waiting.append((self._parser.get_method(), self._url, self._headers, self._body))

    # --- answering

    def _handle(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        fake = self.fake
        kind = KINDS.get(url)
        if kind is None:
            self._other(method, url.partition(b"?")[0], headers, body)
            return
        fake.counts["requests"] += 1
        fake.last = {"headers": headers, "body": body}
        if method != b"POST":
            self.reply(405, error(405, "this is a POST"))
        elif self._may(headers):
            fake.generate(self, kind, body)

    def _may(self, headers: list[tuple[bytes, bytes]]) -> bool:
        key = self.fake.key
        if not key or any(value == key for name, value in headers if name.lower() == b"authorization"):
            return True
        self.fake.counts["refused"] += 1
        self.reply(401, error(401, "a bearer token is asked for", "authentication_error", "invalid_api_key"))
        return False

    def _other(self, method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        fake = self.fake
        read: dict[bytes, Callable[[], bytes]] = {
            b"/health": lambda: b'{"status":"ok"}',
            b"/stats": lambda: msgspec.json.encode(fake.stats()),
            b"/last": lambda: msgspec.json.encode(_readable(fake.last)),
            b"/metrics": fake.metrics,
        }
        if path in read and method in (b"GET", b"HEAD"):
            self._whole(200, read[path](), "text/plain; version=0.0.4" if path == b"/metrics" else "application/json")
        elif path == b"/knobs" and method == b"POST":
            knobs = fake.turn(body)
            self.reply(200 if knobs else 400, knobs or error(400, "such knobs are not there"))
        elif path == b"/v1/models" and method == b"GET":
            if self._may(headers):
                self._whole(200, fake.answers.models, "application/json")
        elif path == b"/v1/embeddings" and method == b"POST":
            self._embed(headers, body)
        elif path in (*read, b"/knobs", b"/v1/models", b"/v1/embeddings"):
            self.reply(405, error(405, "not with this method"))
        else:
            self.reply(404, error(404, "there is nothing at this path", code="not_found"))

    def _embed(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.fake.counts["requests"] += 1
        if not self._may(headers):
            return
        try:
            answer = self.fake.answers.embeddings(body)
        except BadBody as problem:
            self.reply(400, error(400, str(problem)))
            return
        self.fake.counts["done"] += 1
        self._whole(200, answer, "application/json")

    def reply(self, status: int, value: object, more: str = "") -> None:
        """Write a JSON answer."""
        self._whole(status, msgspec.json.encode(value), "application/json", more)

    def _whole(self, status: int, body: bytes, kind: str, more: str = "") -> None:
        self.write_whole(head(status, len(body), kind, more) + body)

    def write_whole(self, answer: bytes) -> None:
        """Write a whole answer, and go on to the next request."""
        if self.transport is not None:
            self.transport.write(answer)
            self.end()

    def end(self) -> None:
        """The answer is out: the next request, or the end of the connection."""
        if self.transport is None:
            return
        if self._is_last and not self._waiting:
            self.transport.close()
        elif self._waiting:
            self._handle(*self._waiting.popleft())
        elif self.fake.closing:
            self.transport.close()

    def write(self, data: bytes) -> None:
        """Write a part of an answer."""
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """Close once all is written."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """End it with an RST."""
        if self.transport is not None:
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as same:
                faults.reset(same)
            self.transport.abort()


def _readable(last: dict[str, Any]) -> dict[str, Any]:
    headers = [[name.decode("latin-1").lower(), value.decode("latin-1")] for name, value in last.get("headers", [])]
    return {"headers": headers, "body": last.get("body", b"").decode("utf-8", "replace")}
